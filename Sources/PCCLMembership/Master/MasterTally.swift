import PCCLBase
import PCCLWire

/// What a master has done since it was started, for whoever watches it: counts, and the last changes of membership.
/// Nothing is decided by it. It takes a bounded room, whatever peers do.
package struct MasterTally: Sendable {
    /// Why a peer is gone.
    package enum Cause: String, CaseIterable, Sendable {
        /// It said so.
        case left
        /// Its connection was closed or broke, and it was not, or no more, waited for.
        case disconnected
        /// Nothing was heard from it for the dead time.
        case silent
        /// Others could not reach it.
        case unreachable
        /// A join point took too long with it.
        case slow
        /// Others waited for its call until the straggler deadline.
        case straggler
        /// It said what the protocol does not allow.
        case violation
        /// What it had for a shared state was refused.
        case state
        /// With another of its ensemble, or for want of one.
        case ensemble
        /// It attached again, and this master could not tell it what it had missed.
        case outdated
    }

    package struct Change: Sendable {
        package enum Kind: Sendable {
            case registered(PeerID, SocketAddress?)
            case admitted(SortedPeers)
            case gone(PeerID, SocketAddress?, Cause, wasMember: Bool, reason: String)
            case detached(PeerID, reason: String)
            case attached(PeerID)
        }
        /// Counted from 1 since the master was started.
        package var number: UInt64
        package var at: Instant
        package var group: GroupID
        /// The one that holds when this has happened.
        package var epoch: Epoch
        package var kind: Kind
    }

    package private(set) var registrations: UInt64 = 0
    package private(set) var admissions: UInt64 = 0
    package private(set) var detachments: UInt64 = 0
    package private(set) var attachments: UInt64 = 0
    /// Of members.
    package private(set) var departures: [Cause: UInt64] = [:]
    /// Of peers that were never admitted.
    package private(set) var newcomersGone: [Cause: UInt64] = [:]
    package private(set) var views: UInt64 = 0
    package private(set) var flushes: [FlushResolution.Cause: UInt64] = [:]
    /// For each operation one at each member that had it in flight.
    package private(set) var verdicts: [OperationVerdict.Outcome: UInt64] = [:]
    /// The last ones, oldest first.
    package private(set) var changes: [Change] = []
    private var changeCount: UInt64 = 0

    package static let changeLimit = 50

    package init() {}

    mutating func note(_ kind: Change.Kind, in group: MasterGroup, at now: Instant) {
        switch kind {
        case .registered: registrations += 1
        case .admitted(let peers): admissions += UInt64(peers.count)
        case .gone(_, _, let cause, wasMember: true, _): departures[cause, default: 0] += 1
        case .gone(_, _, let cause, wasMember: false, _): newcomersGone[cause, default: 0] += 1
        case .detached: detachments += 1
        case .attached: attachments += 1
        }
        changeCount += 1
        if changes.count == MasterTally.changeLimit { changes.removeFirst() }
        changes.append(Change(number: changeCount, at: now, group: group.id, epoch: group.epoch, kind: kind))
    }

    mutating func noteView() { views += 1 }

    mutating func noteFlush(_ cause: FlushResolution.Cause, _ told: [[OperationVerdict]]) {
        flushes[cause, default: 0] += 1
        for verdict in told.joined() { verdicts[verdict.outcome, default: 0] += 1 }
    }
}

extension MasterGroup {
    /// An operation that some members have called and others not, as those who wait in it say. Nobody says when it has
    /// gone on: who waits says so again and again, and then no more.
    package struct LateOperation: Sendable {
        package var tag: Tag
        package var waiting: SortedPeers
        package var missing: [PeerID]
        /// When the first of those who wait called it.
        package var since: Instant
        package var heard: Instant
    }

    /// Kept of a group; of more, those heard of last.
    package static let lateOperationLimit = 32

    mutating func noteLate(_ tag: Tag, at peer: PeerID, missing: [PeerID], since: Instant, now: Instant) {
        var late = LateOperation(tag: tag, waiting: SortedPeers(), missing: [], since: since, heard: now)
        if let index = lateOperations.firstIndex(where: { $0.tag == tag }) { late = lateOperations.remove(at: index) }
        late.waiting.insert(peer)
        // Who has come since the first report is named by it, and not by the last.
        late.missing = missing.filter { isMember($0) && !late.waiting.contains($0) }
        late.since = min(late.since, since)
        late.heard = now
        if lateOperations.count == MasterGroup.lateOperationLimit { lateOperations.removeFirst() }
        lateOperations.append(late)
    }
}

extension MasterMachine {
    /// Those of which something was heard so lately that they still wait.
    package func lateOperations(of group: MasterGroup, at now: Instant) -> [MasterGroup.LateOperation] {
        // Who waits says so once in a straggler's patience.
        let patience: Interval = timeouts.stragglerPatience * 3 / 2
        return group.lateOperations.filter { now - $0.heard < patience }
    }
}
