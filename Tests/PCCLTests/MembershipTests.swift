import Glibc
import PCCL
import PCCLTestSupport
import PCCLTransport
import Testing

@Suite("Masters, groups and membership calls", .serialized, .timeLimit(.minutes(2)))
struct MembershipTests {
    private func configuration(_ master: Master, group: UInt32 = 0) -> Communicator.Configuration {
        Communicator.Configuration(master: .loopback(port: master.port), peerGroup: group)
    }

    private func running() throws -> Master {
        let master = try Master(listen: .loopback(port: 0))
        try master.run()
        return master
    }

    private func code(_ body: () throws -> Void) -> PCCLError.Code? {
        do {
            try body()
            return nil
        } catch {
            return (error as? PCCLError)?.code
        }
    }

    @Test("a master goes one way: made, running, ended")
    func masterLife() throws {
        let master = try Master(listen: .loopback(port: 0))
        #expect(code { try master.interrupt() } == .invalidUsage)
        #expect(code { try master.awaitTermination() } == .invalidUsage)
        try master.run()
        #expect(master.port != 0)
        #expect(code { try master.run() } == .invalidUsage)
        let second = try Master(listen: .loopback(port: master.port))
        #expect(code { try second.run() } == .invalidUsage)
        let waiter = InThread { try master.awaitTermination() }
        try master.interrupt()
        try master.interrupt()
        try waiter.result()
        try master.awaitTermination()
        #expect(code { try master.run() } == .invalidUsage)
        master.destroy()
        master.destroy()
    }

    @Test("each group has a view of its own, and the attributes count them all")
    func groups() throws {
        let master = try running()
        let sizes = [1, 2, 3]
        let peers = try sizes.enumerated().flatMap { group, size in
            try (0..<size).map { _ in try Communicator(configuration(master, group: UInt32(group) * 7)) }
        }
        let worldSizes = [1, 2, 2, 3, 3, 3]
        _ = try together(peers.count) { index in
            try peers[index].connect()
            while try peers[index].attributes().worldSize < worldSizes[index] { try peers[index].updateTopology() }
        }
        // What other groups are like arrives a little later than one's own view.
        for (peer, worldSize) in zip(peers, worldSizes) {
            while try peer.attributes().globalWorldSize < 6 {}
            let attributes = try peer.attributes()
            #expect(attributes.worldSize == worldSize && attributes.rank < worldSize)
            #expect(attributes.groupCount == 3 && attributes.largestGroupWorldSize == 3)
        }
        // The loss of a group of two is nothing to the group of three.
        peers[1].destroy()
        peers[2].destroy()
        let sums = try together(3) { index in
            let buffer = Buffer<Int16>(10) { _ in 5 }
            let info = try peers[3 + index].allReduce(buffer.elements, .sum, tag: 0)
            return [Int(buffer.elements[9]), info.worldSize]
        }
        #expect(sums == [[15, 3], [15, 3], [15, 3]])
        for peer in peers { peer.destroy() }
        master.destroy()
    }

    @Test("whether peers are pending is asked together, and answered alike, also while operations run")
    func pending() throws {
        let world = try LoopbackWorld(2)
        defer { world.destroy() }
        let peers = world.peers
        #expect(try together(2) { try peers[$0].arePeersPending() } == [false, false])
        let newcomer = try Communicator(configuration(world.master))
        let connecting = InThread { try newcomer.connect() }
        let buffers = (0..<2).map { _ in Buffer<Float>(1000) { _ in 1 } }
        let handles = try (0..<2).map { try peers[$0].allReduceAsync(buffers[$0].elements, .sum, tag: 1) }
        _ = try together(2) { while try !peers[$0].arePeersPending() {} }
        #expect(code { try peers[0].updateTopology() } == .pendingAsyncOps)
        for handle in handles { _ = try handle.wait() }
        _ = try together(2) { try peers[$0].updateTopology() }
        try connecting.result()
        #expect(try newcomer.attributes().worldSize == 3)
        newcomer.destroy()
    }

    @Test("whatever call waits, destroy ends it", arguments: ["connect", "updateTopology", "arePeersPending", "wait"])
    func destroyWhileWaiting(call: String) throws {
        let world = try LoopbackWorld(2)
        defer { world.destroy() }
        let peer = call == "connect" ? try Communicator(configuration(world.master)) : world.peers[0]
        let buffer = Buffer<Float>(100) { Float($0) }
        let handle = call == "wait" ? try peer.allReduceAsync(buffer.elements, .sum, tag: 1) : nil
        let waiter = InThread {
            switch call {
            case "connect": try peer.connect()
            case "updateTopology": try peer.updateTopology()
            case "arePeersPending": _ = try peer.arePeersPending()
            default: _ = try handle?.wait()
            }
        }
        peer.destroy()
        #expect((try waiter.failure() as? PCCLError)?.code == .invalidUsage)
        // Nothing was reduced, and nothing is touched any more.
        #expect(buffer.elements.enumerated().allSatisfy { $1 == Float($0) })
    }

