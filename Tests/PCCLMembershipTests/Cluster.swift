import PCCLBase
import PCCLWire
import Testing

@testable import PCCLMembership

/// Testing has a `Tag` too.
typealias Tag = PCCLBase.Tag

/// A master and some peers, all of them values, with a network between them that a test can hold up, cut and look at.
///
/// Every call settles: messages are delivered, in a fixed order, until nothing moves that is not held. A test may `hold` what
/// goes from one to another and release it later; then two messages cross. Time passes only through `pass`.
///
/// The engine is a few lines: a peer holds a result once all members of the view have entered the operation, unless the
/// test withholds it. Frames of an epoch that a peer has not adopted wait, older ones are dropped, as in the real one.
///
/// With a `grace` members wait for a master that is gone, and attach again: their attempts are made as time passes. What
/// the master would have on disk is kept as bytes.
struct Cluster {
    typealias Name = String
    typealias ConnectionID = MasterMachine.ConnectionID

    /// `master` or a peer's name: the two ends of a channel.
    struct Channel: Hashable {
        var from: Name
        var to: Name
    }

    enum Packet {
        // Of a control connection: whose end has given it up, or has another one by now, hears no more of it.
        case connected(ConnectionID)
        case toMaster(ToMaster, ConnectionID?)
        case toPeer(ToPeer, ConnectionID?)
        case closed(ConnectionID?, String, mayReturn: Bool = false)
        case entered(Epoch, Tag, LaunchNumber, OperationDescriptor)
        case prepared(Epoch, Tag, LaunchNumber)
        case linkUp
        case linkDown(String)

        var epoch: Epoch? {
            switch self {
            case .entered(let epoch, _, _, _), .prepared(let epoch, _, _): epoch
            default: nil
            }
        }

        var connection: ConnectionID? {
            switch self {
            case .connected(let connection): connection
            case .toMaster(_, let connection), .toPeer(_, let connection), .closed(let connection, _, _): connection
            case .entered, .prepared, .linkUp, .linkDown: nil
            }
        }
    }

    struct Running {
        var tag: Tag
        var launch: LaunchNumber
        var descriptor: OperationDescriptor
        var assignment: Assignment
        var entrySentTo: Set<Name> = []
        var bound: Set<PeerID> = []
        var isTold = false
        /// What a test says is final here.
        var final: [ResultPart] = []
        /// Nothing of it can be given to others, not even when it is whole.
        var isWithheld = false
        var resumption: Resumption?
    }

    struct Node {
        var machine: PeerMachine
        /// Nil: it has closed or given up its connection to the master.
        var connection: ConnectionID?
        var id: PeerID?
        /// Its last; with another one it is another peer.
        var registration: Registration?
        var wanted: Set<PeerID> = []
        var epoch = Epoch.none
        var isHalted = true
        var running: [LaunchNumber: Running] = [:]
        var future: [(from: Name, packet: Packet)] = []
        var view: ViewSnapshot?
        /// Inputs restored: launches that ended without success.
        var restored: [LaunchNumber] = []
        /// Its tensors are lent to a synchronisation.
        var isLent = false
        /// What it is to receive, last.
        var fetch: (launch: LaunchNumber, keys: [StateDecision.Key], sources: [PeerID])?
        var launches = 0
    }

    static let timeouts = Timeouts(deadTime: .seconds(5))
    static let run = RunID(high: 0x1122, low: 0x3344)

