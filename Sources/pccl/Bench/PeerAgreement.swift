import PCCL

/// What the peers of a joined run settle between them, each question an all-reduce: all come to the same answer, and so
/// go on in step.
struct PeerAgreement {
    let communicator: Communicator
    let peers: Int
    let rank: Int

    /// Room for a reason; what is longer is cut.
    private static let bytesOfText = 512

    /// Whether all peers have the same text.
    func isSame(_ text: String) throws -> Bool {
        // FNV-1a.
        let digest = text.utf8.reduce(0xCBF2_9CE4_8422_2325 as UInt64) { ($0 ^ UInt64($1)) &* 0x100_0000_01B3 }
        let extremes = try reduced([digest, ~digest], .minimum)
        return extremes[0] == digest && ~extremes[1] == digest
    }

    /// The lowest rank of a peer for which it is so; nil if there is none.
    func firstRank(where isSo: Bool) throws -> Int? {
        let first = try Int(reduced([Int64(isSo ? rank : peers)], .minimum)[0])
        return first < peers ? first : nil
    }

    /// The refusal of the peer with the lowest rank that has one; nil if none has.
    func firstRefusal(_ own: String?) throws -> String? {
        guard let first = try firstRank(where: own != nil) else { return nil }
        // All but one have zeros, so the sum is the text of that one.
        let said = first == rank ? Array((own ?? "").utf8.prefix(Self.bytesOfText)) : []
        let text = try reduced(said + Array(repeating: 0, count: Self.bytesOfText - said.count), .sum)
        return "peer \(first): \(String(decoding: text.prefix { $0 != 0 }, as: UTF8.self))"
    }

    func merge(_ own: BenchTurnResult) throws -> BenchTurnResult {
        let means = try reduced(own.nanoseconds + [own.processorNanoseconds], .average)
        return BenchTurnResult(
            nanoseconds: Array(means.dropLast()), processorNanoseconds: means[means.count - 1],
            extraBytes: Int(try reduced([Int64(own.extraBytes)], .maximum)[0]),
            wrongElements: Int(try reduced([Int64(own.wrongElements)], .sum)[0]))
    }

    func reduced<T: Reducible>(_ values: [T], _ operation: ReduceOperation) throws -> [T] {
        var values = values
        try values.withUnsafeMutableBufferPointer { _ = try communicator.allReduce($0, operation, tag: 0) }
        return values
    }
}
