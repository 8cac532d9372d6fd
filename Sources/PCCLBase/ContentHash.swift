/// What a tensor holds, in 128 bits: equal for equal bytes, on every machine, and different for different ones.
///
/// How it is made is the compute room's part; docs/shared-state.md is the specification.
package struct ContentHash: Hashable, Sendable {
    package let high: UInt64
    package let low: UInt64

    package init(high: UInt64, low: UInt64) {
        self.high = high
        self.low = low
    }
}

extension ContentHash: CustomStringConvertible {
    /// 32 digits, those of the canonical form of xxHash.
    package var description: String { ContentHash.digits(high) + ContentHash.digits(low) }

    private static func digits(_ word: UInt64) -> String {
        let digits = String(word, radix: 16)
        return String(repeating: "0", count: 16 - digits.count) + digits
    }
}
