import Glibc

/// What a measurement is to do, decided before it begins.
struct BenchPlan {
    var work: BenchWork
    /// World sizes, one after the other.
    var peers: [Int]
    var sizes: [Int]
    var rounds: Int
    /// Nil: by size.
    var calls: Int?
    var warmUps: Int?
    var pauseMilliseconds = 0

    /// For each size the libraries take turns, `rounds` times. Few calls of what takes long: their noise is less.
    func turn(bytes: Int, peers: Int) -> BenchTurn {
        let (warmUps, calls) =
            switch bytes {
            case ...(64 << 10): (10, 80)
            case ...(4 << 20): (3, 12)
            case ...(64 << 20): (1, 3)
            default: (1, 2)
            }
        return BenchTurn(
            bytes: work.wholeElements(bytes), warmUps: self.warmUps ?? warmUps, calls: self.calls ?? calls,
            callsPerFill: ReductionPattern.callsPerFill(type: work.type, operation: work.operation, peers: peers),
            pauseMilliseconds: pauseMilliseconds)
    }
}

/// What has come of a measurement.
struct BenchOutcome {
    struct Library: Equatable {
        let name: String
        let text: String
    }

    var rows: [BenchRow] = []
    var libraries: [Library] = []
    /// What could not be measured, and why.
    var skipped: [Library] = []

    var wrongElements: Int { rows.reduce(0) { $0 + $1.wrongElements } }

    mutating func note(_ world: BenchWorld) {
        let entry = Library(name: world.library.rawValue, text: world.refusal ?? world.text)
        if world.refusal == nil {
            if !libraries.contains(entry) { libraries.append(entry) }
        } else if !skipped.contains(entry) {
            skipped.append(entry)
        }
    }
}

/// Measures in processes that it starts on this machine.
struct BenchRun {
    let plan: BenchPlan
    let others: [BenchLibrary]
    let python: String
    let secondsPerStep: Int
    let output: BenchOutput

    func run() throws -> BenchOutcome {
        BenchSignals.install()
        let supervisor = try BenchSupervisor(secondsPerStep: secondsPerStep)
        defer { supervisor.close() }
        var outcome = BenchOutcome()
        for peers in plan.peers { try measure(peers, supervisor, &outcome) }
        return outcome
    }

    private func measure(_ peers: Int, _ supervisor: BenchSupervisor, _ outcome: inout BenchOutcome) throws {
        var worlds: [BenchWorld] = []
        for library in [.pccl] + others {
            output.progress("starting \(library.rawValue), \(peers) peers")
            let world = try supervisor.start(library, peers: peers, work: plan.work, python: python)
            outcome.note(world)
            if let refusal = world.refusal {
                output.note("\(library.rawValue) is skipped: \(refusal)")
            } else {
                output.note("\(library.rawValue), \(peers) peers: \(world.text)")
                worlds.append(world)
            }
        }
        guard others.isEmpty || worlds.count > 1 else {
            throw BenchFailure("nothing of --vs can be measured here, so there is nothing to compare with")
        }
        output.heading()
        for bytes in plan.sizes {
            let rounds = try measure(worlds, plan.turn(bytes: bytes, peers: peers), supervisor)
            for (world, results) in zip(worlds, rounds) {
                let row = BenchRow(
                    peers: peers, bytes: plan.work.wholeElements(bytes) * plan.work.tags,
                    library: world.library.rawValue,
                    rounds: results, pccl: world === worlds[0] ? nil : rounds[0])
                outcome.rows.append(row)
                output.row(row, plan.work)
            }
        }
        supervisor.end(worlds)
    }

    /// Round by round, so that whatever else the machine does meets all alike. Each round begins with another library.
    private func measure(
        _ worlds: [BenchWorld], _ turn: BenchTurn, _ supervisor: BenchSupervisor
    ) throws -> [[BenchTurnResult]] {
        var results: [[BenchTurnResult]] = Array(repeating: [], count: worlds.count)
        for round in 0..<plan.rounds {
            for place in worlds.indices {
                let index = (round + place) % worlds.count
                let result = try supervisor.turn(worlds[index], turn)
                let time = median(result.nanoseconds) / 1e6
                output.progress(
                    "\(ByteSize.label(turn.bytes)), round \(round + 1) of \(plan.rounds): "
                        + "\(worlds[index].library.rawValue) \(significant(time)) ms")
                results[index].append(result)
            }
        }
        return results
    }
}
