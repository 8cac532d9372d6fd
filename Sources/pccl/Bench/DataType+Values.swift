import Glibc
import PCCL

/// Values of the types, for patterns whose results are known.
extension DataType {
    var isSigned: Bool {
        switch self {
        case .uint8, .uint16, .uint32, .uint64: false
        case .int8, .int16, .int32, .int64, .float16, .bfloat16, .float32, .float64: true
        }
    }

    /// Nil for integers.
    var largestFinite: Double? {
        switch self {
        case .float16: 65504
        case .bfloat16, .float32: Double(Float.greatestFiniteMagnitude)
        case .float64: Double.greatestFiniteMagnitude
        case .uint8, .int8, .uint16, .int16, .uint32, .int32, .uint64, .int64: nil
        }
    }

    var largestInteger: Double {
        exp2(Double(8 * byteCount - (isSigned ? 1 : 0))) - 1
    }

    /// The distance from 1 to the next value.
    var epsilon: Double? {
        switch self {
        case .float16: 0x1p-10
        case .bfloat16: 0x1p-7
        case .float32: 0x1p-23
        case .float64: 0x1p-52
        case .uint8, .int8, .uint16, .int16, .uint32, .int32, .uint64, .int64: nil
        }
    }

    /// The low bytes of a whole number, in this machine's order.
    func bytes(whole: Int) -> [UInt8] {
        withUnsafeBytes(of: whole.littleEndian) { Array($0.prefix(byteCount)) }
    }

    func bytes(_ value: Double) -> [UInt8] {
        switch self {
        case .float64: withUnsafeBytes(of: value) { Array($0) }
        case .float32: withUnsafeBytes(of: Float(value)) { Array($0) }
        case .float16: withUnsafeBytes(of: Float16(value)) { Array($0) }
        case .bfloat16: withUnsafeBytes(of: DataType.bfloat16Bits(Float(value))) { Array($0) }
        case .uint8, .int8, .uint16, .int16, .uint32, .int32, .uint64, .int64: bytes(whole: Int(value))
        }
    }

    func double(_ bytes: [UInt8]) -> Double {
        bytes.withUnsafeBytes { bytes in
            switch self {
            case .float64: bytes.loadUnaligned(as: Double.self)
            case .float32: Double(bytes.loadUnaligned(as: Float.self))
            case .float16: Double(bytes.loadUnaligned(as: Float16.self))
            case .bfloat16: Double(Float(bitPattern: UInt32(bytes.loadUnaligned(as: UInt16.self)) << 16))
            case .uint8, .int8, .uint16, .int16, .uint32, .int32, .uint64, .int64: .nan
            }
        }
    }

    /// To nearest, ties to even; no NaN comes here.
    private static func bfloat16Bits(_ value: Float) -> UInt16 {
        let bits = value.bitPattern
        return UInt16(truncatingIfNeeded: (bits &+ 0x7FFF &+ (bits >> 16 & 1)) >> 16)
    }
}
