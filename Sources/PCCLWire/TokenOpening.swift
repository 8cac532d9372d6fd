import PCCLBase

/// What each side of a connection says before it proves that it knows the join token: a number that is used once, and of which
/// run it is, if it knows. It follows a preamble with the role `token`.
package struct TokenOpening: Equatable, Sendable {
    package static let numberBytes = 32
    package static let byteCount = 16 + numberBytes
    /// Of an HMAC-SHA-256.
    package static let proofBytes = 32

    /// Nil: a peer that was not told yet. No run has the number 0.
    package var run: RunID?
    package var number: [UInt8]

    package init(run: RunID?, number: [UInt8] = [UInt8](repeating: 0, count: numberBytes)) {
        self.run = run
        self.number = number
    }

    package var bytes: [UInt8] {
        var w = ByteWriter()
        w.write(run?.high ?? 0)
        w.write(run?.low ?? 0)
        return w.bytes + number
    }

    /// Exactly `byteCount` bytes, whatever they are.
    package init(_ bytes: [UInt8]) {
        func word(at start: Int) -> UInt64 { (0..<8).reduce(0) { $0 | UInt64(bytes[start + $1]) << (8 * $1) } }
        let (high, low) = (word(at: 0), word(at: 8))
        self.init(run: high == 0 && low == 0 ? nil : RunID(high: high, low: low), number: Array(bytes[16...]))
    }
}
