import PCCLBase
import PCCLWire

/// Peers that come back: their connection broke, or this master was started anew.
///
/// ```
///   attach ──▶ attached, then what the peer has missed: the last view or verdict, the last answer to a joint call,
///              the proposal or the flush under way
/// ```
/// A peer can have missed one outcome and one answer at most, since neither comes without its vote or its report
/// (docs/decisions/0011-coming-back.md).
extension MasterMachine {
    // MARK: connections that break

    /// Newcomers are not: they register again.
    func isAwaited(_ peer: Peer) -> Bool {
        timeouts.masterGrace.nanoseconds > 0 && groups.contains { $0.id == peer.group && $0.isMember(peer.id) }
    }

    mutating func detach(_ id: PeerID, reason: String, at now: Instant, _ effects: inout [Effect]) {
        guard let index = peers.firstIndex(where: { $0.id == id }) else { return }
        peers[index].connection = nil
        peers[index].lastHeard = now
        peers[index].since = now
        tally.note(.detached(id, reason: reason), in: groups[groupIndex(peers[index].group)], at: now)
        effects.append(.log(LogLine(.info, "the connection of \(id) broke (\(reason)); it may attach again")))
        loseIfBothAreBroken(id, groupIndex(peers[index].group), at: now, &effects)
    }

    /// A process that was killed with something unread resets all of its connections: then there is nobody to wait for.
    mutating func loseIfBothAreBroken(_ id: PeerID, _ g: Int, at now: Instant, _ effects: inout [Effect]) {
        // After a restart nobody is here yet, and that says nothing.
        if case .recovering = groups[g].phase { return }
        guard let peer = peers.first(where: { $0.id == id }), peer.connection == nil,
            groups[g].brokenLinks.contains(where: { $0.to == id && $0.from != id })
        else { return }
        remove(id, .disconnected, reason: "its connections broke", at: now, &effects)
    }

    // MARK: attaching

    mutating func attach(
        _ attachment: Attachment, on connection: ConnectionID, at now: Instant, _ effects: inout [Effect]
    ) {
        guard let stranger = forgetStranger(connection) else {
            if let peer = peer(on: connection) {
                turnAway(peer.id, .violation, "it attached over a connection in use", at: now, &effects)
            }
            return
        }
        guard MasterMachine.isPossible(attachment) else {
            return refuse(stranger, "no master gave it that place", &effects)
        }
        if attachment.run != run, isBlank {
            run = attachment.run
            rebuildsUntil = now + timeouts.deadTime
            // Nobody here knows which ids and epochs the last master gave to whom. Nor does the next one that knows nothing
            // know which this one gives: the distance is another one each time.
            unknownIDs += stranger.secret.low & 0xffff_ffff
            nextPeer = attachment.peer.value + unknownIDs
            firstEpoch = Epoch(UInt32(truncatingIfNeeded: stranger.secret.low >> 40))
            effects.append(
                .log(LogLine(.warning, "this master knows nothing of the run, and takes over what its peers tell")))
        }
        let known = peers.first { $0.id == attachment.peer && $0.group == attachment.hello.group }
        let isKnown =
            attachment.run == run && known.map { $0.secret ?? attachment.secret == attachment.secret } ?? false
        guard let view = attachment.view else {
            if isKnown { return welcomeBack(attachment, stranger, at: now, &effects) }
            // Not admitted, so it has nothing to lose: it is registered as anybody else.
            return register(stranger, attachment.hello, at: now, &effects)
        }
        guard attachment.run == run else {
            return refuse(stranger, "this master serves another run", &effects)
        }
        let g = groupIndex(attachment.hello.group)
        let isNews = view.epoch > groups[g].epoch && view.members.contains { $0.id == attachment.peer }
        if isNews, isKnown ? isRecovering(g) : known == nil && rebuildsUntil != nil {
            guard mayBeMembers(view.members.map(\.id), g) else {
                return refuse(stranger, "no master gave it that place", &effects)
            }
            takeOver(view, g, at: now, &effects)
        } else if !isKnown {
            return refuse(stranger, "it was taken for lost", &effects)
        }
        groups[g].highestEpoch = max(groups[g].highestEpoch, view.highestEpoch)
        welcomeBack(attachment, stranger, at: now, &effects)
    }

