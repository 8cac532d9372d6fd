import Glibc
import PCCL
import PCCLBase
import PCCLTransport
import Testing

@Suite("Peers that leave, join and lose their master", .serialized, .timeLimit(.minutes(2)))
struct LossTests {
    @Test(
        "a member that leaves while others reduce is a loss to them: same verdict, input whole, retry right",
        arguments: [true, false])
    func leaveDuringOperation(isLarge: Bool) throws {
        let world = try LoopbackWorld(3, stripes: 2)
        defer { world.destroy() }
        let count = isLarge ? 2_000_000 : 100
        let losses = Guarded(0)
        try onThreads([0, 1, 2]) { [peers = world.peers] (_, index: Int) in
            let buffer = Buffer<Float>(count, period: 1) { _ in Float(index + 1) }
            if index == 2 {
                // It enters, so that the others may have begun to fold and to overwrite, and is gone.
                _ = try peers[2].allReduceAsync(buffer.elements, .sum, tag: 1)
                peers[2].destroy()
                withExtendedLifetime(buffer) {}
                return
            }
            while true {
                do {
                    let info = try peers[index].allReduce(buffer.elements, .sum, tag: 1)
                    let sum: Float = info.worldSize == 3 ? 6 : 3
                    #expect(buffer.isAll(sum))
                    return
                } catch let error as PCCLError where error.code == .rankConnectionLost {
                    #expect(buffer.isAll(Float(index + 1)))
                    let worldSize = try peers[index].attributes().worldSize
                    #expect(worldSize == 2)
                    losses.withLock { $0 += 1 }
                }
            }
        }
        #expect([0, 2].contains(losses.withLock { $0 }), "both survivors see the loss, or neither")
    }

    @Test(
        "or they go on without it: no call returns before, and each element is made by whom they are told",
        arguments: [false, true])
    func goOn(ofOneView: Bool) throws {
        let onLoss: PCCL.LossPolicy = ofOneView ? .resumeWhole : .resume
        let count = 1_000_000
        for attempt in 0..<8 {
            let world = try LoopbackWorld(3, stripes: 2)
            defer { world.destroy() }
            let isInPlace = attempt % 2 == 0
            let seen = Guarded<[(info: ReduceInfo, result: Buffer<Float>)]>([])
            try onThreads([0, 1, 2]) { [peers = world.peers] (_, index: Int) in
                let send = Buffer<Float>(count, period: 1) { _ in Float(1 << index) }
                let receive = isInPlace ? send : Buffer<Float>(count, period: 1) { _ in 99 }
                let operand = ReduceOperand(
                    from: UnsafeBufferPointer(send.elements), into: receive.elements, .sum, tag: 1)
                if index == 2 {
                    _ = try peers[2].allReduceAsync(operand, onLoss: onLoss)
                    // At another moment each time. What it hits does not matter: the promise holds.
                    usleep(UInt32(attempt * 400))
                    peers[2].destroy()
                    withExtendedLifetime((send, receive)) {}
                    return
                }
                let info = try peers[index].allReduce(operand, onLoss: onLoss)
                if !isInPlace { #expect(send.isAll(Float(1 << index))) }
                seen.withLock { $0.append((info, receive)) }
            }
            let (first, second) = seen.withLock { ($0[0], $0[1]) }
            #expect(first.info.parts == second.info.parts && first.info.worldSize == second.info.worldSize)
            #expect(first.info.parts.isEmpty || onLoss == .resume)
            let parts =
                first.info.parts.isEmpty
                ? [ResultPart(elements: 0..<count, worldSize: first.info.worldSize)] : first.info.parts
            for part in parts {
                let sum: Float = part.worldSize == 3 ? 7 : 3
                for result in [first.result, second.result] {
                    #expect(result.elements[part.elements].allSatisfy { $0 == sum }, "\(part)")
                }
            }
        }
    }

    @Test("what a loss undoes is repeated until all operands are reduced")
    func retryOfMany() throws {
        let world = try LoopbackWorld(3)
        defer { world.destroy() }
        try onThreads([0, 1, 2]) { [peers = world.peers] (_, index: Int) in
            let buffers = (0..<20).map { _ in Buffer<Double>(20_000, period: 1) { _ in 1 } }
            let operands = buffers.enumerated().map { ReduceOperand($1.elements, .sum, tag: UInt64($0)) }
            if index == 2 {
                _ = try peers[2].allReduceWithRetry(Array(operands[..<5]), maxInFlight: 5)
                peers[2].destroy()
                return
            }
            _ = try peers[index].allReduceWithRetry(operands, maxInFlight: 4)
            for buffer in buffers {
                let first = buffer.elements[0]
                #expect(first == 2 || first == 3)
                #expect(buffer.isAll(first))
            }
        }
    }

    @Test("who is alone is told so, and goes on with whoever joins")
    func alone() throws {
        let world = try LoopbackWorld(1)
        defer { world.destroy() }
        let buffer = Buffer<Float>(4) { _ in 1 }
        let refusal = #expect(throws: PCCLError.self) { try world.peers[0].allReduce(buffer.elements, .sum, tag: 0) }
        #expect(refusal?.code == .tooFewPeers)
        let newcomer = try world.join()
        try onThreads([world.peers[0], newcomer]) { _, peer in
            let mine = Buffer<Float>(4) { _ in 1 }
            let info = try peer.allReduce(mine.elements, .sum, tag: 0)
            #expect(info.worldSize == 2)
        }
        newcomer.destroy()
    }

    @Test("without its master, and a grace for it, a view goes on to reduce; its membership calls fail")
    func masterGone() throws {
        let world = try LoopbackWorld(2, timeouts: Timeouts(deadTime: Timeouts.defaultDeadTime))
        defer { world.destroy() }
        world.master.destroy()
        try onThreads(world.peers) { _, peer in
            let refusal = #expect(throws: PCCLError.self) { try peer.updateTopology() }
            #expect(refusal?.code == .updateTopologyFailed)
            let buffer = Buffer<Int64>(1000) { Int64($0) }
            try peer.allReduce(buffer.elements, .sum, tag: 5)
            #expect(buffer.elements[999] == 1998)
        }
    }

    @Test("a communicator that is destroyed ends the calls that wait in it")
    func destroyWhileWaiting() throws {
        let world = try LoopbackWorld(2)
        defer { world.destroy() }
        let code = Completion<PCCLError.Code?>()
        let waiter = startThread { [peer = world.peers[0]] in
            do {
                _ = try peer.arePeersPending()
                code.set(nil)
            } catch {
                code.set((error as? PCCLError)?.code)
            }
        }
        world.peers[0].destroy()
        #expect(code.wait() == .invalidUsage)
        pthread_join(waiter, nil)
    }

    @Test("a closed port, and a port of something else, are named")
    func wrongPorts() throws {
        let nobody = try Communicator(.init(master: SocketAddress.loopback(port: 1)))
        let refused = #expect(throws: PCCLError.self) { try nobody.connect() }
        #expect(refused?.code == .masterConnectionFailed && refused?.reason.contains("127.0.0.1:1") == true)
        nobody.destroy()
        let again = #expect(throws: PCCLError.self) { try nobody.connect() }
        #expect(again?.code == .invalidUsage)
    }
}
