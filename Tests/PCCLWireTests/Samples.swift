import PCCLBase
import PCCLWire

/// Testing has a `Tag` too.
typealias Tag = PCCLBase.Tag

/// At least one message of every kind, with the extremes of every field.
enum Samples {
    static let addresses = [
        SocketAddress(.v4(0x7f00_0001), port: 48150), SocketAddress(.v6(high: 0x2001_0db8 << 32, low: 1), port: 65535),
    ]
    static let members = [
        Member(id: PeerID(1), addresses: addresses, stripes: 1),
        Member(id: PeerID(.max), addresses: [], stripes: 256),
    ]
    static let figures = SharedFigures(
        latencyNanoseconds: 1, hopNanoseconds: 2, localNanoseconds: 5, oneShotBytesPerSecond: 3,
        directBytesPerSecond: 4, ringBytesPerSecond: .max, twoLevelBytesPerSecond: 6)
    static let world = WorldCounts(globalWorldSize: 7, groupCount: 2, largestGroupWorldSize: .max)

    static let offer = StateOffer(
        revision: .max, strategy: .sendOnly, function: .sha256,
        entries: [
            StateEntry(
                name: "", type: .uint8, count: 0, allowsInequality: false, hash: ContentHash(high: .max, low: 1)),
            StateEntry(name: "a", type: .float64, count: .max, allowsInequality: true, hash: nil),
            StateEntry(name: "é", type: .bfloat16, count: 1, allowsInequality: false, hash: nil),
        ])

    static let stuck = StuckOperation(
        tag: Tag(.max),
        descriptor: OperationDescriptor(
            .broadcast(root: .max), count: .max, type: .bfloat16, operation: .maximum, algorithm: .twoLevel,
            worldSize: .max),
        milliseconds: .max, worldSize: .max, called: 1, prepared: 2,
        culprits: StuckOperation.Culprit.Reason.allCases.map {
            StuckOperation.Culprit(
                peer: PeerID(.max), reason: $0, milliseconds: 1, receivedBytes: 2, expectedBytes: .max,
                silentMilliseconds: $0 == .takesNothing ? nil : .max)
        }, moreCulprits: .max)

    static let toMaster: [ToMaster] = [
        .hello(Hello(group: GroupID(3), listenPort: 48150, addresses: addresses, stripes: 4)),
        .hello(Hello(group: GroupID(.max), listenPort: 0, addresses: [], stripes: .max)),
        .hello(
            Hello(
                group: GroupID(1), listenPort: 1, addresses: [], stripes: 1, ensemble: Ensemble(id: .max, size: 1024))),
        .heartbeat, .voteJoin, .votePending, .leave,
        .linked(epoch: Epoch(.max)),
        .cannotReach(epoch: Epoch(1), peers: [PeerID(1), PeerID(.max)]),
        .brokenLink(epoch: Epoch(2), peer: PeerID(9), gaveUp: true),
        .brokenLink(epoch: Epoch(2), peer: PeerID(9), gaveUp: false),
        .flushReport(epoch: Epoch(3), operations: []),
        .flushReport(
            epoch: Epoch(3),
            operations: [
                OperationReport(
                    tag: Tag(.max), launch: LaunchNumber(1), state: .prepared,
                    known: [
                        KnownLaunch(peer: PeerID(2), launch: LaunchNumber(.max)),
                        KnownLaunch(peer: PeerID(3), launch: LaunchNumber(0)),
                    ]),
                OperationReport(tag: Tag(0), launch: LaunchNumber(2), state: .inProgress, known: []),
                OperationReport(
                    tag: Tag(1), launch: LaunchNumber(3), state: .inProgress, known: [], elementCount: .max,
                    onLoss: .resumeWhole, resumption: .max,
                    final: [
                        ResultPart(elements: 0..<7, worldSize: 4), ResultPart(elements: 7..<(.max), worldSize: 65_535),
                    ]),
            ],
            failed: [FailedCalls(tag: Tag(1), count: .max), FailedCalls(tag: Tag(.max), count: 1)]),
        .mendedLink(epoch: Epoch(2), peer: PeerID(.max)), .downLink(epoch: Epoch(.max), peer: PeerID(1)),
        .stalled(epoch: Epoch(4), tag: Tag(5), missing: [PeerID(6)], waitedMilliseconds: .max),
        .offerState(offer), .offerState(StateOffer(revision: 0, strategy: .enforcePopular, entries: [])),
        .stuck(epoch: Epoch(.max), operations: []), .stuck(epoch: Epoch(3), operations: [stuck, stuck]),
        .stateReceived(session: .max), .stateReceived(session: 0, failure: "no source gives it"),
        .voteOptimize(figures: []),
        .attach(
            Attachment(
                run: RunID(high: .max, low: 3), peer: PeerID(4), secret: PeerSecret(high: 5, low: .max),
                hello: Hello(group: GroupID(6), listenPort: 7, addresses: addresses, stripes: 8), view: nil)),
        .attach(
            Attachment(
                run: RunID(high: .max, low: 3), peer: PeerID(4), secret: PeerSecret(high: 5, low: .max),
                hello: Hello(group: GroupID(6), listenPort: 7, addresses: [], stripes: 8),
                view: HeldView(epoch: Epoch(9), highestEpoch: Epoch(.max), members: [], arrangement: .plain))),
        .attach(
            Attachment(
                run: RunID(high: .max, low: 3), peer: PeerID(4), secret: PeerSecret(high: 5, low: .max),
                hello: Hello(group: GroupID(6), listenPort: 7, addresses: [], stripes: 8),
                view: HeldView(
                    epoch: Epoch(9), highestEpoch: Epoch(.max), members: members,
                    arrangement: Arrangement(shares: [1, 2], sites: [0, 1], figures: figures), answers: .max,
                    lastAnswer: .optimizeUnchanged, call: .optimizeTopology,
                    figures: [LinkFigure(peer: PeerID(1), bytesPerSecond: 2)], revision: .max, isHalted: true,
                    needsRepair: true))),
        .voteOptimize(figures: [
            LinkFigure(peer: PeerID(1)), LinkFigure(peer: PeerID(.max), bytesPerSecond: .max, latencyNanoseconds: 1),
        ]),
    ]

