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

    mutating func note(_ library: BenchLibrary, peers: Int, _ text: String, _ output: BenchOutput) {
        let entry = Library(name: library.rawValue, text: text)
        if !libraries.contains(entry) { libraries.append(entry) }
        output.note("\(library.rawValue), \(peers) peers: \(text)")
    }

    /// Another library may be missing, which is said; ours may not.
    mutating func note(_ world: BenchWorld, _ output: BenchOutput) throws(BenchFailure) {
        let name = world.library.rawValue
        guard let refusal = world.refusal else {
            note(world.library, peers: world.peers, world.text, output)
            return
        }
        guard !world.library.isOurs else { throw BenchFailure(refusal) }
        let entry = Library(name: name, text: refusal)
        if !skipped.contains(entry) { skipped.append(entry) }
        output.note("\(name) is skipped: \(refusal)")
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
            let world = BenchWorld(library, peers: peers, ranks: 0..<peers, work: plan.work)
            try supervisor.launch(world, python: python)
            if world.refusal == nil { try supervisor.connect(world) }
            try outcome.note(world, output)
            if world.refusal == nil { worlds.append(world) }
        }
        let contenders = worlds.map { world in
            BenchContender(library: world.library) { try supervisor.turn(world, $0) }
        }
        let rounds = BenchRounds(
            plan: plan, peers: peers, contenders: contenders, isComparison: !others.isEmpty, output: output)
        outcome.rows += try rounds.rows()
        supervisor.end(worlds)
    }
}
