import PCCLBase
import PCCLTestSupport
import PCCLTransport
import Testing

@testable import PCCLEngine

/// An all-gather, a reduce-scatter, a broadcast or a barrier of a whole group, with its inputs.
private struct Joint {
    let tag: UInt64
    let descriptor: OperationDescriptor
    let isInPlace: Bool
    let block: Int
    let worldSize: Int
    /// Of each rank: all elements of a reduce-scatter, a block otherwise.
    let inputs: [[UInt8]]
    let sources: [Memory]
    let targets: [Memory]
    private let unit: Int

    init(
        tag: UInt64, _ collective: Collective, _ type: DataType, _ operation: ReduceOperation = .sum,
        _ algorithm: Algorithm, block: Int, isInPlace: Bool, worldSize: Int, codec: Codec = .none
    ) {
        self.tag = tag
        self.block = block
        self.worldSize = worldSize
        self.isInPlace = isInPlace
        let isBlockwise = collective == .allGather || collective == .reduceScatter
        let count = isBlockwise ? block * worldSize : block
        descriptor = OperationDescriptor(
            collective, count: UInt64(count), type: type, operation: operation, algorithm: algorithm, codec: codec)
        unit = type.byteCount
        let inputCount = collective == .reduceScatter ? count : block
        inputs = (0..<worldSize).map { type.elements(inputCount, seed: tag * 100 + UInt64($0)) }
        let blockBytes = block * unit
        switch collective {
        case .allGather where isInPlace:
            targets = inputs.enumerated().map { rank, input in
                var bytes = [UInt8](repeating: 0xcd, count: count * type.byteCount)
                bytes.replaceSubrange(rank * blockBytes..<(rank + 1) * blockBytes, with: input)
                return Memory(bytes)
            }
            sources = targets
        case .allGather:
            sources = inputs.map { Memory($0, misalignment: Int(tag) % 3) }
            targets = inputs.map { _ in Memory(byteCount: count * type.byteCount, filled: 0xcd) }
        case .reduceScatter where !isInPlace:
            sources = inputs.map { Memory($0, misalignment: Int(tag) % 3) }
            targets = inputs.map { _ in Memory(byteCount: blockBytes, filled: 0xcd) }
        default:
            sources = inputs.map { Memory($0) }
            targets = sources
        }
    }

    func start(_ node: Node, rank: Int) throws -> Completion<Traffic> {
        let before = isInPlace ? rank * block * unit : 0
        let (source, target) = (sources[rank], targets[rank])
        return switch descriptor.collective {
        case .allGather: try node.start(tag: tag, descriptor, from: source, sourceOffset: before, into: target)
        case .reduceScatter: try node.start(tag: tag, descriptor, from: source, into: target, targetOffset: before)
        case .allReduce, .broadcast, .barrier: try node.start(tag: tag, descriptor, from: source, into: target)
        }
    }

    /// By rank: what is to be in its buffer at the end.
    private var expected: [[UInt8]] {
        let blockBytes = block * unit
        switch descriptor.collective {
        case .allGather: return inputs.map { _ in inputs.flatMap { $0 } }
        case .broadcast(let root): return inputs.map { _ in inputs[Int(root)] }
        case .reduceScatter:
            let sums = ScalarReference(
                type: descriptor.type, operation: descriptor.operation, algorithm: .direct, sites: [], stride: 1
            ).result(inputs)
            return (0..<worldSize).map { Array(sums[$0 * blockBytes..<($0 + 1) * blockBytes]) }
        case .allReduce, .barrier: return inputs
        }
    }

    func mistake() -> String? {
        let expected = expected
        for rank in 0..<worldSize {
            let name = "rank \(rank) of \(worldSize), \(descriptor), \(isInPlace ? "in place" : "apart")"
            var result = targets[rank].bytes
            if descriptor.collective == .reduceScatter, isInPlace {
                result = Array(result[rank * block * unit..<(rank + 1) * block * unit])
            }
            if result != expected[rank] { return "\(name): not what it should be" }
            if sources[rank] !== targets[rank], sources[rank].bytes != inputs[rank] {
                return "\(name): the source was changed"
            }
            if !sources[rank].isIntactAround || !targets[rank].isIntactAround {
                return "\(name): something was written beside a buffer"
            }
        }
        return nil
    }
}

