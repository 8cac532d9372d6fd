import PCCLBase
import PCCLWire

/// The synchronisation of a group's shared state: every member has said what it brings.
///
/// ```
///   offerState × P ─▶ election ─▶ all hold it ─────────────────────────────────▶ stateSynchronized(revision)
///                        │ │
///                        │ └────▶ receiveState to some ─▶ stateReceived by all ─▶ stateSynchronized(revision)
///                        └──────▶ nobody can give ─────▶ stateSynchronized(nil)
/// ```
///
/// Nothing of the data goes by the master. What is elected is not remembered beyond the session: when a member is lost, or
/// was away, the election is repeated over what the members hold by then. Who has received has it to give; who was about to
/// receive has nothing, for its memory may be partly overwritten. So the election comes to the same content, or to
/// nothing where all are gone who had it.
extension MasterMachine {
    mutating func takeOffer(
        _ offer: StateOffer, from peer: PeerID, _ g: Int, at now: Instant, _ effects: inout [Effect]
    ) {
        guard groups[g].isMember(peer) else { return }
        groups[g].interruptSharing()
        groups[g].offers[peer] = offer
        noteVote(g, at: now)
        advance(g, at: now, &effects)
    }

    /// All members have said what they bring.
    mutating func share(_ g: Int, at now: Instant, _ effects: inout [Effect]) {
        let ballots = groups[g].members.compactMap { peer in
            groups[g].offers[peer].map { RevisionElection.Ballot(peer: peer, offer: $0) }
        }
        // Who is alone has what the group has, whatever it is; unless it was receiving it.
        if ballots.count == 1, ballots[0].offer.isWhole {
            return endSharing(g, revision: ballots[0].offer.revision, at: now, &effects)
        }
        let decision = RevisionElection.decide(ballots, expected: groups[g].revision.map { $0 &+ 1 })
        let evicted = zip(ballots, decision.fates).compactMap { ballot, fate -> (peer: PeerID, reason: String)? in
            if case .evicted(let reason) = fate { (ballot.peer, reason) } else { nil }
        }
        guard evicted.isEmpty else {
            for (peer, reason) in evicted {
                turnAway(peer, .state, reason, saying: .stateRefused(reason: reason), at: now, &effects)
            }
            return
        }
        guard let elected = decision.elected.map({ ballots[$0].offer }) else {
            effects.append(.log(LogLine(.info, "\(groups[g].id): no member has a shared state to give")))
            return endSharing(g, revision: nil, at: now, &effects)
        }
        groups[g].sharingSessions &+= 1
        var sharing = MasterGroup.Sharing(session: groups[g].sharingSessions, elected: elected)
        var sources: [PeerID] = []
        for (ballot, fate) in zip(ballots, decision.fates) {
            switch fate {
            case .holds: sources.append(ballot.peer)
            case .receives(let entries): sharing.receiving[ballot.peer] = entries
            case .goesWithout, .evicted: break
            }
        }
        guard !sharing.receiving.isEmpty else { return endSharing(g, revision: elected.revision, at: now, &effects) }
        groups[g].sharing = sharing
        for ballot in ballots {
            guard let entries = sharing.receiving[ballot.peer] else { continue }
            let keys = entries.compactMap { entry in
                elected.entries[entry].hash.map { StateDecision.Key(entry: entry, hash: $0) }
            }
            send(
                .receiveState(
                    StateDecision(session: sharing.session, revision: elected.revision, sources: sources, keys: keys)),
                to: ballot.peer, &effects)
        }
        let receivers = ballots.map(\.peer).filter { sharing.receiving[$0] != nil }
        effects.append(
            .log(
                LogLine(
                    .info,
                    "\(groups[g].id): revision \(elected.revision) of the shared state goes from "
                        + "\(sources.enumerated(upTo: 8)) to \(receivers.enumerated(upTo: 8))")))
    }

    mutating func noteReceived(
        _ g: Int, from peer: PeerID, session: UInt32, failure: String?, at now: Instant, _ effects: inout [Effect]
    ) {
        guard var sharing = groups[g].sharing, sharing.session == session, sharing.receiving[peer] != nil else {
            return
        }
        if let failure {
            effects.append(
                .log(LogLine(.warning, "\(groups[g].id): \(peer) cannot receive the shared state: \(failure)")))
            return endSharing(g, revision: nil, at: now, &effects)
        }
        sharing.received.insert(peer)
        groups[g].sharing = sharing
        if sharing.received.count == sharing.receiving.count {
            endSharing(g, revision: sharing.elected.revision, at: now, &effects)
        }
    }

    private mutating func endSharing(_ g: Int, revision: UInt64?, at now: Instant, _ effects: inout [Effect]) {
        groups[g].sharing = nil
        groups[g].offers.removeAll()
        groups[g].note(revision == nil ? .noSharedState : .stateSynchronized)
        if groups[g].voteKinds == 0 { groups[g].votesSince = nil }
        // Not for the journal: if no member has heard of it, none is bound by it.
        if let revision { groups[g].revision = revision }
        sendToMembers(g, .stateSynchronized(revision: revision), &effects)
        // No honest member waits in another call too, but newcomers do not wait for a dishonest one.
        advance(g, at: now, &effects)
    }
}

extension MasterGroup {
    /// Members that receive what others hold.
    package struct Sharing: Sendable {
        package let session: UInt32
        package let elected: StateOffer
        /// The entries that each of them receives.
        package var receiving: [PeerID: [Int]] = [:]
        package var received = SortedPeers()
    }

    /// The members' offers become what they hold by now, and the election will be repeated.
    package mutating func interruptSharing() {
        guard let sharing else { return }
        self.sharing = nil
        for (peer, entries) in sharing.receiving where offers[peer] != nil {
            let isReceived = sharing.received.contains(peer)
            if isReceived { offers[peer]?.revision = sharing.elected.revision }
            for entry in entries {
                offers[peer]?.entries[entry].hash = isReceived ? sharing.elected.entries[entry].hash : nil
            }
        }
    }
}
