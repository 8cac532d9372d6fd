import PCCLBase
import PCCLMembership
import PCCLWire

/// A peer, whose master and fellow members do what the input says, while its engine keeps to what it has promised.
struct PeerUnderFuzz {
    private static let me = PeerID(3)
    private static let run = RunID(high: 1, low: 2)
    private static let timeouts = Timeouts(deadTime: .seconds(5), masterGrace: .seconds(30))

    private var input: FuzzInput
    private var peer: PeerMachine
    private var now = Instant(nanoseconds: 1_000_000_000)
    private var nextCall: UInt64 = 1
    private var nextOperation: UInt64 = 1
    /// The last epoch that an honest master has named.
    private var epoch: UInt32 = 0
    private var isFlushing = false
    /// What the engine works on.
    private var started: [(tag: Tag, launch: LaunchNumber)] = []
    private var finals: [([LaunchNumber], Epoch)] = []
    private var fetches: [LaunchNumber] = []
    /// The last question how far operations have come.
    private var looks: [[LaunchNumber]] = []
    private var lastReport: [OperationReport] = []

    static func check(_ bytes: [UInt8]) throws {
        var fuzz = PeerUnderFuzz(bytes)
        var events = 0
        while !fuzz.input.isEmpty, events < 400 {
            try fuzz.step()
            events += 1
        }
    }

    private init(_ bytes: [UInt8]) {
        input = FuzzInput(bytes)
        peer = PeerMachine(
            PeerMachine.Configuration(
                group: GroupID(0), listenPort: 1, addresses: [], stripes: 1, timeouts: PeerUnderFuzz.timeouts))
    }

    /// The numbers of events, which seeds are written with.
    enum Step: UInt8, CaseIterable {
        case call, masterConnected, honestMaster, message, launch, linkUp, linkDown, entered, prepared, whole, engine
        case tick, masterLost, outOfMemory, leave
    }

    private mutating func step() throws {
        switch Step.allCases[input.below(Step.allCases.count)] {
        case .call:
            nextCall += 1
            try handle(.call(CallID(nextCall), call()))
        case .masterConnected: try handle(.masterConnected)
        case .honestMaster: try handle(.fromMaster(honest()))
        case .message:
            let count = input.number16() & 0x3ff
            do {
                try handle(.fromMaster(try ToPeer(input.take(count))))
            } catch let error as WireError {
                try handle(.masterClosed(error.description))
            }
        case .launch:
            nextOperation += 1
            let policy = LossPolicy(rawValue: UInt8(input.below(3))) ?? .abort
            try handle(.launch(OperationID(nextOperation), tag(), descriptor(), onLoss: policy))
        case .linkUp: try handle(.linkUp(other()))
        case .linkDown: try handle(.linkDown(other(), "fuzz"))
        case .entered: try handle(.entered(other(), remoteEpoch(), tag(), launch(), descriptor()))
        case .prepared: try handle(.prepared(other(), remoteEpoch(), tag(), launch()))
        case .whole:
            guard let (tag, launch) = input.element(of: started) else { return }
            try handle(.resultWhole(tag, launch))
        case .engine: try answerFromEngine()
        case .tick:
            now = now + Interval(nanoseconds: 1 << UInt64(input.below(38)))
            try handle(.tick)
        case .masterLost: try handle(input.flag() ? .masterClosed("fuzz") : .masterUnreachable("fuzz"))
        case .outOfMemory: try handle(.outOfMemory("fuzz"))
        case .leave: if input.below(8) == 7 { try handle(.leave) }
        }
    }

    // MARK: choices

    private mutating func call() -> Call {
        switch input.below(5) {
        case 0: .connect
        case 1: .updateTopology
        case 2: .arePeersPending
        case 3: .optimizeTopology
        default: .synchronizeState(Seeds.offer(revision: UInt64(input.below(4)), content: UInt64(input.below(3))))
        }
    }
    private mutating func other() -> PeerID { PeerID(UInt64(1 + input.below(6))) }
    private mutating func tag() -> Tag { Tag(UInt64(input.below(4))) }
    private mutating func launch() -> LaunchNumber { LaunchNumber(UInt32(1 + input.below(8))) }
    private mutating func remoteEpoch() -> Epoch {
        input.below(4) < 3 ? peer.view?.epoch ?? .none : Epoch(UInt32(input.below(8)))
    }
    /// Callers check that a buffer is not larger than memory; others send any count.
    private mutating func descriptor() -> OperationDescriptor {
        OperationDescriptor(
            count: UInt64(8 + input.below(2)), type: .float32, operation: .sum, algorithm: .direct)
    }

    private mutating func members() -> [Member] {
        let others = (0..<input.below(5)).map { _ in other() }.filter { $0 != PeerUnderFuzz.me }
        let ids = Set(others).sorted() + (input.below(8) == 7 ? [] : [PeerUnderFuzz.me])
        return ids.map { Member(id: $0, addresses: [.loopback(port: 1)], stripes: 1) }
    }

