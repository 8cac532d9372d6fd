import PCCLBase
import PCCLMembership
import PCCLWire

/// Real encodings, from which a fuzzer begins: at least one of every kind, and of every list with something in it.
enum Seeds {
    private static let addresses = [
        SocketAddress(.v4(0x7f00_0001), port: 48150), SocketAddress(.v6(high: 0x2001_0db8 << 32, low: 1), port: 65535),
    ]
    private static let members = [
        Member(id: PeerID(1), addresses: addresses, stripes: 1), Member(id: PeerID(2), addresses: [], stripes: 256),
    ]
    private static let arrangement = Arrangement(
        shares: [1, 2], sites: [0, 1],
        figures: SharedFigures(
            latencyNanoseconds: 1, hopNanoseconds: 2, localNanoseconds: 5, oneShotBytesPerSecond: 3,
            directBytesPerSecond: 4, ringBytesPerSecond: .max, twoLevelBytesPerSecond: 6))
    private static let world = WorldCounts(globalWorldSize: 7, groupCount: 2, largestGroupWorldSize: 4)
    private static let figures = [LinkFigure(peer: PeerID(2), bytesPerSecond: 5, latencyNanoseconds: 1)]
    private static let failed = [FailedCalls(tag: Tag(1), count: 2)]
    private static let resumption = Resumption(
        number: 9,
        kept: [
            KeptPart(ResultPart(elements: 3..<9, worldSize: 2), holders: [0, 7, 8]),
            KeptPart(ResultPart(elements: 9..<(.max), worldSize: 1), holders: [1]),
        ])
    private static let secret = PeerSecret(high: 5, low: 6)
    private static let run = RunID(high: 3, low: 4)

    /// Of two tensors.
    static func offer(revision: UInt64, content: UInt64) -> StateOffer {
        StateOffer(
            revision: revision, strategy: SharedStateStrategy(rawValue: UInt8(revision % 3)) ?? .enforcePopular,
            entries: [
                StateEntry(
                    name: "weights", type: .float32, count: 8, allowsInequality: false,
                    hash: ContentHash(high: 0, low: content)),
                StateEntry(
                    name: "größe", type: .int64, count: 1, allowsInequality: false,
                    hash: ContentHash(high: 0, low: 0)),
            ].sorted { Array($0.name.utf8).lexicographicallyPrecedes(Array($1.name.utf8)) })
    }

    private static func attachment(_ view: HeldView?) -> ToMaster {
        .attach(
            Attachment(
                run: run, peer: PeerID(1), secret: secret,
                hello: Hello(group: GroupID(6), listenPort: 7, addresses: addresses, stripes: 8), view: view))
    }

    static let toMaster: [ToMaster] = [
        .hello(Hello(group: GroupID(3), listenPort: 48150, addresses: addresses, stripes: 4)), .heartbeat, .voteJoin,
        .votePending, .linked(epoch: Epoch(1)), .cannotReach(epoch: Epoch(1), peers: [PeerID(1), PeerID(2)]),
        .brokenLink(epoch: Epoch(2), peer: PeerID(9), gaveUp: true), .downLink(epoch: Epoch(1), peer: PeerID(1)),
        .mendedLink(epoch: Epoch(2), peer: PeerID(2)),
        .flushReport(
            epoch: Epoch(3),
            operations: [
                OperationReport(
                    tag: Tag(7), launch: LaunchNumber(1), state: .prepared,
                    known: [KnownLaunch(peer: PeerID(2), launch: LaunchNumber(3))]),
                OperationReport(
                    tag: Tag(1), launch: LaunchNumber(3), state: .inProgress, known: [], elementCount: 20,
                    onLoss: .resumeWhole, resumption: 4,
                    final: [ResultPart(elements: 0..<7, worldSize: 4), ResultPart(elements: 7..<9, worldSize: 2)]),
            ], failed: failed),
        .stalled(epoch: Epoch(4), tag: Tag(5), missing: [PeerID(6)], waitedMilliseconds: 9), .leave,
        .voteOptimize(figures: figures), attachment(nil),
        attachment(
            HeldView(
                epoch: Epoch(9), highestEpoch: Epoch(10), members: members, arrangement: arrangement, answers: 2,
                lastAnswer: .optimizeUnchanged, call: .optimizeTopology, figures: figures, revision: 3, isHalted: true,
                needsRepair: true)),
        .offerState(offer(revision: 3, content: 1)), .stateReceived(session: 1),
        .stateReceived(session: 2, failure: "no source gives what it said it holds"),
        .stuck(epoch: Epoch(4), operations: [stuck]), .stuck(epoch: Epoch(4), operations: []),
    ]

