import PCCLBase
import PCCLWire

/// The master's side of the protocol, as a value: events in, effects out.
///
/// It admits, evicts and arbitrates; it takes no part in collectives. It never reads a clock, a socket or a random
/// number, so a run of it is repeated exactly by repeating its events.
package struct MasterMachine: Sendable {
    package struct ConnectionID: Hashable, Comparable, Sendable {
        package let value: UInt64
        package init(_ value: UInt64) { self.value = value }
        package static func < (a: Self, b: Self) -> Bool { a.value < b.value }
    }

    package enum Event: Sendable {
        /// A control connection stands; its preamble was right.
        /// `secret` was never used before; whoever registers over this connection is given it.
        case connected(ConnectionID, from: SocketAddress.Host, secret: PeerSecret)
        case received(ConnectionID, ToMaster)
        /// Bytes that are no message, or too many of them.
        case violated(ConnectionID, reason: String)
        /// `mayReturn`: the connection broke. Otherwise its other end was closed, as a process that ends does.
        case closed(ConnectionID, reason: String, mayReturn: Bool = false)
        /// The answer to `solve`.
        case solved(GroupID, question: UInt32, TopologySolution)
        /// What `improve` has found.
        case improved(GroupID, order: [PeerID])
        /// A wake-up that was asked for, or any other; early ones do no harm.
        case tick
    }

    package enum Effect: Sendable {
        /// To be on disk, if this master keeps a journal, before the effects that follow are performed.
        case persist(MasterState)
        case send(ConnectionID, ToPeer)
        /// Close once everything sent before has left.
        case close(ConnectionID)
        /// Work out the best arrangement; members wait for it.
        case solve(GroupID, question: UInt32, TopologyProblem, seed: UInt64)
        /// Look for a better order for as long as is reasonable; nobody waits.
        case improve(GroupID, TopologyProblem, seed: UInt64)
        case wake(at: Instant)
        case log(LogLine)
    }

    package struct Peer: Sendable {
        package let id: PeerID
        /// Nil: it is expected to attach again.
        package var connection: ConnectionID?
        package let group: GroupID
        package var member: Member
        /// Nil: not known yet, and the first to attach as this peer is believed.
        package var secret: PeerSecret?
        package var lastHeard: Instant
        /// When it connected, or began to be waited for.
        package var since: Instant
        /// Nil: it comes and goes by itself.
        package var ensemble: Ensemble?
    }
    struct Stranger: Sendable {
        var connection: ConnectionID
        var from: SocketAddress.Host
        var secret: PeerSecret
        var since: Instant
    }

    package internal(set) var run: RunID
    package let timeouts: Timeouts
    package internal(set) var groups: [MasterGroup] = []
    /// In order of their ids.
    package internal(set) var peers: [Peer] = []
    /// Connections that have not said hello yet, in order of arrival.
    private var strangers: [Stranger] = []
    var nextPeer: UInt64 = 1
    /// Ids below may be given without another word to the journal.
    private var reservedPeer: UInt64 = 1
    /// Until when a master that began without knowing anything takes over from members what it should know.
    var rebuildsUntil: Instant?
    /// How many ids a master may have given of which nobody tells.
    var unknownIDs: UInt64 = 1 << 20
    /// Groups begin above it.
    var firstEpoch = Epoch.none
    /// Something happened since grids were looked at.
    var gridsMayAdvance = false
    var nextGridJoin: UInt64 = 0
    /// For whoever watches; nothing here asks it.
    package internal(set) var tally = MasterTally()
    private var nextHeartbeat: Instant
    private var requestedWake: Instant?

    package init(run: RunID, timeouts: Timeouts, now: Instant) {
        self.run = run
        self.timeouts = timeouts
        nextHeartbeat = now + timeouts.heartbeatPeriod
    }

    /// Goes on where a master ended that had come to this state. Members have so much more than the dead time to attach:
    /// with a master elsewhere they first have to notice that the last one is silent.
    package init(
        restoring state: MasterState, timeouts: Timeouts, now: Instant, patience: Interval = .milliseconds(0)
    ) {
        self.init(run: state.run, timeouts: timeouts, now: now)
        (nextPeer, reservedPeer) = (state.nextPeer, state.nextPeer)
        for group in state.groups { restore(group, at: now + patience) }
    }

    package mutating func handle(_ event: Event, at now: Instant, effects: inout [Effect]) {
        switch event {
        case .connected(let connection, let from, let secret):
            strangers.append(Stranger(connection: connection, from: from, secret: secret, since: now))
        case .received(let connection, let message):
            receive(message, on: connection, at: now, &effects)
        case .violated(let connection, let reason):
            if let peer = peer(on: connection) {
                turnAway(peer.id, .violation, "protocol violation: \(reason)", at: now, &effects)
            } else if forgetStranger(connection) != nil {
                effects.append(.log(LogLine(.warning, "a connection was closed before it said hello: \(reason)")))
                effects.append(.close(connection))
            }
        case .closed(let connection, let reason, let mayReturn):
            if let peer = peer(on: connection) {
                if mayReturn, isAwaited(peer) {
                    detach(peer.id, reason: reason, at: now, &effects)
                } else {
                    remove(peer.id, .disconnected, reason: reason, at: now, &effects)
                }
            } else {
                _ = forgetStranger(connection)
            }
        case .solved(let group, let question, let solution):
            arrange(groupIndex(group), question, solution, at: now, &effects)
        case .improved(let group, let order):
            groups[groupIndex(group)].suggestion = order
        case .tick:
            requestedWake = nil
            tick(at: now, &effects)
        }
        advanceGrids(at: now, &effects)
        requestWake(&effects)
    }

    // MARK: messages

    private mutating func receive(
        _ message: ToMaster, on connection: ConnectionID, at now: Instant, _ effects: inout [Effect]
    ) {
        switch message {
        case .hello(let hello): return register(connection, hello, at: now, &effects)
        case .attach(let attachment): return attach(attachment, on: connection, at: now, &effects)
        default: break
        }
        guard let index = peers.firstIndex(where: { $0.connection == connection }) else {
            if forgetStranger(connection) != nil {
                effects.append(.send(connection, .turnedAway(reason: "the first message must be hello")))
                effects.append(.close(connection))
            }
            return
        }
        peers[index].lastHeard = now
        let peer = peers[index]
        let g = groupIndex(peer.group)

        switch message {
        case .hello, .attach, .heartbeat:
            break
        case .leave:
            effects.append(.close(connection))
            removeQuietly(peer.id, .left, reason: "left", withMates: false, at: now, advance: true, &effects)
        case .voteJoin:
            // No epoch is asked for: a vote may cross the verdict of a flush, and would be lost for ever.
            guard groups[g].isMember(peer.id) else { return }
            groups[g].joinVotes.insert(peer.id)
            noteVote(g, at: now)
            advance(g, isVote: true, at: now, &effects)
        case .votePending:
            guard groups[g].isMember(peer.id) else { return }
            groups[g].pendingVotes.insert(peer.id)
            noteVote(g, at: now)
            advance(g, isVote: true, at: now, &effects)
        case .voteOptimize(let figures):
            guard groups[g].isMember(peer.id) else { return }
            groups[g].optimizeVotes.insert(peer.id)
            groups[g].figures[peer.id] = figures
            noteVote(g, at: now)
            advance(g, at: now, &effects)
        case .linked(let epoch):
            answerProposal(g, from: peer.id, epoch, unreachable: [], at: now, &effects)
        case .cannotReach(let epoch, let others):
            answerProposal(g, from: peer.id, epoch, unreachable: others, at: now, &effects)
        case .brokenLink(let epoch, let other, let gaveUp):
            noteBrokenLink(g, from: peer.id, to: other, epoch, gaveUp: gaveUp, at: now)
            loseIfBothAreBroken(other, g, at: now, &effects)
        case .mendedLink(_, let other):
            // Whatever the epoch: a flush keeps such reports, and may be under way.
            groups[g].brokenLinks.removeAll { ($0.gaveUp || $0.isHarmless) && $0.from == peer.id && $0.to == other }
        case .downLink(let epoch, let other):
            guard isCurrentMember(peer.id, g, epoch), groups[g].isMember(other) else { return }
            groups[g].note(
                MasterGroup.BrokenLink(from: peer.id, to: other, gaveUp: false, isHarmless: true, since: now))
            loseIfBothAreBroken(other, g, at: now, &effects)
        case .flushReport(let epoch, let operations, let failed):
            collect(
                FlushResolution.Report(peer: peer.id, operations: operations, failed: failed), g, epoch, at: now,
                &effects)
        case .stalled(let epoch, let tag, let missing, let waited):
            judgeStall(
                g, from: peer.id, epoch, tag, missing: missing, waited: .milliseconds(UInt64(waited)), at: now, &effects
            )
        case .offerState(let offer): takeOffer(offer, from: peer.id, g, at: now, &effects)
        case .stuck(let epoch, let operations):
            if isCurrentMember(peer.id, g, epoch) { groups[g].noteStuck(operations, at: peer.id, now: now) }
        case .stateReceived(let session, let failure):
            noteReceived(g, from: peer.id, session: session, failure: failure, at: now, &effects)
        }
    }

    private mutating func register(
        _ connection: ConnectionID, _ hello: Hello, at now: Instant, _ effects: inout [Effect]
    ) {
        guard let stranger = forgetStranger(connection) else {
            if let peer = peer(on: connection) {
                turnAway(peer.id, .violation, "hello was said twice", at: now, &effects)
            }
            return
        }
        register(stranger, hello, at: now, &effects)
    }

    mutating func register(_ stranger: Stranger, _ hello: Hello, at now: Instant, _ effects: inout [Effect]) {
        let (connection, group) = (stranger.connection, hello.group)
        guard peers.count < WireLimits.members else {
            return refuse(stranger, "the run is full: \(WireLimits.members) peers take part", &effects)
        }
        if let obstacle = hello.ensemble.flatMap(obstacle(to:)) { return refuse(stranger, obstacle, &effects) }
        let id = PeerID(nextPeer)
        nextPeer += 1
        let member = MasterMachine.member(id, seenAt: stranger.from, hello)
        peers.append(
            Peer(
                id: id, connection: connection, group: group, member: member, secret: stranger.secret, lastHeard: now,
                since: now, ensemble: hello.ensemble))
        let g = groupIndex(group)
        groups[g].newcomers.insert(id)
        tally.note(.registered(id, member.addresses.first), in: groups[g], at: now)
        if rebuildsUntil != nil, groups[g].members.isEmpty {
            // Those that were there before come first.
            groups[g].phase = .recovering(MasterGroup.Recovery())
        }
        if nextPeer > reservedPeer {
            reservedPeer = nextPeer + MasterMachine.idsReserved
            persist(&effects)
        }
        effects.append(
            .send(
                connection,
                .welcome(
                    peer: id, run: run, secret: stranger.secret,
                    deadTimeMilliseconds: UInt32(clamping: timeouts.deadTime.milliseconds),
                    masterGraceMilliseconds: UInt32(clamping: timeouts.masterGrace.milliseconds),
                    stragglerDeadlineMilliseconds: UInt32(clamping: timeouts.stragglerDeadline.milliseconds))))
        let part = hello.ensemble.map { ensemble in
            ", \(peers.count { $0.ensemble?.id == ensemble.id }) of \(ensemble.size) of \(ensemble)"
        }
        effects.append(.log(LogLine(.info, "\(id) at \(address(id)) registered for \(group)\(part ?? "")")))
        advance(g, at: now, &effects)
    }

    /// Ids between two words to the journal: a master that ends forgets those it gave since the last.
    private static let idsReserved: UInt64 = 64

    static func member(_ id: PeerID, seenAt host: SocketAddress.Host, _ hello: Hello) -> Member {
        let seen = SocketAddress(host, port: hello.listenPort)
        var known: [SocketAddress] = []
        // An unspecified address stands for the one that is seen; who does not name it is reached there last.
        for address in hello.addresses.prefix(WireLimits.addresses - 1) + [seen] {
            let address = address.isUnspecified ? SocketAddress(host, port: address.port) : address
            if !known.contains(address) { known.append(address) }
        }
        return Member(
            id: id, addresses: known,
            stripes: min(hello.stripes, UInt16(WireLimits.stripesPerLink)))
    }

    /// Called before whatever makes a peer rely on it.
    func persist(_ effects: inout [Effect]) { effects.append(.persist(state)) }

    private var state: MasterState {
        MasterState(
            run: run, nextPeer: max(reservedPeer, nextPeer),
            groups: groups.filter { $0.epoch > .none }.map { group in
                MasterState.Group(
                    id: group.id, epoch: group.epoch,
                    members: group.members.compactMap { id in
                        peers.first { $0.id == id }.map {
                            MasterState.Peer(secret: $0.secret, member: $0.member, ensemble: $0.ensemble)
                        }
                    },
                    arrangement: group.arrangement, outcome: group.outcome, hasLost: group.hasLost,
                    answers: group.answers.count, lastAnswer: group.answers.last, revision: group.revision)
            })
    }

    // MARK: join points

    /// Does whatever the votes that are in allow. Called whenever a vote, a newcomer or a member came or went.
    mutating func advance(_ g: Int, isVote: Bool = false, at now: Instant, _ effects: inout [Effect]) {
        // A vote matters to other groups only when it is the last one of its own.
        let votes = [groups[g].joinVotes, groups[g].pendingVotes]
        if !isVote || votes.contains(where: { $0.isSuperset(of: groups[g].members) }) { gridsMayAdvance = true }
        guard case .settled = groups[g].phase else { return }
        let isInGrid = isInGrid(g)
        if !isInGrid { answerPending(g, &effects) }
        // It goes on to its end, whatever else is voted for meanwhile.
        guard groups[g].sharing == nil else { return }
        if !groups[g].members.isEmpty, groups[g].optimizeVotes.isSuperset(of: groups[g].members) {
            return optimize(g, at: now, &effects)
        }
        if !groups[g].members.isEmpty, groups[g].stateVotes.isSuperset(of: groups[g].members) {
            return share(g, at: now, &effects)
        }
        guard !isInGrid, groups[g].joinVotes.isSuperset(of: groups[g].members) else { return }
        let newcomers = singleNewcomers(g)
        if newcomers.isEmpty {
            // Also the end of proposals whose newcomers are all gone. The epoch stays: a master that dies between two of
            // these messages leaves no member in another epoch than the rest.
            guard !groups[g].members.isEmpty else { return }
            noteJoinUnchanged(g)
            sendToMembers(g, .joinUnchanged(world: worldCounts), &effects)
            return
        }
        // Nothing is known of the newcomers' links, so all chunks are equal until the next optimise call.
        propose(groups[g].members + newcomers.array, .plain, newcomers: newcomers, g, at: now, &effects)
    }

    mutating func noteJoinUnchanged(_ g: Int) {
        groups[g].joinVotes.removeAll()
        groups[g].note(.joinUnchanged)
        if groups[g].voteKinds == 0 { groups[g].votesSince = nil }
    }

    private mutating func answerPending(_ g: Int, _ effects: inout [Effect]) {
        guard !groups[g].members.isEmpty, groups[g].pendingVotes.isSuperset(of: groups[g].members) else { return }
        let arePending = !singleNewcomers(g).isEmpty
        noteAnswerToPending(g, arePending)
        sendToMembers(g, .pendingAnswer(arePending: arePending), &effects)
    }

    mutating func noteAnswerToPending(_ g: Int, _ arePending: Bool) {
        groups[g].pendingVotes.removeAll()
        groups[g].stalls.removeAll()
        if groups[g].voteKinds == 0 { groups[g].votesSince = nil }
        groups[g].note(arePending ? .somePending : .nonePending)
    }

    mutating func propose(
        _ view: [PeerID], _ arrangement: Arrangement, newcomers: SortedPeers, with join: MasterGroup.GridJoin? = nil,
        _ g: Int, at now: Instant, _ effects: inout [Effect]
    ) {
        let epoch = groups[g].openEpoch()
        var proposal = MasterGroup.Proposal(
            epoch: epoch, newcomers: newcomers, view: view, arrangement: arrangement,
            deadline: now + timeouts.dialPatience * 2, join: join)
        if view.count == 1 {
            guard join != nil else { return adopt([(g, proposal)], at: now, &effects) }
            proposal.isLinked = true
            groups[g].phase = .linking(proposal)
            return
        }
        groups[g].phase = .linking(proposal)
        let members = view.compactMap { member($0) }
        for peer in view { send(.propose(epoch: epoch, members: members), to: peer, &effects) }
        effects.append(
            .log(LogLine(.debug, "\(groups[g].id) \(epoch) proposed: members \(view.map(\.value))")))
    }

    private mutating func answerProposal(
        _ g: Int, from peer: PeerID, _ epoch: Epoch, unreachable: [PeerID], at now: Instant,
        _ effects: inout [Effect]
    ) {
        guard case .linking(var proposal) = groups[g].phase, proposal.epoch == epoch else { return }
        guard proposal.view.contains(peer) else { return }
        proposal.answered.insert(peer)
        for other in unreachable where proposal.view.contains(other) && other != peer {
            proposal.unreachable.append((from: peer, to: other))
        }
        groups[g].phase = .linking(proposal)
        if proposal.answered.isSuperset(of: proposal.view) { conclude(proposal, g, at: now, &effects) }
    }

    private mutating func conclude(
        _ proposal: MasterGroup.Proposal, _ g: Int, at now: Instant, _ effects: inout [Effect]
    ) {
        // In each pair that cannot link, the newcomer goes; of two newcomers, the later one.
        var failed = SortedPeers()
        var reasons: [PeerID: String] = [:]
        for pair in proposal.unreachable {
            let (low, high) = (min(pair.from, pair.to), max(pair.from, pair.to))
            let blamed: PeerID
            switch (proposal.newcomers.contains(low), proposal.newcomers.contains(high)) {
            case (_, true): blamed = high
            case (true, false): blamed = low
            case (false, false): continue  // Two members: their own business, see brokenLink.
            }
            // A pair that is already one peer short is no reason to lose the other too.
            if failed.contains(low) || failed.contains(high) { continue }
            failed.insert(blamed)
            let other = blamed == low ? high : low
            reasons[blamed] =
                "no connection between you (\(address(blamed))) and \(other) (\(address(other))) could be made"
        }
        if failed.isEmpty {
            if proposal.join != nil {
                var linked = proposal
                linked.isLinked = true
                groups[g].phase = .linking(linked)
                gridsMayAdvance = true
                return
            }
            adopt([(g, proposal)], at: now, &effects)
            advance(g, at: now, &effects)
            return
        }
        groups[g].phase = .settled
        for peer in failed {
            turnAway(peer, .unreachable, reasons[peer] ?? "unreachable", at: now, advance: false, &effects)
        }
        advance(g, at: now, &effects)
    }

    /// Of several groups all or none, whatever becomes of this master.
    mutating func adopt(
        _ proposals: [(g: Int, proposal: MasterGroup.Proposal)], at now: Instant, _ effects: inout [Effect]
    ) {
        for (g, proposal) in proposals {
            groups[g].members = proposal.view
            groups[g].arrangement = proposal.arrangement
            for peer in proposal.view { groups[g].newcomers.remove(peer) }
            let members = proposal.view.compactMap { member($0) }
            groups[g].begin(
                proposal.epoch, GroupOutcome(kind: .view, members: members, arrangement: proposal.arrangement))
            groups[g].phase = .settled
            tally.noteView()
            if !proposal.newcomers.isEmpty { tally.note(.admitted(proposal.newcomers), in: groups[g], at: now) }
            groups[g].forgetAllVotes()
            groups[g].brokenLinks.removeAll()
            groups[g].stalls.removeAll()
        }
        persist(&effects)
        for (g, proposal) in proposals {
            let epoch = proposal.epoch
            sendToMembers(
                g,
                .view(
                    epoch: epoch, members: groups[g].outcome.members, world: worldCounts,
                    arrangement: proposal.arrangement), &effects)
            tellOtherGroups(g, &effects)
            effects.append(
                .log(
                    LogLine(
                        .info,
                        "\(groups[g].id) \(epoch): world size \(proposal.view.count), "
                            + "members \(proposal.view.map(\.value))")))
        }
    }

    // MARK: loss and flush

    /// The peer is gone, whatever the reason. Its group's survivors learn of it through a flush.
    mutating func remove(
        _ peer: PeerID, _ cause: MasterTally.Cause, reason: String, at now: Instant, _ effects: inout [Effect]
    ) {
        removeQuietly(peer, cause, reason: reason, at: now, advance: true, &effects)
    }

    private mutating func removeQuietly(
        _ id: PeerID, _ cause: MasterTally.Cause, reason: String, withMates: Bool = true, at now: Instant,
        advance goOn: Bool, _ effects: inout [Effect]
    ) {
        guard let index = peers.firstIndex(where: { $0.id == id }) else { return }
        let peer = peers.remove(at: index)
        let g = groupIndex(peer.group)
        let wasMember = groups[g].isMember(id)
        gridsMayAdvance = true
        defer { if wasMember, withMates { removeMates(of: peer, reason: reason, at: now, &effects) } }
        effects.append(
            .log(LogLine(.info, "\(id) (\(peer.member.addresses.first?.description ?? "?")) is gone: \(reason)")))
        tally.note(
            .gone(id, peer.member.addresses.first, cause, wasMember: wasMember, reason: reason), in: groups[g], at: now)
        groups[g].removeMember(id)
        groups[g].newcomers.remove(id)
        groups[g].forgetVotes(of: id)
        groups[g].brokenLinks.removeAll { $0.from == id || $0.to == id }
        groups[g].stuck.removeAll { $0.peer == id }
        if case .recovering(var recovery) = groups[g].phase {
            recovery.reports[id] = nil
            groups[g].phase = .recovering(recovery)
        }
        if wasMember {
            groups[g].hasLost = true
            // So that a master that ends before the verdict does not wait for it again.
            persist(&effects)
        }
        if case .recovering = groups[g].phase {
            concludeRecovery(g, at: now, &effects)
        } else if wasMember {
            startFlush(g, cause: .loss, at: now, &effects)
        } else if case .linking(let proposal) = groups[g].phase, proposal.newcomers.contains(id) {
            groups[g].phase = .settled
            if goOn { advance(g, at: now, &effects) }
        }
    }

    mutating func turnAway(
        _ id: PeerID, _ cause: MasterTally.Cause, _ reason: String, saying message: ToPeer? = nil, at now: Instant,
        advance goOn: Bool = true, _ effects: inout [Effect]
    ) {
        guard let peer = peers.first(where: { $0.id == id }) else { return }
        if let connection = peer.connection {
            effects.append(.send(connection, message ?? .turnedAway(reason: reason)))
            effects.append(.close(connection))
        }
        removeQuietly(id, cause, reason: reason, at: now, advance: goOn, &effects)
    }

    mutating func startFlush(
        _ g: Int, cause: FlushResolution.Cause, suspects: (peers: [PeerID], tag: Tag, waited: Interval)? = nil,
        at now: Instant, _ effects: inout [Effect]
    ) {
        guard !groups[g].members.isEmpty else {
            // Nobody is left whose operations could matter. Newcomers may begin a view of their own.
            groups[g].phase = .settled
            groups[g].brokenLinks.removeAll()
            tellOtherGroups(g, &effects)
            advance(g, at: now, &effects)
            return
        }
        // A loss during a repair is a loss.
        let cause = groups[g].hasLost ? .loss : cause
        let epoch = groups[g].openEpoch()
        groups[g].phase = .flushing(MasterGroup.Flush(epoch: epoch, cause: cause, suspects: suspects))
        groups[g].brokenLinks.removeAll { !$0.gaveUp && !$0.isHarmless }
        groups[g].stalls.removeAll()
        groups[g].interruptSharing()
        sendToMembers(g, .flush(epoch: epoch), &effects)
    }

    private mutating func collect(
        _ report: FlushResolution.Report, _ g: Int, _ epoch: Epoch, at now: Instant, _ effects: inout [Effect]
    ) {
        guard case .flushing(var flush) = groups[g].phase, flush.epoch == epoch,
            groups[g].isMember(report.peer), !flush.reports.contains(where: { $0.peer == report.peer })
        else { return }
        flush.reports.append(report)
        groups[g].phase = .flushing(flush)
        guard flush.reports.count == groups[g].members.count else { return }
        if let (peers, tag, waited) = flush.suspects {
            let late = peers.filter { peer in
                groups[g].isMember(peer)
                    && !flush.reports.contains { $0.peer == peer && $0.operations.contains { $0.tag == tag } }
            }
            for peer in late {
                turnAway(
                    peer, .straggler,
                    "others have waited for its call of \(tag) for \(waited.seconds) s, the straggler deadline",
                    at: now, &effects)
            }
            if !late.isEmpty { return }
        }

        let waiting = FlushResolution.Waiting(joining: groups[g].absentees, asking: groups[g].pendingVotes)
        let verdicts = FlushResolution.verdicts(
            for: flush.reports, cause: flush.cause, waiting: waiting, members: groups[g].members, epoch: epoch)
        let missed = FlushResolution.missed(for: flush.reports, verdicts: verdicts)
        let members = groups[g].members.compactMap { member($0) }
        let told = zip(flush.reports, zip(verdicts, missed)).map {
            GroupOutcome.Verdict(peer: $0.peer, operations: $1.0, missed: $1.1)
        }
        groups[g].begin(
            epoch, GroupOutcome(kind: .verdicts(told), members: members, arrangement: groups[g].arrangement))
        groups[g].phase = .settled
        tally.noteFlush(flush.cause, verdicts)
        persist(&effects)
        for (report, (operations, missed)) in zip(flush.reports, zip(verdicts, missed)) {
            send(
                .verdict(
                    epoch: epoch, members: members, world: worldCounts, arrangement: groups[g].arrangement,
                    operations: operations, missed: missed),
                to: report.peer, &effects)
        }
        let misused = zip(flush.reports, verdicts).flatMap { report, verdicts in
            verdicts.filter { $0.outcome == .misuse }.map { (peer: report.peer, tag: $0.tag) }
        }
        if !misused.isEmpty { refuseVotes(g, reducing: misused, &effects) }
        tellOtherGroups(g, &effects)
        effects.append(
            .log(
                LogLine(
                    .info, "\(groups[g].id) \(epoch) after \(flush.cause): world size \(members.count)")))
        advance(g, at: now, &effects)
    }

    // MARK: broken links and misuse

    private mutating func noteBrokenLink(
        _ g: Int, from: PeerID, to: PeerID, _ epoch: Epoch, gaveUp: Bool, at now: Instant
    ) {
        guard isCurrentMember(from, g, epoch), groups[g].isMember(to), from != to else { return }
        groups[g].note(MasterGroup.BrokenLink(from: from, to: to, gaveUp: gaveUp, since: now))
    }

    private mutating func judgeStall(
        _ g: Int, from: PeerID, _ epoch: Epoch, _ tag: Tag, missing: [PeerID], waited: Interval, at now: Instant,
        _ effects: inout [Effect]
    ) {
        guard isCurrentMember(from, g, epoch), case .settled = groups[g].phase else { return }
        let since = Instant(nanoseconds: (now - Instant(nanoseconds: waited.nanoseconds)).nanoseconds)
        groups[g].noteLate(tag, at: from, missing: missing, since: since, now: now)
        let joining = missing.filter { groups[g].absentees.contains($0) }
        let asking = missing.filter { groups[g].pendingVotes.contains($0) }
        guard !joining.isEmpty || hasStalledLong(g, from, tag, asking: asking, at: now) else {
            let deadline = timeouts.stragglerDeadline
            guard deadline.nanoseconds > 0, waited >= deadline else { return }
            // Its word is that it has not heard their entries. All reports together tell who has called.
            let suspects = missing.filter { groups[g].isMember($0) && !asking.contains($0) }
            guard !suspects.isEmpty else { return }
            startFlush(g, cause: .repair, suspects: (suspects, tag, waited), at: now, &effects)
            return
        }
        effects.append(
            .log(
                LogLine(
                    .warning,
                    "\(from) waits in \(tag) for \((joining + asking).map(\.value)), who wait in a membership call"
                )))
        startFlush(g, cause: .misuse, at: now, &effects)
    }

    /// Asking is allowed while operations run, so whoever asks may yet launch, and whoever has launched may yet ask: only
    /// after the dead time it is taken for what it seems. Reports begin a straggler's patience after the launch.
    private mutating func hasStalledLong(
        _ g: Int, _ peer: PeerID, _ tag: Tag, asking: [PeerID], at now: Instant
    ) -> Bool {
        guard !asking.isEmpty, !groups[g].pendingVotes.contains(peer) else { return false }
        if let stall = groups[g].stalls.first(where: { $0.peer == peer && $0.tag == tag }) {
            return stall.since + timeouts.deadTime <= now + timeouts.stragglerPatience
        }
        groups[g].stalls.append(MasterGroup.Stall(peer: peer, tag: tag, since: now))
        return false
    }

    /// Tells all who wait in a membership call that it cannot be, and who waits for them elsewhere.
    private mutating func refuseVotes(
        _ g: Int, reducing: [(peer: PeerID, tag: Tag)] = [], _ effects: inout [Effect]
    ) {
        var calls = [
            (peers: groups[g].joinVotes, text: "at the join point"),
            (peers: groups[g].pendingVotes, text: "in the question whether peers are pending"),
            (peers: groups[g].optimizeVotes, text: "in an optimise call"),
            (peers: groups[g].stateVotes, text: "in a synchronisation of the shared state"),
        ]
        for tag in Set(reducing.map(\.tag)).sorted() {
            calls.append((SortedPeers(reducing.filter { $0.tag == tag }.map(\.peer)), "in an operation with \(tag)"))
        }
        for peer in SortedPeers(groups[g].absentees.array + groups[g].pendingVotes.array) {
            let elsewhere = calls.filter { !$0.peers.isEmpty && !$0.peers.contains(peer) }
                .map { "\($0.peers.array.enumerated(upTo: 8)) \($0.text)" }
            let text =
                elsewhere.isEmpty
                ? "two calls that do not go together, of this peer alone"
                : "other members wait for this peer in another call: " + elsewhere.prefix(8).joined(separator: ", ")
            send(.callRefused(reason: text), to: peer, &effects)
        }
        groups[g].forgetAllVotes()
    }

    // MARK: time

    private mutating func tick(at now: Instant, _ effects: inout [Effect]) {
        for peer in peers where peer.lastHeard + timeouts.deadTime <= now {
            turnAway(
                peer.id, .silent, "nothing was heard from it for \(timeouts.deadTime.seconds) s", at: now, &effects)
        }
        for stranger in strangers where stranger.since + timeouts.dialPatience <= now {
            _ = forgetStranger(stranger.connection)
            effects.append(.close(stranger.connection))
        }
        endRebuilding(at: now, &effects)
        for g in groups.indices { tick(group: g, at: now, &effects) }
        if nextHeartbeat <= now {
            nextHeartbeat = now + timeouts.heartbeatPeriod
            for connection in peers.compactMap(\.connection) { effects.append(.send(connection, .heartbeat)) }
        }
    }

    private mutating func tick(group g: Int, at now: Instant, _ effects: inout [Effect]) {
        switch groups[g].phase {
        case .linking(let proposal) where proposal.deadline <= now && !proposal.isLinked:
            giveUp(proposal, g, at: now, &effects)
        case .settled:
            if let link = groups[g].brokenLinks.first(where: { $0.gaveUp }),
                link.since + timeouts.unreachableGrace <= now, let peer = groups[g].leastReachable()
            {
                turnAway(peer, .unreachable, "other members cannot reach it at \(address(peer))", at: now, &effects)
            } else if groups[g].brokenLinks.contains(where: {
                !$0.gaveUp && !$0.isHarmless && $0.since + timeouts.repairGrace <= now
            }) {
                startFlush(g, cause: .repair, at: now, &effects)
            } else if let since = groups[g].votesSince, since + timeouts.stragglerPatience <= now,
                groups[g].voteKinds > 1
            {
                refuseVotes(g, &effects)
            }
        case .solving, .linking, .flushing, .recovering:
            break
        }
    }

    /// Somebody has not answered a proposal although it should have given up by itself.
    private mutating func giveUp(
        _ proposal: MasterGroup.Proposal, _ g: Int, at now: Instant, _ effects: inout [Effect]
    ) {
        groups[g].phase = .settled
        let silent = proposal.newcomers.filter { !proposal.answered.contains($0) }
        // A silent member is not harmed; the newcomers are sent away and may try again.
        for peer in silent.isEmpty ? proposal.newcomers.array : silent {
            turnAway(peer, .slow, "the join point took too long", at: now, advance: false, &effects)
        }
        advance(g, at: now, &effects)
    }

    mutating func noteVote(_ g: Int, at now: Instant) {
        if groups[g].votesSince == nil { groups[g].votesSince = now }
    }

    private mutating func requestWake(_ effects: inout [Effect]) {
        var next = nextHeartbeat
        if let rebuildsUntil { next = min(next, rebuildsUntil) }
        for group in groups {
            switch group.phase {
            case .linking(let proposal): if !proposal.isLinked { next = min(next, proposal.deadline) }
            case .settled:
                for link in group.brokenLinks where !link.isHarmless {
                    next = min(next, link.since + (link.gaveUp ? timeouts.unreachableGrace : timeouts.repairGrace))
                }
                if let since = group.votesSince, group.voteKinds > 1 {
                    next = min(next, since + timeouts.stragglerPatience)
                }
            case .solving, .flushing, .recovering: break
            }
        }
        if let requested = requestedWake, requested <= next { return }
        requestedWake = next
        effects.append(.wake(at: next))
    }

    // MARK: looking things up

    var worldCounts: WorldCounts {
        let sizes = groups.map(\.members.count).filter { $0 > 0 }
        return WorldCounts(
            globalWorldSize: UInt32(sizes.reduce(0, +)), groupCount: UInt32(sizes.count),
            largestGroupWorldSize: UInt32(sizes.max() ?? 0))
    }

    var hasEnsembles: Bool { peers.contains { $0.ensemble != nil } }
    func peer(on connection: ConnectionID) -> Peer? { peers.first { $0.connection == connection } }
    func member(_ id: PeerID) -> Member? { peers.first { $0.id == id }?.member }
    private func address(_ id: PeerID) -> String { member(id)?.addresses.first?.description ?? "?" }

    private func isCurrentMember(_ peer: PeerID, _ g: Int, _ epoch: Epoch) -> Bool {
        groups[g].isMember(peer) && groups[g].epoch == epoch
    }

    mutating func groupIndex(_ id: GroupID) -> Int {
        if let index = groups.firstIndex(where: { $0.id == id }) { return index }
        let index = groups.firstIndex { id < $0.id } ?? groups.count
        groups.insert(MasterGroup(id: id), at: index)
        groups[index].highestEpoch = firstEpoch
        return index
    }

    mutating func forgetStranger(_ connection: ConnectionID) -> Stranger? {
        guard let index = strangers.firstIndex(where: { $0.connection == connection }) else { return nil }
        return strangers.remove(at: index)
    }

    /// A peer without a connection is told when it attaches again.
    func send(_ message: ToPeer, to peer: PeerID, _ effects: inout [Effect]) {
        guard let connection = peers.first(where: { $0.id == peer })?.connection else { return }
        effects.append(.send(connection, message))
    }
    func sendToMembers(_ g: Int, _ message: ToPeer, _ effects: inout [Effect]) {
        for peer in groups[g].members { send(message, to: peer, &effects) }
    }
    private func tellOtherGroups(_ g: Int, _ effects: inout [Effect]) {
        for other in groups.indices where other != g { sendToMembers(other, .world(worldCounts), &effects) }
    }
}