    @Test("a communicator whose last reference goes ends its operations; their handles outlive it")
    func lastReference() throws {
        let master = try running()
        let buffer = Buffer<Float>(10) { _ in 1 }
        func launched() throws -> (OperationHandle, Communicator) {
            let peers = try (0..<2).map { _ in try Communicator(configuration(master)) }
            _ = try together(2) { index in
                try peers[index].connect()
                while try peers[index].attributes().worldSize < 2 { try peers[index].updateTopology() }
            }
            let handle = try peers[0].allReduceAsync(buffer.elements, .sum, tag: 1)
            peers[1].destroy()
            return (handle, peers[1])
        }
        let (handle, other) = try launched()
        // The communicator is gone, or the loss of the other came first.
        let code = code { _ = try handle.wait() }
        #expect(code == .invalidUsage || code == .tooFewPeers || code == .rankConnectionLost)
        other.destroy()
        #expect(buffer.elements.allSatisfy { $0 == 1 })
        master.destroy()
    }

    @Test("without a thread to block: the same calls, suspended")
    func asynchronousCalls() async throws {
        let master = try running()
        let peers = try (0..<2).map { _ in try Communicator(configuration(master)) }
        func come(_ peer: Communicator) async throws {
            try await peer.connect()
            while try peer.attributes().worldSize < 2 {
                if try await peer.arePeersPending() { try await peer.updateTopology() }
            }
            let buffer = Buffer<Double>(100) { _ in 2 }
            let info = try await peer.allReduceAsync(buffer.elements, .product, tag: 6).outcome()
            #expect(info.worldSize == 2)
            #expect(buffer.elements[99] == 4)
        }
        async let first: Void = come(peers[0])
        async let second: Void = come(peers[1])
        _ = try await (first, second)
        for peer in peers { peer.destroy() }
        master.destroy()
    }

    @Test("arguments are checked before anything happens")
    func arguments() throws {
        #expect(
            code { _ = try Communicator(.init(master: .loopback(port: 1), stripesPerLink: 257)) } == .invalidArgument)
        #expect(
            code { _ = try Communicator(.init(master: .loopback(port: 1), stripesPerLink: -1)) } == .invalidArgument)
        for seconds in [0, -1, 1e9, Double.nan] {
            var configuration = Communicator.Configuration(master: .loopback(port: 1))
            configuration.timeoutSeconds = seconds
            #expect(code { _ = try Communicator(configuration) } == .invalidArgument)
        }
        let world = try LoopbackWorld(2)
        defer { world.destroy() }
        let peer = world.peers[0]
        let buffer = Buffer<Float>(10) { Float($0) }
        let empty = UnsafeMutableBufferPointer<Float>(start: nil, count: 0)
        #expect(code { try peer.allReduce(empty, .sum, tag: 0) } == .invalidArgument)
        let whole = UnsafeBufferPointer(buffer.elements)
        let short = UnsafeMutableBufferPointer(rebasing: buffer.elements[..<9])
        #expect(code { try peer.allReduce(from: whole, into: short, .sum, tag: 0) } == .invalidArgument)
        let overlapping = UnsafeBufferPointer(rebasing: buffer.elements[1...])
        #expect(code { try peer.allReduce(from: overlapping, into: short, .sum, tag: 0) } == .invalidArgument)
        let operand = ReduceOperand(buffer.elements, .sum, tag: 3)
        #expect(code { _ = try peer.allReduceWithRetry([operand, operand]) } == .invalidArgument)
        #expect(code { _ = try peer.allReduceWithRetry([operand], maxInFlight: -1) } == .invalidArgument)
        var huge = operand
        huge.count = .max
        #expect(code { _ = try peer.allReduce(huge) } == .invalidArgument)
        #expect(buffer.elements.enumerated().allSatisfy { $1 == Float($0) })
        #expect(peer.handle(tag: 0) == nil && peer.handle(tag: 3) == nil)
    }

    @Test("communicators and masters leave no descriptor and no thread")
    func nothingIsLeft() async {
        await #expect(processExitsWith: .success) {
            func once() throws {
                let world = try LoopbackWorld(3, stripes: 2)
                try onThreads(world.peers) { _, peer in
                    let buffer = Buffer<Float>(10_000, period: 1) { _ in 1 }
                    try peer.allReduce(buffer.elements, .average, tag: 0)
                    // Not destroyed by hand: the last reference does it.
                }
                world.master.destroy()
            }
            try once()
            let (descriptors, threads) = (openDescriptors, runningThreads)
            for _ in 0..<10 { try once() }
            #expect(openDescriptors == descriptors)
            #expect(threadsFall(to: threads))
        }
    }
}