    let timeouts: Timeouts
    var now = Instant(nanoseconds: 1_000_000_000)
    var master: MasterMachine
    /// The last state that the master has put on disk.
    private var journal: [UInt8] = []
    /// Each master that began without a journal has one of its own until it takes over another.
    private var runs: [RunID] = [Cluster.run]
    var nodes: [Name: Node] = [:]
    /// Answers to calls, in order; outcomes of operations, in order.
    var answers: [Name: [CallAnswer]] = [:]
    var outcomes: [Name: [OperationOutcome]] = [:]
    var logs: [String] = []
    /// Every message that the master sent, for tests that look at the conversation itself.
    var sentByMaster: [(to: Name, message: ToPeer)] = []
    var sentToMaster: [(from: Name, message: ToMaster)] = []
    /// What a peer's links are measured to be; nothing unless a test says so.
    var figures: [Name: [(to: Name, bytesPerSecond: UInt64)]] = [:]
    /// Questions to the master's solver, answered at once unless a test holds them.
    var questions: [(GroupID, question: UInt32, problem: TopologyProblem, seed: UInt64)] = []
    var isSolverHeld = false
    var improvements: [TopologyProblem] = []
    /// What a peer's engine says of its operations, each at every launch; nothing but that all links live, unless a test says so.
    var progress: [Name: [OperationProgress.Member]] = [:]
    /// What each peer's operations wait for, as its callers would be told.
    var waits: [Name: [OperationID: String]] = [:]
    /// Peers whose measurement takes until `finishMeasuring`.
    var measuring: Set<Name> = []
    /// Peers that receive shared state until `finishFetching`; others have it at once.
    var fetching: Set<Name> = []

    private var channels: [(channel: Channel, packet: Packet)] = []
    private var held: Set<Channel> = []
    private var links: Set<Set<Name>> = []
    private var cuts: Set<Set<Name>> = []
    private var withheld: [Name: Set<Tag>] = [:]
    private var dead: Set<Name> = []
    private var frozen: Set<Name> = []
    private var connections: [ConnectionID: Name] = [:]
    private var nextConnection: UInt64 = 1
    private var nextCall: UInt64 = 1
    private var callers: [CallID: Name] = [:]
    private var operationCallers: [OperationID: Name] = [:]
    private var isMasterDead = false

    init(grace: Interval = Cluster.timeouts.masterGrace, stragglerDeadline: Interval = .milliseconds(0)) {
        timeouts = Timeouts(
            deadTime: Cluster.timeouts.deadTime, masterGrace: grace, stragglerDeadline: stragglerDeadline)
        master = MasterMachine(run: Cluster.run, timeouts: timeouts, now: now)
    }

    /// A run whose first view has these members, all in one group.
    init(
        of names: Name..., grace: Interval = Cluster.timeouts.masterGrace,
        stragglerDeadline: Interval = .milliseconds(0)
    ) {
        self.init(grace: grace, stragglerDeadline: stragglerDeadline)
        connect(names[0])
        if names.count > 1 {
            for name in names.dropFirst() { connect(name) }
            updateTopology(names[0])
        }
        for name in names {
            precondition(nodes[name]?.view?.worldSize == names.count, "\(name) is not in a view of all: \(logs)")
        }
        forgetAnswers()
    }

    mutating func forgetAnswers() {
        answers = [:]
        outcomes = [:]
        sentByMaster = []
        sentToMaster = []
    }

    // MARK: what users do

    mutating func connect(_ name: Name, group: UInt32 = 0, ensemble: Ensemble? = nil) {
        if nodes[name] == nil {
            nodes[name] = Node(
                machine: PeerMachine(
                    PeerMachine.Configuration(
                        group: GroupID(group), listenPort: 48150, addresses: [], stripes: 1,
                        ensemble: ensemble, timeouts: timeouts)))
        }
        call(name, .connect)
    }

    mutating func updateTopology(_ names: Name...) { for name in names { call(name, .updateTopology) } }
    mutating func arePeersPending(_ names: Name...) { for name in names { call(name, .arePeersPending) } }
    mutating func optimizeTopology(_ names: Name...) { for name in names { call(name, .optimizeTopology) } }

    mutating func call(_ name: Name, _ call: Call) {
        let id = CallID(nextCall)
        nextCall += 1
        callers[id] = name
        handle(name, .call(id, call))
        settle()
    }

    static let sum = OperationDescriptor(count: 64, type: .float32, operation: .sum, algorithm: .direct)
    static let product = OperationDescriptor(count: 64, type: .float32, operation: .product, algorithm: .direct)

    mutating func reduce(
        _ names: Name..., tag: UInt64 = 1, as descriptor: OperationDescriptor = Cluster.sum,
        onLoss: LossPolicy = .abort
    ) {
        for name in names {
            let id = OperationID(nextCall)
            nextCall += 1
            operationCallers[id] = name
            handle(name, .launch(id, Tag(tag), descriptor, onLoss: onLoss))
            settle()
        }
    }

