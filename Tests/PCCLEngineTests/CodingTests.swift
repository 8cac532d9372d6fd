import Glibc
import PCCLBase
import PCCLCompute
import PCCLMembership
import PCCLSchedule
import PCCLTestSupport
import PCCLTransport
import Testing

@testable import PCCLEngine

private let codecs = [
    Codec(.minMax8), Codec(.zeroPoint16), Codec(.int4, blockElements: 32), Codec(.e3m0PowerScale), Codec(.e4m3),
    Codec(.bfloat16), Codec(.minMax8, rounding: .stochastic), Codec(.int4PowerScale, rounding: .stochastic),
]

/// How far a value of at most 1 may be from what it is decoded to, if no value of its block is larger.
private func worstError(_ codec: Codec) -> Double {
    let nearest =
        switch codec.format {
        case .minMax8: 1.0 / 255
        case .zeroPoint16: 2.0 / 65535
        case .int4: 1.0 / 14
        case .int4PowerScale: 1.0 / 7
        case .e3m0PowerScale: 1.0 / 3
        case .e4m3: 1.0 / 16
        default: 0x1p-8
        }
    return codec.rounding == .stochastic ? 2 * nearest : nearest
}

@Suite("All-reduces of codes over real links", .timeLimit(.minutes(5)))
struct CodingTests {
    private func values(_ reduction: Reduction, _ bytes: [UInt8]) -> [Double] {
        let type = reduction.descriptor.type
        return bytes.withUnsafeBytes { bytes in
            (0..<Int(reduction.descriptor.count)).map { i in
                let offset = i * type.byteCount
                switch type {
                case .float16: return Double(bytes.loadUnaligned(fromByteOffset: offset, as: Float16.self))
                case .bfloat16:
                    let bits = bytes.loadUnaligned(fromByteOffset: offset, as: UInt16.self)
                    return Double(Float(bitPattern: UInt32(bits) << 16))
                case .float64: return bytes.loadUnaligned(fromByteOffset: offset, as: Double.self)
                default: return Double(bytes.loadUnaligned(fromByteOffset: offset, as: Float.self))
                }
            }
        }
    }

    /// What is wrong with the outcome: not the same bits everywhere, or further from the truth than coding accounts for.
    private func mistake(_ reduction: Reduction, rounding: Double = 0x1p-8) -> String? {
        let name = "\(reduction.descriptor), \(reduction.isInPlace ? "in place" : "apart")"
        for (rank, target) in reduction.targets.enumerated() {
            if target.bytes != reduction.targets[0].bytes { return "\(name): rank \(rank) has other bits" }
            if !reduction.isInPlace, reduction.sources[rank].bytes != reduction.inputs[rank] {
                return "\(name): the source was changed"
            }
            if !target.isIntactAround || !reduction.sources[rank].isIntactAround {
                return "\(name): something was written beside a buffer"
            }
        }
        let inputs = reduction.inputs.map { values(reduction, $0) }
        let result = values(reduction, reduction.targets[0].bytes)
        let world = Double(inputs.count)
        let error = worstError(reduction.descriptor.codec)
        /// Contributions are within 1, sums within the world size, and some algorithms code these on their way.
        let codings =
            switch reduction.descriptor.algorithm {
            case .oneShot: world
            case .direct: 2 * world
            case .ring, .twoLevel: world * (world + 1) / 2 + world
            }
        for i in result.indices {
            let contributions = inputs.map { $0[i] }
            let expected: Double
            var bound = error * codings + rounding * world
            switch reduction.descriptor.operation {
            case .sum: expected = contributions.reduce(0, +)
            case .average:
                expected = contributions.reduce(0, +) / world
                bound /= world
            case .product:
                expected = contributions.reduce(1, *)
                bound = world * error * pow(1 + error, world) + error + rounding
            case .maximum: expected = contributions.max() ?? 0
            case .minimum: expected = contributions.min() ?? 0
            }
            if abs(result[i] - expected) > bound { return "\(name): element \(i) is \(result[i]), not \(expected)" }
        }
        return nil
    }

