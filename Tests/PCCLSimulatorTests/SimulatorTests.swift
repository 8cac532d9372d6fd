import PCCLSimulator
import Testing

@Suite("Simulated runs")
struct SimulatorTests {
    @Test("every promise holds, whatever goes wrong", arguments: [UInt64](0..<8))
    func promisesHold(block: UInt64) {
        var counts = SimulationCounts()
        for seed in block * 50 + 1...block * 50 + 50 {
            switch Simulation.run(seed: seed) {
            case .passed(let more): counts += more
            case .failed(let failure): Issue.record("\(failure)")
            }
        }
        #expect(counts.succeeded > 0 && counts.joins > 0 && counts.losses > 0, "nothing happened: \(counts)")
    }

    /// Each of these broke a promise once, or does when the mending named beside it is taken back.
    static let seedsOfBugs: [UInt64] = SeedsOfBugs.all

    @Test("what was mended stays mended", arguments: seedsOfBugs)
    func bugsStayMended(seed: UInt64) {
        if case .failed(let failure) = Simulation.run(seed: seed) { Issue.record("\(failure)") }
    }

    @Test("the same seed gives the same events, to the last")
    func replays() {
        for seed in [7, 11, 42] as [UInt64] {
            let first = Simulation.trace(seed: seed).lines
            #expect(first.count > 20)
            #expect(first == Simulation.trace(seed: seed).lines)
        }
        #expect(Simulation.trace(seed: 7).lines != Simulation.trace(seed: 8).lines)
    }

    @Test("faults of all kinds happen, and so do all kinds of endings")
    func faultsHappen() {
        var counts = SimulationCounts()
        var kinds: Set<String> = []
        for seed in 1...200 as ClosedRange<UInt64> {
            let (lines, result) = Simulation.trace(seed: seed)
            if case .passed(let more) = result { counts += more }
            for line in lines {
                if let range = line.firstRange(of: "fault: ") {
                    kinds.insert(String(line[range.upperBound...].prefix { $0 != "(" }))
                }
            }
        }
        let all = [
            "block", "resetLink", "resetControl", "crash", "hang", "spawn", "leave", "garbage", "stranger",
            "masterCrash",
            "masterCrashInSending", "masterHang", "exhaust",
        ]
        #expect(kinds == Set(all))
        #expect(counts.aborted > 0 && counts.restarted > 0 && counts.repairs > 0, "\(counts)")
        #expect(counts.resumed > 0 && counts.mixed > 0, "\(counts)")
        #expect(counts.synchronized > 0)
        #expect(counts.optimized > 0 && counts.bySites > 0 && counts.joinsOfNodes > 0, "\(counts)")
    }
}

@Suite("The checks of the simulator can see")
struct SabotageTests {
    /// Which checks may be the first to notice a defect.
    static func watchers(of sabotage: Sabotage) -> Set<SimulationCheck> {
        switch sabotage {
        case .skipRestore: [.inputWhole]
        case .commitWithoutPrepared: [.agreement]
        case .foldTwice: [.elements]
        case .keepOtherBits: [.identicalBits, .elements]
        case .losePrepared, .swallowCompletion: [.liveness]
        case .enterTwice: [.liveness, .pairing]
        case .sendTwice: [.schedule]
        case .commitAborted: [.agreement, .pairing, .elements]
        case .adoptOldEpoch: [.epochsGrow]
        case .swapRanks, .changeShares: [.viewAgreed]
        case .flipPendingAnswer: [.pendingJoint]
        case .splitEnsemble: [.masterInvariant]
        case .hearOtherwise: [.gridJoint]
        case .refuseRightProgram: [.expectedOutcome]
        case .cutMessageShort: [.wire]
        case .countMemberTwice: [.masterInvariant]
        case .claimMore: [.elements, .identicalBits]
        case .hideParts: [.elements]
        case .forgetKey: [.sharedState]
        }
    }

    @Test("a defect that is put in is noticed by the check that watches for it", arguments: Sabotage.allCases)
    func sabotageIsNoticed(sabotage: Sabotage) {
        var seen: Set<SimulationCheck> = []
        // Liveness fails only at the end of the virtual time, so those runs are longer: a few are enough.
        for seed in 1...200 as ClosedRange<UInt64> where seen != Self.watchers(of: sabotage) {
            if case .failed(let failure) = Simulation.run(seed: seed, sabotage: sabotage) {
                #expect(Self.watchers(of: sabotage).contains(failure.check), "\(failure)")
                #expect(failure.seed == seed && !failure.trace.isEmpty)
                seen.insert(failure.check)
                if seen.contains(.liveness) { break }
            }
        }
        #expect(!seen.isEmpty)
    }

    @Test("a failing schedule is told with as little as it takes, and that fails in the same way")
    func shrinking() {
        for seed in 1...200 as ClosedRange<UInt64> {
            guard case .failed(let failure) = Simulation.run(seed: seed, sabotage: .skipRestore),
                let (parts, leftOut, shrunk) = Simulation.shrink(seed: seed, sabotage: .skipRestore), leftOut > 5
            else { continue }
            #expect(shrunk.check == failure.check && !shrunk.trace.isEmpty)
            // Two members at least have to come, and reduce something.
            #expect(parts.count >= 3, "\(parts)")
            #expect(parts.contains { $0.contains("spawn") } && parts.contains { $0.contains("all-reduce") })
            return
        }
        Issue.record("no schedule could be shrunk")
    }

    @Test("what passes cannot be shrunk")
    func nothingToShrink() { #expect(Simulation.shrink(seed: 1) == nil) }

    @Test("every check watches for some defect")
    func everyCheckIsSeen() {
        let watching = Sabotage.allCases.reduce(into: Set<SimulationCheck>()) { $0.formUnion(Self.watchers(of: $1)) }
        #expect(watching == Set(SimulationCheck.allCases))
    }
}