    mutating func leave(_ name: Name) {
        handle(name, .leave)
        settle()
    }

    // MARK: what the world does

    /// The process dies: its machine closes all connections, or resets them if it had not read everything.
    mutating func kill(_ name: Name, resetsConnections: Bool = false) {
        dead.insert(name)
        nodes[name]?.wanted = []
        // A reset also destroys what had not arrived yet.
        held = held.filter { $0.from != name }
        channels.removeAll { $0.channel.to == name || $0.channel.from == name }
        dropConnection(of: name, reason: "reset", mayReturn: resetsConnections)
        relink(except: nil)
        settle()
    }

    /// The process stands still, or its network is silent: nothing arrives, nothing is sent, no connection is closed.
    mutating func freeze(_ name: Name) { frozen.insert(name) }

    mutating func thaw(_ name: Name) {
        frozen.remove(name)
        settle()
    }

    mutating func killMaster() {
        isMasterDead = true
        for name in nodes.keys.sorted() where !dead.contains(name) {
            channels.removeAll { $0.channel == Channel(from: name, to: "master") }
            channels.append((Channel(from: "master", to: name), .closed(nodes[name]?.connection, "reset")))
        }
        connections = [:]
        settle()
    }

    /// A master takes the place of the one that was killed: with its journal, or without knowing anything.
    mutating func restartMaster(keepingJournal: Bool) {
        precondition(isMasterDead, "the port is taken")
        isMasterDead = false
        if keepingJournal, let state = try? MasterState(journal) {
            master = MasterMachine(restoring: state, timeouts: timeouts, now: now)
        } else {
            precondition(!keepingJournal, "nothing was put on disk, or it cannot be read")
            runs.append(RunID(high: 0x5566, low: UInt64(runs.count)))
            master = MasterMachine(run: runs[runs.count - 1], timeouts: timeouts, now: now)
        }
        settle()
    }

    /// The control connection of this peer is reset: both ends hear of it, what was on its way is lost, and holds end.
    mutating func breakConnection(_ name: Name) {
        guard let connection = nodes[name]?.connection, connections.removeValue(forKey: connection) != nil else {
            Issue.record("\(name) has no connection")
            return
        }
        let ways = [Channel(from: name, to: "master"), Channel(from: "master", to: name)]
        held.subtract(ways)
        channels.removeAll { ways.contains($0.channel) && $0.packet.connection == connection }
        for way in ways { channels.append((way, .closed(connection, "reset", mayReturn: true))) }
        settle()
    }

    /// No connection between the two can be made; one that stands stays. One of them may be the master.
    mutating func separate(_ one: Name, _ other: Name) { cuts.insert([one, other]) }
    mutating func reunite(_ one: Name, _ other: Name) {
        cuts.remove([one, other])
        relink(except: nil)
        settle()
    }

    /// The connection between the two is reset. It is made again at once, unless they are separated.
    mutating func breakLink(_ one: Name, _ other: Name) {
        precondition(links.contains([one, other]), "there is no link")
        unlink([one, other], "reset")
        relink(except: nil)
        settle()
    }

    /// What `from` sends waits until `release`.
    mutating func hold(from: Name, to: Name) { held.insert(Channel(from: from, to: to)) }
    mutating func release(from: Name, to: Name) {
        held.remove(Channel(from: from, to: to))
        settle()
    }
    /// What was held is lost, and nothing is held any more.
    mutating func lose(from: Name, to: Name) {
        precondition(isHeldUp(from: from, to: to), "there is nothing to lose")
        channels.removeAll { $0.channel == Channel(from: from, to: to) }
        release(from: from, to: to)
    }
    mutating func holdEverything(from: Name) {
        for other in Array(nodes.keys) + ["master"] where other != from { hold(from: from, to: other) }
    }
    mutating func releaseEverything() {
        held = []
        settle()
    }

    /// The peer's engine does not get its result until `finishResult`.
    mutating func withholdResult(_ name: Name, tag: UInt64 = 1) { withheld[name, default: []].insert(Tag(tag)) }
    /// What the peer has of results lies where it cannot be given to others.
    mutating func withholdsResults(_ name: Name) {
        for launch in nodes[name]?.running.keys.sorted() ?? [] { nodes[name]?.running[launch]?.isWithheld = true }
    }

