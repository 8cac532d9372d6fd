import Glibc

/// The memory of this process that a child would not have a copy of, but share: what it holds may change while the
/// child writes it.
struct SharedMappings {
    /// In order.
    private var ranges: [Range<UInt>] = []

    /// Of `/proc/self/maps`; nil if it cannot be read.
    init?() {
        let file = open("/proc/self/maps", O_RDONLY | O_CLOEXEC)
        guard file >= 0 else { return nil }
        defer { close(file) }
        var text: [UInt8] = []
        var block = [UInt8](repeating: 0, count: 1 << 16)
        while true {
            let count = read(file, &block, block.count)
            if count < 0, errno == EINTR { continue }
            guard count >= 0 else { return nil }
            if count == 0 { break }
            text += block[..<count]
        }
        for line in text.split(separator: UInt8(ascii: "\n")) {
            guard let range = SharedMappings.range(ofSharedIn: line) else { continue }
            ranges.append(range)
        }
    }

    /// Of a line such as `7f12-7f34 rw-s …`; nil if it is private.
    static func range(ofSharedIn line: ArraySlice<UInt8>) -> Range<UInt>? {
        let words = line.split(separator: UInt8(ascii: " "), maxSplits: 2)
        guard words.count >= 2, words[1].last == UInt8(ascii: "s") else { return nil }
        let ends = words[0].split(separator: UInt8(ascii: "-")).map {
            UInt(String(decoding: $0, as: UTF8.self), radix: 16)
        }
        guard ends.count == 2, let start = ends[0], let end = ends[1], start < end else { return nil }
        return start..<end
    }

    func hasPart(of bytes: UnsafeRawBufferPointer) -> Bool {
        guard let base = bytes.baseAddress, !bytes.isEmpty else { return false }
        let start = UInt(bitPattern: base)
        let memory = start..<start + UInt(bytes.count)
        return ranges.contains { $0.overlaps(memory) }
    }
}
