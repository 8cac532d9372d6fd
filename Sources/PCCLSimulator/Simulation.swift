import PCCLBase

/// A promise that the simulator watches over.
package enum SimulationCheck: String, Sendable, CaseIterable {
    case masterInvariant = "an invariant of the master holds"
    case epochsGrow = "epochs only grow at each peer"
    case viewAgreed = "a view, with its shares, is what the master decided, of admitted peers"
    case pendingJoint = "members of an epoch get the same answer to the same question"
    case gridJoint = "the processes of a node hear the same at join points"
    case sharedState = "members of an epoch hold the same after the same synchronisation, and somebody has brought it"
    case pairing = "the n-th call of a tag is paired with the n-th call of all others"
    case schedule = "every frame is expected, once"
    case elements = "each contributor of the view is in every element exactly once, in the fixed order"
    case identicalBits = "a result is the same everywhere"
    case agreement = "an operation ends in the same way everywhere"
    case inputWhole = "the input is whole after a failure"
    case expectedOutcome = "a right program is never refused"
    case liveness = "no call waits for ever"
    case wire = "a message can be read"
}

/// Defects that can be put in, to see that a check notices.
package enum Sabotage: Sendable, CaseIterable {
    /// The input of a failed operation is left overwritten.
    case skipRestore
    /// A peer commits as soon as it holds the result itself.
    case commitWithoutPrepared
    case foldTwice
    /// One peer keeps another result than it sends.
    case keepOtherBits
    case losePrepared
    case enterTwice
    case sendTwice
    case commitAborted
    case adoptOldEpoch
    case swapRanks
    case flipPendingAnswer
    case refuseRightProgram
    case swallowCompletion
    case cutMessageShort
    case countMemberTwice
    /// One process of a node is a member and another is not.
    case splitEnsemble
    /// One process of a node takes a join point for another.
    case hearOtherwise
    /// One member of a view is told other shares than the rest.
    case changeShares
    /// A peer says that an element is final which is not.
    case claimMore
    /// A result of several views is said to be of one.
    case hideParts
    /// A tensor of a shared state is taken for received, and is not.
    case forgetKey
}

package struct SimulationCounts: Hashable, Sendable {
    package var events = 0
    /// One for each member that saw the outcome.
    package var succeeded = 0
    /// Of these, those that went by sites that the members had found.
    package var bySites = 0
    package var aborted = 0
    package var restarted = 0
    package var resumed = 0
    /// Of the successes, those whose result several views have made.
    package var mixed = 0
    package var joins = 0
    /// Of these, those of a process that came with others.
    package var joinsOfNodes = 0
    package var losses = 0
    package var repairs = 0
    /// Optimise calls that succeeded, one for each member.
    package var optimized = 0
    /// Synchronisations of the shared state that succeeded, one for each member.
    package var synchronized = 0
    package var masterRestarts = 0

    package init() {}
    package static func += (a: inout SimulationCounts, b: SimulationCounts) {
        a.events += b.events
        a.succeeded += b.succeeded
        a.bySites += b.bySites
        a.aborted += b.aborted
        a.restarted += b.restarted
        a.resumed += b.resumed
        a.mixed += b.mixed
        a.joins += b.joins
        a.joinsOfNodes += b.joinsOfNodes
        a.losses += b.losses
        a.repairs += b.repairs
        a.optimized += b.optimized
        a.synchronized += b.synchronized
        a.masterRestarts += b.masterRestarts
    }
}

package struct SimulationFailure: Error, Sendable, CustomStringConvertible {
    package let seed: UInt64
    package let check: SimulationCheck
    package let text: String
    /// The last events before it, oldest first.
    package let trace: [String]

    package var description: String {
        (["seed \(seed) breaks: \(check.rawValue)", text, "the last events:"] + trace.map { "  " + $0 })
            .joined(separator: "\n")
    }
}

package enum SimulationResult: Sendable {
    case passed(SimulationCounts)
    case failed(SimulationFailure)
}

/// Whole runs of master, peers and callers on a virtual network and a virtual clock, with faults, each decided by its seed
/// alone.
package enum Simulation {
    private static let reportedEvents = 60

    /// One schedule. It runs without writing anything down; if a check fails it runs once more to tell how.
    package static func run(seed: UInt64, sabotage: Sabotage? = nil) -> SimulationResult {
        let world = World(seed: seed, sabotage: sabotage, tracing: false)
        world.run()
        guard world.failure != nil else { return .passed(world.counts) }
        let again = World(seed: seed, sabotage: sabotage, tracing: true)
        again.run()
        guard let failure = again.failure else {
            return .failed(
                SimulationFailure(
                    seed: seed, check: .liveness, text: "the second run with this seed went otherwise", trace: []))
        }
        return .failed(
            SimulationFailure(
                seed: seed, check: failure.check, text: failure.text, trace: again.trace.suffix(reportedEvents)))
    }

    /// Everything that happens under a seed, a line each.
    package static func trace(seed: UInt64, sabotage: Sabotage? = nil) -> (lines: [String], result: SimulationResult) {
        let world = World(seed: seed, sabotage: sabotage, tracing: true)
        world.run()
        guard let failure = world.failure else { return (world.trace, .passed(world.counts)) }
        return (
            world.trace,
            .failed(
                SimulationFailure(
                    seed: seed, check: failure.check, text: failure.text,
                    trace: world.trace.suffix(reportedEvents)))
        )
    }

    /// A failing schedule with as little as possible: what was left out did not matter for the check that fails. `parts` are
    /// those that remain, in words. Nil if nothing fails.
    package static func shrink(
        seed: UInt64, sabotage: Sabotage? = nil
    ) -> (parts: [String], leftOut: Int, failure: SimulationFailure)? {
        var random = RandomSource(seed: seed)
        let scenario = Scenario(&random)
        func failure(without parts: Set<Scenario.Part>, tracing: Bool = false) -> (SimulationCheck, String, [String])? {
            let world = World(seed: seed, sabotage: sabotage, tracing: tracing, without: parts)
            world.run()
            return world.failure.map { ($0.check, $0.text, world.trace.suffix(reportedEvents)) }
        }
        /// Without any, callers would just wait, which is a failure of its own.
        func isLastLane(_ part: Scenario.Part, _ leftOut: Set<Scenario.Part>) -> Bool {
            guard case .lane = part else { return false }
            return leftOut.count { if case .lane = $0 { true } else { false } } + 1 == scenario.lanes.count
        }
        guard let (check, _, _) = failure(without: []) else { return nil }
        var leftOut: Set<Scenario.Part> = []
        var before = -1
        while leftOut.count > before {
            before = leftOut.count
            for part in scenario.parts where !leftOut.contains(part) && !isLastLane(part, leftOut) {
                if let (found, _, _) = failure(without: leftOut.union([part])), found == check { leftOut.insert(part) }
            }
        }
        guard let (_, text, trace) = failure(without: leftOut, tracing: true) else { return nil }
        let remaining = scenario.parts.filter { !leftOut.contains($0) }.map(scenario.description)
        return (remaining, leftOut.count, SimulationFailure(seed: seed, check: check, text: text, trace: trace))
    }
}
