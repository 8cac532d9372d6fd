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

    public var isFloat: Bool {
        switch self {
        case .float16, .bfloat16, .float32, .float64: true
        default: false
        }
    }

    /// Size of one element of a sum that is not finished, which other members go on with. Wider than the type where that
    /// could not hold it: see the accumulators of the kernels.
    package func partialByteCount(_ operation: ReduceOperation) -> Int {
        switch (self, operation) {
        case (.float16, .sum), (.float16, .average), (.float16, .product), (.bfloat16, .sum), (.bfloat16, .average),
            (.bfloat16, .product):
            4
        case (.uint8, .average), (.int8, .average), (.uint16, .average), (.int16, .average): 4
        case (.uint32, .average), (.int32, .average): 8
        case (.uint64, .average), (.int64, .average): 16
        default: byteCount
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
