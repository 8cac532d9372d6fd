import PCCL
import PCCLTransport
import Testing

/// What Tests/ABITests/pieces.c looks at from outside, in one process that a sanitizer can watch: peers of which one has its
/// buffers on the host, so that none share windows.
@Suite(
    "Buffers of devices in pieces", .serialized, .timeLimit(.minutes(3)),
    .enabled(if: StandIn.isThere, "PCCL_LIBCUDA names no stand-in for a driver; make test-unit runs these with one"))
struct DevicePieceTests {
    private let driver: StandIn
    private static let counts = [9001, 20_000, 150_001]

    init() throws {
        #expect(CUDAStatus.current.obstacle == nil)
        driver = try StandIn()
    }

    /// This peer's values, and what three of them sum up to; small numbers, which are the same in 16 bits.
    private static func values(_ index: Int, _ count: Int) -> [Float] {
        (0..<count).map { Float(1 << index) * Float(1 + $0 % 13) }
    }

    private static func reduce(
        _ memory: UnsafeMutableRawPointer, _ count: Int, _ codec: Codec, tag: UInt64, with peer: Communicator
    ) throws {
        let floats = UnsafeMutableBufferPointer(start: memory.assumingMemoryBound(to: Float.self), count: count)
        try peer.allReduce(ReduceOperand(floats, .sum, tag: tag, codec: codec))
    }

    /// In place on a device, or on the host; what came out. A loss leaves the input, and throws.
    private static func reduce(
        _ input: [Float], in buffer: borrowing DeviceBuffer, onHost: Bool, _ codec: Codec, tag: UInt64,
        with peer: Communicator
    ) throws -> [Float] {
        var out = input
        if onHost {
            try out.withUnsafeMutableBytes { bytes in
                guard let start = bytes.baseAddress else { return }
                try reduce(start, input.count, codec, tag: tag, with: peer)
            }
            return out
        }
        try input.withUnsafeBytes { try buffer.copyIn(from: $0) }
        do {
            try reduce(buffer.pointer, input.count, codec, tag: tag, with: peer)
        } catch {
            try out.withUnsafeMutableBytes { try buffer.copyOut(into: $0) }
            #expect(out == input)
            throw error
        }
        try out.withUnsafeMutableBytes { try buffer.copyOut(into: $0) }
        return out
    }

    @Test("reductions of several sizes at once, with codes and without, from several threads, find what they asked for")
    func reductions() throws {
        let world = try LoopbackWorld(3)
        defer { world.destroy() }
        try onThreads(world.peers.flatMap { peer in Self.counts.indices.map { (peer, $0) } }) { place, item in
            let (peer, which) = item
            let (index, count) = (place / Self.counts.count, Self.counts[which])
            let buffer = try DeviceBuffer(byteCount: count * 4)
            let input = Self.values(index, count)
            for turn in 0..<8 {
                let codec = turn % 2 == 0 || count > 20_000 ? Codec.none : Codec(.bfloat16)
                let sums = try Self.reduce(
                    input, in: buffer, onHost: index == 2, codec, tag: UInt64(which), with: peer)
                let isSum = sums.indices.allSatisfy { sums[$0] == Float(7 + 7 * ($0 % 13)) }
                #expect(isSum)
            }
        }
    }

    @Test("a peer that leaves in the midst of it takes nobody's input with it, and the others go on")
    func loss() throws {
        let world = try LoopbackWorld(3)
        defer { world.destroy() }
        try onThreads(world.peers) { index, peer in
            let count = 20_000
            let buffer = try DeviceBuffer(byteCount: count * 4)
            let input = Self.values(index, count)
            for turn in 0..<30 {
                if index == 2, turn == 15 { return peer.destroy() }
                do {
                    let sums = try Self.reduce(
                        input, in: buffer, onHost: index == 2, turn % 2 == 0 ? .none : Codec(.bfloat16), tag: 1,
                        with: peer)
                    #expect(sums[0] == 7 || sums[0] == 3)
                } catch let error as PCCLError where error.code == .rankConnectionLost {
                    continue
                }
            }
        }
    }
}
