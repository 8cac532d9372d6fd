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

    @Test("each byte is counted once where it leaves and once where it arrives", arguments: Algorithm.allCases)
    func traffic(algorithm: Algorithm) throws {
        let cluster = try Cluster(4)
        let reduction = Reduction(tag: 1, .float32, .sum, algorithm, count: 40_000, isInPlace: false, worldSize: 4)
        // Contributions and results of three quarters of the buffer: 2 S (P - 1) / P.
        var expected = Traffic()
        expected.sentBytes = 2 * 160_000 * 3 / 4
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
