import PCCLBase
import PCCLCompute
import PCCLEngine
import PCCLMembership
import PCCLRecorder
import PCCLTransport
import PCCLWire

/// The world around one `PeerMachine`: its event loop, timer, master connection, links and engine.
///
/// Any thread may call it. Everything below the first section runs on the loop's thread: events are handed to the
/// machine one at a time, and its effects are performed in order before the next.
package final class PeerSession: @unchecked Sendable {
    package struct Configuration: Sendable {
        /// Tried in this order.
        package var master: [SocketAddress]
        package var group: GroupID
        package var stripesPerLink: UInt16
        package var timeouts: Timeouts
        package var portBase: UInt16
        /// Nil: by the cost model.
        package var algorithm: Algorithm?
        package var links: LinkConfiguration
        /// Of a device's memory, for operations with peers of this host; nil: what is usual.
        package var deviceWindowBytes: Int?
        /// Of a buffer, gone through there at once; nil: what is usual.
        package var deviceRoundBytes: Int?
        package var devicePieceBytes: Int?
        /// Where other peers are to dial first; port 0 stands for the one that is listened at.
        package var advertised: [SocketAddress] = []
        /// Nil: all, after the address that the master sees.
        package var interfaces: NetworkInterfaces.Choice?
        /// Shown to the master and to other peers, and asked for.
        package var credentials = Credentials.none
        /// Nil: it is admitted and lost by itself.
        package var ensemble: Ensemble?
        package var recorder = RecorderConfiguration()
        package init(
            master: [SocketAddress], group: GroupID, stripesPerLink: UInt16, timeouts: Timeouts, portBase: UInt16,
            algorithm: Algorithm? = nil, links: LinkConfiguration = LinkConfiguration()
        ) {
            self.links = links
            self.algorithm = algorithm
            self.master = master
            self.group = group
            self.stripesPerLink = stripesPerLink
            self.timeouts = timeouts
            self.portBase = portBase
        }
    }

    package struct OperationResult: Sendable {
        package var outcome: OperationOutcome
        package var traffic: Traffic
        /// How often it was interrupted and went on.
        package var resumptions = 0
        /// What it was waiting for when it ended, if that was out of the ordinary.
        package var waitedFor: String?
    }
    package typealias OperationCompletion = Completion<OperationResult>
    package typealias CallCompletion = Completion<CallAnswer>

    private struct PendingOperation {
        var tag: Tag
        var buffers: ReduceBuffers
        var completion: OperationCompletion
        var traffic = Traffic()
        var resumptions = 0
        var waitedFor: String?
    }

    private let loop: EventLoop
    let configuration: Configuration
    /// Any thread may write to it.
    package let recorder: Recorder?
    /// Who this peer is, for a dump.
    let recordedIdentity = Guarded<Registration?>(nil)
    private let sizes: EngineConfiguration
    private let view = Guarded<(current: ViewSnapshot?, departure: String?)>((nil, nil))
    private let isClosed = Guarded(false)
    private let engineWindowRoom = Guarded<Guarded<WindowRoom?>?>(nil)

    // The loop's thread only.
    private var machine: PeerMachine?
    private var mesh: Mesh?
    private var engine: Engine?
    private var prober: LinkProber?
    private var control: ControlConnection?
    private var masterAddresses: [SocketAddress] = []
    private var dialledAddress: SocketAddress?
    private var greetedAddress: SocketAddress?
    private var masterErrors: [String] = []
    /// Fell silent, or did not answer: the others are asked before it.
    private var silentAddress: SocketAddress?
    private var sawStandby = false
    private var leaderSoughtUntil = Instant(nanoseconds: 0)
    private var roundTimer: LoopTimer?
    private var dialTimer: LoopTimer?
    private var wakeTimer: LoopTimer?
    private var events: [PeerMachine.Event] = []
    private var isPumping = false
    private var calls: [CallID: CallCompletion] = [:]
    /// Tensors of calls that have not begun.
    private var states: [CallID: StateMemory] = [:]
    private var operations: [OperationID: PendingOperation] = [:]
    private var operationsByLaunch: [LaunchNumber: OperationID] = [:]
    private var nextID: UInt64 = 1
    private var identity: Registration?
    /// Why peers could not be reached that were wanted last.
    private var obstacles: [String] = []
    var recordedCalls: [CallID: TraceCall] = [:]
    var dumps = RecorderDumps()

    /// Starts the loop's thread and opens the port for other peers.
    package init(_ configuration: Configuration) throws(SystemError) {
        self.configuration = configuration
        var sizes = EngineConfiguration()
        if let bytes = configuration.deviceWindowBytes { sizes.windows.windowBytes = bytes }
        if let bytes = configuration.deviceRoundBytes { sizes.windows.roundBytes = bytes }
        if let bytes = configuration.devicePieceBytes { sizes.devicePieceBytes = bytes }
        recorder = configuration.recorder.bytes > 0 ? Recorder(bytes: configuration.recorder.bytes) : nil
        sizes.recorder = recorder
        // Before it comes: until it is counted, it ends the process.
        dumps.signals = configuration.recorder.signal?.count
        self.sizes = sizes
        loop = try EventLoop(name: "pccl-peer")
        let opened = Completion<Result<Void, SystemError>>()
        loop.submit { [self] in opened.set(open()) }
        switch opened.wait() {
        case .success: break
        case .failure(let error):
            loop.submit { [self] in tearDown() }
            loop.stop()
            throw error
        }
    }

    /// The view as of now; nil when not a member.
    package var currentView: ViewSnapshot? { view.withLock { $0.current } }
    /// Why this peer is no longer a member, if it was declared lost or lost its master and a member.
    package var departure: String? { view.withLock { $0.departure } }

    /// If an operation on these buffers of a device goes through the host, as far as is known now: does what has to be done
    /// before it begins, here and not on the thread that others wait for.
    package func stage(
        _ descriptor: OperationDescriptor, _ buffers: ReduceBuffers, isCodedOnDevice: Bool
    ) throws(DeviceError) {
        if let view = currentView, let room = engineWindowRoom.withLock({ $0 })?.withLock({ $0 }),
            room.suits(descriptor, buffers, rank: view.rank, worldSize: view.worldSize)
        {
            return
        }
        try buffers.stage(descriptor, isCodedOnDevice: isCodedOnDevice, sizes)
    }

    /// `state`: the tensors of `synchronizeState`, lent until the completion is set.
    package func call(_ call: Call, state: StateMemory? = nil) -> CallCompletion {
        let completion = CallCompletion()
        recorder?.record(.callBegan, value: UInt64(TraceCall(call).rawValue))
        let isTaken = loop.submit { [self] in
            let id = CallID(nextID)
            nextID += 1
            calls[id] = completion
            states[id] = state
            pump(.call(id, call))
        }
        if !isTaken { completion.set(.failed(.destroyed)) }
        return completion
    }

    /// The buffers are lent until the completion is set.
    package func launch(
        _ tag: Tag, _ descriptor: OperationDescriptor, _ buffers: ReduceBuffers, onLoss: LossPolicy = .abort,
        _ completion: OperationCompletion
    ) {
        recorder?.record(.launched, tag: tag, value: descriptor.byteCount)
        let isTaken = loop.submit { [self] in
            let id = OperationID(nextID)
            nextID += 1
            operations[id] = PendingOperation(tag: tag, buffers: buffers, completion: completion)
            pump(.launch(id, tag, descriptor, onLoss: onLoss))
        }
        if !isTaken { completion.set(OperationResult(outcome: .destroyed, traffic: Traffic())) }
    }

    /// Leaves the run, ends all calls and operations, and joins the thread. A second call does nothing.
    package func close() {
        let isFirst = isClosed.withLock { closed in
            defer { closed = true }
            return !closed
        }
        guard isFirst else { return }
        loop.submit { [self] in
            pump(.leave)
            tearDown()
        }
        loop.stop()
    }

    // MARK: - on the loop's thread

    private func open() -> Result<Void, SystemError> {
        var links = configuration.links
        links.recorder = recorder
        let engine = Engine(loop, configuration: sizes, delegate: self)
        let mesh = Mesh(
            loop, stripes: configuration.stripesPerLink, timeouts: configuration.timeouts,
            linkConfiguration: links, credentials: configuration.credentials, delegate: self, linkDelegate: engine)
        self.engine = engine
        engineWindowRoom.withLock { $0 = engine.windowRoom }
        self.mesh = mesh
        prober = LinkProber(loop) { [weak mesh] in mesh?.link(to: $0) }
        wakeTimer = LoopTimer(loop) { [weak self] in self?.pump(.tick) }
        dialTimer = LoopTimer(loop) { [weak self] in self?.dialTimedOut() }
        roundTimer = LoopTimer(loop) { [weak self] in self?.dialMasters() }
        let anyHost = SocketAddress.Host.v6(high: 0, low: 0)
        do {
            let port: UInt16
            do {
                port = try mesh.listen(on: anyHost, basePort: configuration.portBase)
            } catch {
                // A kernel without IPv6.
                port = try mesh.listen(on: .v4(0), basePort: configuration.portBase)
            }
            var machine = PeerMachine.Configuration(
                group: configuration.group, listenPort: port, addresses: addresses(port),
                stripes: configuration.stripesPerLink, ensemble: configuration.ensemble,
                timeouts: configuration.timeouts,
                algorithm: { [forced = configuration.algorithm] descriptor, assignment in
                    descriptor.collective.suited(
                        forced
                            ?? CostModel.algorithm(
                                byteCount: descriptor.wireByteCount,
                                partialByteCount: descriptor.partialWireByteCount,
                                worldSize: assignment.members.count, arrangement: assignment.arrangement))
                })
            machine.hasSeveralMasters = configuration.master.count > 1
            self.machine = PeerMachine(machine)
            return .success(())
        } catch {
            return .failure(error)
        }
    }

    /// As many as can be tried, one after the other, within the patience with a proposal.
    private static let unchosenAddresses = 3

    /// Others try them in this order.
    private func addresses(_ port: UInt16) -> [SocketAddress] {
        let seen = SocketAddress(.v4(0), port: port)
        let own = NetworkInterfaces.addresses(configuration.interfaces).map { SocketAddress($0, port: port) }
        let named = configuration.advertised.map { SocketAddress($0.host, port: $0.port == 0 ? port : $0.port) }
        if !named.isEmpty { return named }
        // Who chooses interfaces wants traffic there, whichever way the master is reached.
        return configuration.interfaces == nil ? [seen] + own.prefix(PeerSession.unchosenAddresses) : own
    }

    private func tearDown() {
        control?.closeNow()
        control = nil
        prober?.close()
        prober = nil
        mesh?.close()
        mesh = nil
        engine?.close()
        engine = nil
        wakeTimer?.close()
        wakeTimer = nil
        dialTimer?.close()
        dialTimer = nil
        roundTimer?.close()
        roundTimer = nil
        // The machine stays: it answers calls of other threads that come between this and the end of the loop.
    }

    private func pump(_ event: PeerMachine.Event) {
        events.append(event)
        guard !isPumping else { return }
        isPumping = true
        defer { isPumping = false }
        var effects: [PeerMachine.Effect] = []
        var next = 0
        while next < events.count {
            record(events[next])
            machine?.handle(events[next], at: loop.now, effects: &effects)
            next += 1
            for effect in effects {
                record(effect)
                perform(effect)
            }
            effects.removeAll(keepingCapacity: true)
        }
        events.removeAll(keepingCapacity: true)
        // The call has ended without the figures, and operations may begin.
        if !(machine?.isMeasuring ?? false) { prober?.stop() }
        dumpIfDue(at: loop.now)
    }

    private func perform(_ effect: PeerMachine.Effect) {
        switch effect {
        case .dialMaster:
            leaderSoughtUntil = loop.now + leaderPatience
            dialMasters()
        case .closeMaster:
            control?.closeWhenSent()
            forgetMaster()
        case .abandonMaster:
            if control != nil { silentAddress = dialledAddress }
            control?.abandon()
            forgetMaster()
        case .sendToMaster(let message):
            control?.send(message.bytes)
        case .wantLinks(let registration, let members):
            if let identity, identity != registration { engine?.forget() }
            identity = registration
            obstacles = mesh?.obstacles ?? []
            recordedIdentity.withLock { $0 = registration }
            mesh?.want(run: registration.run, me: registration.peer, members, timeouts: registration.timeouts)
            forgetUnwantedLinks(members)
        case .adopt(let assignment):
            engine?.adopt(epoch: assignment.epoch, members: assignment.members)
        case .halt:
            engine?.halt()
        case .listFinal(let launches, let epoch):
            pump(.final(engine?.final(launches) ?? [:], epoch))
        case .observe(let launches): pump(.observed(engine?.progress(of: launches) ?? [:]))
        case .noteStuck(let id, let text): operations[id]?.waitedFor = text
        case .measureLinks(let peers):
            prober?.probe(inRounds(peers)) { [weak self] in
                guard let self else { return }
                pump(.measured(linkFigures(of: peers)))
            }
        case .start(let id, let tag, let launch, let descriptor, let assignment):
            guard let operation = operations[id] else { return }
            operationsByLaunch[launch] = id
            engine?.start(
                tag: tag, launch: launch, descriptor: descriptor, place: Place(assignment),
                buffers: operation.buffers)
        case .resume(let id, _, let from, let launch, let descriptor, let assignment, let resumption):
            operationsByLaunch[from] = nil
            operationsByLaunch[launch] = id
            operations[id]?.resumptions += 1
            engine?.resume(from, as: launch, descriptor: descriptor, place: Place(assignment), resumption)
        case .bind(let launch, let peer, let theirs):
            engine?.bind(launch, peer, theirs: theirs)
        case .ignore(let peer, let theirs):
            engine?.ignore(peer, theirs: theirs)
        case .finish(_, let launch, let succeeded):
            let traffic = engine?.finish(launch, succeeded: succeeded) ?? Traffic()
            if let id = operationsByLaunch.removeValue(forKey: launch) { operations[id]?.traffic += traffic }
        case .lendState(let id, let owner):
            if let memory = states.removeValue(forKey: id) { engine?.lendState(memory, owner: owner) }
        case .fetchState(let launch, let keys, let sources):
            engine?.fetchState(keys, from: sources, owner: launch) { [weak self] failure in
                self?.pump(.stateFetched(launch, failure: failure))
            }
        case .returnState: engine?.returnState()
        case .announcePrepared(let tag, let launch, let epoch, let peers):
            engine?.announcePrepared(tag, launch, epoch, to: peers)
        case .complete(let id, let outcome):
            guard let operation = operations.removeValue(forKey: id) else { return }
            record(operation.tag, outcome)
            operation.completion.set(
                OperationResult(
                    outcome: outcome, traffic: operation.traffic, resumptions: operation.resumptions,
                    waitedFor: operation.waitedFor))
        case .answer(let id, let answer):
            states[id] = nil
            calls.removeValue(forKey: id)?.set(withWhatIsKnownHere(answer))
        case .view(let snapshot):
            view.withLock { $0 = (snapshot, machine?.departure) }
        case .wake(let instant):
            wakeTimer?.fire(at: instant)
        case .log(let line):
            Log.write(Log.Level(line.level), line.text)
        }
    }

    /// What the transfers so far say. A peer without a link, or to which next to nothing was sent, has no rate.
    private func linkFigures(of peers: [PeerID]) -> [LinkFigure] { peers.compactMap { mesh?.link(to: $0)?.figure } }

    /// The other members in the order in which this one probes its links to them: its successor in rank first. So when all
    /// begin together, each sends to one and receives from one at a time.
    private func inRounds(_ others: [PeerID]) -> [PeerID] {
        let rank = view.withLock { $0.current?.rank } ?? 0
        return Array(others.dropFirst(rank) + others.prefix(rank))
    }

    var machineDeparture: String? { machine?.departure }

    private var linkedPeers: [PeerID] = []

    private func forgetUnwantedLinks(_ members: [Member]) {
        for peer in linkedPeers where !members.contains(where: { $0.id == peer }) {
            engine?.linkDown(peer)
            linkedPeers.removeAll { $0 == peer }
        }
    }

    // MARK: the master

    private func forgetMaster() {
        control = nil
        dialTimer?.cancel()
        roundTimer?.cancel()
    }

    /// Where it was found last, it is looked for first.
    private func dialMasters() {
        let first = greetedAddress == silentAddress ? nil : greetedAddress
        masterAddresses = configuration.master.filter { $0 == first }
        masterAddresses += configuration.master.filter { $0 != first && $0 != silentAddress }
        masterAddresses += configuration.master.filter { $0 != first && $0 == silentAddress }
        masterErrors = []
        sawStandby = false
        dialNextMaster()
    }

    private func dialNextMaster() {
        guard !masterAddresses.isEmpty else {
            // Masters are there, and one of them will lead.
            if sawStandby, loop.now < leaderSoughtUntil {
                roundTimer?.fire(at: loop.now + timeouts.firstRedial * 4)
                return
            }
            let reason = masterErrors.isEmpty ? "no address is known" : masterErrors.joined(separator: "; ")
            return pump(.masterUnreachable(reason))
        }
        let address = masterAddresses.removeFirst()
        dialledAddress = address
        let connection: ControlConnection
        do {
            // Of no run: a master that has lost its journal begins with another number, and takes over what its peers tell.
            connection = ControlConnection(
                loop, try Socket.connecting(to: address), .dialler(address), configuration.credentials)
        } catch {
            masterErrors.append("\(error)")
            return dialNextMaster()
        }
        control = connection
        connection.onGreeted = { [weak self] in
            self?.dialTimer?.cancel()
            self?.greetedAddress = address
            if self?.silentAddress == address { self?.silentAddress = nil }
            self?.pump(.masterConnected)
        }
        connection.onMessage = { [weak self] bytes in self?.takeFromMaster(bytes) }
        var isGreeted = false
        connection.onClosed = { [weak self] reason in
            guard let self else { return }
            control = nil
            if isGreeted {
                pump(.masterClosed("\(address): \(reason)"))
            } else {
                dialTimer?.cancel()
                if reason == Preamble.Problem.standby.description { sawStandby = true }
                masterErrors.append("\(address): \(reason)")
                dialNextMaster()
            }
        }
        let greeted = connection.onGreeted
        connection.onGreeted = {
            isGreeted = true
            greeted?()
        }
        dialTimer?.fire(at: loop.now + masterPatience)
        connection.start()
    }

    private var timeouts: Timeouts { identity?.timeouts ?? configuration.timeouts }

    /// As long as members wait for a master that is gone.
    private var leaderPatience: Interval { max(timeouts.masterGrace, timeouts.dialPatience) }

    /// Who attaches again has a dead time for it, whatever the number of addresses.
    private var masterPatience: Interval {
        identity.map { $0.timeouts.dialPatience / 3 } ?? configuration.timeouts.dialPatience
    }

    private func dialTimedOut() {
        control?.closeNow()
        control = nil
        silentAddress = dialledAddress
        masterErrors.append(
            "\(dialledAddress?.description ?? "the master"): no greeting came within "
                + "\(masterPatience.seconds) s; is it a pccl-master?")
        dialNextMaster()
    }

    /// The master knows that two peers do not reach each other, and not why.
    private func withWhatIsKnownHere(_ answer: CallAnswer) -> CallAnswer {
        guard case .failed(.turnedAway(let reason)) = answer else { return answer }
        return obstacles.isEmpty ? answer : .failed(.turnedAway("\(reason) (\(obstacles.joined(separator: "; ")))"))
    }

    private func takeFromMaster(_ bytes: [UInt8]) {
        do {
            pump(.fromMaster(try ToPeer(bytes)))
        } catch {
            pump(.masterClosed("the master sent what cannot be read: \(error)"))
        }
    }
}