    /// So much of the result is final at the peer, whose engine does not have all of it.
    mutating func hasFinal(_ name: Name, _ elements: Range<Int>, worldSize: Int, tag: UInt64 = 1) {
        guard let launch = nodes[name]?.running.values.first(where: { $0.tag == Tag(tag) })?.launch else {
            Issue.record("\(name) reduces nothing with tag \(tag)")
            return
        }
        nodes[name]?.running[launch]?.final.append(ResultPart(elements: elements, worldSize: worldSize))
    }
    mutating func finishResult(_ name: Name, tag: UInt64 = 1) {
        withheld[name]?.remove(Tag(tag))
        tellWhole(name)
        settle()
    }

    /// Time passes in steps of the shortest time-out, and everybody looks at the clock at each.
    mutating func pass(_ intervals: Interval...) {
        let end = intervals.reduce(now) { $0 + $1 }
        while now < end {
            now = min(end, now + Cluster.timeouts.repairGrace)
            if !isMasterDead { handleMaster(.tick) }
            for name in nodes.keys.sorted() where isAwake(name) { handle(name, .tick) }
            settle()
        }
    }

    mutating func releaseSolver() {
        isSolverHeld = false
        answerQuestions()
        settle()
    }

    /// The master's longer search has found this order for the first group.
    mutating func improved(_ order: [PeerID]) {
        handleMaster(.improved(master.groups[0].id, order: order))
        settle()
    }

    private mutating func answerQuestions() {
        while !isSolverHeld, !questions.isEmpty {
            let (group, question, problem, seed) = questions.removeFirst()
            handleMaster(.solved(group, question: question, problem.solved(effort: .quick, seed: seed)))
        }
    }

    mutating func finishMeasuring(_ name: Name) {
        measuring.remove(name)
        measure(name)
        settle()
    }

    mutating func finishFetching(_ name: Name, failure: String? = nil) {
        fetching.remove(name)
        guard let fetch = nodes[name]?.fetch else { return }
        handle(name, .stateFetched(fetch.launch, failure: failure))
        settle()
    }

    private mutating func measure(_ name: Name) {
        let known = (figures[name] ?? []).map { LinkFigure(peer: id($0.to), bytesPerSecond: $0.bytesPerSecond) }
        handle(name, .measured(known))
    }

    /// Delivers a message to the master as if the peer had sent it.
    mutating func forge(_ message: ToMaster, from name: Name) {
        channels.append((Channel(from: name, to: "master"), .toMaster(message, nodes[name]?.connection)))
        settle()
    }
    mutating func forge(_ message: ToPeer, to name: Name) {
        channels.append((Channel(from: "master", to: name), .toPeer(message, nodes[name]?.connection)))
        settle()
    }
    /// Somebody who is none of the peers begins a connection with this. Returns what the master answers.
    mutating func knock(_ message: ToMaster) -> [ToPeer] {
        let connection = newConnection(of: "stranger")
        let said = sentByMaster.count
        handleMaster(connected(connection))
        handleMaster(.received(connection, message))
        settle()
        return sentByMaster[said...].filter { $0.to == "stranger" }.map(\.message)
    }
    mutating func deliver(_ event: PeerMachine.Event, to name: Name) {
        handle(name, event)
        settle()
    }

    // MARK: what a test asks

    func id(_ name: Name) -> PeerID { nodes[name]?.id ?? PeerID(0) }
    func view(_ name: Name) -> [Name] {
        nodes[name]?.machine.view?.members.map { self.name(of: $0) ?? "?" } ?? []
    }
    func epoch(_ name: Name) -> UInt32 { nodes[name]?.machine.view?.epoch.value ?? 0 }
    func isLinked(_ one: Name, _ other: Name) -> Bool { links.contains([one, other]) }
    func inFlight(_ name: Name) -> Int { nodes[name]?.machine.operationsInFlight ?? 0 }
    func isHeldUp(from: Name, to: Name) -> Bool {
        channels.contains { $0.channel == Channel(from: from, to: to) }
    }
    var phase: MasterGroup.Phase { master.groups[0].phase }

