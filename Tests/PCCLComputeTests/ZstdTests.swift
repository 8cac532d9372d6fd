import PCCLCompute
import Testing

@Suite("Zstandard")
struct ZstdTests {
    private func compressed(_ bytes: [UInt8], room: Int? = nil) -> [UInt8]? {
        var target = [UInt8](repeating: 0, count: room ?? bytes.count + 1024)
        let size = bytes.withUnsafeBytes { source in target.withUnsafeMutableBytes { Zstd().compress(source, into: $0) }
        }
        return size.map { Array(target.prefix($0)) }
    }

    private func expanded(_ bytes: [UInt8], count: Int) -> [UInt8]? {
        // Beyond the end lies what must not be written.
        var target = [UInt8](repeating: 0xa5, count: count + 64)
        let isWhole = bytes.withUnsafeBytes { source in
            target.withUnsafeMutableBytes {
                Zstd().expand(source, into: UnsafeMutableRawBufferPointer(rebasing: $0.prefix(count)))
            }
        }
        #expect(target.suffix(64).allSatisfy { $0 == 0xa5 })
        return isWhole ? Array(target.prefix(count)) : nil
    }

    @Test("what was compressed is what comes out", arguments: [1, 100, 4096, 1 << 20])
    func roundTrip(count: Int) {
        let bytes = (0..<count).map { UInt8(truncatingIfNeeded: $0 / 3) }
        guard let frame = compressed(bytes) else {
            Issue.record("not compressed")
            return
        }
        #expect(expanded(frame, count: count) == bytes)
        #expect(expanded(frame, count: count + 1) == nil && expanded(frame, count: count - 1) == nil)
        #expect(expanded(Array(frame.dropLast()), count: count) == nil)
    }

    @Test("what does not fit is not compressed, and rubbish is not expanded")
    func limits() {
        var state: UInt32 = 1
        let noise = (0..<65_536).map { _ -> UInt8 in
            state = state &* 1_664_525 &+ 1_013_904_223
            return UInt8(state >> 24)
        }
        #expect(compressed(noise, room: 60_000) == nil)
        #expect(expanded(noise, count: 65_536) == nil && expanded([], count: 1) == nil)
        guard var frame = compressed(Array(repeating: 1, count: 1 << 20)) else { return }
        #expect(frame.count < 200)
        // A bomb: it says and gives more than there is room for.
        #expect(expanded(frame, count: 4096) == nil)
        frame[frame.count / 2] ^= 0xff
        _ = expanded(frame, count: 1 << 20)
    }
}
