import PCCLBase
import PCCLMembership
import PCCLTransport
import PCCLWire

/// The world around one `MasterMachine`: its event loop, listener and control connections. Any thread may call it.
package final class MasterSession: @unchecked Sendable {
    private typealias ConnectionID = MasterMachine.ConnectionID

    private let loop: EventLoop
    private let ended = Completion<Void>()
    private let isClosed = Guarded(false)
    private let timeouts: Timeouts
    private let credentials: Credentials
    /// Where it listens; the port is the real one if 0 was asked for.
    package private(set) var address: SocketAddress

    // The loop's thread only.
    /// Nil: another master leads, or nobody yet.
    private var machine: MasterMachine?
    private var lead = MasterLead.follows(leader: nil)
    private var tenure = MasterTenure()
    private var listener: Listener?
    private var timer: LoopTimer?
    private var connections: [ConnectionID: ControlConnection] = [:]
    /// Connections whose first message has not come yet, oldest first, with the end of our patience.
    private var strangers: [(id: ConnectionID, deadline: Instant)] = []
    private var strangerTimer: LoopTimer?
    private var nextConnection: UInt64 = 1
    private var events: [MasterMachine.Event] = []
    private var isPumping = false
    private let worker = TopologyWorker()
    private var store: (any MasterStore)?

    /// Strangers beyond this number push out the oldest: connections that say nothing cannot use up the descriptors.
    private static let strangerLimit = 256

    /// Binds and begins to serve, where the last master ended that had this journal.
    package init(
        listen address: SocketAddress, timeouts: Timeouts, journal store: (any MasterStore)? = nil,
        credentials: Credentials = .none
    ) throws(SystemError) {
        self.timeouts = timeouts
        self.credentials = credentials
        self.store = store
        self.address = address
        loop = try EventLoop(name: "pccl-master")
        let opened = Completion<Result<SocketAddress, SystemError>>()
        loop.submit { [self] in opened.set(open(address)) }
        switch opened.wait() {
        case .success(let real): self.address = real
        case .failure(let error):
            loop.submit { [self] in tearDown() }
            loop.stop()
            throw error
        }
    }

    /// Ends the master: connections are closed, port and journal are free when this returns. A second call does nothing.
    package func close() {
        let isFirst = isClosed.withLock { closed in
            defer { closed = true }
            return !closed
        }
        guard isFirst else { return }
        loop.submit { [self] in tearDown() }
        loop.stop()
        ended.set(())
    }

    /// Blocks until `close` is done.
    package func awaitEnd() { ended.wait() }

    /// Shows the machine as it is, if this master leads, and its store, to somebody who watches; on the loop's thread, where
    /// all peers wait meanwhile: to be copied from, and left. False, and never called: this master has ended, or is about to.
    package func inspect(_ look: @escaping @Sendable (MasterMachine?, MasterStanding) -> Void) -> Bool {
        loop.submit { [self] in
            // Who was stopped, and is asked first, does not know yet that another leads.
            if machine != nil, !mayAct { stepDown() }
            look(machine, MasterStanding(lead, store))
        }
    }

    // MARK: - on the loop's thread

    private func open(_ address: SocketAddress) -> Result<SocketAddress, SystemError> {
        do {
            let listener = try Listener(
                loop, at: address, onAccept: { [weak self] socket, host in self?.accept(socket, host) })
            self.listener = listener
            timer = LoopTimer(loop) { [weak self] in self?.pump(.tick) }
            strangerTimer = LoopTimer(loop) { [weak self] in self?.dropSilentStrangers() }
            listener.start()
            if let store {
                store.begin(on: loop, at: listener.address) { [weak self] in self?.change(to: $0) }
            } else {
                change(to: .leads(term: nil, nil))
            }
            return .success(listener.address)
        } catch {
            return .failure(error)
        }
    }

    private func tearDown() {
        listener?.close()
        listener = nil
        closeConnections()
        timer?.close()
        timer = nil
        strangerTimer?.close()
        strangerTimer = nil
        worker.stop()
        // The next master may have it, as it may have the port.
        store?.end()
        store = nil
    }

    private func closeConnections() {
        connections.values.forEach { $0.closeNow() }
        connections = [:]
        strangers = []
    }

    // MARK: the lead

    private func change(to lead: MasterLead) {
        switch lead {
        case .leads(let term, let state): begin(term, state)
        case .follows(let leader): follow(leader: leader)
        }
    }

    private func begin(_ term: Int64?, _ state: MasterState?) {
        lead = .leads(term: term, nil)
        tenure = MasterTenure(number: tenure.number + 1, began: state, passedOn: tenure.passedOn)
        if let term { Log.write(.info, "this master leads, in term \(term)") }
        if let state {
            let count = state.groups.reduce(0) { $0 + $1.members.count }
            let place = term == nil ? "the journal" : "etcd"
            Log.write(.info, "the run goes on from \(place): \(count) members are expected to attach again")
            machine = MasterMachine(
                restoring: state, timeouts: timeouts, now: EventLoop.now,
                patience: term == nil ? .milliseconds(0) : timeouts.deadTime)
        } else {
            var random = SystemRandomNumberGenerator()
            machine = MasterMachine(
                run: RunID(high: random.next(), low: random.next()), timeouts: timeouts, now: EventLoop.now)
        }
        pump(.tick)
    }

    /// Whatever was to be sent is not: peers see connections that end, and look for who leads.
    private func follow(leader: String?) {
        if case .follows = lead, let leader { Log.write(.info, "\(leader) leads") }
        lead = .follows(leader: leader)
        machine = nil
        events.removeAll()
        tenure.held.removeAll()
        tenure.isKeeping = false
        closeConnections()
        strangerTimer?.cancel()
        timer?.cancel()
    }

    private var mayAct: Bool { store?.mayAct ?? true }

    /// The store may still hope.
    private func stepDown() {
        follow(leader: nil)
        store?.giveUp("its lease may have ended", holdOff: .milliseconds(0))
    }

    /// Whoever hears nobody may be the one that is cut off. Members that do not hear it look elsewhere, and must find a master
    /// there before this one takes them for lost. If all masters had the lead and none heard anything, they are.
    private func passOnIfDeaf() {
        guard let store, store.isShared, let machine, let heard = machine.lastHeardOfAnybody else { return }
        guard heard + timeouts.deadTime / 2 <= loop.now, tenure.mayPassOn(machine) else { return }
        tenure.passedOn = .some(tenure.began)
        store.giveUp("it hears no peer, and another may", holdOff: timeouts.deadTime * 3)
    }

    private func accept(_ socket: consuming Socket, _ host: SocketAddress.Host) {
        if strangers.count >= MasterSession.strangerLimit { drop(strangers[0].id, "too many strangers") }
        let id = ConnectionID(nextConnection)
        nextConnection += 1
        let isLeading = machine != nil
        let connection = ControlConnection(
            loop, socket, .acceptor(host), credentials, run: machine?.run, greeting: isLeading ? .control : .standby)
        connections[id] = connection
        if strangers.isEmpty { strangerTimer?.fire(at: loop.now + timeouts.dialPatience) }
        strangers.append((id, loop.now + timeouts.dialPatience))
        connection.onGreeted = { [weak self] in
            guard isLeading else { return self?.sendAway(id) ?? () }
            var random = SystemRandomNumberGenerator()
            let secret = PeerSecret(high: random.next(), low: random.next())
            self?.pump(.connected(id, from: host, secret: secret))
        }
        connection.onMessage = { [weak self] bytes in self?.take(bytes, from: id) }
        connection.onClosed = { [weak self] reason in
            guard let self else { return }
            // Who was to be refused is told to whoever looks after this master, too.
            let wasStranger = strangers.contains { $0.id == id }
            let origin = SocketAddress(host, port: 0).hostDescription
            Log.write(wasStranger ? .info : .debug, "a connection from \(origin) ended: \(reason)")
            let mayReturn = !(connections[id]?.wasClosedByPeer ?? true)
            connections[id] = nil
            strangers.removeAll { $0.id == id }
            pump(.closed(id, reason: reason, mayReturn: mayReturn))
        }
        connection.start()
    }

    /// At once, so that a peer asks the next of its masters: the greeting has told it.
    private func sendAway(_ id: ConnectionID) {
        strangers.removeAll { $0.id == id }
        connections.removeValue(forKey: id)?.closeWhenSent()
    }

    private func take(_ bytes: [UInt8], from id: ConnectionID) {
        strangers.removeAll { $0.id == id }
        do {
            pump(.received(id, try ToMaster(bytes)))
        } catch {
            pump(.violated(id, reason: "\(error)"))
        }
    }

    private func drop(_ id: ConnectionID, _ reason: String) {
        strangers.removeAll { $0.id == id }
        connections.removeValue(forKey: id)?.closeNow()
        pump(.closed(id, reason: reason))
    }

    private func dropSilentStrangers() {
        let now = loop.now
        while let oldest = strangers.first, oldest.deadline <= now { drop(oldest.id, "it said nothing") }
        if let oldest = strangers.first { strangerTimer?.fire(at: oldest.deadline) }
    }

    private func pump(_ event: MasterMachine.Event) {
        events.append(event)
        guard !isPumping else { return }
        isPumping = true
        defer { isPumping = false }
        var effects: [MasterMachine.Effect] = []
        while machine != nil, !events.isEmpty {
            machine?.handle(events.removeFirst(), at: loop.now, effects: &effects)
            let due = effects
            effects.removeAll(keepingCapacity: true)
            for effect in due { performInOrder(effect) }
        }
        events.removeAll(keepingCapacity: true)
        if case .tick = event { passOnIfDeaf() }
    }

    /// What follows a state that is not kept yet waits for it, all else goes on meanwhile: to the peers it is as if the network
    /// were slow.
    private func performInOrder(_ effect: MasterMachine.Effect) {
        switch effect {
        case .wake(let instant): timer?.fire(at: instant)
        // It says nothing, and who waits for it would look for another master.
        case .send(_, .heartbeat): perform(effect)
        case .persist, .send, .close, .solve, .improve, .log:
            if tenure.isKeeping { tenure.held.append(effect) } else { perform(effect) }
        }
    }

    private func performHeld() {
        while !tenure.isKeeping, !tenure.held.isEmpty { perform(tenure.held.removeFirst()) }
    }

    private func perform(_ effect: MasterMachine.Effect) {
        guard machine != nil else { return }
        // Also without anything to be kept: another master may have begun to decide.
        guard mayAct else { return stepDown() }
        if case .leads(let term?, _) = lead, tenure.isActToBeTold(at: loop.now) {
            Log.write(.trace, "acts in term \(term), at \(loop.now.nanoseconds) ns")
        }
        switch effect {
        case .persist(let state): keep(state)
        case .send(let id, let message): connections[id]?.send(message.bytes)
        case .close(let id): connections.removeValue(forKey: id)?.closeWhenSent()
        case .solve(let group, let question, let problem, let seed):
            worker.solve(problem, seed: seed) { [weak self, tenure = tenure.number] solution in
                self?.submit(.solved(group, question: question, solution), in: tenure)
            }
        case .improve(let group, let problem, let seed):
            worker.improve(problem, seed: seed) { [weak self, tenure = tenure.number] order in
                self?.submit(.improved(group, order: order), in: tenure)
            }
        case .wake(let instant): timer?.fire(at: instant)
        case .log(let line): Log.write(Log.Level(line.level), line.text)
        }
    }

    private func keep(_ state: MasterState) {
        guard let store else { return }
        // A later one holds all of it, and what stands between them may as well wait for that.
        let latest = tenure.takeLatestState() ?? state
        tenure.isKeeping = true
        store.append(latest) { [weak self, tenure = tenure.number] in
            guard let self, self.tenure.number == tenure else { return }
            self.tenure.isKeeping = false
            performHeld()
        }
    }

    private func submit(_ event: MasterMachine.Event, in tenure: Int) {
        loop.submit { [self] in if self.tenure.number == tenure { pump(event) } }
    }
}
