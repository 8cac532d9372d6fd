import Testing

@testable import pccl

@Suite("Sizes in bytes")
struct ByteSizeTests {
    @Test(
        "are read with and without a unit",
        arguments: [
            ("8", 8), ("4K", 4096), ("4k", 4096), ("64KiB", 65536), ("64KB", 65536), ("1M", 1 << 20), ("1G", 1 << 30),
            ("1000B", 1000),
        ])
    func areRead(text: String, bytes: Int) {
        #expect(ByteSize.parse(text) == bytes)
    }

    @Test(
        "are refused where they mean nothing",
        arguments: [
            "", "0", "K", "-1", "+1", "4.5K", "4 K", "4iB", "0x10", "1T", "9223372036854775807K", "9223372036854775808",
        ])
    func areRefused(text: String) {
        #expect(ByteSize.parse(text) == nil)
    }

    @Test("a list keeps its order and has each size once")
    func list() {
        #expect(ByteSize.list("1M,4K,1024K,8") == [1 << 20, 4096, 8])
        #expect(ByteSize.list("4K,,8") == nil)
        #expect(ByteSize.list("") == nil)
    }

    @Test("a series ends at the greatest, or before it, and never overflows")
    func series() {
        #expect(ByteSize.series(from: 8, to: 128, factor: 4) == [8, 32, 128])
        #expect(ByteSize.series(from: 8, to: 127, factor: 4) == [8, 32])
        #expect(ByteSize.series(from: 1 << 62, to: .max, factor: 2) == [1 << 62])
    }

    @Test("are written in the largest unit that leaves a whole number, and can be read again")
    func labels() {
        #expect(ByteSize.label(8) == "8 B")
        #expect(ByteSize.label(65536) == "64 KiB")
        #expect(ByteSize.label(65537) == "65537 B")
        #expect(ByteSize.label(3 << 30) == "3 GiB")
        for bytes in [1, 1000, 4096, 1 << 20, (1 << 20) + 1024, 1 << 33] {
            #expect(ByteSize.parse(ByteSize.label(bytes).filter { $0 != " " }) == bytes)
        }
    }
}
