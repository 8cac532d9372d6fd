import PCCLBase
import PCCLWire

/// What does not move in a group, as its members say.
extension MasterGroup {
    /// A member's last word on it. It holds until the next, or the end of the epoch.
    package struct StuckReport: Sendable {
        package var peer: PeerID
        package var heard: Instant
        package var operations: [StuckOperation]
    }

    mutating func noteStuck(_ operations: [StuckOperation], at peer: PeerID, now: Instant) {
        stuck.removeAll { $0.peer == peer }
        guard !operations.isEmpty else { return }
        let place = stuck.firstIndex { $0.peer > peer } ?? stuck.count
        stuck.insert(StuckReport(peer: peer, heard: now, operations: operations), at: place)
    }

    /// One operation as all who wait in it see it together.
    package struct StuckTogether: Sendable {
        /// Who says so, in order.
        package var waiting: [PeerID]
        package var operation: StuckOperation

        package var text: String { "\(waiting.enumerated(upTo: 8)): \(operation.text)" }
    }

    /// In order of tags. Who waits is no culprit as long as somebody else is: it waits for that one.
    package func stuckTogether(at now: Instant) -> [StuckTogether] {
        var joined: [StuckTogether] = []
        for report in stuck {
            let age = UInt32(clamping: (now - report.heard).milliseconds)
            for operation in report.operations {
                let operation = operation.aged(age)
                if let index = joined.firstIndex(where: { $0.operation.tag == operation.tag }) {
                    joined[index].waiting.append(report.peer)
                    joined[index].operation.join(operation)
                } else {
                    joined.append(StuckTogether(waiting: [report.peer], operation: operation))
                }
            }
        }
        for index in joined.indices {
            let roots = joined[index].operation.culprits.filter { !joined[index].waiting.contains($0.peer) }
            if !roots.isEmpty { joined[index].operation.culprits = roots }
        }
        return joined.sorted { $0.operation.tag < $1.operation.tag }
    }
}

extension MasterMachine {
    /// Members that this master has not heard for so long that several heartbeats are missing, but not yet for the dead time.
    package func silentMembers(of group: MasterGroup, at now: Instant) -> [Peer] {
        group.members.compactMap { id in peers.first { $0.id == id } }
            .filter { now - $0.lastHeard >= timeouts.stragglerPatience }
    }
}

extension StuckOperation {
    fileprivate func aged(_ age: UInt32) -> StuckOperation {
        func older(_ milliseconds: UInt32) -> UInt32 {
            let (sum, isTooMuch) = milliseconds.addingReportingOverflow(age)
            return isTooMuch ? .max : sum
        }
        var aged = self
        aged.milliseconds = older(milliseconds)
        for index in aged.culprits.indices {
            aged.culprits[index].milliseconds = older(culprits[index].milliseconds)
            aged.culprits[index].silentMilliseconds = culprits[index].silentMilliseconds.map(older)
        }
        return aged
    }

    /// What another member says of it: of each culprit what who has waited longest for it says.
    fileprivate mutating func join(_ other: StuckOperation) {
        milliseconds = max(milliseconds, other.milliseconds)
        called = max(called, other.called)
        prepared = max(prepared, other.prepared)
        moreCulprits = max(moreCulprits, other.moreCulprits)
        for culprit in other.culprits {
            guard let index = culprits.firstIndex(where: { $0.peer == culprit.peer }) else {
                culprits.append(culprit)
                continue
            }
            if culprit.milliseconds > culprits[index].milliseconds { culprits[index] = culprit }
        }
        culprits.sort { $0.peer < $1.peer }
    }
}