    private static let stuck = StuckOperation(
        tag: Tag(7),
        descriptor: OperationDescriptor(count: 100, type: .float32, operation: .average, algorithm: .ring),
        milliseconds: 1700, worldSize: 3, called: 2, prepared: 0,
        culprits: [
            StuckOperation.Culprit(
                peer: PeerID(2), reason: .sendsNothing, milliseconds: 1600, receivedBytes: 5, expectedBytes: 400,
                silentMilliseconds: 1500),
            StuckOperation.Culprit(
                peer: PeerID(3), reason: .hasNotCalled, milliseconds: 1700, silentMilliseconds: nil),
        ], moreCulprits: 1)

    /// What is no text, and as long as one may be.
    static let broken: [[UInt8]] = [
        [2, 0, 4] + [UInt8](repeating: 0xff, count: 1024), [16, 1, 0, 0, 0, 1, 3, 0, 0xc3, 0xff, 0x80],
    ]

    static let toPeer: [ToPeer] = [
        .welcome(
            peer: PeerID(1), run: run, secret: secret, deadTimeMilliseconds: 5000, masterGraceMilliseconds: 30_000),
        .turnedAway(reason: "the run is full"), .heartbeat, .propose(epoch: Epoch(1), members: members),
        .view(epoch: Epoch(2), members: members, world: world, arrangement: arrangement), .joinUnchanged(world: world),
        .pendingAnswer(arePending: true), .world(world), .flush(epoch: Epoch(5)),
        .verdict(
            epoch: Epoch(3), members: members, world: world, arrangement: arrangement, operations: verdicts,
            missed: failed),
        .callRefused(reason: "größer geht nicht"), .optimizeUnchanged, .attached(world: world), .repeatOffer,
        .receiveState(
            StateDecision(
                session: 1, revision: 2, sources: [PeerID(2)],
                keys: [StateDecision.Key(entry: 1, hash: ContentHash(high: 1, low: 2))])),
        .stateSynchronized(revision: 4), .stateSynchronized(revision: nil),
    ]

    private static let verdicts = [
        OperationVerdict(tag: Tag(1), launch: LaunchNumber(1), outcome: .commit),
        OperationVerdict(tag: Tag(5), launch: LaunchNumber(6), outcome: .resume, resumption: resumption),
    ]

    /// Each with the byte before it that says what it is.
    static let frames: [[UInt8]] = {
        var header = [UInt8](repeating: 0, count: FrameHeader.byteCount)
        header.withUnsafeMutableBytes {
            FrameHeader(
                kind: .data, phase: .gather, chunk: 3, epoch: Epoch(1), launch: LaunchNumber(2), tag: Tag(4), offset: 5,
                payloadBytes: 6, serial: 7
            ).store(to: $0.baseAddress!)
        }
        let hash = ContentHash(high: 1, low: 2)
        let hello = StripeHello(run: run, from: PeerID(2), to: PeerID(1), attempt: 3, stripe: 1, stripeCount: 2)
        let entry = OperationDescriptor(
            count: 8, type: .float32, operation: .average, algorithm: .ring,
            codec: Codec(.int4, blockElements: 64, rounding: .stochastic))
        return [
            [0] + header, [1] + Entry(descriptor: entry, windowBytes: 1 << 20).bytes,
            [2] + LocalMemory(process: 1, address: 2, proof: (high: 3, low: 4)).bytes,
            [3] + StateRequest(entry: 1, hash: hash, part: .chunk(2)).bytes,
            [3] + StateRequest(entry: 1, hash: hash, part: .hashes).bytes,
            [4 + 7] + StateRequest.bytes(ofHashes: [ContentHash](repeating: hash, count: 100)), [5] + hello.bytes,
            [6] + Preamble(role: .stripe).bytes, [6] + Preamble(role: .control).bytes,
        ]
    }()

    /// What a master tells its journal while two peers join, lose a third one, and resume what they worked on.
    static let states: [MasterState] = {
        let ids = (1...3).map { MasterMachine.ConnectionID($0) }
        func report(_ id: UInt64, _ epoch: UInt32) -> ToMaster {
            .flushReport(
                epoch: Epoch(epoch),
                operations: [
                    OperationReport(
                        tag: Tag(7), launch: LaunchNumber(1), state: .inProgress,
                        known: [KnownLaunch(peer: PeerID(3 - id), launch: LaunchNumber(1))], elementCount: 9,
                        onLoss: .resume, final: [ResultPart(elements: 0..<4, worldSize: 3)])
                ], failed: failed)
        }
        let events: [MasterMachine.Event] =
            ids.map { .connected($0, from: .v4(1), secret: PeerSecret(high: $0.value, low: 9)) }
            + ids.map {
                .received($0, .hello(Hello(group: GroupID(1), listenPort: 5, addresses: addresses, stripes: 2)))
            }
            + [.received(ids[0], .voteJoin)] + ids.map { .received($0, .linked(epoch: Epoch(2))) }
            + [.closed(ids[2], reason: "closed")]
            // Whichever epoch the flush is for.
            + [2, 3, 4].flatMap { epoch in [1, 2].map { .received(ids[$0 - 1], report(UInt64($0), epoch)) } }
        var master = MasterMachine(run: run, timeouts: .standard, now: Instant(nanoseconds: 1))
        var effects: [MasterMachine.Effect] = []
        for event in events { master.handle(event, at: Instant(nanoseconds: 1), effects: &effects) }
        return effects.compactMap { if case .persist(let state) = $0 { state } else { nil } }
    }()

