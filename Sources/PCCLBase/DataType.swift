/// The element types of the C API, with its values.
public enum DataType: UInt32, Sendable, CaseIterable {
    case uint8 = 0
    case int8, int16, uint16, uint32, int32, uint64, int64
    case float16, bfloat16, float32, float64

    /// Size of one element in bytes.
    public var byteCount: Int {
        switch self {
        case .uint8, .int8: 1
        case .int16, .uint16, .float16, .bfloat16: 2
        case .uint32, .int32, .float32: 4
        case .uint64, .int64, .float64: 8
        }
    }
}

/// The reductions of the C API, with its values.
///
/// `average` is a sum followed by one division by the world size the result was made with.
public enum ReduceOperation: UInt32, Sendable, CaseIterable {
    case sum = 0
    case average, product, maximum, minimum
}
