import PCCLBase
import PCCLWire

/// One peer group as its master sees it.
///
/// ```
///               every member voted, newcomers wait            all linked
///   settled ───────────────────────────────────────▶ linking ────────────▶ settled (epoch + n)
///      │  ▲                                             │ ▲   a newcomer fails: proposed again without it
///      │  │ every member reported: verdicts             │ └──┘
///      ▼  │                                             │
///    flushing ◀─────────────────────────────────────────┘ a member is lost
///      │  ▲
///      └──┘ a further member is lost: again, with a higher epoch and fewer members
/// ```
package struct MasterGroup: Sendable {
    package struct Proposal: Sendable {
        package var epoch: Epoch
        package var newcomers: SortedPeers
        package var linked = SortedPeers()
        /// (who says so, whom it cannot reach)
        package var unreachable: [(from: PeerID, to: PeerID)] = []
        package var answered = SortedPeers()
        package var deadline: Instant
    }
    package struct Flush: Sendable {
        package var epoch: Epoch
        package var cause: FlushResolution.Cause
        package var reports: [FlushResolution.Report] = []
    }
    package enum Phase: Sendable {
        case settled
        case linking(Proposal)
        case flushing(Flush)
    }
    /// A member's word that its link to another member is broken.
    package struct BrokenLink: Sendable {
        package var from: PeerID
        package var to: PeerID
        package var gaveUp: Bool
        package var since: Instant
    }

    package struct Stall: Sendable {
        package var peer: PeerID
        package var tag: Tag
        package var since: Instant
    }

    package let id: GroupID
    /// The epoch of the view that holds.
    package var epoch = Epoch.none
    /// The highest epoch ever proposed, flushed or adopted; the next one is above it.
    package var highestEpoch = Epoch.none
    /// Admitted peers in rank order.
    package var members: [PeerID] = []
    /// Registered peers that wait for a join point.
    package var newcomers = SortedPeers()
    package var phase = Phase.settled
    package var joinVotes = SortedPeers()
    package var pendingVotes = SortedPeers()
    /// When the oldest of the votes that now wait was given.
    package var votesSince: Instant?
    package var brokenLinks: [BrokenLink] = []
    /// Operations that wait for a member that asks whether peers are pending.
    package var stalls: [Stall] = []

    package init(id: GroupID) { self.id = id }

    package mutating func openEpoch() -> Epoch {
        highestEpoch = highestEpoch.next
        return highestEpoch
    }

    package func isMember(_ peer: PeerID) -> Bool { members.contains(peer) }

    package mutating func forgetVotes(of peer: PeerID) {
        joinVotes.remove(peer)
        pendingVotes.remove(peer)
        if joinVotes.isEmpty && pendingVotes.isEmpty { votesSince = nil }
    }

    /// The member to give up when some pairs cannot reach each other: the one in most broken pairs, and among equals the
    /// youngest, which the others can best do without.
    package func leastReachable() -> PeerID? {
        var best: (peer: PeerID, score: Int)?
        for member in members.sorted() {
            var others = SortedPeers()
            for link in brokenLinks where link.gaveUp {
                if link.from == member { others.insert(link.to) }
                if link.to == member { others.insert(link.from) }
            }
            if others.count > 0 && others.count >= (best?.score ?? 0) { best = (member, others.count) }
        }
        return best?.peer
    }
}
