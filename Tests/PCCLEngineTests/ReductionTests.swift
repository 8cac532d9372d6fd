import PCCLBase
import PCCLTestSupport
import Testing

@testable import PCCLEngine

@Suite("All-reduces over real links", .timeLimit(.minutes(5)))
struct ReductionTests {
    private func check(_ cluster: Cluster, _ reductions: [Reduction]) throws {
        _ = try cluster.run(reductions)
        for reduction in reductions { #expect(reduction.mistake() == nil) }
        #expect(cluster.violations == [])
    }

    @Test(
        "every type and operation, in place and apart, of few elements and many, is right to the bit",
        arguments: [2, 3, 5], Algorithm.allCases)
    func everything(worldSize: Int, algorithm: Algorithm) throws {
        let cluster = try Cluster(worldSize)
        var tag: UInt64 = 0
        for type in DataType.allCases {
            var reductions: [Reduction] = []
            for operation in ReduceOperation.allCases {
                for isInPlace in [true, false] {
                    for count in [1, 2, 3, 7, 251] {
                        tag += 1
                        reductions.append(
                            Reduction(
                                tag: tag, type, operation, algorithm, count: count, isInPlace: isInPlace,
                                worldSize: worldSize))
                    }
                }
            }
            try check(cluster, reductions)
        }
        try cluster.stop()
    }

    @Test("buffers of several segments", arguments: [(2, 1), (3, 2), (5, 1)], Algorithm.allCases)
    func severalSegments(shape: (worldSize: Int, stripes: Int), algorithm: Algorithm) throws {
        let cluster = try Cluster(shape.worldSize, stripes: shape.stripes)
        let kinds: [(DataType, ReduceOperation)] = [(.float32, .sum), (.float16, .average), (.uint8, .average)]
        try check(
            cluster,
            kinds.enumerated().map { index, kind in
                Reduction(
                    tag: UInt64(index), kind.0, kind.1, algorithm, count: 300_001, isInPlace: index != 1,
                    worldSize: shape.worldSize)
            })
        try cluster.stop()
    }

    /// Windows of two segments, hardly any eagerness: nearly every segment waits for credit.
    static var narrow: EngineConfiguration {
        var configuration = EngineConfiguration()
        configuration.segmentBytes = 64
        configuration.eagerBytesPerOperation = 64
        configuration.eagerBytesPerLink = 200
        configuration.stagingBytesPerOperation = 1
        configuration.keptStagingBytes = 1 << 16
        configuration.keptOriginalsBytes = 0
        return configuration
    }

    @Test(
        "many tags at once through narrow windows, their segments overtaking each other", arguments: [2, 3, 5],
        Algorithm.allCases)
    func narrowWindows(worldSize: Int, algorithm: Algorithm) throws {
        let cluster = try Cluster(worldSize, stripes: 4, Self.narrow)
        let types: [DataType] = [.float32, .float16, .uint8, .int64, .bfloat16]
        for round in 0..<2 {
            try check(
                cluster,
                (0..<20).map { index in
                    Reduction(
                        // The same tags in both rounds: a tag is free again when its operation has ended.
                        tag: UInt64(index), types[index % types.count],
                        ReduceOperation.allCases[(index + round) % 5], algorithm, count: 1 + index * 97,
                        isInPlace: index % 2 == 0, worldSize: worldSize)
                })
        }
        try cluster.stop()
    }

    @Test(
        "unequal chunks, empty ones among them, are right to the bit, and one-shot gives the same bits",
        arguments: [[4000, 96], [0, 0, 1], [1, 2000, 0, 95, 2000]] as [[UInt16]], [false, true])
    func shares(shares: [UInt16], isNarrow: Bool) throws {
        let cluster = try Cluster(
            shares.count, stripes: 2, isNarrow ? Self.narrow : EngineConfiguration(), shares: shares)
        let types: [DataType] = [.float32, .float16, .uint8, .int64, .bfloat16, .float64]
        func reductions(_ algorithm: Algorithm, firstTag: Int) -> [Reduction] {
            (0..<18).map { index in
                Reduction(
                    tag: UInt64(firstTag + index), types[index % 6], ReduceOperation.allCases[index % 5], algorithm,
                    count: [1, 2, 1 + index * 97][index / 6], isInPlace: index % 2 == 0, worldSize: shares.count)
            }
        }
        // Tags give the contents: the same in all three.
        let direct = reductions(.direct, firstTag: 300)
        try check(cluster, direct)
        let oneShot = reductions(.oneShot, firstTag: 300)
        try check(cluster, oneShot)
        for (one, other) in zip(direct, oneShot) { #expect(one.targets[0].bytes == other.targets[0].bytes) }
        try check(cluster, reductions(.ring, firstTag: 300))
        try cluster.stop()
    }

    @Test(
        "sites of any sizes: every type and operation is right to the bit, through wide windows and narrow ones",
        arguments: [[0, 0, 1, 1], [0, 1, 0, 1, 0], [0, 1, 1], [0, 1, 2, 2, 0, 2], [3, 3, 3]] as [[UInt16]],
        [false, true])
    func sites(sites: [UInt16], isNarrow: Bool) throws {
        let cluster = try Cluster(
            sites.count, stripes: 2, isNarrow ? Self.narrow : EngineConfiguration(), sites: sites)
        for isInPlace in [true, false] {
            let kinds = DataType.allCases.flatMap { type in ReduceOperation.allCases.map { (type, $0) } }
            try check(
                cluster,
                kinds.enumerated().map { index, kind in
                    Reduction(
                        tag: UInt64(index), kind.0, kind.1, .twoLevel,
                        count: isNarrow ? 1 + index * 23 : [1, 3, 251, 40_001][index % 4], isInPlace: isInPlace,
                        worldSize: sites.count, sites: sites)
                })
        }
        try cluster.stop()
    }

    @Test("between two sites everything goes once each way, however many members they have")
    func trafficOfSites() throws {
        let cluster = try Cluster(4, sites: [0, 0, 1, 1])
        try cluster.log()
        let reduction = Reduction(
            tag: 1, .float32, .sum, .twoLevel, count: 40_000, isInPlace: true, worldSize: 4, sites: [0, 0, 1, 1])
        _ = try cluster.run([reduction])
        #expect(reduction.mistake() == nil)
        var crossing = [0, 0]
        for (rank, node) in cluster.nodes.enumerated() {
            for case .sending(let to, let header) in node.events.all where (to > 2) != (rank >= 2) {
                crossing[rank / 2] += Int(header.payloadBytes)
            }
        }
        #expect(crossing == [160_000, 160_000])
        try cluster.stop()
    }

    @Test("what a rank of a small share sends is little more than its contributions")
    func trafficOfShares() throws {
        let cluster = try Cluster(4, shares: [0, 1000, 1000, 2000])
        let reduction = Reduction(tag: 1, .float32, .sum, .direct, count: 40_000, isInPlace: true, worldSize: 4)
        let sent = try cluster.run([reduction]).map { $0[0].sentBytes }
        // (1 - w) S to the owners, 3 w S to all others.
        let expected: [UInt64] = [160_000, 240_000, 240_000, 320_000]
        #expect(sent == expected)
        #expect(reduction.mistake() == nil)
        try cluster.stop()
    }

    @Test("each byte is counted once where it leaves and once where it arrives", arguments: Algorithm.allCases)
    func traffic(algorithm: Algorithm) throws {
        let cluster = try Cluster(4)
        let reduction = Reduction(tag: 1, .float32, .sum, algorithm, count: 40_000, isInPlace: false, worldSize: 4)
        var expected = Traffic()
        expected.sentBytes =
            switch algorithm {
            // Contributions and results of three quarters of the buffer: 2 S (P - 1) / P.
            case .direct, .ring, .twoLevel: 2 * 160_000 * 3 / 4
            // All of it to all others: S (P - 1).
            case .oneShot: 3 * 160_000
            }
        expected.receivedBytes = expected.sentBytes
        #expect(try cluster.run([reduction]) == [[expected], [expected], [expected], [expected]])
        try cluster.stop()
    }

    @Test("one tag used again and again pairs the right calls, however far a rank runs ahead")
    func sameTagAgain() throws {
        let cluster = try Cluster(3, Self.narrow)
        for algorithm in Algorithm.allCases {
            let rounds = (0..<40).map {
                Reduction(
                    tag: 1, .int32, $0 % 2 == 0 ? .sum : .maximum, algorithm, count: 50 + $0, isInPlace: true,
                    worldSize: 3)
            }
            _ = try together(3) { rank in
                for round in rounds { _ = try round.start(cluster.nodes[rank], rank: rank).value() }
            }
            for round in rounds { #expect(round.mistake() == nil) }
        }
        #expect(cluster.violations == [])
        try cluster.stop()
    }
}