    private func check(_ cluster: Cluster, _ reductions: [Reduction]) throws {
        _ = try cluster.run(reductions)
        for reduction in reductions { #expect(mistake(reduction) == nil) }
        #expect(cluster.violations == [])
    }

    /// With values from -1 to 1.
    private func reduction(
        _ tag: Int, _ codec: Codec, _ type: DataType = .float32, _ operation: ReduceOperation = .sum,
        _ algorithm: Algorithm, count: Int, isInPlace: Bool = true, worldSize: Int, sites: [UInt16] = []
    ) -> Reduction {
        Reduction(
            tag: UInt64(tag), type, operation, algorithm, count: count, isInPlace: isInPlace, worldSize: worldSize,
            sites: sites, codec: codec, inputs: (0..<worldSize).map { small(type, count, seed: UInt64(tag * 100 + $0)) }
        )
    }

    private func small(_ type: DataType, _ count: Int, seed: UInt64) -> [UInt8] {
        var source = RandomSource(seed: seed)
        func bytes<T>(_ value: T) -> [UInt8] { withUnsafeBytes(of: value) { [UInt8]($0) } }
        return (0..<count).flatMap { _ in
            let value = Double(source.next() >> 11) * 0x1p-52 - 1
            return switch type {
            case .float16: bytes(Float16(value))
            case .bfloat16: bytes(UInt16(Float(value).bitPattern >> 16))
            case .float64: bytes(value)
            default: bytes(Float(value))
            }
        }
    }

    @Test(
        "every float type, operation and kind of codec, of few elements and many", arguments: [2, 3, 5],
        Algorithm.allCases)
    func everything(worldSize: Int, algorithm: Algorithm) throws {
        let cluster = try Cluster(worldSize)
        var tag = 0
        for codec in codecs {
            var reductions: [Reduction] = []
            for type in [DataType.float16, .bfloat16, .float32, .float64] where codec.canCode(type) {
                for operation in ReduceOperation.allCases {
                    for (index, count) in [1, 7, 257].enumerated() {
                        tag += 1
                        reductions.append(
                            reduction(
                                tag, codec, type, operation, algorithm, count: count,
                                isInPlace: (tag + index) % 2 == 0, worldSize: worldSize))
                    }
                }
            }
            try check(cluster, reductions)
        }
        try cluster.stop()
    }

    /// Segments of one block of 256, windows of two of them.
    private func small() -> EngineConfiguration {
        var configuration = ReductionTests.narrow
        configuration.codedSegmentBytes = 1...1
        configuration.eagerBytesPerOperation = 300
        configuration.eagerBytesPerLink = 1000
        return configuration
    }

    @Test(
        "many segments through narrow windows and over several stripes", arguments: [2, 3, 5], Algorithm.allCases)
    func narrowWindows(worldSize: Int, algorithm: Algorithm) throws {
        let sites: [UInt16] = algorithm == .twoLevel && worldSize == 5 ? [0, 0, 1, 1, 1] : []
        let cluster = try Cluster(worldSize, stripes: 3, small(), sites: sites)
        try check(
            cluster,
            codecs.enumerated().map { index, codec in
                reduction(
                    index, codec, [.float32, .bfloat16, .float64][codec.canCode(.bfloat16) ? index % 3 : 0],
                    index % 2 == 0 ? .average : .sum, algorithm, count: 1 + index * 1733, isInPlace: index % 3 == 0,
                    worldSize: worldSize, sites: sites)
            })
        try cluster.stop()
    }

    @Test("so many bytes travel as the codes have", arguments: [2, 4])
    func traffic(worldSize: Int) throws {
        let cluster = try Cluster(worldSize)
        let count = 1 << 17
        for (tag, codec) in codecs.enumerated() {
            let reduction = reduction(tag, codec, .float32, .sum, .direct, count: count, worldSize: worldSize)
            let traffic = try cluster.run([reduction])
            #expect(mistake(reduction) == nil)
            let codes = codec.layout(of: .float32).byteCount(count / worldSize)
            for each in traffic.flatMap({ $0 }) {
                #expect(each.sentBytes == UInt64(2 * (worldSize - 1) * codes))
                #expect(each.receivedBytes == each.sentBytes)
            }
        }
        try cluster.stop()
    }

    @Test(
        "one that is stopped half-way leaves its input whole, and runs again from there", arguments: Algorithm.allCases)
    func stoppedHalfWay(algorithm: Algorithm) throws {
        let cluster = try Cluster(3, stripes: 2, small())
        try cluster.log()
        for (epoch, allowance) in [1, 7, 25].enumerated() {
            let reductions = (0..<3).map {
                reduction(
                    10 * epoch + $0, codecs[$0], .float32, .average, algorithm, count: 20_000, isInPlace: $0 != 1,
                    worldSize: 3)
            }
            try cluster.nodes[2].allowSending(allowance)
            for rank in 0..<3 {
                for reduction in reductions { _ = try reduction.start(cluster.nodes[rank], rank: rank) }
            }
            try cluster.nodes[2].events.waitUntil { events in
                events.count {
                    if case .sending(_, let header) = $0 { header.tag.value / 10 == epoch } else { false }
                } == allowance
            }
            for node in cluster.nodes { try node.abandonAll() }
            for reduction in reductions {
                for rank in 0..<3 { #expect(reduction.sources[rank].bytes == reduction.inputs[rank]) }
            }
            try cluster.nodes[2].allowSending(.max)
            try cluster.adopt(UInt32(epoch) + 2)
            try check(cluster, reductions)
        }
        try cluster.stop()
    }

    @Test(
        "with error feedback the mean of many results is right, also if one of them is stopped half-way",
        arguments: [2, 3, 5], Algorithm.allCases)
    func feedback(worldSize: Int, algorithm: Algorithm) throws {
        let sites: [UInt16] = algorithm == .twoLevel && worldSize == 5 ? [0, 0, 1, 1, 1] : []
        let cluster = try Cluster(worldSize, small(), sites: sites)
        try cluster.log()
        let (count, rounds) = (3000, 40)
        var reduction = reduction(
            1, Codec(.int4), .float32, .average, algorithm, count: count, isInPlace: false, worldSize: worldSize,
            sites: sites)
        reduction.feedbacks = (0..<worldSize).compactMap { _ in ErrorFeedback(count: count, type: .float32) }
        let inputs = reduction.inputs.map { values(reduction, $0) }
        let truth = (0..<count).map { i in inputs.reduce(0) { $0 + $1[i] } / Double(worldSize) }
        func worst(_ results: [Double], _ divisor: Int) -> Double {
            zip(results, truth).map { abs($0 / Double(divisor) - $1) }.max() ?? 1
        }
        var sums = [Double](repeating: 0, count: count)
        var first = 0.0
        for round in 0..<rounds {
            if round == rounds / 2 {
                let before = kept(reduction)
                let last = cluster.nodes[worldSize - 1]
                func sent() -> Int { last.events.all.count { if case .sending = $0 { true } else { false } } }
                let sentBefore = sent()
                try last.allowSending(3)
                for rank in 0..<worldSize { _ = try reduction.start(cluster.nodes[rank], rank: rank) }
                try last.events.waitUntil {
                    $0.count { if case .sending = $0 { true } else { false } } == sentBefore + 3
                }
                for node in cluster.nodes { try node.abandonAll() }
                try last.allowSending(.max)
                try cluster.adopt(2)
                #expect(kept(reduction) == before)
            }
            _ = try cluster.run([reduction])
            #expect(mistake(reduction, rounding: 0.3) == nil)
            for (i, value) in values(reduction, reduction.targets[0].bytes).enumerated() { sums[i] += value }
            if round == 0 { first = worst(sums, 1) }
        }
        #expect(worst(sums, rounds) < first / 5, "\(worst(sums, rounds)) after \(first)")
        #expect(cluster.violations == [])
        try cluster.stop()
    }

    private func kept(_ reduction: Reduction) -> [[UInt8]] {
        reduction.feedbacks.map { [UInt8](UnsafeRawBufferPointer(start: $0.kept, count: 4 * $0.count)) }
    }

    @Test("what is final when a member is lost is passed on bit for bit, the rest is made by who is left")
    func resumes() throws {
        let cluster = try Cluster(4, stripes: 2, small())
        try cluster.log()
        let count = 30_000
        var reduction = reduction(1, Codec(.minMax8), .float32, .average, .direct, count: count, worldSize: 4)
        reduction.feedbacks = (0..<4).compactMap { _ in ErrorFeedback(count: count, type: .float32) }
        try cluster.nodes[3].allowSending(60)
        let completions = try (0..<4).map { try reduction.start(cluster.nodes[$0], rank: $0) }
        try cluster.nodes[3].events.waitUntil { $0.count { if case .sending = $0 { true } else { false } } == 60 }
        let survivors = Array(cluster.nodes.dropLast())
        while try !survivors.contains(where: { try $0.hasFinal() }) { usleep(1000) }
        let final = try survivors.map { try $0.halt()[1] ?? [] }
        let before = reduction.targets.map(\.bytes)
        let chosen = KeptParts.choose(
            from: final, elementCount: count, worldSize: 3, isOneViewDemanded: false, limit: 256)
        #expect(!chosen.isEmpty)
        try cluster.nodes[3].abandonAll()
        let resumption = Resumption(number: 1, kept: chosen)
        for node in survivors {
            try node.resume(in: 2, survivors.map(\.id), [1: reduction.descriptor], [1: resumption])
        }
        for rank in 0..<3 { _ = try completions[rank].value("rank \(rank)") }

        let result = reduction.targets[0].bytes
        for rank in 1..<3 { #expect(reduction.targets[rank].bytes == result) }
        for part in chosen {
            let bytes = part.part.elements.lowerBound * 4..<part.part.elements.upperBound * 4
            for holder in part.holders { #expect(before[holder][bytes] == result[bytes]) }
        }
        let inputs = reduction.inputs.map { values(reduction, $0) }
        let reduced = values(reduction, result)
        let lost = kept(reduction).map { values(reduction, $0) }
        for part in resumption.parts(elementCount: count, worldSize: 3) {
            // What three have contributed is in the result or kept by one of them.
            for i in part.elements where part.worldSize == 3 {
                let given = inputs.prefix(3).reduce(0) { $0 + $1[i] }
                let found = 3 * reduced[i] + lost.prefix(3).reduce(0) { $0 + $1[i] }
                #expect(abs(given - found) < 1e-5)
            }
            for i in part.elements {
                let expected = inputs.prefix(part.worldSize).reduce(0) { $0 + $1[i] } / Double(part.worldSize)
                #expect(abs(reduced[i] - expected) < 2.0 / 255 + 0x1p-8)
            }
        }
        #expect(cluster.violations == [])
        try cluster.stop()
    }
}
