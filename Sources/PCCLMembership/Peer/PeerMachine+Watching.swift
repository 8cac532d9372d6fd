import PCCLBase
import PCCLWire

/// Says which members this one waits for: to the log, to the caller, and to the master for whoever asks there. Nothing is
/// decided by it.
///
/// ```
///  something in flight for a 24th of the dead time ─observe─▶ shell ─observed─▶ compared, named; again and again
/// ```
extension PeerMachine {
    func lookForStuck(_ m: inout Membership, at now: Instant, _ effects: inout [Effect]) {
        guard
            let launches = m.watch.due(
                m.ledger.inLaunchOrder, memberCount: m.assignment.members.count, at: now, timeouts)
        else { return }
        effects.append(.observe(launches))
    }

    /// The answer to `observe`.
    mutating func nameStuck(
        _ progress: [LaunchNumber: OperationProgress], at now: Instant, _ effects: inout [Effect]
    ) {
        guard case .member(var m) = phase else { return }
        let operations = m.ledger.inLaunchOrder.filter { progress[$0.launch] != nil }
        let findings = m.watch.findings(
            operations, progress, m.assignment.others, isInterrupted: m.flushing != nil, at: now, timeouts)
        for finding in findings where !finding.report.culprits.isEmpty {
            effects.append(.noteStuck(finding.id, finding.report.text))
        }
        // What was waited for before a flush is what the caller of an aborted operation wants to know.
        for operation in operations {
            guard m.flushing == nil, !findings.contains(where: { $0.launch == operation.launch }) else { continue }
            effects.append(.noteStuck(operation.id, nil))
        }
        for line in m.watch.lines(findings, at: now, timeouts) { effects.append(.log(LogLine(.warning, line))) }
        // Who is not heard by the master says it when it is again.
        if detachment == nil, let message = m.watch.message(findings, at: now, timeouts) {
            effects.append(.sendToMaster(.stuck(epoch: m.assignment.epoch, operations: message)))
        }
        phase = .member(m)
    }
}
