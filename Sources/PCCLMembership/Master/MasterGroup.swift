import PCCLBase
import PCCLWire

/// One peer group as its master sees it.
///
/// ```
///               every member voted, newcomers wait            all linked
///   settled ───────────────────────────────────────▶ linking ────────────▶ settled (epoch + n)
///    │ │  ▲ ╲ every member voted to optimise           │ ▲ ▲   a newcomer fails: proposed again without it
///    │ │  │  ╲                                         │ │ └──┘
///    │ │  │   ▶ solving ────────────────────────────────┼─┘ there is a better arrangement
///    │ │  │          │ there is none: settled           │
///    ▼ ▼  │ every member reported: verdicts             │
///    flushing ◀──────┴──────────────────────────────────┘ a member is lost
///      │  ▲
///      └──┘ a further member is lost: again, with a higher epoch and fewer members
/// ```
/// A master that was started anew begins with `recovering`, and goes on to `settled` or `flushing` once all members have
/// attached again or were lost.
package struct MasterGroup: Sendable {
    package struct Proposal: Sendable {
        package var epoch: Epoch
        package var newcomers: SortedPeers
        /// In the order of ranks.
        package var view: [PeerID]
        /// Of the view. Where there are no newcomers it is what the proposal is about.
        package var arrangement: Arrangement
        /// (who says so, whom it cannot reach)
        package var unreachable: [(from: PeerID, to: PeerID)] = []
        package var answered = SortedPeers()
        package var deadline: Instant
        /// Nil: of this group alone.
        package var join: GridJoin?
        /// All have answered, and what is proposed can be.
        package var isLinked = false
    }
    /// What is proposed to several groups at once.
    package struct GridJoin: Sendable {
        package var number: UInt64
        package var groups: [GroupID]
    }
    package struct Flush: Sendable {
        package var epoch: Epoch
        package var cause: FlushResolution.Cause
        /// Others have waited for their call until the straggler deadline: they are lost unless their reports have it.
        package var suspects: (peers: [PeerID], tag: Tag, waited: Interval)?
        package var reports: [FlushResolution.Report] = []
    }
    package enum Phase: Sendable {
        case settled
        /// An answer to this question is awaited; answers to earlier ones are too late.
        case solving(question: UInt32)
        case linking(Proposal)
        case flushing(Flush)
        /// The master was started anew: members attach again, and nothing is decided before they all did, or were lost.
        case recovering(Recovery)
    }
    /// What members that attached again have told of themselves, and not been answered yet.
    package struct Recovery: Sendable {
        package var reports: [PeerID: HeldView] = [:]
    }
    /// A member's word that its link to another member is broken.
    package struct BrokenLink: Sendable {
        package var from: PeerID
        package var to: PeerID
        package var gaveUp: Bool
        /// Nothing was under way on it.
        package var isHarmless = false
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
    package var optimizeVotes = SortedPeers()
    /// What members told with their votes to optimise, last.
    package var figures: [PeerID: [LinkFigure]] = [:]
    /// What members bring to a synchronisation of the shared state.
    package var offers: [PeerID: StateOffer] = [:]
    /// Some of them receive. Only while the phase is `settled`.
    package var sharing: Sharing?
    package var sharingSessions: UInt32 = 0
    /// Of the shared state, the last that was agreed on by members of whom some are still here.
    package var revision: UInt64?
    package var arrangement = Arrangement.plain
    /// How `epoch` began. No further outcome comes before all members have heard this one, for it takes their votes or
    /// reports; so a member that attaches again can have missed this one at most.
    package var outcome = GroupOutcome.unknown
    /// A member was lost since then.
    package var hasLost = false
    /// The joint calls of this epoch that left it as it was: how many were answered, and what was said last.
    package var answers: (count: UInt32, last: JointAnswer?) = (0, nil)
    /// What a longer search has found since the last optimise call.
    package var suggestion: [PeerID]?
    package var questions: UInt32 = 0
    /// When the oldest of the votes that now wait was given.
    package var votesSince: Instant?
    package var brokenLinks: [BrokenLink] = []
    /// Operations that wait for a member that asks whether peers are pending.
    package var stalls: [Stall] = []
    /// For whoever watches.
    package var lateOperations: [LateOperation] = []
    /// For whoever watches; of members that have said something, in order of their ids.
    package var stuck: [StuckReport] = []

    package init(id: GroupID) { self.id = id }

    package mutating func openEpoch() -> Epoch {
        highestEpoch = highestEpoch.next
        return highestEpoch
    }

    /// A view or a verdict opens this epoch.
    package mutating func begin(_ epoch: Epoch, _ outcome: GroupOutcome) {
        self.epoch = epoch
        self.outcome = outcome
        hasLost = false
        lateOperations.removeAll()
        stuck.removeAll()
        answers = (0, nil)
    }

    package mutating func note(_ link: BrokenLink) {
        // A flush ends in a new epoch, which is all that a repair does. So does a proposal, but not if it comes to nothing.
        if !link.gaveUp, !link.isHarmless, case .flushing = phase { return }
        let isKnown = brokenLinks.contains {
            $0.from == link.from && $0.to == link.to && $0.gaveUp == link.gaveUp && $0.isHarmless == link.isHarmless
        }
        if !isKnown { brokenLinks.append(link) }
    }

    package mutating func note(_ answer: JointAnswer) { answers = (answers.count &+ 1, answer) }

    package func isMember(_ peer: PeerID) -> Bool { members.contains(peer) }

    package mutating func forgetVotes(of peer: PeerID) {
        joinVotes.remove(peer)
        pendingVotes.remove(peer)
        optimizeVotes.remove(peer)
        figures[peer] = nil
        if offers[peer] != nil {
            // Whoever receives may do so from this one.
            interruptSharing()
            offers[peer] = nil
        }
        if voteKinds == 0 { votesSince = nil }
    }

    package mutating func forgetAllVotes() {
        joinVotes.removeAll()
        pendingVotes.removeAll()
        optimizeVotes.removeAll()
        offers.removeAll()
        sharing = nil
        votesSince = nil
    }

    /// In how many different calls members wait.
    package var voteKinds: Int { [joinVotes, pendingVotes, optimizeVotes, stateVotes].count { !$0.isEmpty } }
    /// Who waits in a synchronisation of the shared state.
    package var stateVotes: SortedPeers { SortedPeers(offers.keys) }
    /// Whoever is in one of these calls can launch nothing before it ends.
    package var absentees: SortedPeers { SortedPeers(joinVotes.array + optimizeVotes.array + offers.keys) }

    /// The others' shares keep their proportions, and sites their members, until the next optimise call.
    package mutating func removeMember(_ peer: PeerID) {
        guard let rank = members.firstIndex(of: peer) else { return }
        members.remove(at: rank)
        if arrangement.shares.indices.contains(rank) { arrangement.shares.remove(at: rank) }
        if members.count < 3 || arrangement.shares.allSatisfy({ $0 == 0 }) { arrangement.shares = [] }
        if arrangement.sites.indices.contains(rank) { arrangement.sites.remove(at: rank) }
        let siteCount = Set(arrangement.sites).count
        if siteCount < 2 || siteCount == members.count { arrangement.sites = [] }
        // Who comes next brings a state of its own.
        if members.isEmpty { revision = nil }
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
