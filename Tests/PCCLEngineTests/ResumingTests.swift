import Glibc
import PCCLBase
import PCCLCompute
import PCCLMembership
import PCCLSchedule
import PCCLTestSupport
import PCCLTransport
import PCCLWire
import Testing

@testable import PCCLEngine

@Suite("Operations that go on after an interruption", .timeLimit(.minutes(10)))
struct ResumingTests {
    private func small() -> EngineConfiguration {
        var configuration = EngineConfiguration()
        configuration.segmentBytes = 256
        configuration.stagingBytesPerOperation = 1
        return configuration
    }

    private func resumption(of holdings: [[ResultPart]], _ count: Int, limit: Int = 256) -> Resumption {
        Resumption(
            number: 1,
            kept: KeptParts.choose(
                from: holdings, elementCount: count, worldSize: holdings.count, isOneViewDemanded: false, limit: limit))
    }

    /// Every element has the contributions of the view that its part names, as that view folds them.
    private func mistake(
        _ reduction: Reduction, _ target: Memory, _ parts: [ResultPart], worldSize: Int
    ) -> String? {
        let descriptor = reduction.descriptor
        let unit = descriptor.type.byteCount
        // The references are slow: so many-th elements will do.
        let stride = 37
        var references: [Int: [UInt8]] = [:]
        for size in Set(parts.map(\.worldSize)) {
            references[size] = ScalarReference(
                type: descriptor.type, operation: descriptor.operation,
                algorithm: size == worldSize ? descriptor.algorithm : .direct, stride: stride
            ).result(Array(reduction.inputs.prefix(size)))
        }
        let result = target.bytes
        for part in parts {
            for element in part.elements where element % stride == 0 {
                let range = element * unit..<(element + 1) * unit
                guard result[range] == references[part.worldSize]?[range] else {
                    return "\(descriptor), element \(element) of \(part): \(result[range])"
                }
            }
        }
        return nil
    }