    /// What a master would say, most of the time when it would say it.
    private mutating func honest() -> ToPeer {
        let world = WorldCounts(globalWorldSize: 2, groupCount: 1, largestGroupWorldSize: 2)
        let next = Epoch(epoch &+ 1)
        switch input.below(14) {
        case 0:
            return .welcome(
                peer: PeerUnderFuzz.me, run: PeerUnderFuzz.run, secret: PeerSecret(high: 1, low: 1),
                deadTimeMilliseconds: UInt32(input.number16()), masterGraceMilliseconds: 30_000)
        case 1: return .propose(epoch: next, members: members())
        case 2:
            epoch &+= 1
            return .view(epoch: next, members: members(), world: world)
        case 3:
            epoch &+= 1
            return .flush(epoch: next)
        case 4: return verdict(world)
        case 5: return .joinUnchanged(world: world)
        case 6: return .pendingAnswer(arePending: input.flag())
        case 7: return .optimizeUnchanged
        case 8: return .attached(world: world)
        case 9: return .repeatOffer
        case 10:
            let keys = (0..<input.below(3)).map {
                StateDecision.Key(entry: $0, hash: ContentHash(high: 0, low: UInt64(input.below(3))))
            }
            return .receiveState(StateDecision(session: 1, revision: 5, sources: [other()], keys: keys))
        case 11: return .stateSynchronized(revision: input.flag() ? 5 : nil)
        case 12: return .callRefused(reason: "fuzz")
        default: return .turnedAway(reason: "fuzz")
        }
    }

    private mutating func verdict(_ world: WorldCounts) -> ToPeer {
        let members = members()
        let operations = lastReport.map { report in
            let outcome = OperationVerdict.Outcome(rawValue: UInt8(input.below(6))) ?? .abort
            let kept =
                input.flag()
                ? [KeptPart(ResultPart(elements: 0..<1 + input.below(9), worldSize: 2), holders: [input.below(2)])] : []
            return OperationVerdict(
                tag: report.tag, launch: report.launch, outcome: outcome,
                resumption: outcome == .resume ? Resumption(number: UInt64(input.below(3)), kept: kept) : nil)
        }
        return .verdict(
            epoch: Epoch(epoch), members: members, world: world, operations: operations,
            missed: input.flag() ? [FailedCalls(tag: tag(), count: UInt32(input.below(3)))] : [])
    }

    private mutating func answerFromEngine() throws {
        if peer.isMeasuring { return try handle(.measured([LinkFigure(peer: other(), bytesPerSecond: 1)])) }
        if !finals.isEmpty {
            let (launches, epoch) = finals.removeFirst()
            let part = ResultPart(elements: 0..<1 + input.below(8), worldSize: 2)
            return try handle(.final(Dictionary(launches.map { ($0, [part]) }) { a, _ in a }, epoch))
        }
        if !looks.isEmpty {
            let members = (0..<input.below(3)).map { _ in
                OperationProgress.Member(
                    peer: other(), receivedBytes: UInt64(input.number16()), expectedBytes: UInt64(input.number16()),
                    owesInput: input.flag(), silence: input.flag() ? .milliseconds(UInt64(input.number16())) : nil)
            }
            let progress = OperationProgress(members: members)
            return try handle(.observed(Dictionary(looks.removeFirst().map { ($0, progress) }) { a, _ in a }))
        }
        guard !fetches.isEmpty else { return }
        try handle(.stateFetched(fetches.removeFirst(), failure: input.flag() ? "fuzz" : nil))
    }

    // MARK: what comes of it

    private mutating func handle(_ event: PeerMachine.Event) throws {
        var effects: [PeerMachine.Effect] = []
        EventLog.say("\(now.nanoseconds / 1_000_000) ms: \(event)")
        peer.handle(event, at: now, effects: &effects)
        for effect in effects { EventLog.say("    \(effect)") }
        for effect in effects {
            switch effect {
            case .sendToMaster(let message):
                try expect(try ToMaster(message.bytes) == message, "\(message) is read as something else")
                if case .flushReport(_, let operations, _) = message { lastReport = operations }
            case .start(_, let tag, let launch, _, let assignment),
                .resume(_, let tag, _, let launch, _, let assignment, _):
                try expect(assignment.members.indices.contains(assignment.rank), "a rank outside of \(assignment)")
                started.append((tag, launch))
            case .finish(let tag, let launch, _): started.removeAll { $0 == (tag, launch) }
            case .observe(let launches): looks = [launches]
            case .listFinal(let launches, let epoch): finals.append((launches, epoch))
            case .fetchState(let launch, let keys, _):
                try expect(keys.allSatisfy { (0..<2).contains($0.entry) }, "an entry that nobody has is fetched")
                fetches.append(launch)
            default: break
            }
        }
    }
}