    // MARK: the network

    private func isAwake(_ name: Name) -> Bool { !dead.contains(name) && !frozen.contains(name) }

    private func name(of id: PeerID) -> Name? { nodes.first { $0.value.id == id }?.key }

    private func canMove(_ channel: Channel) -> Bool {
        !held.contains(channel) && !frozen.contains(channel.to) && !frozen.contains(channel.from)
            && !(channel.to == "master" && isMasterDead)
    }

    private mutating func settle() {
        // Far above what any test needs: messages that beget each other for ever are a failure, not a hang.
        for _ in 0..<20_000 {
            guard let index = channels.firstIndex(where: { canMove($0.channel) }) else { return }
            let (channel, packet) = channels.remove(at: index)
            arrive(packet, channel)
        }
        Issue.record("the cluster never comes to rest")
    }

    private mutating func arrive(_ packet: Packet, _ channel: Channel) {
        if channel.to == "master" {
            switch packet {
            case .connected(let connection): handleMaster(connected(connection))
            case .toMaster(let message, let connection):
                guard let connection else { return }
                sentToMaster.append((channel.from, message))
                handleMaster(.received(connection, message))
            case .closed(let connection, let reason, let mayReturn):
                guard let connection else { return }
                handleMaster(.closed(connection, reason: reason, mayReturn: mayReturn))
            case .toPeer, .entered, .prepared, .linkUp, .linkDown: preconditionFailure("not for a master")
            }
            return
        }
        let name = channel.to
        guard !dead.contains(name), let node = nodes[name] else { return }
        if let epoch = packet.epoch {
            if epoch < node.epoch || (epoch == node.epoch && node.isHalted) { return }
            if epoch > node.epoch {
                nodes[name]?.future.append((channel.from, packet))
                return
            }
        }
        let from = id(channel.from)
        switch packet {
        case .toPeer(let message, let connection):
            guard connection == node.connection else { return }
            if case .welcome(let id, _, _, _, _, _) = message { nodes[name]?.id = id }
            handle(name, .fromMaster(message))
        case .closed(let connection, let reason, _):
            guard connection == node.connection else { return }
            handle(name, .masterClosed(reason))
        case .linkUp: handle(name, .linkUp(from))
        case .linkDown(let reason): handle(name, .linkDown(from, reason))
        case .entered(let epoch, let tag, let launch, let descriptor):
            handle(name, .entered(from, epoch, tag, launch, descriptor))
        case .prepared(let epoch, let tag, let launch): handle(name, .prepared(from, epoch, tag, launch))
        case .connected, .toMaster: preconditionFailure("not for a peer")
        }
    }

    private mutating func handleMaster(_ event: MasterMachine.Event) {
        guard !isMasterDead else { return }
        var effects: [MasterMachine.Effect] = []
        master.handle(event, at: now, effects: &effects)
        if let broken = master.brokenInvariant() { Issue.record("the master: \(broken)") }
        for effect in effects {
            switch effect {
            case .persist(let state): journal = state.bytes
            case .send(let connection, let message):
                guard let name = connections[connection] else { continue }
                sentByMaster.append((name, message))
                channels.append((Channel(from: "master", to: name), .toPeer(message, connection)))
            case .close(let connection):
                guard let name = connections.removeValue(forKey: connection) else { continue }
                channels.append((Channel(from: "master", to: name), .closed(connection, "the master closed it")))
            case .solve(let group, let question, let problem, let seed):
                questions.append((group, question, problem, seed))
            case .improve(_, let problem, _): improvements.append(problem)
            case .wake: break
            case .log(let line): logs.append("master: \(line.text)")
            }
        }
        answerQuestions()
    }

    private mutating func dropConnection(of name: Name, reason: String, mayReturn: Bool) {
        guard let connection = nodes[name]?.connection else { return }
        nodes[name]?.connection = nil
        guard connections.removeValue(forKey: connection) != nil else { return }
        channels.append((Channel(from: name, to: "master"), .closed(connection, reason, mayReturn: mayReturn)))
    }

    private mutating func newConnection(of name: Name) -> ConnectionID {
        let connection = ConnectionID(nextConnection)
        nextConnection += 1
        connections[connection] = name
        return connection
    }

