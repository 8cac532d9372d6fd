import Glibc
import PCCL
import PCCLBase
import PCCLTransport
import Testing

@Suite("All-reduce between communicators of one process", .serialized, .timeLimit(.minutes(5)))
struct AllReduceTests {
    /// Small whole numbers: sums, products and averages are exact in every type.
    private static func contribution(_ peer: Int, _ index: Int) -> Int { 1 + (peer + index) % period }
    private static let period = 3

    private static func expected(_ operation: ReduceOperation, peers: Int, _ index: Int) -> Double {
        let values = (0..<peers).map { contribution($0, index) }
        switch operation {
        case .sum: return Double(values.reduce(0, +))
        case .average: return Double(values.reduce(0, +)) / Double(peers)
        case .product: return Double(values.reduce(1, *))
        case .maximum: return Double(values.max() ?? 0)
        case .minimum: return Double(values.min() ?? 0)
        }
    }

    private static func check<T: Reducible>(
        _ world: LoopbackWorld, _ make: @escaping @Sendable (Int) -> T, _ read: @escaping @Sendable (T) -> Double,
        round: @escaping @Sendable (Double) -> Double, count: Int,
        operations: [ReduceOperation] = ReduceOperation.allCases
    ) throws {
        for operation in operations {
            for inPlace in [true, false] {
                let wrong = Guarded(0)
                try onThreads(world.peers) { index, peer in
                    let source = Buffer(count, period: period) { make(contribution(index, $0)) }
                    let target = inPlace ? source : Buffer(count, period: 1) { _ in make(0) }
                    let info =
                        inPlace
                        ? try peer.allReduce(source.elements, operation, tag: 3)
                        : try peer.allReduce(
                            from: UnsafeBufferPointer(source.elements), into: target.elements, operation, tag: 3)
                    let size = world.peers.count
                    let isRight = target.repeats(period) { i, value in
                        read(value) == round(expected(operation, peers: size, i))
                    }
                    wrong.withLock { $0 += isRight && info.worldSize == size ? 0 : 1 }
                }
                #expect(wrong.withLock { $0 } == 0, "\(T.self) \(operation) in place: \(inPlace)")
            }
        }
    }

    @Test(
        "every type and operation, in place and not, gives what the contributions say",
        arguments: Algorithm.allCases, [2, 3, 5])
    func typesAndOperations(algorithm: Algorithm, size: Int) throws {
        let world = try LoopbackWorld(size, algorithm: algorithm)
        defer { world.destroy() }
        let truncated: @Sendable (Double) -> Double = { $0.rounded(.towardZero) }
        let count = 1009
        try Self.check(world, { UInt8($0) }, { Double($0) }, round: truncated, count: count)
        try Self.check(world, { Int8($0) }, { Double($0) }, round: truncated, count: count)
        try Self.check(world, { UInt16($0) }, { Double($0) }, round: truncated, count: count)
        try Self.check(world, { Int16($0) }, { Double($0) }, round: truncated, count: count)
        try Self.check(world, { UInt32($0) }, { Double($0) }, round: truncated, count: count)
        try Self.check(world, { Int32($0) }, { Double($0) }, round: truncated, count: count)
        try Self.check(world, { UInt64($0) }, { Double($0) }, round: truncated, count: count)
        try Self.check(world, { Int64($0) }, { Double($0) }, round: truncated, count: count)
        try Self.check(world, { Float16($0) }, { Double($0) }, round: { Double(Float16(Float($0))) }, count: count)
        try Self.check(world, { Float($0) }, { Double($0) }, round: { Double(Float($0)) }, count: count)
        try Self.check(world, { Double($0) }, { $0 }, round: { $0 }, count: count)
    }