    static let toPeer: [ToPeer] = [
        .welcome(
            peer: PeerID(.max), run: RunID(high: 1, low: .max), secret: PeerSecret(high: .max, low: 2),
            deadTimeMilliseconds: 5000, masterGraceMilliseconds: 30_000,
            stragglerDeadlineMilliseconds: .max),
        .attached(world: WorldCounts(globalWorldSize: 3, groupCount: 2, largestGroupWorldSize: .max)),
        .turnedAway(reason: "the run is full: größer geht nicht"), .turnedAway(reason: ""),
        .heartbeat,
        .propose(epoch: Epoch(1), members: members), .propose(epoch: Epoch(1), members: []),
        .view(epoch: Epoch(2), members: members, world: world),
        .view(epoch: Epoch(2), members: members, world: world, arrangement: Arrangement(shares: [0, .max])),
        .view(epoch: Epoch(2), members: [], world: world, arrangement: Arrangement(figures: figures)),
        .joinUnchanged(world: world),
        .pendingAnswer(arePending: true), .pendingAnswer(arePending: false),
        .world(world),
        .flush(epoch: Epoch(.max)),
        .verdict(
            epoch: Epoch(3), members: members, world: world,
            arrangement: Arrangement(shares: [4096, 0], sites: [1, .max], figures: figures),
            operations: [
                OperationVerdict(tag: Tag(1), launch: LaunchNumber(1), outcome: .commit),
                OperationVerdict(tag: Tag(2), launch: LaunchNumber(2), outcome: .restart),
                OperationVerdict(tag: Tag(3), launch: LaunchNumber(3), outcome: .abort),
                OperationVerdict(tag: Tag(.max), launch: LaunchNumber(.max), outcome: .misuse),
                OperationVerdict(tag: Tag(4), launch: LaunchNumber(5), outcome: .mismatch),
                OperationVerdict(
                    tag: Tag(5), launch: LaunchNumber(6), outcome: .resume,
                    resumption: Resumption(
                        number: .max,
                        kept: [
                            KeptPart(ResultPart(elements: 3..<9, worldSize: 2), holders: [0, 7, 8, 1023]),
                            KeptPart(ResultPart(elements: 9..<(.max), worldSize: 1), holders: [1]),
                        ])),
            ],
            missed: [FailedCalls(tag: Tag(1), count: .max)]),
        .callRefused(reason: "other members wait for this peer in another call"),
        .stateRefused(reason: "its entry is another one"), .repeatOffer, .stateSynchronized(revision: nil),
        .stateSynchronized(revision: .max),
        .receiveState(
            StateDecision(
                session: .max, revision: 1, sources: [PeerID(1), PeerID(.max)],
                keys: [.init(entry: 65_535, hash: ContentHash(high: 1, low: .max, further: .max, last: 3))])),
        .optimizeUnchanged,
    ]

    static func number<T: FixedWidthInteger>(_ value: T) -> [UInt8] {
        var writer = ByteWriter()
        writer.write(value)
        return writer.bytes
    }
}