extension MasterMachine {
    /// The first thing that is not as it must be, or nil. Asked after every event in tests and in the simulator.
    package func brokenInvariant() -> String? {
        if let broken = MasterMachine.brokenInvariant(groups: groups, peers: peers) { return broken }
        return isRebuilding ? nil : MasterMachine.brokenEnsemble(groups: groups, peers: peers)
    }

    /// When the last word came from anybody who is connected. If nobody is: until when members could have attached, less the
    /// dead time; nil: there are none.
    package var lastHeardOfAnybody: Instant? {
        peers.lazy.filter { $0.connection != nil }.map(\.lastHeard).max() ?? peers.lazy.map(\.lastHeard).max()
    }
    package var hasConnections: Bool { peers.contains { $0.connection != nil } }

    /// It has begun without knowing anything, and takes over what its peers tell.
    package var isRebuilding: Bool { rebuildsUntil != nil }

    package static func brokenEnsemble(groups: [MasterGroup], peers: [Peer]) -> String? {
        for (_, mates) in Dictionary(grouping: peers.filter { $0.ensemble != nil }, by: { $0.ensemble }) {
            let members = mates.filter { peer in groups.contains { $0.id == peer.group && $0.isMember(peer.id) } }
            guard members.isEmpty || members.count == mates.count else {
                return "of \(mates.map(\.id)) only \(members.map(\.id)) are members"
            }
        }
        return nil
    }