    /// The secret is another one each time, in all of its bits that a master draws from.
    private func connected(_ connection: ConnectionID) -> MasterMachine.Event {
        .connected(
            connection, from: .v4(0x7f00_0001),
            secret: PeerSecret(high: 5, low: connection.value << 40 | connection.value))
    }

    private mutating func handle(_ name: Name, _ event: PeerMachine.Event) {
        guard let node = nodes[name] else { return }
        var machine = node.machine
        var effects: [PeerMachine.Effect] = []
        machine.handle(event, at: now, effects: &effects)
        nodes[name]?.machine = machine
        for effect in effects { perform(effect, name) }
        tellWhole(name)
    }

    private mutating func perform(_ effect: PeerMachine.Effect, _ name: Name) {
        switch effect {
        case .dialMaster:
            if isMasterDead || cuts.contains([name, "master"]) { return handle(name, .masterUnreachable("refused")) }
            let connection = newConnection(of: name)
            nodes[name]?.connection = connection
            channels.append((Channel(from: name, to: "master"), .connected(connection)))
            handle(name, .masterConnected)
        case .closeMaster: dropConnection(of: name, reason: "closed by the peer", mayReturn: false)
        case .abandonMaster: dropConnection(of: name, reason: "given up by the peer", mayReturn: true)
        case .sendToMaster(let message):
            channels.append((Channel(from: name, to: "master"), .toMaster(message, nodes[name]?.connection)))
        case .wantLinks(let registration, let members):
            #expect(runs.contains(registration.run))
            if let before = nodes[name]?.registration, before != registration {
                nodes[name]?.epoch = .none
                nodes[name]?.future = []
            }
            nodes[name]?.registration = registration
            nodes[name]?.wanted = Set(members.map(\.id)).subtracting([registration.peer])
            relink(except: name)
        case .adopt(let assignment):
            guard let node = nodes[name] else { return }
            #expect(assignment.epoch > node.epoch || node.running.isEmpty, "epochs only grow")
            nodes[name]?.epoch = assignment.epoch
            nodes[name]?.isHalted = false
            nodes[name]?.future = []
            for (from, packet) in node.future { channels.append((Channel(from: from, to: name), packet)) }
        case .halt:
            nodes[name]?.isHalted = true
        case .listFinal(let launches, let epoch):
            var final: [LaunchNumber: [ResultPart]] = [:]
            for launch in launches {
                guard let running = nodes[name]?.running[launch], !running.isTold || running.isWithheld else {
                    continue
                }
                final[launch] = running.final
            }
            handle(name, .final(final, epoch))
        case .observe(let launches):
            let others = nodes[name]?.machine.view?.others ?? []
            let members = progress[name] ?? others.map { OperationProgress.Member(peer: $0, silence: .milliseconds(0)) }
            handle(
                name,
                .observed(
                    Dictionary(uniqueKeysWithValues: launches.map { ($0, OperationProgress(members: members)) })))
        case .noteStuck(let id, let text): waits[name, default: [:]][id] = text
        case .measureLinks:
            if !measuring.contains(name) { measure(name) }
        case .start(_, let tag, let launch, let descriptor, let assignment):
            #expect(nodes[name]?.isHalted == false, "nothing starts while everything stands still")
            nodes[name]?.running[launch] = Running(
                tag: tag, launch: launch, descriptor: descriptor, assignment: assignment)
            for other in assignment.others { sendEntry(name, launch, to: other) }
        case .resume(_, let tag, let from, let launch, let descriptor, let assignment, let resumption):
            #expect(nodes[name]?.running.removeValue(forKey: from) != nil, "what goes on was halted")
            nodes[name]?.running[launch] = Running(
                tag: tag, launch: launch, descriptor: descriptor, assignment: assignment, resumption: resumption)
            for other in assignment.others { sendEntry(name, launch, to: other) }
        case .bind(let launch, let peer, _):
            nodes[name]?.running[launch]?.bound.insert(peer)
        case .ignore: break
        case .finish(_, let launch, let succeeded):
            #expect(nodes[name]?.running.removeValue(forKey: launch) != nil, "each launch is finished once")
            if !succeeded { nodes[name]?.restored.append(launch) }
        case .announcePrepared(let tag, let launch, let epoch, let peers):
            for peer in peers {
                guard let other = self.name(of: peer), links.contains([name, other]) else { continue }
                channels.append((Channel(from: name, to: other), .prepared(epoch, tag, launch)))
            }
        case .lendState:
            #expect(nodes[name]?.isLent == false, "one synchronisation at a time")
            nodes[name]?.isLent = true
        case .fetchState(let launch, let keys, let sources):
            #expect(nodes[name]?.isLent == true, "only what was lent is written to")
            nodes[name]?.fetch = (launch, keys, sources)
            if !fetching.contains(name) { handle(name, .stateFetched(launch, failure: nil)) }
        case .returnState:
            nodes[name]?.isLent = false
            nodes[name]?.fetch = nil
        case .complete(let id, let outcome):
            guard let caller = operationCallers.removeValue(forKey: id) else {
                Issue.record("an operation of \(name) ended twice")
                return
            }
            #expect(caller == name)
            outcomes[name, default: []].append(outcome)
        case .answer(let id, let answer):
            guard let caller = callers.removeValue(forKey: id) else {
                Issue.record("a call of \(name) was answered twice")
                return
            }
            #expect(caller == name)
            answers[name, default: []].append(answer)
        case .view(let view): nodes[name]?.view = view
        case .wake: break
        case .log(let line): logs.append("\(name): \(line.text)")
        }
    }

