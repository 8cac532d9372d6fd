/// A library that is ready to be measured, and how it takes a turn.
struct BenchContender {
    let library: BenchLibrary
    let take: (BenchTurn) throws -> BenchTurnResult
}

/// The libraries' turns at every size, and the rows that come of them.
struct BenchRounds {
    let plan: BenchPlan
    let peers: Int
    /// `pccl` is the first.
    let contenders: [BenchContender]
    /// Others than `pccl` were asked for, and at least one must be there.
    let isComparison: Bool
    let output: BenchOutput

    func rows() throws -> [BenchRow] {
        guard !isComparison || contenders.count > 1 else {
            throw BenchFailure("nothing of --vs can be measured here, so there is nothing to compare with")
        }
        output.heading()
        var rows: [BenchRow] = []
        for bytes in plan.sizes {
            let turn = plan.turn(bytes: bytes, peers: peers)
            let results = try results(of: turn)
            for (index, contender) in contenders.enumerated() {
                let row = BenchRow(
                    peers: peers, bytes: turn.bytes * plan.work.tags, library: contender.library.rawValue,
                    rounds: results[index], pccl: index == 0 ? nil : results[0])
                rows.append(row)
                output.row(row, plan.work)
            }
        }
        return rows
    }

    /// Round by round, so that whatever else the machine does meets all alike. Each round begins with another library.
    private func results(of turn: BenchTurn) throws -> [[BenchTurnResult]] {
        var results: [[BenchTurnResult]] = Array(repeating: [], count: contenders.count)
        for round in 0..<plan.rounds {
            for place in contenders.indices {
                let index = (round + place) % contenders.count
                let result = try contenders[index].take(turn)
                let time = median(result.nanoseconds) / 1e6
                output.progress(
                    "\(ByteSize.label(turn.bytes)), round \(round + 1) of \(plan.rounds): "
                        + "\(contenders[index].library.rawValue) \(significant(time)) ms")
                results[index].append(result)
            }
        }
        return results
    }
}