    package static func brokenInvariant(groups: [MasterGroup], peers: [Peer]) -> String? {
        for group in groups {
            if Set(group.members).count != group.members.count { return "\(group.id) has a member twice" }
            for member in group.members where peers.first(where: { $0.id == member })?.group != group.id {
                return "\(group.id) has the unregistered \(member)"
            }
            if group.newcomers.contains(where: { group.isMember($0) }) { return "\(group.id): a member is a newcomer" }
            if !group.joinVotes.allSatisfy({ group.isMember($0) }) { return "\(group.id): a stranger voted to join" }
            if !group.pendingVotes.allSatisfy({ group.isMember($0) }) { return "\(group.id): a stranger asked" }
            if !group.optimizeVotes.allSatisfy({ group.isMember($0) }) { return "\(group.id): a stranger optimises" }
            if !group.offers.keys.allSatisfy({ group.isMember($0) }) { return "\(group.id): a stranger brings a state" }
            if let broken = brokenSharing(group) { return "\(group.id): \(broken)" }
            if !group.brokenLinks.allSatisfy({ group.isMember($0.from) && group.isMember($0.to) }) {
                return "\(group.id): waits for a link of somebody who is no member"
            }
            if !group.arrangement.shares.isEmpty, group.arrangement.shares.count != group.members.count {
                return "\(group.id): \(group.arrangement.shares.count) shares for \(group.members.count) members"
            }
            if !group.arrangement.sites.isEmpty, group.arrangement.sites.count != group.members.count {
                return "\(group.id): \(group.arrangement.sites.count) members in sites of \(group.members.count)"
            }
            if group.highestEpoch < group.epoch { return "\(group.id): the epoch is above the highest" }
            switch group.phase {
            case .settled:
                // In a grid they wait for other groups.
                let isInGrid = peers.contains { group.isMember($0.id) && $0.ensemble != nil }
                let votes = [isInGrid ? SortedPeers() : group.joinVotes, group.optimizeVotes, group.stateVotes]
                let isAgreed = group.sharing == nil && votes.contains { $0.isSuperset(of: group.members) }
                if !group.members.isEmpty, isAgreed { return "\(group.id): everybody voted and nothing happened" }
                let areSingle = peers.contains { group.newcomers.contains($0.id) && $0.ensemble == nil }
                if group.members.isEmpty, areSingle { return "\(group.id): newcomers wait for nobody" }
            case .solving:
                if group.members.isEmpty || !group.optimizeVotes.isSuperset(of: group.members) {
                    return "\(group.id): optimises, and not everybody asked for it"
                }
            case .linking(let proposal):
                if proposal.view.sorted() != (group.members + proposal.newcomers.array).sorted() {
                    return "\(group.id): proposes others than the members and those who wait"
                }
                if proposal.newcomers.isEmpty, !group.optimizeVotes.isSuperset(of: group.members) {
                    return "\(group.id): proposes to admit nobody"
                }
                if !group.newcomers.isSuperset(of: proposal.newcomers) { return "\(group.id): proposes a stranger" }
                if proposal.epoch <= group.epoch { return "\(group.id): proposes an old epoch" }
            case .recovering(let recovery):
                if !recovery.reports.keys.allSatisfy({ group.isMember($0) }) {
                    return "\(group.id): a stranger attached again"
                }
            case .flushing(let flush):
                if flush.epoch <= group.epoch { return "\(group.id): flushes into an old epoch" }
                if group.members.isEmpty { return "\(group.id): flushes nobody" }
                if !flush.reports.allSatisfy({ group.isMember($0.peer) }) { return "\(group.id): a stranger reported" }
            }
        }
        return nil
    }

    private static func brokenSharing(_ group: MasterGroup) -> String? {
        guard let sharing = group.sharing else { return nil }
        guard case .settled = group.phase else { return "shares a state while something else is under way" }
        if sharing.receiving.isEmpty { return "nobody receives, and that does not end" }
        if !sharing.receiving.keys.allSatisfy({ group.offers[$0] != nil }) { return "who has no vote receives a state" }
        if !group.offers.contains(where: { $0.value.holds(sharing.elected) }) { return "nobody holds what was elected" }
        return nil
    }
}
