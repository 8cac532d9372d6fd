import PCCLBase
import PCCLMembership
import PCCLWire

/// A master, and peers that do what the input says: some of them what an honest one would, others anything.
struct MasterUnderFuzz {
    private struct Connection {
        let id: MasterMachine.ConnectionID
        var isOpen = true
        /// What the master has said here and nobody has answered.
        var unanswered: [ToPeer] = []
        var identity: Identity?
    }
    private struct Identity {
        var peer: PeerID
        var run: RunID
        var secret: PeerSecret
        var hello: Hello
        var epoch = Epoch.none
        var members: [Member] = []
        var arrangement = Arrangement.plain
    }
    private struct Question {
        var group: GroupID
        var number: UInt32
        var problem: TopologyProblem
    }

    private static let timeouts = Timeouts(
        deadTime: .seconds(5), masterGrace: .seconds(30), stragglerDeadline: .seconds(60))

    private var input: FuzzInput
    private var master: MasterMachine
    private var now = Instant(nanoseconds: 1_000_000_000)
    private var connections: [Connection] = []
    private var nextConnection: UInt64 = 1
    private var questions: [Question] = []
    private var persisted: MasterState?
    /// Of peers whose connections are gone.
    private var identities: [Identity] = []

    static func check(_ bytes: [UInt8]) throws {
        var fuzz = MasterUnderFuzz(bytes)
        // Long inputs find nothing that short ones do not, and are slow.
        var events = 0
        while !fuzz.input.isEmpty, events < 400 {
            try fuzz.step()
            events += 1
        }
    }

    private init(_ bytes: [UInt8]) {
        input = FuzzInput(bytes)
        master = MasterMachine(run: RunID(high: 1, low: 2), timeouts: MasterUnderFuzz.timeouts, now: now)
    }

    /// The numbers of events, which seeds are written with.
    enum Step: UInt8, CaseIterable {
        case connect, honest, message, hello, vote, close, tick, solve, attach, restart, violate, improve
    }

    private mutating func step() throws {
        switch Step.allCases[input.below(Step.allCases.count)] {
        case .connect: try connect()
        case .honest: try answerHonestly()
        case .message:
            guard let c = connection() else { return }
            let count = input.number16() & 0x3ff
            do {
                try receive(c, try ToMaster(input.take(count)))
            } catch let error as WireError {
                try handle(.violated(connections[c].id, reason: error.description))
            }
        case .hello:
            guard let c = connection() else { return }
            // The fourth kind of the first byte comes with an ensemble.
            let choice = input.below(12)
            let ensemble = choice < 3 ? nil : Ensemble(id: UInt64(choice / 6), size: 2)
            try receive(
                c,
                .hello(
                    Hello(
                        group: GroupID(UInt32(choice % 3)), listenPort: 1, addresses: [], stripes: 1,
                        ensemble: ensemble)))
        case .vote:
            guard let c = connection() else { return }
            try receive(c, vote())
        case .close:
            guard let c = connection() else { return }
            end(c)
            try handle(.closed(connections[c].id, reason: "closed", mayReturn: input.flag()))
        case .tick:
            now = now + Interval(nanoseconds: 1 << UInt64(input.below(38)))
            try handle(.tick)
        case .solve:
            guard let question = input.element(of: questions) else { return }
            try handle(.solved(question.group, question: question.number, solution(question)))
        case .improve:
            guard let question = input.element(of: questions) else { return }
            try handle(.improved(question.group, order: question.problem.members.reversed()))
        case .attach:
            guard let identity = input.element(of: identities) else { return }
            try connect()
            try receive(connections.count - 1, .attach(attachment(identity)))
        case .restart: try restart()
        case .violate:
            guard let c = connection() else { return }
            try handle(.violated(connections[c].id, reason: "fuzz"))
        }
    }

    private mutating func connection() -> Int? { input.element(of: Array(connections.indices)) }

    private mutating func connect() throws {
        guard connections.count < 12 else { return }
        let id = MasterMachine.ConnectionID(nextConnection)
        nextConnection += 1
        connections.append(Connection(id: id))
        try handle(
            .connected(
                id, from: .v4(0x7f00_0001), secret: PeerSecret(high: id.value, low: id.value << UInt64(input.below(64)))
            ))
    }

    private mutating func receive(_ c: Int, _ message: ToMaster) throws {
        if case .hello(let hello) = message, connections[c].identity == nil {
            connections[c].identity = Identity(
                peer: PeerID(0), run: RunID(high: 0, low: 0), secret: PeerSecret(high: 0, low: 0), hello: hello)
        }
        try handle(.received(connections[c].id, message))
    }

    private mutating func vote() -> ToMaster {
        switch input.below(6) {
        case 0, 1: .voteJoin
        case 2: .votePending
        case 3: .voteOptimize(figures: figures())
        case 4: .offerState(Seeds.offer(revision: UInt64(input.below(4)), content: UInt64(input.below(3))))
        default: .leave
        }
    }

    private mutating func figures() -> [LinkFigure] {
        (0..<input.below(5)).map { _ in
            LinkFigure(
                peer: PeerID(UInt64(input.below(8))), bytesPerSecond: 1 << UInt64(input.below(64)),
                latencyNanoseconds: 1 << UInt64(input.below(64)))
        }
    }

    private mutating func solution(_ question: Question) -> TopologySolution {
        switch input.below(4) {
        case 0: question.problem.solved(effort: .quick, seed: 1)
        case 1: TopologySolution(members: question.problem.members, arrangement: .plain)
        default:
            TopologySolution(
                members: question.problem.members.reversed(),
                arrangement: Arrangement(shares: question.problem.members.map { _ in 5 }))
        }
    }