    @Test(
        "what is final stays, the rest is made by who is left, the same bits everywhere", arguments: [3, 4, 5],
        Algorithm.allCases)
    func goesOn(worldSize: Int, algorithm: Algorithm) throws {
        let cluster = try Cluster(worldSize, stripes: 2, small())
        try cluster.log()
        let count = 30_000
        let survivors = Array(cluster.nodes.dropLast())
        let reductions = (0..<3).map {
            Reduction(
                tag: 10 + UInt64($0), [.float32, .bfloat16, .int8][$0], .average, algorithm, count: count,
                isInPlace: $0 != 1, worldSize: worldSize)
        }
        let silent = cluster.nodes[worldSize - 1]
        let allowance = 200
        try silent.allowSending(allowance)
        var completions: [[Completion<Traffic>]] = []
        for rank in 0..<worldSize {
            completions.append(try reductions.map { try $0.start(cluster.nodes[rank], rank: rank) })
        }
        try silent.events.waitUntil { $0.count { if case .sending = $0 { true } else { false } } == allowance }
        // Some of it becomes final, or nothing would be tested.
        while try !survivors.contains(where: { try $0.hasFinal() }) { usleep(1000) }

        let final = try survivors.map { try $0.halt() }
        var resumptions: [UInt64: Resumption] = [:]
        var descriptors: [UInt64: OperationDescriptor] = [:]
        for reduction in reductions {
            resumptions[reduction.tag] = resumption(of: final.map { $0[reduction.tag] ?? [] }, count)
            descriptors[reduction.tag] = reduction.descriptor
            descriptors[reduction.tag]?.algorithm = .direct
        }
        #expect(resumptions.values.contains { !$0.kept.isEmpty }, "something was final")
        try silent.abandonAll()
        for node in survivors { try node.resume(in: 2, survivors.map(\.id), descriptors, resumptions) }
        for (index, reduction) in reductions.enumerated() {
            for rank in survivors.indices {
                _ = try completions[rank][index].value("tag \(reduction.tag) at rank \(rank)")
            }
            let parts = resumptions[reduction.tag]?.parts(elementCount: count, worldSize: worldSize - 1) ?? []
            #expect(mistake(reduction, reduction.targets[0], parts, worldSize: worldSize) == nil)
            for rank in survivors.indices {
                #expect(reduction.targets[rank].bytes == reduction.targets[0].bytes)
                #expect(reduction.targets[rank].isIntactAround)
                if !reduction.isInPlace { #expect(reduction.sources[rank].bytes == reduction.inputs[rank]) }
            }
        }
        #expect(cluster.violations == [])
        try cluster.stop()
    }

    @Test(
        "it is interrupted again, and given up: the input is whole, what was kept as well",
        arguments: Algorithm.allCases)
    func givenUp(algorithm: Algorithm) throws {
        let cluster = try Cluster(3, small())
        try cluster.log()
        let reduction = Reduction(tag: 1, .float32, .sum, algorithm, count: 20_000, isInPlace: true, worldSize: 3)
        for node in cluster.nodes[1...] { try node.allowSending(60) }
        for rank in 0..<3 { _ = try reduction.start(cluster.nodes[rank], rank: rank) }
        for node in cluster.nodes[1...] {
            try node.events.waitUntil { $0.count { if case .sending = $0 { true } else { false } } == 60 }
        }
        let final = try cluster.nodes.map { try $0.halt()[1] ?? [] }
        // One of them has said less than it has, as it must when there is too much to say.
        let resumption = resumption(of: [final[0], [], final[2]], 20_000, limit: 3)
        var descriptor = reduction.descriptor
        descriptor.algorithm = .direct
        try cluster.nodes[1].allowSending(20)
        for node in cluster.nodes { try node.resume(in: 2, [1, 2, 3], [1: descriptor], [1: resumption]) }
        try cluster.nodes[0].events.waitUntil { events in
            events.contains { if case .placed(_, let header) = $0 { header.epoch == Epoch(2) } else { false } }
        }
        for node in cluster.nodes { try node.abandonAll() }
        for rank in 0..<3 { #expect(reduction.targets[rank].bytes == reduction.inputs[rank], "rank \(rank)") }
        try cluster.stop()
    }

    @Test("a member that has all of it sends it to the others, and nothing else travels")
    func wholeAtOne() throws {
        let cluster = try Cluster(3, small())
        let count = 10_000
        let reduction = Reduction(tag: 1, .int32, .sum, .direct, count: count, isInPlace: false, worldSize: 3)
        // The second says to nobody that it is prepared, so all wait for it with their results.
        let completions = try (0..<3).map { try reduction.start(cluster.nodes[$0], rank: $0) }
        for completion in completions { _ = try completion.value("the first run") }
        let again = Reduction(tag: 2, .int32, .sum, .direct, count: count, isInPlace: true, worldSize: 3)
        try cluster.nodes[2].allowSending(0)
        let stuck = try (0..<3).map { try again.start(cluster.nodes[$0], rank: $0) }
        for node in cluster.nodes { _ = try node.halt() }
        // As if the first rank had had the result of the run before.
        let result = reduction.targets[0].bytes
        again.targets[0].base.copyMemory(from: result, byteCount: result.count)
        let kept = [KeptPart(ResultPart(elements: 0..<count, worldSize: 3), holders: [0])]
        try cluster.nodes[2].allowSending(.max)
        for node in cluster.nodes {
            try node.resume(in: 2, [1, 2, 3], [2: again.descriptor], [2: Resumption(number: 1, kept: kept)])
        }
        let traffic = try stuck.map { try $0.value("the second run") }
        for rank in 0..<3 { #expect(again.targets[rank].bytes == result) }
        // What was sent before the interruption counts too.
        #expect(traffic[0].sentBytes >= UInt64(2 * result.count) && traffic[2].sentBytes == 0)
        try cluster.stop()
    }

    @Test("what is kept may come before the entry, and be more than may otherwise come then")
    func beforeTheEntry() throws {
        var configuration = small()
        configuration.eagerBytesPerOperation = 1024
        configuration.eagerBytesPerLink = 4096
        let cluster = try Cluster(2, stripes: 2, configuration)
        try cluster.log()
        let count = 10_000
        let reduction = Reduction(tag: 1, .int32, .sum, .direct, count: count, isInPlace: true, worldSize: 2)
        for node in cluster.nodes { try node.allowSending(0) }
        let completions = try (0..<2).map { try reduction.start(cluster.nodes[$0], rank: $0) }
        for node in cluster.nodes { _ = try node.halt() }
        for node in cluster.nodes { try node.allowSending(.max) }
        // As if the first rank had nine tenths of the result.
        let kept = [KeptPart(ResultPart(elements: 0..<9000, worldSize: 2), holders: [0])]
        let result = [UInt8](repeating: 7, count: 36_000)
        reduction.targets[0].base.copyMemory(from: result, byteCount: result.count)
        try cluster.nodes[1].holdEntries()
        for node in cluster.nodes {
            try node.resume(in: 2, [1, 2], [1: reduction.descriptor], [1: Resumption(number: 1, kept: kept)])
        }
        // All of it has come, and been put in its place, before the second rank hears of the first one's call.
        try cluster.nodes[1].events.waitUntil { events in
            events.reduce(0) { sum, event in
                // The first rank's kept part is the last chunk.
                guard case .placed(_, let header) = event, header.phase == .gather, header.chunk == 2 else {
                    return sum
                }
                return sum + Int(header.payloadBytes)
            } == result.count
        }
        try cluster.nodes[1].hearEntries()
        for completion in completions { _ = try completion.value("the resumed run") }
        #expect(Array(reduction.targets[1].bytes[..<36_000]) == result)
        #expect(reduction.targets[0].bytes == reduction.targets[1].bytes && cluster.violations == [])
        try cluster.stop()
    }
}

@Suite("An engine that is out of memory")
struct OutOfMemoryTests {
    private final class Budget: @unchecked Sendable {
        let left: Guarded<Int>
        init(_ bytes: Int) { left = Guarded(bytes) }
        var memory: StagingMemory {
            StagingMemory(
                allocate: { [left] count in
                    let isThere = left.withLock { left in
                        left -= count
                        return left >= 0
                    }
                    return isThere ? UnsafeMutableRawPointer.allocate(byteCount: count, alignment: 4096) : nil
                }, release: { base, _ in base.deallocate() })
        }
    }

    @Test(
        "says so once, keeps the input whole, and breaks no link", arguments: Algorithm.allCases, [0, 20_000, 60_000])
    func tells(algorithm: Algorithm, bytes: Int) throws {
        var poor = EngineConfiguration()
        poor.memory = Budget(bytes).memory
        let cluster = try Cluster(3, EngineConfiguration(), of: [1: poor])
        let reduction = Reduction(tag: 1, .float32, .sum, algorithm, count: 60_000, isInPlace: true, worldSize: 3)
        for rank in 0..<3 { _ = try reduction.start(cluster.nodes[rank], rank: rank) }
        try cluster.nodes[1].events.waitUntil { $0.contains { if case .outOfMemory = $0 { true } else { false } } }
        for node in cluster.nodes { try node.abandonAll() }
        for rank in 0..<3 { #expect(reduction.targets[rank].bytes == reduction.inputs[rank], "rank \(rank)") }
        let told = cluster.nodes.map { $0.events.all.count { if case .outOfMemory = $0 { true } else { false } } }
        #expect(told == [0, 1, 0] && cluster.violations == [])
        try cluster.stop()
    }
}