extension PeerSession: MeshDelegate {
    package func meshLinked(_ link: Link) {
        linkedPeers.append(link.peer)
        engine?.linkUp(link)
        pump(.linkUp(link.peer))
    }
    package func meshUnlinked(_ peer: PeerID, reason: String) {
        linkedPeers.removeAll { $0 == peer }
        engine?.linkDown(peer)
        pump(.linkDown(peer, reason))
    }
}

extension PeerSession: EngineDelegate {
    package func engineEntered(
        _ peer: PeerID, _ epoch: Epoch, _ tag: Tag, _ launch: LaunchNumber, _ descriptor: OperationDescriptor
    ) { pump(.entered(peer, epoch, tag, launch, descriptor)) }
    package func enginePrepared(_ peer: PeerID, _ epoch: Epoch, _ tag: Tag, _ launch: LaunchNumber) {
        pump(.prepared(peer, epoch, tag, launch))
    }
    package func engineHoldsResult(_ tag: Tag, _ launch: LaunchNumber) { pump(.resultWhole(tag, launch)) }
    package func engineCannotGoOn(_ text: String) { pump(.outOfMemory(text)) }
}

extension Place {
    fileprivate init(_ assignment: Assignment) {
        self.init(
            epoch: assignment.epoch, members: assignment.members, rank: assignment.rank,
            shares: assignment.arrangement.shares, sites: assignment.arrangement.sites)
    }
}

extension Log.Level {
    package init(_ level: LogLine.Level) {
        switch level {
        case .trace: self = .trace
        case .debug: self = .debug
        case .info: self = .info
        case .warning: self = .warning
        case .error: self = .error
        }
    }
}
