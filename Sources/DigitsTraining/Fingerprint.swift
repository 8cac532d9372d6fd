/// FNV-1a, 64 bits (Fowler, Noll and Vo), to compare weights between processes by their bits and not by their values:
/// two zeros of different sign are different weights.
package struct Fingerprint: Equatable, Sendable {
    package private(set) var value: UInt64 = 0xCBF2_9CE4_8422_2325

    package init() {}

    package init(_ values: [Float]) {
        for element in values {
            var bits = element.bitPattern
            for _ in 0..<4 {
                add(UInt8(truncatingIfNeeded: bits))
                bits >>= 8
            }
        }
    }

    package mutating func add(_ byte: UInt8) {
        value = (value ^ UInt64(byte)) &* 0x0000_0100_0000_01B3
    }

    /// Sixteen lower-case hexadecimal digits.
    package var hexadecimal: String {
        let digits = String(value, radix: 16)
        return String(repeating: "0", count: 16 - digits.count) + digits
    }
}