    /// How far above the epoch of a view that it takes over a master goes on, at most. A run may have some thousand of them.
    private static let epochsBetweenMasters: UInt32 = 1 << 20

    /// A master that knows nothing goes on from the ids and epochs that it is told: they must leave it some to give. No run
    /// comes that far. What it takes over must be a view.
    private static func isPossible(_ attachment: Attachment) -> Bool {
        guard let view = attachment.view else { return attachment.peer.value < 1 << 62 }
        let ids = view.members.map(\.id)
        let (shares, sites) = (view.arrangement.shares, view.arrangement.sites)
        return ([attachment.peer] + ids).allSatisfy { $0.value < 1 << 62 } && Set(ids).count == ids.count
            && [view.epoch, view.highestEpoch].allSatisfy { $0.value < 1 << 31 }
            && (shares.isEmpty || shares.count == ids.count) && (sites.isEmpty || sites.count == ids.count)
    }

    /// Whether all of them may be members of the group: none waits to be admitted, or belongs to another one.
    private func mayBeMembers(_ ids: [PeerID], _ g: Int) -> Bool {
        peers.allSatisfy { peer in
            !ids.contains(peer.id) || (peer.group == groups[g].id && !groups[g].newcomers.contains(peer.id))
        }
    }

    private func isRecovering(_ g: Int) -> Bool {
        if case .recovering = groups[g].phase { true } else { false }
    }

    /// Nobody has registered with this master, nor with the one that it goes on for.
    private var isBlank: Bool { peers.isEmpty && nextPeer == 1 && rebuildsUntil == nil }

    func refuse(_ stranger: Stranger, _ reason: String, _ effects: inout [Effect]) {
        effects.append(.send(stranger.connection, .turnedAway(reason: reason)))
        effects.append(.close(stranger.connection))
    }

    private mutating func welcomeBack(
        _ attachment: Attachment, _ stranger: Stranger, at now: Instant, _ effects: inout [Effect]
    ) {
        guard let index = peers.firstIndex(where: { $0.id == attachment.peer }) else { return }
        if let old = peers[index].connection { effects.append(.close(old)) }
        let id = attachment.peer
        peers[index].connection = stranger.connection
        peers[index].secret = attachment.secret
        peers[index].lastHeard = now
        peers[index].since = now
        peers[index].member = MasterMachine.member(id, seenAt: stranger.from, attachment.hello)
        peers[index].ensemble = attachment.hello.ensemble
        send(.attached(world: worldCounts), to: id, &effects)
        effects.append(.log(LogLine(.info, "\(id) has attached again")))

        let g = groupIndex(attachment.hello.group)
        tally.note(.attached(id), in: groups[g], at: now)
        gridsMayAdvance = true
        // What it still cannot reach it says again.
        groups[g].brokenLinks.removeAll { ($0.gaveUp || $0.isHarmless) && $0.from == id }
        guard groups[g].isMember(id) else { return bringUpToDate(id, g, &effects) }
        var view =
            attachment.view ?? HeldView(epoch: .none, highestEpoch: .none, members: [], arrangement: .plain)
        if view.epoch != groups[g].epoch {
            guard view.epoch < groups[g].epoch, tellOutcome(to: id, g, &effects) else {
                return turnAway(id, .outdated, "what became of its \(view.epoch) is not known here", at: now, &effects)
            }
            // A view ends the calls that waited for it; a verdict leaves them.
            if case .view = groups[g].outcome.kind, view.call != .arePeersPending { view.call = nil }
            (view.answers, view.lastAnswer, view.isHalted, view.needsRepair) = (0, nil, false, false)
        }
        if case .recovering(var recovery) = groups[g].phase {
            recovery.reports[id] = view
            groups[g].phase = .recovering(recovery)
            return concludeRecovery(g, at: now, &effects)
        }
        // What it waited for may have failed there meanwhile, if it was gone for longer than this master knows.
        groups[g].forgetVotes(of: id)
        if view.answers != groups[g].answers.count, let last = groups[g].answers.last {
            send(message(last, g), to: id, &effects)
        } else {
            take(view, from: id, g, at: now, &effects)
        }
        if view.needsRepair {
            groups[g].note(MasterGroup.BrokenLink(from: id, to: id, gaveUp: false, since: now))
        }
        if !waits(id, g) {
            // A view that it does not wait for would find it in the middle of operations.
            return startFlush(g, cause: .repair, at: now, &effects)
        }
        bringUpToDate(id, g, &effects)
        advance(g, at: now, &effects)
    }

