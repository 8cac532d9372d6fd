import PCCL
import PCCLTransport
import Testing

/// What Tests/ABITests/windows.c and Tests/DeviceTests/kills.c look at from outside, in one process that a sanitizer can watch.
@Suite(
    "Windows of devices", .serialized, .timeLimit(.minutes(3)),
    .enabled(if: StandIn.isThere, "PCCL_LIBCUDA names no stand-in for a driver; make test-unit runs these with one"))
struct DeviceWindowTests {
    private let driver: StandIn

    init() throws {
        #expect(CUDAStatus.current.obstacle == nil)
        driver = try StandIn()
    }

    private static func floats(_ pointer: UnsafeMutableRawPointer, _ count: Int) -> UnsafeMutableBufferPointer<Float> {
        UnsafeMutableBufferPointer(start: pointer.assumingMemoryBound(to: Float.self), count: count)
    }

    /// Every peer's own values, reduced in place on the device; those that came out. A loss leaves the input, and throws.
    private static func reduce(
        _ values: [Float], in buffer: borrowing DeviceBuffer, tag: UInt64, with peer: Communicator
    ) throws -> [Float] {
        try values.withUnsafeBytes { try buffer.copyIn(from: $0) }
        var out = values
        do {
            try peer.allReduce(floats(buffer.pointer, values.count), .sum, tag: tag)
        } catch {
            try out.withUnsafeMutableBytes { try buffer.copyOut(into: $0) }
            #expect(out == values)
            throw error
        }
        try out.withUnsafeMutableBytes { try buffer.copyOut(into: $0) }
        return out
    }

    @Test("reductions of several sizes at once, from several threads, find their windows and end there")
    func reductions() throws {
        let world = try LoopbackWorld(3)
        defer { world.destroy() }
        let counts = [1, 1000, 20_000, 70_001]
        let launches = try driver.calls("cuLaunchKernel")
        try onThreads(world.peers.flatMap { peer in counts.indices.map { (peer, $0) } }) { place, item in
            let (peer, which) = item
            let index = place / counts.count
            let buffer = try DeviceBuffer(byteCount: counts[which] * 4)
            for turn in 0..<30 {
                let own = [Float](repeating: Float(index + turn), count: counts[which])
                let sums = try Self.reduce(own, in: buffer, tag: UInt64(which), with: peer)
                #expect(sums.allSatisfy { $0 == Float(3 + 3 * turn) })
            }
        }
        #expect(try driver.calls("cuLaunchKernel") > launches)
    }

    @Test("a peer that leaves in the midst of it takes nobody's input with it, and the others go on")
    func loss() throws {
        let world = try LoopbackWorld(3)
        defer { world.destroy() }
        let losses = Guarded(0)
        try onThreads(world.peers) { index, peer in
            let buffer = try DeviceBuffer(byteCount: 280_004)
            let own = (0..<70_001).map { Float(index + $0 % 7) }
            for turn in 0..<40 {
                if index == 2, turn == 20 { return peer.destroy() }
                do {
                    let sums = try Self.reduce(own, in: buffer, tag: 1, with: peer)
                    #expect(sums[0] == 3 || sums[0] == 1)
                } catch let error as PCCLError where error.code == .rankConnectionLost {
                    losses.withLock { $0 += 1 }
                }
            }
        }
        #expect(losses.withLock { $0 } <= 2)
    }
}
