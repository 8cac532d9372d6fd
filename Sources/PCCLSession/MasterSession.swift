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
    private var machine: MasterMachine
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
    private var journal: MasterJournal?

    /// Strangers beyond this number push out the oldest: connections that say nothing cannot use up the descriptors.
    private static let strangerLimit = 256

    /// Binds and begins to serve, where the last master ended that had this journal.
    package init(
        listen address: SocketAddress, timeouts: Timeouts, journal: MasterJournal? = nil,
        credentials: Credentials = .none
    ) throws(SystemError) {
        self.timeouts = timeouts
        self.credentials = credentials
        self.journal = journal
        self.address = address
        loop = try EventLoop(name: "pccl-master")
        if let state = journal?.restored {
            let count = state.groups.reduce(0) { $0 + $1.members.count }
            Log.write(.info, "the run goes on from the journal: \(count) members are expected to attach again")
            machine = MasterMachine(restoring: state, timeouts: timeouts, now: EventLoop.now)
        } else {
            var random = SystemRandomNumberGenerator()
            machine = MasterMachine(
                run: RunID(high: random.next(), low: random.next()), timeouts: timeouts, now: EventLoop.now)
        }
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

    /// Shows the machine as it is, and its journal, to somebody who watches; on the loop's thread, where all peers wait
    /// meanwhile: to be copied from, and left. False, and never called: this master has ended, or is about to.
    package func inspect(_ look: @escaping @Sendable (MasterMachine, MasterJournal.Figures?) -> Void) -> Bool {
        loop.submit { [self] in look(machine, journal?.figures) }
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
            pump(.tick)
            return .success(listener.address)
        } catch {
            return .failure(error)
        }
    }

    private func tearDown() {
        listener?.close()
        listener = nil
        connections.values.forEach { $0.closeNow() }
        connections = [:]
        strangers = []
        timer?.close()
        timer = nil
        strangerTimer?.close()
        strangerTimer = nil
        worker.stop()
        // The next master may have it, as it may have the port.
        journal = nil
    }

    private func accept(_ socket: consuming Socket, _ host: SocketAddress.Host) {
        if strangers.count >= MasterSession.strangerLimit { drop(strangers[0].id, "too many strangers") }
        let id = ConnectionID(nextConnection)
        nextConnection += 1
        let connection = ControlConnection(loop, socket, .acceptor(host), credentials, run: machine.run)
        connections[id] = connection
        if strangers.isEmpty { strangerTimer?.fire(at: loop.now + timeouts.dialPatience) }
        strangers.append((id, loop.now + timeouts.dialPatience))
        connection.onGreeted = { [weak self] in
            var random = SystemRandomNumberGenerator()
            let secret = PeerSecret(high: random.next(), low: random.next())
            self?.pump(.connected(id, from: host, secret: secret))
        }
        connection.onMessage = { [weak self] bytes in self?.take(bytes, from: id) }
        connection.onClosed = { [weak self] reason in
            guard let self else { return }
            // Who was to be refused is told to whoever looks after this master, too.
            let wasStranger = strangers.contains { $0.id == id }
            Log.write(wasStranger ? .info : .debug, "a connection from \(host) ended: \(reason)")
            let mayReturn = !(connections[id]?.wasClosedByPeer ?? true)
            connections[id] = nil
            strangers.removeAll { $0.id == id }
            pump(.closed(id, reason: reason, mayReturn: mayReturn))
        }
        connection.start()
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
        var next = 0
        while next < events.count {
            machine.handle(events[next], at: loop.now, effects: &effects)
            next += 1
            for effect in effects { perform(effect) }
            effects.removeAll(keepingCapacity: true)
        }
        events.removeAll(keepingCapacity: true)
    }

    private func perform(_ effect: MasterMachine.Effect) {
        switch effect {
        case .persist(let state): journal?.append(state)
        case .send(let id, let message): connections[id]?.send(message.bytes)
        case .close(let id): connections.removeValue(forKey: id)?.closeWhenSent()
        case .solve(let group, let question, let problem, let seed):
            worker.solve(problem, seed: seed) { [weak self] solution in
                guard let self else { return }
                loop.submit { self.pump(.solved(group, question: question, solution)) }
            }
        case .improve(let group, let problem, let seed):
            worker.improve(problem, seed: seed) { [weak self] order in
                guard let self else { return }
                loop.submit { self.pump(.improved(group, order: order)) }
            }
        case .wake(let instant): timer?.fire(at: instant)
        case .log(let line): Log.write(Log.Level(line.level), line.text)
        }
    }
}