    @Test(
        "buffers of one element, of fewer elements than ranks, and of many segments come out right",
        arguments: [Algorithm.direct, .ring], [1, 2, 7, 300_001])
    func counts(algorithm: Algorithm, count: Int) throws {
        let world = try LoopbackWorld(4, stripes: 3, algorithm: algorithm)
        defer { world.destroy() }
        try Self.check(
            world, { Float($0) }, { Double($0) }, round: { Double(Float($0)) }, count: count, operations: [.sum])
    }

    @Test("many tags in flight, launched in another order by each peer, do not disturb each other")
    func manyTags() throws {
        let world = try LoopbackWorld(3, stripes: 2)
        defer { world.destroy() }
        let wrong = Guarded(0)
        try onThreads(world.peers) { index, peer in
            let tags = 60
            let buffers = (0..<tags).map { tag in Buffer<Int32>(50 + 700 * tag, period: 1) { _ in Int32(tag + index) } }
            let order = (0..<tags).map { ($0 * [1, 7, 11][index] + index) % tags }
            let handles = try order.map { try peer.allReduceAsync(buffers[$0].elements, .sum, tag: UInt64($0)) }
            for handle in handles.reversed() { _ = try handle.wait() }
            let differing = (0..<tags).count { !buffers[$0].isAll(Int32(3 * $0 + 3)) }
            wrong.withLock { $0 += differing }
        }
        #expect(wrong.withLock { $0 } == 0)
    }

    @Test("several threads may wait for one handle, and a tag is free again once its outcome was taken")
    func severalWaiters() throws {
        let world = try LoopbackWorld(2)
        defer { world.destroy() }
        let outcomes = Guarded(0)
        try onThreads(world.peers) { _, peer in
            for _ in 0..<20 {
                let buffer = Buffer<Float>(1000) { _ in 1 }
                let handle = try peer.allReduceAsync(buffer.elements, .sum, tag: 9)
                let second = startThread { if (try? handle.wait()) != nil { outcomes.withLock { $0 += 1 } } }
                _ = try handle.wait()
                outcomes.withLock { $0 += 1 }
                pthread_join(second, nil)
            }
        }
        #expect(outcomes.withLock { $0 } == 80)
    }

    @Test("a tag in flight is refused, and so is a join point while it is")
    func tagInUse() throws {
        let world = try LoopbackWorld(2)
        defer { world.destroy() }
        let buffer = Buffer<Float>(10) { _ in 1 }
        let other = Buffer<Float>(10) { _ in 2 }
        let handle = try world.peers[0].allReduceAsync(buffer.elements, .sum, tag: 1)
        #expect(throws: PCCLError.self) { try world.peers[0].allReduceAsync(other.elements, .sum, tag: 1) }
        let refusal = #expect(throws: PCCLError.self) { try world.peers[0].updateTopology() }
        #expect(refusal?.code == .pendingAsyncOps)
        try world.peers[1].allReduce(other.elements, .sum, tag: 1)
        _ = try handle.wait()
        #expect(buffer.elements[9] == 3 && other.elements[9] == 3)
    }

    @Test("members that call with different counts are all told, with both calls named, and go on")
    func mismatch() throws {
        let world = try LoopbackWorld(3)
        defer { world.destroy() }
        let reasons = Guarded<[String]>([])
        try onThreads(world.peers) { index, peer in
            let buffer = Buffer<Float>(100 + index / 2) { _ in 1 }
            do {
                try peer.allReduce(buffer.elements, .sum, tag: 1)
            } catch let error as PCCLError where error.code == .invalidArgument {
                reasons.withLock { $0.append(error.reason) }
            }
            #expect(buffer.elements.allSatisfy { $0 == 1 })
            let again = Buffer<Float>(10) { _ in 1 }
            try peer.allReduce(again.elements, .sum, tag: 1)
            #expect(again.elements[0] == 3)
        }
        let all = reasons.withLock { $0 }
        #expect(all.count == 3)
        #expect(all.allSatisfy { $0.contains("100 × float32") && $0.contains("101 × float32") })
    }
}