    static let journals: [[UInt8]] =
        [[0], [0] + Journal.file([]), [0] + Journal.file(states.map { $0.bytes[...] })]
        + [[0] + Journal.file(states.map { $0.bytes[...] }).dropLast(9)] + states.map { [1] + $0.bytes }

    static let codecs: [[UInt8]] = {
        let floats: [Float] = [
            0, -0, 1, -1.5, 3e38, -3e38, .infinity, -.infinity, .nan, .leastNonzeroMagnitude, .leastNormalMagnitude / 4,
            0.1, 65504,
        ]
        let bytes = floats.flatMap { value in withUnsafeBytes(of: value) { Array($0) } }
        return (0..<14).map { format in [UInt8(format), 2, UInt8(format % 4), 1, UInt8(60 + format), 1] + bytes }
    }()

    static let hashes: [[UInt8]] =
        [3, 16, 128, 240, 700].map { count in
            [UInt8(count % 8), 5, 0, 3] + (0..<count).map { UInt8(truncatingIfNeeded: $0 &* 7) }
        } + [[255, 7, 1, 1, 4, 5, 6]]

    static let masterEvents: [[UInt8]] = {
        func step(_ step: MasterUnderFuzz.Step, _ choices: UInt8...) -> [UInt8] { [step.rawValue] + choices }
        func message(_ message: ToMaster, on connection: UInt8) -> [UInt8] {
            let bytes = message.bytes
            return step(.message, connection, UInt8(bytes.count & 255), UInt8(bytes.count >> 8)) + bytes
        }
        // The first peer's view is made at once; the second one joins.
        let two =
            step(.connect, 9) + step(.hello, 0, 0) + step(.connect, 3) + step(.hello, 1, 0) + step(.vote, 0, 0)
            + (0..<12).flatMap { step(.honest, $0 & 1, 0, 0) }
        let votes = [1, 2, 3, 4].map { kind in two + [0, 1].flatMap { step(.vote, $0, kind, 1, 1, 20, 20) } }
        let flush =
            step(.vote, 1, 5) + step(.connect, 0)
            + (0..<12).flatMap { step(.honest, $0 & 1, 2, 0x4d, 3, 1, 1, 2, 1, 1) }
        return votes.map { $0 + step(.solve, 0, 2) + flush + step(.tick, 33) }
            + [two + step(.close, 0, 1) + step(.restart, 1) + step(.attach, 0, 8) + step(.attach, 1, 8)]
            + [two + step(.close, 0, 1) + step(.restart, 0) + step(.attach, 0, 8) + step(.attach, 1, 8)]
            + toMaster.map { two + message($0, on: 1) + step(.tick, 34) }
    }()

    static let peerEvents: [[UInt8]] = {
        func step(_ step: PeerUnderFuzz.Step, _ choices: UInt8...) -> [UInt8] { [step.rawValue] + choices }
        func message(_ message: ToPeer) -> [UInt8] {
            let bytes = message.bytes
            return step(.message, UInt8(bytes.count & 255), UInt8(bytes.count >> 8)) + bytes
        }
        let member =
            step(.call, 0) + step(.masterConnected) + step(.honestMaster, 0, 136, 19) + step(.linkUp, 0)
            + step(.linkUp, 1) + step(.honestMaster, 2, 2, 0, 1, 0)
        let work =
            step(.launch, 1, 1, 0) + step(.entered, 0, 0, 1, 0, 0) + step(.entered, 1, 0, 1, 0, 0)
            + step(.whole, 0) + step(.prepared, 0, 0, 1, 0)
        let flush =
            step(.honestMaster, 3) + step(.engine, 3) + step(.honestMaster, 4, 2, 0, 1, 0, 5, 1, 3, 0, 0, 0)
            + step(.whole, 0)
        let calls = [1, 2, 3, 4].map { call in
            member + step(.call, call, 1, 1) + step(.engine, 0) + step(.honestMaster, 10, 1, 2, 0)
                + step(.engine, 0, 0) + step(.masterLost, 0) + step(.tick, 35) + step(.masterConnected)
                + step(.honestMaster, 8)
        }
        return [member, member + work, member + work + flush, member + work + step(.linkDown, 0) + flush]
            + calls + toPeer.map { member + work + message($0) + step(.tick, 33) }
    }()
}
