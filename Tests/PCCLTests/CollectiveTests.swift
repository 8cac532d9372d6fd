import PCCL
import PCCLBase
import PCCLTestSupport
import Testing

@Suite("Collectives beside the all-reduce", .timeLimit(.minutes(3)))
struct CollectiveTests {
    @Test("blocks are gathered, scattered and sent to all, and all meet", arguments: [nil, Algorithm.ring])
    func everything(algorithm: Algorithm?) throws {
        let world = try LoopbackWorld(3, algorithm: algorithm)
        defer { world.destroy() }
        try onThreads(world.peers) { _, peer in
            let rank = try peer.attributes().rank
            let block = [Int32](repeating: Int32(rank), count: 1000)
            var all = [Int32](repeating: -1, count: 3000)
            let gathered = try block.withUnsafeBufferPointer { block in
                try all.withUnsafeMutableBufferPointer { try peer.allGather(block, into: $0, tag: 1) }
            }
            #expect(gathered.worldSize == 3)
            #expect(all == (0..<3000).map { Int32($0 / 1000) })

            var sum = [Int32](repeating: -1, count: 1000)
            try all.withUnsafeBufferPointer { all in
                _ = try sum.withUnsafeMutableBufferPointer { try peer.reduceScatter(all, into: $0, .sum, tag: 2) }
            }
            #expect(sum == [Int32](repeating: Int32(3 * rank), count: 1000))

            _ = try sum.withUnsafeMutableBufferPointer { try peer.broadcast($0, root: 2, tag: 3) }
            #expect(sum == [Int32](repeating: 6, count: 1000))
            #expect(try peer.barrier(tag: 4).sentBytes == 0)
        }
    }

    @Test("who does not know of a loss yet is told at once, and who is in it is told too")
    func loss() throws {
        let world = try LoopbackWorld(3, timeoutSeconds: 2)
        defer { world.destroy() }
        let started = Mailbox<Int>("peers that have begun")
        try onThreads(world.peers) { index, peer in
            if index == 2 {
                _ = try started.take(2)
                return peer.destroy()
            }
            let block = UnsafeMutableBufferPointer<Float>.allocate(capacity: 1)
            let buffer = UnsafeMutableBufferPointer<Float>.allocate(capacity: 3)
            defer {
                block.deallocate()
                buffer.deallocate()
            }
            block.initialize(repeating: 2)
            buffer.initialize(repeating: 1)
            let buffers = BlockBuffers(from: UnsafeBufferPointer(block), into: buffer)
            let handle = try peer.allGatherAsync(buffers, tag: 1)
            started.put(index)
            let lost = #expect(throws: PCCLError.self) { try handle.wait() }
            #expect(lost?.code == .rankConnectionLost)
            let again = #expect(throws: PCCLError.self) { try peer.allGatherAsync(buffers, tag: 1) }
            #expect(again?.code == .rankConnectionLost)
            let rest = UnsafeMutableBufferPointer(rebasing: buffer.prefix(2))
            try peer.allGather(UnsafeBufferPointer(block), into: rest, tag: 1)
            #expect(rest.elementsEqual([2, 2]))
        }
    }
}