    /// Whether it has a vote in what is under way, if that needs those of all members.
    private func waits(_ id: PeerID, _ g: Int) -> Bool {
        switch groups[g].phase {
        case .solving: groups[g].optimizeVotes.contains(id)
        case .linking(let proposal):
            (proposal.newcomers.isEmpty ? groups[g].optimizeVotes : groups[g].joinVotes).contains(id)
        case .settled, .flushing, .recovering: true
        }
    }

    /// False if it is not known.
    private func tellOutcome(to id: PeerID, _ g: Int, _ effects: inout [Effect]) -> Bool {
        let (epoch, outcome) = (groups[g].epoch, groups[g].outcome)
        switch outcome.kind {
        case .unknown: return false
        case .view:
            send(
                .view(epoch: epoch, members: outcome.members, world: worldCounts, arrangement: outcome.arrangement),
                to: id, &effects)
        case .verdicts(let verdicts):
            guard let verdict = verdicts.first(where: { $0.peer == id }) else { return false }
            send(
                .verdict(
                    epoch: epoch, members: outcome.members, world: worldCounts, arrangement: outcome.arrangement,
                    operations: verdict.operations, missed: verdict.missed),
                to: id, &effects)
        }
        return true
    }

    /// The call that its caller waits in counts as a vote, or will when all of it was said.
    private mutating func take(
        _ view: HeldView, from id: PeerID, _ g: Int, at now: Instant, _ effects: inout [Effect]
    ) {
        switch view.call {
        case nil: return
        case .updateTopology: groups[g].joinVotes.insert(id)
        case .arePeersPending: groups[g].pendingVotes.insert(id)
        case .optimizeTopology:
            groups[g].optimizeVotes.insert(id)
            groups[g].figures[id] = view.figures
        case .synchronizeState: return send(.repeatOffer, to: id, &effects)
        }
        noteVote(g, at: now)
    }

    private func message(_ answer: JointAnswer, _ g: Int) -> ToPeer {
        switch answer {
        case .joinUnchanged: .joinUnchanged(world: worldCounts)
        case .nonePending: .pendingAnswer(arePending: false)
        case .somePending: .pendingAnswer(arePending: true)
        case .optimizeUnchanged: .optimizeUnchanged
        case .stateSynchronized: .stateSynchronized(revision: groups[g].revision)
        case .noSharedState: .stateSynchronized(revision: nil)
        }
    }

    /// What is under way is asked of it again.
    private mutating func bringUpToDate(_ id: PeerID, _ g: Int, _ effects: inout [Effect]) {
        switch groups[g].phase {
        case .linking(var proposal) where proposal.view.contains(id):
            proposal.answered.remove(id)
            proposal.isLinked = false
            proposal.unreachable.removeAll { $0.from == id }
            groups[g].phase = .linking(proposal)
            send(.propose(epoch: proposal.epoch, members: proposal.view.compactMap { member($0) }), to: id, &effects)
        case .flushing(let flush) where groups[g].isMember(id) && !flush.reports.contains { $0.peer == id }:
            send(.flush(epoch: flush.epoch), to: id, &effects)
        case .settled, .solving, .linking, .flushing, .recovering: break
        }
    }

    // MARK: a master that was started anew

    mutating func restore(_ group: MasterState.Group, at now: Instant) {
        let g = groupIndex(group.id)
        groups[g].begin(group.epoch, group.outcome)
        groups[g].highestEpoch = group.epoch
        groups[g].arrangement = group.arrangement
        groups[g].hasLost = group.hasLost
        groups[g].answers = (group.answers, group.lastAnswer)
        groups[g].revision = group.revision
        groups[g].members = group.members.map(\.member.id)
        if !group.members.isEmpty { groups[g].phase = .recovering(MasterGroup.Recovery()) }
        for peer in group.members {
            expect(peer.member, secret: peer.secret, peer.ensemble, in: group.id, at: now)
        }
    }

    private mutating func expect(
        _ member: Member, secret: PeerSecret?, _ ensemble: Ensemble? = nil, in group: GroupID, at now: Instant
    ) {
        let place = peers.firstIndex { member.id < $0.id } ?? peers.count
        peers.insert(
            Peer(
                id: member.id, connection: nil, group: group, member: member, secret: secret, lastHeard: now,
                since: now, ensemble: ensemble),
            at: place)
    }

