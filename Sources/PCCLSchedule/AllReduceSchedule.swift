import PCCLBase

/// The all-reduce algorithms, each as a pure function from (rank, world size) to steps.
package enum AllReduceSchedule {
    /// Into how many chunks an algorithm divides a buffer. They fit into the 16 bits that a frame has for them.
    package static func chunkCount(_ algorithm: Algorithm, worldSize: Int) -> Int {
        switch algorithm {
        case .direct: worldSize
        case .ring: 2 * worldSize
        case .oneShot: 1
        }
    }

    /// Where the chunks lie. `shares`, by rank, are those of the direct algorithm; around a ring each edge carries all
    /// chunks but one, so unequal ones would gain nothing.
    package static func layout(
        _ algorithm: Algorithm, elementCount: Int, worldSize: Int, shares: [UInt16]
    ) -> ChunkLayout {
        if algorithm == .direct, shares.count == worldSize, shares.contains(where: { $0 > 0 }) {
            return ChunkLayout(elementCount: elementCount, weights: shares)
        }
        return ChunkLayout(
            elementCount: elementCount, chunkCount: chunkCount(algorithm, worldSize: worldSize))
    }

    /// The ranks whose contributions make up a chunk, in the order they are folded.
    package static func foldOrder(_ algorithm: Algorithm, chunk: Int, worldSize: Int) -> [Int] {
        switch algorithm {
        case .direct, .oneShot: Array(0..<worldSize)
        case .ring where chunk < worldSize: (1...worldSize).map { (chunk + $0) % worldSize }
        case .ring: (1...worldSize).map { (chunk + worldSize - $0) % worldSize }
        }
    }

    /// The steps of one rank. `worldSize` is 2 or more.
    package static func steps(_ algorithm: Algorithm, rank: Int, worldSize: Int) -> [Step] {
        switch algorithm {
        case .direct: direct(rank: rank, worldSize: worldSize)
        case .ring:
            Way.allCases.flatMap { ring($0, rank: rank, worldSize: worldSize) }
        case .oneShot: oneShot(rank: rank, worldSize: worldSize)
        }
    }

    /// All other ranks, beginning with the successor, so that at any moment each is served by another rank.
    private static func others(_ rank: Int, _ worldSize: Int) -> [Int] {
        (1..<worldSize).map { (rank + $0) % worldSize }
    }

    private static func operands(_ rank: Int, _ worldSize: Int) -> [Step.Operand] {
        (0..<worldSize).map { $0 == rank ? .own : .input(from: $0) }
    }

    /// Every rank owns the chunk of its number: contributions go straight to the owner, results straight back.
    /// 2 S (P-1)/P bytes sent per rank, two one-way delays whatever P is.
    private static func direct(rank: Int, worldSize: Int) -> [Step] {
        let others = others(rank, worldSize)
        return others.map { .sendInput(chunk: $0, to: $0) }
            + [.fold(chunk: rank, operands: operands(rank, worldSize), into: .result)]
            + others.map { .sendResult(chunk: rank, to: $0) }
            + others.map { .receiveResult(chunk: $0, from: $0) }
    }

    /// Everybody sends everything to everybody, and folds all of it in rank order, as the owners of the direct algorithm
    /// do: the same bits on all ranks although no result travels. S (P-1) bytes sent per rank, one one-way delay.
    private static func oneShot(rank: Int, worldSize: Int) -> [Step] {
        others(rank, worldSize).map { .sendInput(chunk: 0, to: $0) }
            + [.fold(chunk: 0, operands: operands(rank, worldSize), into: .result)]
    }

    private enum Way: CaseIterable {
        case up
        case down
    }

    /// The ring of Patarasuk and Yuan (2009), for one half of the buffer. Upwards: chunk c starts at rank c+1, gathers one
    /// contribution per hop until it is whole at rank c, and then goes around once more as a result; contributions are
    /// folded in the order c+1, c+2, …, c. Downwards it is the mirror image, with chunks P to 2P-1.
    /// 2 S (P-1)/P bytes sent per rank for both halves together, half of them each way; 2 (P-1) one-way delays.
    private static func ring(_ way: Way, rank: Int, worldSize: Int) -> [Step] {
        let above = (rank + 1) % worldSize
        let below = (rank + worldSize - 1) % worldSize
        let (next, previous) = way == .up ? (above, below) : (below, above)
        /// The number of a chunk by the rank where it becomes whole.
        func owned(by rank: Int) -> Int { way == .up ? rank : worldSize + rank }
        /// The chunk that is at this rank that many hops after its start.
        func chunk(_ hops: Int) -> Int {
            owned(by: (way == .up ? rank + 2 * worldSize - 1 - hops : rank + 1 + hops) % worldSize)
        }

        var steps: [Step] = [.sendInput(chunk: chunk(0), to: next)]
        for hops in 1..<worldSize {
            let arriving: Step.Operand = hops == 1 ? .input(from: previous) : .partial(from: previous)
            let isLast = hops == worldSize - 1
            steps.append(
                .fold(chunk: chunk(hops), operands: [arriving, .own], into: isLast ? .result : .partial(to: next)))
        }
        steps.append(.sendResult(chunk: owned(by: rank), to: next))
        for hops in 0..<worldSize - 1 {
            let arriving = chunk(hops)
            steps.append(.receiveResult(chunk: arriving, from: previous))
            if arriving != owned(by: next) { steps.append(.sendResult(chunk: arriving, to: next)) }
        }
        return steps
    }
}
