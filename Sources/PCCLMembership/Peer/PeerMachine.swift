import PCCLBase
import PCCLWire

/// A peer's side of the protocol, as a value: events in, effects out.
///
/// ```
///  idle ─connect─▶ dialling ─connected─▶ registering ─welcome─▶ newcomer ─view─▶ member
///   ▲                 │                      │                     │               │
///   └─────────────────┴──────────────────────┴─────────────────────┴───────────────┘
///        cannot be reached · turned away · declared lost · left · master and a member gone
/// ```
///
/// A member commits operations with the other members alone. The master is asked at join points, and after a loss:
///
/// ```
///  running ─flush(epoch)─▶ halted: nothing moves, all operations reported ─verdict─▶ running in the new epoch
/// ```
///
/// Effects are to be performed in their order. In particular an operation is finished in the engine, and its memory let
/// go, before its outcome reaches the caller.
package struct PeerMachine: Sendable {
    package struct Configuration: Sendable {
        package var group: GroupID
        package var listenPort: UInt16
        package var addresses: [SocketAddress]
        package var stripes: UInt16
        /// Nil: it is admitted and lost by itself.
        package var ensemble: Ensemble?
        package var timeouts: Timeouts
        /// If the one that leads ends, another may register this peer.
        package var hasSeveralMasters = false
        /// The algorithm for an operation in a view. Chosen when an operation starts in an epoch, since its world may be
        /// smaller than that of the launch; nil: as the launch says.
        package var algorithm: (@Sendable (OperationDescriptor, Assignment) -> Algorithm)?
        package init(
            group: GroupID, listenPort: UInt16, addresses: [SocketAddress], stripes: UInt16,
            ensemble: Ensemble? = nil, timeouts: Timeouts,
            algorithm: (@Sendable (OperationDescriptor, Assignment) -> Algorithm)? = nil
        ) {
            self.algorithm = algorithm
            self.group = group
            self.listenPort = listenPort
            self.addresses = addresses
            self.stripes = stripes
            self.ensemble = ensemble
            self.timeouts = timeouts
        }

        var hello: Hello {
            Hello(
                group: group, listenPort: listenPort, addresses: addresses, stripes: stripes, ensemble: ensemble)
        }
    }

    package enum Event: Sendable {
        case call(CallID, Call)
        case launch(OperationID, Tag, OperationDescriptor, onLoss: LossPolicy = .abort)
        /// The engine has no memory for what it is to do.
        case outOfMemory(String)
        /// The user destroys the communicator.
        case leave
        case masterConnected
        case masterUnreachable(String)
        case masterClosed(String)
        case fromMaster(ToPeer)
        case linkUp(PeerID)
        /// The link broke, or an attempt to make it failed for good.
        case linkDown(PeerID, String)
        /// Frames between peers, of the epoch that this machine last adopted.
        case entered(PeerID, Epoch, Tag, LaunchNumber, OperationDescriptor)
        case prepared(PeerID, Epoch, Tag, LaunchNumber)
        /// The engine holds the whole result.
        case resultWhole(Tag, LaunchNumber)
        /// The answer to `measureLinks`.
        case measured([LinkFigure])
        /// The answer to `fetchState`: all of it is here, or why it cannot be had.
        case stateFetched(LaunchNumber, failure: String?)
        /// The answer to `listFinal`.
        case final([LaunchNumber: [ResultPart]], Epoch)
        /// The answer to `observe`.
        case observed([LaunchNumber: OperationProgress])
        case tick
    }

    package enum Effect: Sendable {
        case dialMaster
        case closeMaster
        /// Break the connection off: a close would tell the master that this process has ended.
        case abandonMaster
        case sendToMaster(ToMaster)
        /// Exactly these links are wanted from now on: make what lacks, drop what is not named. The peer with the greater
        /// id dials.
        case wantLinks(Registration, [Member])
        /// No operation of an earlier epoch moves any more; frames of this one may.
        case adopt(Assignment)
        /// Stop all operations; their memory stays as it is until each is finished, or goes on.
        case halt
        /// Say what of the results of these operations, which stand still, is final here. The epoch is to come.
        case listFinal([LaunchNumber], Epoch)
        /// Say how far these operations have come with each member.
        case observe([LaunchNumber])
        /// What the operation waits for, for its caller, should it fail; nil: for nothing out of the ordinary any more.
        case noteStuck(OperationID, String?)
        /// Say what is known of the links to these peers, measuring first where it is nothing.
        case measureLinks([PeerID])
        case start(OperationID, Tag, LaunchNumber, OperationDescriptor, Assignment)
        /// The operation that was halted as `from` goes on as another launch: what is kept stays, in all else its input is made
        /// whole first.
        case resume(OperationID, Tag, from: LaunchNumber, LaunchNumber, OperationDescriptor, Assignment, Resumption)
        /// The peer's launch `theirs` is its part of our operation in flight with this launch number.
        case bind(LaunchNumber, PeerID, theirs: LaunchNumber)
        /// Frames of this launch of the peer are of no interest any more.
        case ignore(PeerID, theirs: LaunchNumber)
        /// Forget the operation and whatever else its bound launches send. If it did not succeed, make its input whole first.
        case finish(Tag, LaunchNumber, succeeded: Bool)
        /// The tensors of this call are lent, as memory of that launch, and may be read by members.
        case lendState(CallID, LaunchNumber)
        /// Get these contents for them, each chunk from whichever of these members; whatever was asked before is of no
        /// interest any more. What is under way is memory of this launch.
        case fetchState(LaunchNumber, [StateDecision.Key], from: [PeerID])
        /// They are the caller's again.
        case returnState
        case announcePrepared(Tag, LaunchNumber, Epoch, to: [PeerID])
        case complete(OperationID, OperationOutcome)
        case answer(CallID, CallAnswer)
        /// Nil: not a member of any view.
        case view(ViewSnapshot?)
        case wake(at: Instant)
        case log(LogLine)
    }

    struct Proposal {
        var epoch: Epoch
        var members: [Member]
        var failed = SortedPeers()
        var deadline: Instant
        var isAnswered = false
    }

    struct Newcomer {
        var call: CallID
        var registration: Registration
        var proposal: Proposal?
    }

    struct QueuedLaunch {
        var id: OperationID
        var tag: Tag
        var descriptor: OperationDescriptor
        var onLoss: LossPolicy
    }

    struct Membership {
        var registration: Registration
        var assignment: Assignment
        var members: [Member]
        var world: WorldCounts
        var proposal: Proposal?
        var joinCall: CallID?
        var pendingCall: CallID?
        var optimizeCall: CallID?
        var stateCall: CallID?
        /// Set while `stateCall` is.
        var sharing: Sharing?
        /// Of the shared state, the last that was agreed on, as far as this member has heard.
        var revision: UInt64?
        /// The links are being measured for the optimise call.
        var isMeasuring = false
        /// Set between a flush and its verdict.
        var flushing: Epoch?
        var queued: [QueuedLaunch] = []
        var ledger = OperationLedger()
        var watch = StuckWatch()
        /// The joint calls of this epoch that left it as it was: how many were answered, and what was said last.
        var answers: (count: UInt32, last: JointAnswer?) = (0, nil)
        /// What went to the master with the vote to optimise.
        var figures: [LinkFigure] = []
        /// A link broke, or was down, with operations in flight or entries owed: what was under way on it is lost, and only a
        /// new epoch helps, even if the link is made again.
        var needsRepair = false
        /// Members without a link, when to tell the master so (again), and whether it was told.
        var reportDownAt: [(peer: PeerID, at: Instant, isTold: Bool)] = []

        mutating func note(_ answer: JointAnswer) { answers = (answers.count &+ 1, answer) }

        /// The user waits in them for the master.
        var calls: [CallID] { [joinCall, pendingCall, optimizeCall, stateCall].compactMap { $0 } }

        mutating func failCalls(_ failure: CallFailure, _ effects: inout [Effect]) {
            if sharing != nil { effects.append(.returnState) }
            for call in calls { effects.append(.answer(call, .failed(failure))) }
            (joinCall, pendingCall, optimizeCall, isMeasuring) = (nil, nil, nil, false)
            (stateCall, sharing) = (nil, nil)
        }
    }

    enum Phase {
        case idle
        case dialling(CallID)
        case registering(CallID)
        case newcomer(Newcomer)
        case member(Membership)
        case left
    }

    let configuration: Configuration
    var timeouts: Timeouts
    var phase = Phase.idle
    var linksUp = SortedPeers()
    private var nextLaunch: UInt32 = 1
    var masterHeard = Instant(nanoseconds: 0)
    var nextHeartbeat = Instant(nanoseconds: 0)
    /// Set while the master does not count with this peer, which it knew.
    var detachment: Detachment?
    /// While another master is sought that registers this peer.
    var search = (until: Instant(nanoseconds: 0), dialAt: Instant?.none)
    var requestedWake: Instant?
    /// Why this peer is no longer the member that it was, unless it left by itself.
    package private(set) var departure: String?

    package init(_ configuration: Configuration) {
        self.configuration = configuration
        timeouts = configuration.timeouts
    }

    package mutating func handle(_ event: Event, at now: Instant, effects: inout [Effect]) {
        switch event {
        case .call(let id, let call): begin(call, id, at: now, &effects)
        case .launch(let id, let tag, let descriptor, let onLoss):
            launch(QueuedLaunch(id: id, tag: tag, descriptor: descriptor, onLoss: onLoss), at: now, &effects)
        case .leave: leave(.destroyed, .destroyed, &effects)
        case .outOfMemory(let text):
            // The others can end without this peer, but not with it.
            if case .member = phase { leave(.outOfMemory(text), .outOfMemory(text), &effects) }
        case .masterConnected: greetMaster(at: now, &effects)
        case .masterUnreachable(let reason), .masterClosed(let reason): loseMaster(reason, at: now, &effects)
        case .fromMaster(let message):
            masterHeard = now
            receive(message, at: now, &effects)
        case .linkUp(let peer):
            linksUp.insert(peer)
            if case .member(var m) = phase {
                if m.reportDownAt.contains(where: { $0.peer == peer && $0.isTold }) {
                    effects.append(.sendToMaster(.mendedLink(epoch: m.assignment.epoch, peer: peer)))
                }
                m.reportDownAt.removeAll { $0.peer == peer }
                phase = .member(m)
            }
            answerProposalIfReady(&effects)
        case .linkDown(let peer, let reason): loseLink(peer, reason, at: now, &effects)
        case .entered(let peer, let epoch, let tag, let launch, let descriptor):
            let linksUp = linksUp
            withRunning(epoch, &effects) { m, effects in
                switch m.ledger.enter(peer, tag, launch, descriptor) {
                case .bound(let ours):
                    effects.append(.bind(ours, peer, theirs: launch))
                    PeerMachine.progress(tag, &m, &effects)
                case .early: break
                case .swallowed: effects.append(.ignore(peer, theirs: launch))
                case .mismatch(let mismatch):
                    effects.append(.ignore(peer, theirs: launch))
                    PeerMachine.fail(tag, mismatch, linksUp, &m, &effects)
                }
            }
        case .prepared(let peer, let epoch, let tag, let launch):
            withRunning(epoch, &effects) { m, effects in
                m.ledger.notePrepared(peer, tag, launch)
                PeerMachine.progress(tag, &m, &effects)
            }
        case .resultWhole(let tag, let launch):
            withRunning(nil, &effects) { m, effects in
                m.ledger.noteWhole(tag, launch)
                PeerMachine.progress(tag, &m, &effects)
            }
        case .measured(let figures): vote(figures, &effects)
        case .stateFetched(let launch, let failure): endFetching(launch, failure: failure, &effects)
        case .final(let final, let epoch): report(final, epoch, &effects)
        case .observed(let progress): nameStuck(progress, at: now, &effects)
        case .tick:
            requestedWake = nil
            tick(at: now, &effects)
        }
        if let detachment, detachment.answerBy == nil {
            // Nobody hears it. What matters of it is told when this peer attaches again.
            effects.removeAll { if case .sendToMaster = $0 { true } else { false } }
        }
        requestWake(&effects)
    }

    // MARK: calls

    private mutating func begin(_ call: Call, _ id: CallID, at now: Instant, _ effects: inout [Effect]) {
        switch (call, phase) {
        case (.connect, .idle):
            departure = nil
            search = (now + timeouts.masterGrace, nil)
            phase = .dialling(id)
            effects.append(.dialMaster)
        case (.connect, .dialling), (.connect, .registering), (.connect, .newcomer), (.connect, .member):
            effects.append(.answer(id, .failed(.alreadyConnected)))
        case (.updateTopology, .member(var m)):
            if let failure = obstacle(to: m) {
                effects.append(.answer(id, .failed(failure)))
            } else if !m.ledger.isEmpty || !m.queued.isEmpty {
                effects.append(.answer(id, .failed(.operationsInFlight)))
            } else {
                m.joinCall = id
                phase = .member(m)
                effects.append(.sendToMaster(.voteJoin))
            }
        case (.arePeersPending, .member(var m)):
            if let failure = obstacle(to: m) {
                effects.append(.answer(id, .failed(failure)))
            } else {
                m.pendingCall = id
                phase = .member(m)
                effects.append(.sendToMaster(.votePending))
            }
        case (.optimizeTopology, .member(var m)):
            if let failure = obstacle(to: m) {
                effects.append(.answer(id, .failed(failure)))
            } else if m.assignment.members.count < 2 {
                effects.append(.answer(id, .failed(.alone)))
            } else if !m.ledger.isEmpty || !m.queued.isEmpty {
                effects.append(.answer(id, .failed(.operationsInFlight)))
            } else {
                m.optimizeCall = id
                m.isMeasuring = true
                phase = .member(m)
                effects.append(.measureLinks(m.assignment.others))
            }
        case (.synchronizeState(let offer), .member): synchronize(offer, id, &effects)
        case (_, .left):
            effects.append(.answer(id, .failed(.destroyed)))
        case (.updateTopology, _), (.arePeersPending, _), (.optimizeTopology, _), (.synchronizeState, _):
            effects.append(.answer(id, .failed(departure.map { .turnedAway($0) } ?? .notConnected)))
        }
    }

    func obstacle(to m: Membership) -> CallFailure? {
        if let detachment, detachment.isOver { return .masterLost(detachment.reason) }
        return m.calls.isEmpty ? nil : .callInProgress
    }

    /// The vote has no epoch, as that for a join point: it may cross the verdict of a flush.
    private mutating func vote(_ figures: [LinkFigure], _ effects: inout [Effect]) {
        guard case .member(var m) = phase, m.optimizeCall != nil, m.isMeasuring else { return }
        m.isMeasuring = false
        m.figures = figures
        phase = .member(m)
        effects.append(.sendToMaster(.voteOptimize(figures: figures)))
    }

    private mutating func leave(_ failure: CallFailure, _ outcome: OperationOutcome, _ effects: inout [Effect]) {
        switch phase {
        case .idle, .left: break
        case .dialling: effects.append(.closeMaster)
        case .registering, .newcomer, .member:
            effects.append(.sendToMaster(.leave))
            effects.append(.closeMaster)
        }
        depart(failure, outcome, &effects)
        if case .destroyed = outcome { phase = .left }
    }

    /// Ends whatever is under way and returns to idle: this peer is no longer part of the run.
    mutating func depart(
        _ failure: CallFailure, _ outcome: OperationOutcome, _ effects: inout [Effect]
    ) {
        let before = phase
        if case .left = before { return }
        phase = .idle
        linksUp.removeAll()
        detachment = nil
        switch before {
        case .idle, .left: break
        case .dialling(let call), .registering(let call):
            effects.append(.answer(call, .failed(failure)))
        case .newcomer(let newcomer):
            effects.append(.wantLinks(newcomer.registration, []))
            effects.append(.answer(newcomer.call, .failed(failure)))
        case .member(var m):
            switch outcome {
            case .masterLost(let reason), .outOfMemory(let reason): departure = reason
            default: break
            }
            effects.append(.halt)
            // Links end before memory goes back to its owner: a peer of the same host may be reading it, and believes what
            // it read as long as the link stands.
            effects.append(.wantLinks(m.registration, []))
            let operations = m.ledger.inLaunchOrder
            for operation in operations {
                effects.append(.finish(operation.tag, operation.launch, succeeded: false))
            }
            effects.append(.view(nil))
            for operation in operations { effects.append(.complete(operation.id, outcome)) }
            for launch in m.queued { effects.append(.complete(launch.id, outcome)) }
            m.failCalls(failure, &effects)
        }
    }

    // MARK: the master

    private mutating func greetMaster(at now: Instant, _ effects: inout [Effect]) {
        guard case .dialling(let call) = phase else { return attach(at: now, &effects) }
        phase = .registering(call)
        masterHeard = now
        nextHeartbeat = now + timeouts.heartbeatPeriod
        effects.append(.sendToMaster(.hello(configuration.hello)))
    }

    mutating func loseMaster(_ reason: String, at now: Instant, _ effects: inout [Effect]) {
        switch phase {
        case .idle, .left: effects.append(.closeMaster)
        case .registering(let call) where registersElsewhere(at: now):
            phase = .dialling(call)
            effects.append(.abandonMaster)
        case .dialling, .registering:
            effects.append(.closeMaster)
            depart(.masterUnreachable(reason), .notConnected, &effects)
        case .newcomer, .member: detach(reason, at: now, &effects)
        }
    }

    mutating func receive(_ message: ToPeer, at now: Instant, _ effects: inout [Effect]) {
        switch (message, phase) {
        case (.heartbeat, _):
            break
        case (
            .welcome(let peer, let run, let secret, let deadTime, let masterGrace, let stragglerDeadline),
            .registering(let call)
        ):
            // The master's dead time counts for all: a peer that waits longer than its master would be declared lost.
            timeouts = Timeouts(
                deadTime: .milliseconds(UInt64(max(deadTime, 1))), masterGrace: .milliseconds(UInt64(masterGrace)),
                stragglerDeadline: .milliseconds(UInt64(stragglerDeadline)))
            let registration = Registration(peer: peer, run: run, secret: secret, timeouts: timeouts)
            phase = .newcomer(Newcomer(call: call, registration: registration, proposal: nil))
        case (.welcome, .newcomer(let newcomer)) where detachment != nil:
            // The master that knew this peer did not live to tell the next one: it is registered anew.
            detachment = nil
            want([], newcomer.registration, &effects)
            phase = .registering(newcomer.call)
            receive(message, at: now, &effects)
        case (.attached(let world), _) where detachment != nil: endDetachment(world, &effects)
        case (.turnedAway(let reason), _):
            effects.append(.closeMaster)
            depart(.turnedAway(reason), .masterLost("declared lost by the master: \(reason)"), &effects)
        case (.stateRefused(let reason), .member):
            effects.append(.closeMaster)
            depart(.refused(reason), .masterLost("put out of the group: \(reason)"), &effects)
        case (.propose(let epoch, let members), .newcomer(var newcomer)):
            newcomer.proposal = proposal(epoch, members, at: now)
            phase = .newcomer(newcomer)
            want(members, newcomer.registration, &effects)
            answerProposalIfReady(&effects)
        case (.propose(let epoch, let members), .member(var m)):
            m.proposal = proposal(epoch, members, at: now)
            phase = .member(m)
            want(members, m.registration, &effects)
            answerProposalIfReady(&effects)
        case (.view(let epoch, let members, let world, let arrangement), .newcomer(let newcomer)):
            guard let assignment = assignment(epoch, members, arrangement, newcomer.registration.peer) else {
                return violation("a view without this peer", at: now, &effects)
            }
            phase = .member(
                Membership(
                    registration: newcomer.registration, assignment: assignment, members: members, world: world))
            settleView(at: now, &effects)
            effects.append(.answer(newcomer.call, .done))
        case (.view(let epoch, let members, let world, let arrangement), .member(var m)):
            guard let assignment = assignment(epoch, members, arrangement, m.registration.peer),
                epoch > m.assignment.epoch
            else { return violation("a view without this peer, or an old one", at: now, &effects) }
            // It ends a join point, or an optimise call.
            let call = m.joinCall ?? m.optimizeCall
            m.joinCall = nil
            m.optimizeCall = nil
            m.proposal = nil
            m.assignment = assignment
            m.members = members
            m.world = world
            phase = .member(m)
            settleView(at: now, &effects)
            if let call { effects.append(.answer(call, .done)) }
        case (.joinUnchanged(let world), .member(var m)):
            m.note(.joinUnchanged)
            let call = m.joinCall
            m.joinCall = nil
            m.world = world
            let hadProposal = m.proposal != nil
            m.proposal = nil
            phase = .member(m)
            if hadProposal { want(m.members, m.registration, &effects) }
            tellView(&effects)
            if let call { effects.append(.answer(call, .done)) }
        case (.pendingAnswer(let arePending), .member(var m)):
            m.note(arePending ? .somePending : .nonePending)
            let call = m.pendingCall
            m.pendingCall = nil
            phase = .member(m)
            if let call { effects.append(.answer(call, .pending(arePending))) }
        case (.world(let world), .member(var m)):
            m.world = world
            phase = .member(m)
            tellView(&effects)
        case (.callRefused(let reason), .member(var m)):
            m.failCalls(.refused(reason), &effects)
            phase = .member(m)
        case (.optimizeUnchanged, .member(var m)):
            m.note(.optimizeUnchanged)
            let call = m.optimizeCall
            m.optimizeCall = nil
            m.proposal = nil
            phase = .member(m)
            if let call { effects.append(.answer(call, .done)) }
        case (.receiveState(let decision), .member): receiveState(decision, at: now, &effects)
        case (.stateSynchronized(let revision), .member): endSharing(revision, &effects)
        case (.repeatOffer, .member(let m)):
            if let sharing = m.sharing { effects.append(.sendToMaster(.offerState(sharing.offer))) }
        case (.flush(let epoch), .member(var m)):
            m.proposal = nil
            flush(&m, epoch, &effects)
            phase = .member(m)
        case (.verdict(let epoch, let members, let world, let arrangement, let operations, let missed), .member(let m)):
            guard let assignment = assignment(epoch, members, arrangement, m.registration.peer) else {
                return violation("a verdict without this peer", at: now, &effects)
            }
            conclude(m, assignment, members, world, operations, missed, at: now, &effects)
        case (.world, _):
            break  // Counts that crossed with our own departure or come before admission.
        case (.welcome, _), (.propose, _), (.view, _), (.joinUnchanged, _), (.pendingAnswer, _), (.callRefused, _),
            (.flush, _), (.verdict, _), (.optimizeUnchanged, _), (.attached, _), (.repeatOffer, _), (.receiveState, _),
            (.stateSynchronized, _), (.stateRefused, _):
            violation("an unexpected message", at: now, &effects)
        }
    }

    mutating func violation(_ text: String, at now: Instant, _ effects: inout [Effect]) {
        loseMaster("the master broke the protocol: \(text)", at: now, &effects)
    }

    // MARK: views

    private func assignment(
        _ epoch: Epoch, _ members: [Member], _ arrangement: Arrangement, _ me: PeerID
    ) -> Assignment? {
        guard let rank = members.firstIndex(where: { $0.id == me }) else { return nil }
        return Assignment(epoch: epoch, members: members.map(\.id), rank: rank, arrangement: arrangement)
    }

    /// Makes the new assignment known to engine, links and caller's attributes. With `missed` it comes from a verdict.
    mutating func settleView(
        missed: [FailedCalls]? = nil, at now: Instant, _ effects: inout [Effect]
    ) {
        guard case .member(var m) = phase else { return }
        if let missed { m.ledger.reset(missing: missed) } else { m.ledger.reset() }
        m.watch.reset()
        m.needsRepair = false
        m.answers = (0, nil)
        // Patience with a link that was down before goes on: repairs would put its end off for ever.
        let before = m.reportDownAt
        m.reportDownAt = m.assignment.others.filter { !linksUp.contains($0) }.map { peer in
            before.first { $0.peer == peer } ?? (peer, now + timeouts.dialPatience, false)
        }
        phase = .member(m)
        want(m.members, m.registration, &effects)
        effects.append(.adopt(m.assignment))
        tellView(&effects)
    }

    /// Links that are not wanted any more are dropped without a word from the shell, so they are forgotten here: who comes
    /// back in a later proposal has to be linked anew before this peer may say so.
    mutating func want(_ members: [Member], _ registration: Registration, _ effects: inout [Effect]) {
        linksUp = SortedPeers(linksUp.filter { peer in members.contains { $0.id == peer } })
        effects.append(.wantLinks(registration, members))
    }

    func tellView(_ effects: inout [Effect]) {
        guard case .member(let m) = phase else { return }
        effects.append(
            .view(
                ViewSnapshot(
                    epoch: m.assignment.epoch, worldSize: m.assignment.members.count, rank: m.assignment.rank,
                    world: m.world)))
    }

    private func proposal(_ epoch: Epoch, _ members: [Member], at now: Instant) -> Proposal {
        Proposal(epoch: epoch, members: members, deadline: now + timeouts.dialPatience)
    }

    mutating func answerProposalIfReady(_ effects: inout [Effect]) {
        func answer(_ proposal: inout Proposal?, _ me: PeerID) -> ToMaster? {
            guard let p = proposal, !p.isAnswered else { return nil }
            let missing = p.members.map(\.id).filter { $0 != me && !linksUp.contains($0) }
            guard p.failed.isSuperset(of: missing) else { return nil }
            proposal?.isAnswered = true
            return missing.isEmpty ? .linked(epoch: p.epoch) : .cannotReach(epoch: p.epoch, peers: missing)
        }
        switch phase {
        case .newcomer(var newcomer):
            let message = answer(&newcomer.proposal, newcomer.registration.peer)
            phase = .newcomer(newcomer)
            if let message { effects.append(.sendToMaster(message)) }
        case .member(var m):
            let message = answer(&m.proposal, m.registration.peer)
            phase = .member(m)
            if let message { effects.append(.sendToMaster(message)) }
        case .idle, .dialling, .registering, .left: break
        }
    }

    /// A link of the present view counts as broken. A proposal waits on until its deadline: a newcomer that died while it
    /// linked resets its links before its death is known, and the survivor of such a pair would be blamed.
    private mutating func loseLink(_ peer: PeerID, _ reason: String, at now: Instant, _ effects: inout [Effect]) {
        let wasUp = linksUp.remove(peer)
        switch phase {
        case .member(var m):
            guard m.assignment.members.contains(peer) else {
                phase = .member(m)
                break
            }
            if let detachment, detachment.isOver {
                let text =
                    "\(peer) is lost (\(reason)) and so is the master (\(detachment.reason)): nobody can say who is left"
                if detachment.comesBack { effects.append(.abandonMaster) }
                return depart(.masterLost(text), .masterLost(text), &effects)
            }
            if !m.reportDownAt.contains(where: { $0.peer == peer }) {
                m.reportDownAt.append((peer, now + timeouts.dialPatience, false))
            }
            // One more attempt that failed is no new break: the operations wait for the link, or for the master to choose.
            if wasUp, m.flushing == nil, m.ledger.isWaiting {
                m.needsRepair = true
                effects.append(
                    .sendToMaster(.brokenLink(epoch: m.assignment.epoch, peer: peer, gaveUp: false)))
            } else if wasUp, timeouts.masterGrace.nanoseconds > 0,
                let index = m.reportDownAt.firstIndex(where: { $0.peer == peer })
            {
                m.reportDownAt[index].isTold = true
                effects.append(.sendToMaster(.downLink(epoch: m.assignment.epoch, peer: peer)))
            }
            effects.append(.log(LogLine(.info, "the link to \(peer) is down: \(reason)")))
            phase = .member(m)
        case .idle, .dialling, .registering, .newcomer, .left: break
        }
    }

    // MARK: operations

    private mutating func launch(_ launch: QueuedLaunch, at now: Instant, _ effects: inout [Effect]) {
        let (id, tag) = (launch.id, launch.tag)
        guard case .member(var m) = phase else {
            let isGone = if case .left = phase { true } else { false }
            effects.append(
                .complete(id, isGone ? .destroyed : departure.map { .masterLost($0) } ?? .notConnected))
            return
        }
        phase = .idle  // Or the ledger would be copied by the first change to it.
        if m.assignment.members.count < 2 {
            effects.append(.complete(id, .tooFewPeers))
        } else if m.ledger.contains(tag) || m.queued.contains(where: { $0.tag == tag }) {
            effects.append(.complete(id, .tagInUse))
        } else if m.joinCall != nil || m.optimizeCall != nil || m.stateCall != nil {
            effects.append(
                .complete(
                    id,
                    .misuse(
                        "a join point, an optimise call or a synchronisation of the shared state is under way on another "
                            + "thread")))
        } else if m.flushing != nil {
            m.queued.append(launch)
        } else {
            enter(launch, &m, at: now, &effects)
        }
        phase = .member(m)
    }

    /// With `resumed`, what was halted under that launch number goes on.
    mutating func enter(
        _ call: QueuedLaunch, _ m: inout Membership, resumed: (from: LaunchNumber, Resumption)? = nil,
        at now: Instant, _ effects: inout [Effect]
    ) {
        let (id, tag) = (call.id, call.tag)
        // What goes on is no further call.
        guard resumed != nil || !m.ledger.takeMissed(tag) else {
            effects.append(.complete(id, .mismatch(PeerMachine.failedElsewhere(tag))))
            return
        }
        var descriptor = call.descriptor
        // Its caller has yet to learn that others are gone. Those who have learnt it call again, and so will it.
        guard [0, m.assignment.members.count].contains(Int(descriptor.worldSize)) else {
            effects.append(.complete(id, .memberLost))
            return
        }
        let launch = takeLaunchNumber()
        m.watch.noteLaunch(at: now, timeouts)
        if let (from, resumption) = resumed {
            // Whatever it began with: its chunks are where something is left to do.
            descriptor.algorithm = .direct
            effects.append(.resume(id, tag, from: from, launch, descriptor, m.assignment, resumption))
        } else {
            if let choose = configuration.algorithm { descriptor.algorithm = choose(descriptor, m.assignment) }
            effects.append(.start(id, tag, launch, descriptor, m.assignment))
        }
        let operation = OperationLedger.Operation(
            id: id, tag: tag, launch: launch, descriptor: descriptor, since: now,
            nextStallCheck: timeouts.nextStragglerCheck(since: now, at: now), onLoss: call.onLoss,
            resumption: resumed?.1)
        let mismatch = m.ledger.launch(operation, members: m.assignment.others)
        let entered = m.ledger[tag]?.entered ?? []
        if let mismatch {
            // Not bound first: what members with another descriptor sent early does not fit into this operation.
            for known in entered { effects.append(.ignore(known.peer, theirs: known.launch)) }
            PeerMachine.fail(tag, mismatch, linksUp, &m, &effects)
            return
        }
        for known in entered { effects.append(.bind(launch, known.peer, theirs: known.launch)) }
        // A member whose link is down cannot be told by this operation's frames alone: see loseLink.
        for peer in m.assignment.others where !linksUp.contains(peer) {
            effects.append(.log(LogLine(.debug, "\(tag) starts while the link to \(peer) is down")))
        }
    }

    mutating func takeLaunchNumber() -> LaunchNumber {
        defer { nextLaunch &+= 1 }
        return LaunchNumber(nextLaunch)
    }

    private mutating func withRunning(
        _ epoch: Epoch?, _ effects: inout [Effect], _ body: (inout Membership, inout [Effect]) -> Void
    ) {
        guard case .member(var m) = phase, m.flushing == nil, epoch == nil || epoch == m.assignment.epoch
        else { return }
        phase = .idle  // Or the ledger would be copied by the first change to it.
        body(&m, &effects)
        phase = .member(m)
    }

    /// Moves an operation on after anything about it was heard.
    private static func progress(_ tag: Tag, _ m: inout Membership, _ effects: inout [Effect]) {
        let others = m.assignment.others
        guard let operation = m.ledger[tag] else { return }
        if m.ledger.becomesPrepared(tag, members: others) {
            effects.append(.announcePrepared(tag, operation.launch, m.assignment.epoch, to: others))
        }
        if m.ledger.isCommitted(tag, members: others) {
            m.ledger.remove(tag)
            effects.append(.finish(tag, operation.launch, succeeded: true))
            effects.append(.complete(operation.id, success(operation, worldSize: m.assignment.members.count)))
        }
    }

    static func success(_ operation: OperationLedger.Operation, worldSize: Int) -> OperationOutcome {
        guard operation.resumption != nil else { return .success(worldSize: worldSize) }
        let parts = operation.parts(worldSize: worldSize)
        // One view made it, the present one or an earlier one; or several did.
        guard parts.count > 1 else { return .success(worldSize: parts.first?.worldSize ?? worldSize) }
        return .success(worldSize: parts.map(\.worldSize).min() ?? worldSize, parts: parts)
    }

    private static func fail(
        _ tag: Tag, _ mismatch: OperationLedger.Mismatch, _ linksUp: SortedPeers, _ m: inout Membership,
        _ effects: inout [Effect]
    ) {
        guard let operation = m.ledger[tag] else { return }
        m.ledger.fail(tag, members: m.assignment.others)
        let me = m.registration.peer
        effects.append(.finish(tag, operation.launch, succeeded: false))
        effects.append(
            .complete(
                operation.id,
                .mismatch(
                    "\(tag): \(me) called \(mismatch.mine), \(mismatch.peer) called \(mismatch.theirs)")))
        // With the operation goes its entry, if it waits for a link to be made again: the member there would wait for it for
        // ever, or take the next one for it.
        for peer in m.assignment.others where !linksUp.contains(peer) {
            m.needsRepair = true
            effects.append(.sendToMaster(.brokenLink(epoch: m.assignment.epoch, peer: peer, gaveUp: false)))
        }
    }

    static func failedElsewhere(_ tag: Tag) -> String {
        "\(tag): other members found that their calls differ, and ended this one, before the view changed"
    }
}

extension PeerMachine {
    /// Whether the answer to `measureLinks` is still waited for.
    package var isMeasuring: Bool {
        if case .member(let m) = phase { return m.optimizeCall != nil && m.isMeasuring }
        return false
    }
    /// For tests and the simulator.
    package var operationsInFlight: Int {
        if case .member(let m) = phase { return m.ledger.inLaunchOrder.count + m.queued.count }
        return 0
    }
    package var isMember: Bool {
        if case .member = phase { return true }
        return false
    }
    package var view: Assignment? {
        if case .member(let m) = phase { return m.assignment }
        return nil
    }
}