    /// A member knows of a later view than this master does. Who has not come to it can learn no more what became of the
    /// operations in between.
    private mutating func takeOver(_ view: HeldView, _ g: Int, at now: Instant, _ effects: inout [Effect]) {
        let ids = view.members.map(\.id)
        var turnedAway: [PeerID] = []
        for peer in peers where peer.group == groups[g].id && groups[g].isMember(peer.id) {
            guard let connection = peer.connection else {
                if !ids.contains(peer.id) { peers.removeAll { $0.id == peer.id } }
                continue
            }
            effects.append(.send(connection, .turnedAway(reason: "what became of its epoch is not known here")))
            effects.append(.close(connection))
            peers.removeAll { $0.id == peer.id }
            tally.note(
                .gone(
                    peer.id, peer.member.addresses.first, .outdated, wasMember: true,
                    reason: "what became of its epoch is not known here"),
                in: groups[g], at: now)
            turnedAway.append(peer.id)
        }
        for member in view.members
        where !turnedAway.contains(member.id) && !peers.contains(where: { $0.id == member.id }) {
            expect(member, secret: nil, in: groups[g].id, at: now)
        }
        groups[g].members = ids
        groups[g].begin(view.epoch, .unknown)
        // Another master may have gone on from this epoch, with others who are gone or will come: none of its is used again.
        let distance = 1 + firstEpoch.value % MasterMachine.epochsBetweenMasters
        groups[g].highestEpoch = max(groups[g].highestEpoch, Epoch(view.epoch.value + distance))
        groups[g].arrangement = view.arrangement
        groups[g].phase = .recovering(MasterGroup.Recovery())
        groups[g].forgetAllVotes()
        groups[g].brokenLinks.removeAll()
        groups[g].stalls.removeAll()
        for peer in turnedAway where ids.contains(peer) {
            groups[g].removeMember(peer)
            groups[g].hasLost = true
        }
        nextPeer = max(nextPeer, (ids.map(\.value).max() ?? 0) + unknownIDs)
        persist(&effects)
    }

    /// Once all members are back, or lost: those who missed an answer get it, and the group goes on.
    mutating func concludeRecovery(_ g: Int, at now: Instant, _ effects: inout [Effect]) {
        guard case .recovering(let recovery) = groups[g].phase else { return }
        let members = groups[g].members
        if members.isEmpty {
            guard rebuildsUntil == nil else { return }
            groups[g].phase = .settled
            return startFlush(g, cause: .loss, at: now, &effects)
        }
        let isComplete = members.allSatisfy { id in
            recovery.reports[id] != nil && peers.contains { $0.id == id && $0.connection != nil }
        }
        guard isComplete else { return }
        let reports = members.compactMap { id in recovery.reports[id].map { (peer: id, view: $0) } }
        if let ahead = reports.max(by: { $0.view.answers < $1.view.answers })?.view,
            ahead.answers > groups[g].answers.count
        {
            groups[g].answers = (ahead.answers, ahead.lastAnswer)
        }
        // It only grows, and who is ahead has heard the last.
        groups[g].revision = (reports.map(\.view.revision) + [groups[g].revision]).compactMap { $0 }.max()
        groups[g].phase = .settled
        for (peer, view) in reports {
            if view.answers != groups[g].answers.count, let last = groups[g].answers.last {
                groups[g].forgetVotes(of: peer)
                send(message(last, g), to: peer, &effects)
            } else {
                take(view, from: peer, g, at: now, &effects)
            }
        }
        effects.append(
            .log(LogLine(.info, "\(groups[g].id) goes on in \(groups[g].epoch) with members \(members.map(\.value))")))
        if groups[g].hasLost || reports.contains(where: { $0.view.isHalted || $0.view.needsRepair }) {
            startFlush(g, cause: .repair, at: now, &effects)
        } else {
            advance(g, at: now, &effects)
        }
    }

    /// Nobody else will tell of the run as it was.
    mutating func endRebuilding(at now: Instant, _ effects: inout [Effect]) {
        guard let end = rebuildsUntil, end <= now else { return }
        rebuildsUntil = nil
        gridsMayAdvance = true
        for g in groups.indices where groups[g].members.isEmpty { concludeRecovery(g, at: now, &effects) }
    }
}