@Suite("All-gather, reduce-scatter, broadcast and barrier over real links", .timeLimit(.minutes(5)))
struct CollectiveTests {
    private func run(_ cluster: Cluster, _ joints: [Joint]) throws {
        _ = try together(cluster.worldSize) { rank in
            let completions = try joints.map { try $0.start(cluster.nodes[rank], rank: rank) }
            for (joint, completion) in zip(joints, completions) { _ = try completion.value("tag \(joint.tag)") }
        }
        for joint in joints { #expect(joint.mistake() == nil) }
        #expect(cluster.violations == [])
    }

    @Test("each of them, of every type, in place and apart, of few elements and many", arguments: [2, 3, 5])
    func everything(worldSize: Int) throws {
        let cluster = try Cluster(worldSize)
        var tag: UInt64 = 0
        var joints: [Joint] = []
        for type in DataType.allCases {
            for block in [1, 3, 251] {
                for isInPlace in [true, false] {
                    let kinds: [(Collective, Algorithm)] = [
                        (.allGather, .direct), (.allGather, .ring), (.reduceScatter, .direct),
                        (.broadcast(root: UInt16(worldSize - 1)), .direct), (.broadcast(root: 0), .oneShot),
                    ]
                    for (collective, algorithm) in kinds {
                        tag += 1
                        joints.append(
                            Joint(
                                tag: tag, collective, type, .average, algorithm, block: block, isInPlace: isInPlace,
                                worldSize: worldSize))
                    }
                }
            }
        }
        try run(cluster, joints)
        try cluster.stop()
    }

    @Test("buffers of many segments, over several stripes and through narrow windows", arguments: [2, 4])
    func severalSegments(worldSize: Int) throws {
        for configuration in [EngineConfiguration(), ReductionTests.narrow] {
            let cluster = try Cluster(worldSize, stripes: 2, configuration)
            let block = configuration.segmentBytes * 3 / 4 + 1
            try run(
                cluster,
                [
                    Joint(
                        tag: 1, .allGather, .float32, .sum, .direct, block: block, isInPlace: false,
                        worldSize: worldSize),
                    Joint(tag: 2, .allGather, .uint8, .sum, .ring, block: block, isInPlace: true, worldSize: worldSize),
                    Joint(
                        tag: 3, .reduceScatter, .float32, .sum, .direct, block: block, isInPlace: false,
                        worldSize: worldSize),
                    Joint(
                        tag: 4, .broadcast(root: 1), .float32, .sum, .direct, block: block, isInPlace: true,
                        worldSize: worldSize),
                ])
            try cluster.stop()
        }
    }

    @Test("integers around the ring are scattered in halves that go either way")
    func ringScatter() throws {
        let cluster = try Cluster(4)
        try run(
            cluster,
            [
                Joint(tag: 1, .reduceScatter, .int64, .sum, .ring, block: 1001, isInPlace: true, worldSize: 4),
                Joint(tag: 2, .reduceScatter, .int32, .maximum, .ring, block: 1, isInPlace: false, worldSize: 4),
            ])
        try cluster.stop()
    }

    @Test("a barrier moves nothing, and ends when the last has come")
    func barrier() throws {
        let cluster = try Cluster(3)
        let barrier = Joint(tag: 9, .barrier, .uint8, .sum, .direct, block: 0, isInPlace: true, worldSize: 3)
        let early = try (0..<2).map { try barrier.start(cluster.nodes[$0], rank: $0) }
        #expect(early.allSatisfy { $0.current == nil })
        let last = try barrier.start(cluster.nodes[2], rank: 2)
        for completion in early + [last] {
            let traffic = try completion.value("the barrier")
            #expect(traffic == Traffic())
        }
        try cluster.stop()
    }

    @Test("an abandoned reduce-scatter in place leaves its input whole")
    func abandoned() throws {
        let cluster = try Cluster(3)
        let joint = Joint(tag: 1, .reduceScatter, .float32, .sum, .direct, block: 70_000, isInPlace: true, worldSize: 3)
        for rank in 0..<2 { try cluster.nodes[rank].allowSending(2) }
        for rank in 0..<3 { _ = try joint.start(cluster.nodes[rank], rank: rank) }
        for node in cluster.nodes { try node.abandonAll() }
        for rank in 0..<3 { #expect(joint.sources[rank].bytes == joint.inputs[rank]) }
        try cluster.stop()
    }
}
