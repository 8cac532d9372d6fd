/// What a tensor holds, in 128 or 256 bits: equal for equal bytes, on every machine, and different for different ones.
///
/// How it is made is the compute room's part; docs/shared-state.md is the specification.
package struct ContentHash: Hashable, Sendable {
    package static let byteCount = 32

    package let high: UInt64
    package let low: UInt64
    /// The second half of 256 bits; 0 where there are 128.
    package let further: UInt64
    package let last: UInt64

    package init(high: UInt64, low: UInt64, further: UInt64 = 0, last: UInt64 = 0) {
        self.high = high
        self.low = low
        self.further = further
        self.last = last
    }
}

/// Which one; members of a group agree on it.
package enum HashFunction: UInt8, Sendable, CaseIterable {
    /// XXH3 with 128 bits: at the speed of memory. Finds what differs by accident, and nothing that somebody made to look alike.
    case xxh3 = 0
    /// For members that do not trust each other.
    case sha256 = 1
}

extension ContentHash: CustomStringConvertible {
    /// 32 digits, those of the canonical form of xxHash, or 64.
    package var description: String {
        let halves = ContentHash.digits(high) + ContentHash.digits(low)
        return further == 0 && last == 0 ? halves : halves + ContentHash.digits(further) + ContentHash.digits(last)
    }

    private static func digits(_ word: UInt64) -> String {
        let digits = String(word, radix: 16)
        return String(repeating: "0", count: 16 - digits.count) + digits
    }
}