    /// To the oldest question of the master on some connection.
    private mutating func answerHonestly() throws {
        guard let c = connection(), !connections[c].unanswered.isEmpty else { return }
        switch connections[c].unanswered.removeFirst() {
        case .propose(let epoch, let members):
            let other = input.element(of: members.map(\.id)).flatMap { input.below(8) == 7 ? $0 : nil }
            try receive(c, other.map { .cannotReach(epoch: epoch, peers: [$0]) } ?? .linked(epoch: epoch))
        case .flush(let epoch): try receive(c, .flushReport(epoch: epoch, operations: reports(), failed: []))
        case .receiveState(let decision):
            try receive(c, .stateReceived(session: decision.session, failure: input.below(4) == 3 ? "lost" : nil))
        case .view(let epoch, let members, _, let arrangement),
            .verdict(let epoch, let members, _, let arrangement, _, _):
            connections[c].identity?.epoch = epoch
            connections[c].identity?.members = members
            connections[c].identity?.arrangement = arrangement
        case .repeatOffer: try receive(c, .offerState(Seeds.offer(revision: 1, content: UInt64(input.below(3)))))
        default: break
        }
    }

    private mutating func reports() -> [OperationReport] {
        (0..<input.below(4)).map { i in
            let choices = input.byte()
            let end = 1 + input.below(8)
            return OperationReport(
                tag: Tag(UInt64(choices & 3)), launch: LaunchNumber(UInt32(i + 1)),
                state: choices & 4 == 0 ? .inProgress : .prepared,
                known: choices & 8 == 0
                    ? []
                    : [KnownLaunch(peer: PeerID(UInt64(input.below(6))), launch: LaunchNumber(UInt32(input.below(4))))],
                elementCount: 8, onLoss: LossPolicy(rawValue: (choices >> 4) % 3) ?? .abort,
                resumption: UInt64(input.below(3)),
                final: choices & 0x40 == 0 ? [] : [ResultPart(elements: end - 1..<end, worldSize: 1 + input.below(3))])
        }
    }

    private mutating func attachment(_ identity: Identity) -> Attachment {
        let choices = input.byte()
        var (members, arrangement) = (identity.members, identity.arrangement)
        if choices & 16 != 0 { members += members.prefix(1) }
        if choices & 32 != 0 { arrangement.shares = [1] }
        if choices & 64 != 0 { arrangement.sites = [0, 1, 0, 1] }
        let view = HeldView(
            epoch: identity.epoch, highestEpoch: Epoch(identity.epoch.value + UInt32(choices & 1)),
            members: members, arrangement: arrangement, answers: UInt32(input.below(3)),
            lastAnswer: JointAnswer(rawValue: UInt8(input.below(7))), call: JointCall(rawValue: UInt8(input.below(5))),
            figures: [], revision: choices & 2 == 0 ? nil : 3, isHalted: choices & 4 != 0,
            needsRepair: choices & 8 != 0)
        return Attachment(
            run: identity.run, peer: identity.peer, secret: identity.secret, hello: identity.hello,
            view: identity.epoch == .none ? nil : view)
    }

    /// With what it had persisted, or without.
    private mutating func restart() throws {
        for c in connections.indices where connections[c].isOpen { end(c) }
        connections = []
        questions = []
        let run = RunID(high: 3, low: nextConnection)
        if input.flag(), let persisted {
            master = MasterMachine(restoring: persisted, timeouts: MasterUnderFuzz.timeouts, now: now)
        } else {
            master = MasterMachine(run: run, timeouts: MasterUnderFuzz.timeouts, now: now)
            persisted = nil
        }
        try checkInvariant(nil)
    }

    private mutating func end(_ c: Int) {
        connections[c].isOpen = false
        if let identity = connections[c].identity { identities.append(identity) }
        if identities.count > 12 { identities.removeFirst() }
    }

    // MARK: what comes of it

    private mutating func handle(_ event: MasterMachine.Event) throws {
        var effects: [MasterMachine.Effect] = []
        EventLog.say("\(now.nanoseconds / 1_000_000) ms: \(event)")
        master.handle(event, at: now, effects: &effects)
        for effect in effects { EventLog.say("    \(effect)") }
        try checkInvariant(event)
        for effect in effects {
            switch effect {
            case .persist(let state):
                try expect(try MasterState(state.bytes) == state, "\(state) does not survive its journal")
                persisted = state
            case .send(let id, let message): try heard(message, id)
            case .close(let id):
                guard let c = connections.firstIndex(where: { $0.id == id }) else { continue }
                end(c)
                connections.remove(at: c)
            case .solve(let group, let number, let problem, _):
                questions.append(Question(group: group, number: number, problem: problem))
            case .improve, .wake, .log: break
            }
        }
    }

    private func checkInvariant(_ event: MasterMachine.Event?) throws(FuzzFinding) {
        guard let broken = master.brokenInvariant() else { return }
        throw FuzzFinding("after \(event.map { "\($0)" } ?? "a restart"): \(broken)")
    }

    private mutating func heard(_ message: ToPeer, _ id: MasterMachine.ConnectionID) throws {
        try expect(try ToPeer(message.bytes) == message, "\(message) is read as something else")
        guard let c = connections.firstIndex(where: { $0.id == id }) else { return }
        if case .welcome(let peer, let run, let secret, _, _, _) = message {
            let hello =
                connections[c].identity?.hello
                ?? Hello(group: GroupID(0), listenPort: 1, addresses: [], stripes: 1)
            connections[c].identity = Identity(peer: peer, run: run, secret: secret, hello: hello)
        }
        connections[c].unanswered.append(message)
        if connections[c].unanswered.count > 16 { connections[c].unanswered.removeFirst() }
    }
}