    private mutating func sendEntry(_ name: Name, _ launch: LaunchNumber, to peer: PeerID) {
        guard let other = self.name(of: peer), links.contains([name, other]),
            let running = nodes[name]?.running[launch], !running.entrySentTo.contains(other),
            running.assignment.members.contains(peer)
        else { return }
        nodes[name]?.running[launch]?.entrySentTo.insert(other)
        channels.append(
            (
                Channel(from: name, to: other),
                .entered(running.assignment.epoch, running.tag, launch, running.descriptor)
            ))
    }

    private mutating func tellWhole(_ name: Name) {
        guard let node = nodes[name], !node.isHalted, !dead.contains(name) else { return }
        for running in node.running.values.sorted(by: { $0.launch < $1.launch })
        where !running.isTold && running.bound.isSuperset(of: running.assignment.others)
            && withheld[name]?.contains(running.tag) != true
        {
            nodes[name]?.running[running.launch]?.isTold = true
            handle(name, .resultWhole(running.tag, running.launch))
        }
    }

    /// Makes the links that both ends want and drops those that one does not want any more. Who dropped it is not told.
    private mutating func relink(except dropper: Name?) {
        let names = nodes.keys.sorted()
        for one in names {
            for other in names where one < other {
                let pair: Set = [one, other]
                let isWanted =
                    nodes[one]?.wanted.contains(id(other)) == true && nodes[other]?.wanted.contains(id(one)) == true
                if links.contains(pair), !isWanted {
                    unlink(pair, "closed by the other side", except: dropper)
                } else if !links.contains(pair), isWanted, !cuts.contains(pair) {
                    links.insert(pair)
                    channels.append((Channel(from: one, to: other), .linkUp))
                    channels.append((Channel(from: other, to: one), .linkUp))
                    for (from, to) in [(one, other), (other, one)] {
                        for launch in nodes[from]?.running.keys.sorted() ?? [] { sendEntry(from, launch, to: id(to)) }
                    }
                }
            }
        }
    }

    private mutating func unlink(_ pair: Set<Name>, _ reason: String, except dropper: Name? = nil) {
        links.remove(pair)
        // What was on its way is lost with the connection.
        channels.removeAll { pair == [$0.channel.from, $0.channel.to] && $0.packet.epoch != nil }
        for name in pair.sorted() where name != dropper && !dead.contains(name) {
            let other = pair.subtracting([name]).first ?? ""
            for launch in nodes[name]?.running.keys.sorted() ?? [] {
                // An entry goes out once per operation, as in the engine: a new link does not repeat it.
                nodes[name]?.running[launch]?.entrySentTo.insert(other)
            }
            channels.append((Channel(from: other, to: name), .linkDown(reason)))
        }
    }
}
