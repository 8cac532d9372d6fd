import PCCLBase
import PCCLWire

/// After a flush.
extension PeerMachine {
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

        for (operation, verdict) in zip(operations, verdicts) {
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
            switch verdict.outcome {
            case .commit: effects.append(.complete(operation.id, .success(worldSize: worldSizeBefore)))
            case .abort: effects.append(.complete(operation.id, .memberLost))
            case .misuse:
                effects.append(
                    .complete(
                        operation.id,
                        .misuse(
                            "the members' calls do not go together: others wait in another call, or were refused theirs"
                        )))
            case .mismatch:
                effects.append(.complete(operation.id, .mismatch(PeerMachine.failedElsewhere(operation.tag))))
            case .restart: relaunch(operation.id, operation.tag, operation.descriptor, &m, at: now, &effects)
            }
        }
        for launch in queued { relaunch(launch.id, launch.tag, launch.descriptor, &m, at: now, &effects) }
        phase = .member(m)
    }

    private mutating func relaunch(
        _ id: OperationID, _ tag: Tag, _ descriptor: OperationDescriptor, _ m: inout Membership, at now: Instant,
        _ effects: inout [Effect]
    ) {
        if m.assignment.members.count < 2 {
            // It was launched among several, and they are gone: to its caller that is a loss.
            effects.append(.complete(id, .memberLost))
        } else {
            enter(id, tag, descriptor, &m, at: now, &effects)
        }
    }
}
