import Glibc

/// Memory that a test lends to the library, between canaries.
package final class Memory: @unchecked Sendable {
    package let base: UnsafeMutableRawPointer
    package let byteCount: Int
    private let whole: UnsafeMutableRawPointer
    private static let margin = 64
    private static let canary: UInt8 = 0xa5

    /// `misalignment`: how far the memory begins behind an aligned address.
    package init(_ bytes: [UInt8], misalignment: Int = 0) {
        byteCount = bytes.count
        whole = .allocate(byteCount: Memory.margin * 2 + misalignment + bytes.count, alignment: 64)
        memset(whole, CInt(Memory.canary), Memory.margin * 2 + misalignment + bytes.count)
        base = whole + Memory.margin + misalignment
        bytes.withUnsafeBytes { if let from = $0.baseAddress { base.copyMemory(from: from, byteCount: bytes.count) } }
    }

    package convenience init(byteCount: Int, filled: UInt8 = 0) {
        self.init([UInt8](repeating: filled, count: byteCount))
    }

    deinit { whole.deallocate() }

    package var bytes: [UInt8] { [UInt8](UnsafeRawBufferPointer(start: base, count: byteCount)) }
    package func fill(_ byte: UInt8) { memset(base, CInt(byte), byteCount) }
    package func holds(only byte: UInt8) -> Bool {
        UnsafeRawBufferPointer(start: base, count: byteCount).allSatisfy { $0 == byte }
    }

    /// Nothing was written beside it.
    package var isIntactAround: Bool {
        let before = UnsafeRawBufferPointer(start: whole, count: base - whole)
        let after = UnsafeRawBufferPointer(start: base + byteCount, count: Memory.margin)
        return before.allSatisfy { $0 == Memory.canary } && after.allSatisfy { $0 == Memory.canary }
    }
}

/// Bytes that are easy to tell from their neighbours, different for each seed.
package func pattern(_ count: Int, seed: Int = 0) -> [UInt8] {
    var state = UInt32(truncatingIfNeeded: seed &* 2_654_435_761 &+ 12345)
    return [UInt8](unsafeUninitializedCapacity: count) { buffer, filled in
        for i in 0..<count {
            state = state &* 1_664_525 &+ 1_013_904_223
            buffer[i] = UInt8(state >> 24)
        }
        filled = count
    }
}
