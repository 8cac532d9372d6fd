import PCCL
import PCCLBase
import PCCLTransport
import Testing

@Suite("A group that optimises its topology", .serialized, .timeLimit(.minutes(2)))
struct TopologyTests {
    private func code(_ body: () throws -> Void) -> PCCLError.Code? {
        do {
            try body()
            return nil
        } catch {
            return (error as? PCCLError)?.code
        }
    }

    private func reduce(_ world: LoopbackWorld, count: Int) throws -> UInt64 {
        let most = Guarded(UInt64(0))
        try onThreads(world.peers) { index, peer in
            let buffer = Buffer(count, period: 7) { Float(index + $0) }
            let info = try peer.allReduce(buffer.elements, .sum, tag: 1)
            most.withLock { $0 = max($0, info.sentBytes) }
            let size = world.peers.count
            let offset = size * (size - 1) / 2
            let isRight = buffer.repeats(7) { $1 == Float(offset + size * $0) }
            if !isRight { throw PCCLError(.internalError, "a wrong sum at \(index)") }
        }
        return most.withLock { $0 }
    }

    @Test(
        "before any transfer, after some, and again: every rank is one member's, and results are right",
        arguments: [2, 3, 5])
    func optimise(size: Int) throws {
        let world = try LoopbackWorld(size)
        defer { world.destroy() }
        for round in 0..<3 {
            try onThreads(world.peers) { _, peer in try peer.optimizeTopology() }
            let ranks = try world.peers.map { try $0.attributes().rank }
            #expect(ranks.sorted() == Array(0..<size), "round \(round)")
            _ = try reduce(world, count: 1 << 20)
            _ = try reduce(world, count: 3)
        }
    }

    @Test("a few elements go to everybody at once, many to their owners only")
    func automaticAlgorithm() throws {
        let world = try LoopbackWorld(4)
        defer { world.destroy() }
        #expect(try reduce(world, count: 4) == 4 * 4 * 3)
        #expect(try reduce(world, count: 1 << 20) == 2 * 4 * (1 << 20) * 3 / 4)
    }

    @Test("alone it is invalid usage; with an operation that is not awaited it fails, and changes nothing")
    func mistakes() throws {
        let alone = try LoopbackWorld(1)
        #expect(code { try alone.peers[0].optimizeTopology() } == .invalidUsage)
        alone.destroy()
        #expect(code { try alone.peers[0].optimizeTopology() } == .invalidUsage)
        let world = try LoopbackWorld(2)
        defer { world.destroy() }
        let buffers = [Buffer(100) { Float($0) }, Buffer(100) { Float($0) }]
        let handles = try world.peers.enumerated().map { try $1.allReduceAsync(buffers[$0].elements, .sum, tag: 9) }
        #expect(code { try world.peers[0].optimizeTopology() } == .topologyOptimizationFailed)
        for handle in handles { _ = try handle.wait() }
        try onThreads(world.peers) { _, peer in try peer.optimizeTopology() }
    }

    @Test("a member that leaves meanwhile: the others finish the call")
    func loss() throws {
        let world = try LoopbackWorld(3)
        defer { world.destroy() }
        try onThreads(world.peers) { index, peer in
            if index == 2 { peer.destroy() } else { try peer.optimizeTopology() }
        }
        #expect(try world.peers[0].attributes().worldSize == 2)
    }

    @Test("the same without blocking a thread")
    func asynchronous() async throws {
        let world = try LoopbackWorld(2)
        defer { world.destroy() }
        try await withThrowingTaskGroup(of: Void.self) { group in
            for peer in world.peers { group.addTask { try await peer.optimizeTopology() } }
            try await group.waitForAll()
        }
    }
}
