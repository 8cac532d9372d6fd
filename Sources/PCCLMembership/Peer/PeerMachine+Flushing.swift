import PCCLBase
import PCCLWire

/// A flush: everything stands still, is reported, and goes on, or ends, as the master says.
///
/// ```
///  running ─flush─▶ halted ─what is final─▶ reported ─verdict─▶ running in the new epoch
/// ```
extension PeerMachine {
    /// The engine has to say what is final of each operation.
    func flush(_ m: inout Membership, _ epoch: Epoch, _ effects: inout [Effect]) {
        m.flushing = epoch
        // Halt first: what would become whole after the report could not be taken back.
        effects.append(.halt)
        let launches = m.ledger.inLaunchOrder.map(\.launch)
        if launches.isEmpty {
            PeerMachine.report([:], m, epoch, &effects)
        } else {
            effects.append(.listFinal(launches, epoch))
        }
    }

    func report(_ final: [LaunchNumber: [ResultPart]], _ epoch: Epoch, _ effects: inout [Effect]) {
        guard case .member(let m) = phase, m.flushing == epoch else { return }
        PeerMachine.report(final, m, epoch, &effects)
    }

    private static func report(
        _ final: [LaunchNumber: [ResultPart]], _ m: Membership, _ epoch: Epoch, _ effects: inout [Effect]
    ) {
        let reports = m.ledger.reports(final: final, worldSize: m.assignment.members.count)
        effects.append(
            .sendToMaster(.flushReport(epoch: epoch, operations: reports, failed: m.ledger.failedCalls)))
    }

    /// The master's word on everything in flight, and the epoch that begins with it.
    mutating func conclude(
        _ before: Membership, _ assignment: Assignment, _ members: [Member], _ world: WorldCounts,
        _ verdicts: [OperationVerdict], _ missed: [FailedCalls], at now: Instant, _ effects: inout [Effect]
    ) {
        var m = before
        guard m.flushing == assignment.epoch else {
            return violation("a verdict that was not asked for", at: now, &effects)
        }
        let operations = m.ledger.inLaunchOrder
        guard operations.map(\.launch) == verdicts.map(\.launch), operations.map(\.tag) == verdicts.map(\.tag)
        else { return violation("a verdict on other operations than were reported", at: now, &effects) }
        for (operation, verdict) in zip(operations, verdicts) where verdict.outcome == .resume {
            let isPossible =
                verdict.resumption?.isValid(
                    elementCount: Int(operation.descriptor.count), worldSize: assignment.members.count) ?? false
            guard isPossible, assignment.members.count > 1 else {
                return violation("an operation cannot go on as the master says", at: now, &effects)
            }
        }

        for (operation, verdict) in zip(operations, verdicts) where verdict.outcome != .resume {
            effects.append(
                .finish(operation.tag, operation.launch, succeeded: verdict.outcome == .commit))
        }
        let worldSizeBefore = m.assignment.members.count
        m.flushing = nil
        m.assignment = assignment
        m.members = members
        m.world = world
        let queued = m.queued
        m.queued = []
        phase = .member(m)
        settleView(missed: missed, at: now, &effects)
        guard case .member(var m) = phase else { return }
        // Outcomes come after the view, so that who reads the attributes upon an error finds them new.
        for (operation, verdict) in zip(operations, verdicts) {
            let call = QueuedLaunch(
                id: operation.id, tag: operation.tag, descriptor: operation.descriptor, onLoss: operation.onLoss)
            switch verdict.outcome {
            case .commit:
                effects.append(
                    .complete(operation.id, PeerMachine.success(operation, worldSize: worldSizeBefore)))
            case .abort: effects.append(.complete(operation.id, .memberLost))
            case .misuse:
                let missing = m.assignment.others.filter { !operation.hasEntered($0) }
                let who = missing.isEmpty ? "others" : missing.enumerated(upTo: 8)
                effects.append(
                    .complete(
                        operation.id,
                        .misuse(
                            "the members' calls do not go together: this peer waits in \(operation.tag), and \(who) in "
                                + "another call, or refused theirs")))
            case .mismatch:
                effects.append(.complete(operation.id, .mismatch(PeerMachine.failedElsewhere(operation.tag))))
            case .restart: relaunch(call, &m, at: now, &effects)
            case .resume:
                let resumed = verdict.resumption.map { (operation.launch, $0) }
                enter(call, &m, resumed: resumed, at: now, &effects)
            }
        }
        for launch in queued { relaunch(launch, &m, at: now, &effects) }
        phase = .member(m)
    }

    private mutating func relaunch(
        _ call: QueuedLaunch, _ m: inout Membership, at now: Instant, _ effects: inout [Effect]
    ) {
        if m.assignment.members.count < 2 {
            // It was launched among several, and they are gone: to its caller that is a loss.
            effects.append(.complete(call.id, .memberLost))
        } else {
            enter(call, &m, at: now, &effects)
        }
    }
}
