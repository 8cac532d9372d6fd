import CKernels
import Glibc
import PCCLBase
import PCCLCompute
import Testing

/// One bit after the other, as the polynomial says.
private func reference(_ before: UInt32, _ bytes: some Sequence<UInt8>) -> UInt32 {
    ~bytes.reduce(~before) { crc, byte in
        (0..<8).reduce(crc ^ UInt32(byte)) { crc, _ in crc >> 1 ^ (crc & 1 == 1 ? 0x82F6_3B78 : 0) }
    }
}

private func pattern(_ count: Int) -> [UInt8] {
    var random = RandomSource(seed: 4711)
    return (0..<count).map { _ in UInt8(truncatingIfNeeded: random.next()) }
}

/// Those that this build and processor have.
private let ways: [(number: UInt32, kernel: pccl_kernel_crc32c)] = (0..<UInt32(PCCL_KERNEL_CRC32C_WAYS)).compactMap {
    way in
    pccl_kernel_crc32c_by(pccl_kernel_crc32c_way(way)).map { (way, $0.pointee) }
}

@Suite("CRC-32C")
struct CRC32CTests {
    /// RFC 3720, appendix B.4, whose bytes are in the order of the wire; and the check value of the catalogues.
    static let vectors: [(bytes: [UInt8], crc: UInt32)] = [
        ([], 0), (Array("123456789".utf8), 0xE306_9283),
        (Array(repeating: 0, count: 32), 0x8A91_36AA), (Array(repeating: 0xFF, count: 32), 0x62A8_AB43),
        (Array(0..<32), 0x46DD_794E), ((0..<32).reversed(), 0x113F_DB5C),
        (
            [
                0x01, 0xC0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x14, 0, 0, 0, 0, 0, 0x04, 0, 0, 0, 0, 0x14, 0, 0,
                0,
                0x18, 0x28, 0, 0, 0, 0, 0, 0, 0, 0x02, 0, 0, 0, 0, 0, 0, 0,
            ], 0xD996_3A56
        ),
    ]

    @Test("what the standard gives, in every way that the processor has")
    func standard() {
        for (bytes, crc) in Self.vectors {
            #expect(bytes.withUnsafeBytes { CRC32C($0).value } == crc)
            for way in ways {
                #expect(
                    bytes.withUnsafeBytes { way.kernel.sum(0, $0.baseAddress, $0.count) } == crc, "way \(way.number)")
            }
        }
        #expect(pccl_crc32c(7, nil, 0) == 7)
    }

    @Test("all lengths to 600 and all alignments, with something before")
    func lengths() throws {
        let bytes = pattern(632)
        try bytes.withUnsafeBytes { bytes in
            for start in 0..<32 {
                var expected: UInt32 = 0x1234_5678
                for count in 0...600 {
                    for way in ways {
                        let crc = way.kernel.sum(0x1234_5678, bytes.baseAddress.map { $0 + start }, count)
                        try #require(crc == expected, "way \(way.number), \(count) bytes from \(start) on")
                    }
                    expected = reference(expected, CollectionOfOne(bytes[start + min(count, 599)]))
                }
            }
        }
    }

    @Test("long ones, at the borders of blocks, as a whole and in parts")
    func long() throws {
        let bytes = pattern(70_000)
        var expected: [Int: UInt32] = [:]
        let counts = [766, 767, 768, 769, 863, 864, 1023, 1024, 1536, 4095, 4096, 4097, 65_536, 65_537, 70_000]
        var (crc, done): (UInt32, Int) = (0, 0)
        for count in counts {
            crc = reference(crc, bytes[done..<count])
            (done, expected[count]) = (count, crc)
        }
        try bytes.withUnsafeBytes { bytes in
            for way in ways {
                for count in counts {
                    try #require(
                        way.kernel.sum(0, bytes.baseAddress, count) == expected[count], "\(way.number), \(count)")
                }
                for part in [1, 13, 100, 256, 1000, 4096, 33_333] {
                    var crc: UInt32 = 0
                    for start in stride(from: 0, to: bytes.count, by: part) {
                        crc = way.kernel.sum(crc, bytes.baseAddress.map { $0 + start }, min(part, bytes.count - start))
                    }
                    try #require(crc == expected[70_000], "way \(way.number), in parts of \(part)")
                }
            }
            let (first, second) = (bytes[..<1234], bytes[1234...])
            let target = UnsafeMutableRawBufferPointer.allocate(byteCount: second.count, alignment: 1)
            defer { target.deallocate() }
            var whole = CRC32C(UnsafeRawBufferPointer(rebasing: first))
            whole.add(UnsafeRawBufferPointer(rebasing: second), copyingTo: try #require(target.baseAddress))
            #expect(whole.value == expected[70_000] && target.elementsEqual(second))
        }
    }

    @Test("a copy is the same bytes, wherever they go, has the same checksum, and nothing beside it is touched")
    func copies() throws {
        let bytes = pattern(9_000)
        var copy = [UInt8](repeating: 0, count: bytes.count + 64)
        let counts = Array(0...600) + [4095, 4096, 4097, 8192, 8999]
        for (number, kernel) in ways {
            for count in counts {
                let (from, to) = (count % 2, count % 37)
                for i in 0..<to + count + 2 { copy[i] = 0xA5 }
                let sums = bytes.withUnsafeBytes { bytes in
                    copy.withUnsafeMutableBytes { copy in
                        let source = bytes.baseAddress.map { $0 + from }
                        return (
                            kernel.copy(77, copy.baseAddress.map { $0 + to + 1 }, source, count),
                            ways[0].kernel.sum(77, source, count)
                        )
                    }
                }
                try #require(sums.0 == sums.1, "way \(number), \(count) bytes")
                try #require(copy[to + 1..<to + 1 + count].elementsEqual(bytes[from..<from + count]))
                try #require(copy[to] == 0xA5 && copy[to + 1 + count] == 0xA5)
            }
        }
        #expect(pccl_copy_crc32c(7, nil, nil, 0) == 7)
    }

    @Test("nothing is read but the bytes: before and behind them is no memory")
    func borders() throws {
        let page = sysconf(CInt(_SC_PAGESIZE))
        let memory = try #require(
            mmap(nil, 3 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0).flatMap { $0 == MAP_FAILED ? nil : $0 })
        defer { munmap(memory, 3 * page) }
        let (start, end) = (memory + page, memory + 2 * page)
        try #require(mprotect(start, page, PROT_READ | PROT_WRITE) == 0)
        for (i, byte) in pattern(page).enumerated() { start.storeBytes(of: byte, toByteOffset: i, as: UInt8.self) }
        for count in Array(0...600) + [page] {
            let places = [UnsafeRawPointer(start), UnsafeRawPointer(end - count)]
            let expected = places.map { ways[0].kernel.sum(0, $0, count) }
            for way in ways {
                #expect(places.map { way.kernel.sum(0, $0, count) } == expected)
            }
        }
    }
}
