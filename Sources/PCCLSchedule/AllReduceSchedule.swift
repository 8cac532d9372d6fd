import PCCLBase

/// The all-reduce algorithms, each as a pure function from (rank, world size) to steps. There are as many chunks as ranks.
package enum AllReduceSchedule {
    /// The steps of one rank. `worldSize` is 2 or more.
    package static func steps(_ algorithm: Algorithm, rank: Int, worldSize: Int) -> [Step] {
        switch algorithm {
        case .direct: direct(rank: rank, worldSize: worldSize)
        case .ring: ring(rank: rank, worldSize: worldSize)
        }
    }

    /// Every rank owns the chunk of its number: contributions go straight to the owner, results straight back.
    /// 2 S (P-1)/P bytes sent per rank, two one-way delays whatever P is.
    ///
    /// Ranks begin with their successors, so that at any moment each owner is served by another rank.
    private static func direct(rank: Int, worldSize: Int) -> [Step] {
        let others = (1..<worldSize).map { (rank + $0) % worldSize }
        let operands = (0..<worldSize).map { $0 == rank ? Step.Operand.own : .input(from: $0) }
        return others.map { .sendInput(chunk: $0, to: $0) }
            + [.fold(chunk: rank, operands: operands, into: .result)]
            + others.map { .sendResult(chunk: rank, to: $0) }
            + others.map { .receiveResult(chunk: $0, from: $0) }
    }

    /// The ring of Patarasuk and Yuan (2009): chunk c starts at rank c+1, gathers one contribution per hop until it is
    /// whole at rank c, and then goes around once more as a result. 2 S (P-1)/P bytes sent per rank, 2 (P-1) one-way
    /// delays. Contributions are folded in the order c+1, c+2, …, c.
    private static func ring(rank: Int, worldSize: Int) -> [Step] {
        let next = (rank + 1) % worldSize
        let previous = (rank + worldSize - 1) % worldSize
        func chunk(_ hopsFromStart: Int) -> Int { (rank + 2 * worldSize - 1 - hopsFromStart) % worldSize }

        var steps: [Step] = [.sendInput(chunk: chunk(0), to: next)]
        for hops in 1..<worldSize {
            let arriving: Step.Operand = hops == 1 ? .input(from: previous) : .partial(from: previous)
            let isLast = hops == worldSize - 1
            steps.append(
                .fold(chunk: chunk(hops), operands: [arriving, .own], into: isLast ? .result : .partial(to: next)))
        }
        steps.append(.sendResult(chunk: rank, to: next))
        for hops in 0..<worldSize - 1 {
            let arriving = chunk(hops)
            steps.append(.receiveResult(chunk: arriving, from: previous))
            if next != arriving { steps.append(.sendResult(chunk: arriving, to: next)) }
        }
        return steps
    }
}
