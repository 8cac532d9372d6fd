import Glibc
import PCCLBase
import PCCLTestSupport
import Testing

@testable import PCCLSnapshot

@Suite("What is saved is what is loaded", .serialized, .timeLimit(.minutes(2)))
struct RoundTripTests {
    private func checkRoundTrip(_ tensors: [Tensor], inBackground: Bool = true, misalignment: Int = 0) throws {
        let folder = Folder()
        try folder.save(7, tensors, inBackground: inBackground)
        #expect(folder.names == ["snapshot-00000000000000000007.safetensors"])
        let blanks = tensors.map { $0.blank(misalignment: misalignment) }
        let loaded = try folder.load(blanks)
        #expect(loaded.revision == 7 && loaded.passedOver.isEmpty)
        for (tensor, blank) in zip(tensors, blanks) {
            #expect(blank.memory.bytes == tensor.memory.bytes, "\(tensor.name)")
            #expect(blank.memory.isIntactAround)
        }
    }

    @Test("tensors of every type", arguments: [true, false])
    func types(inBackground: Bool) throws {
        let tensors = DataType.allCases.map { type in
            Tensor("a \(type)", type, pattern(type.byteCount * 6, seed: Int(type.rawValue)), shape: [2, 3])
        }
        try checkRoundTrip(tensors, inBackground: inBackground)
    }

    @Test("tensors without elements, without dimensions, and none at all")
    func empty() throws {
        try checkRoundTrip([
            Tensor("none", .float32, []), Tensor("no row", .float64, [], shape: [0, 5]),
            Tensor("scalar", .int16, [1, 2], shape: []), Tensor("none either", .uint8, []),
        ])
        try checkRoundTrip([])
    }

    @Test("memory of any alignment, on both sides")
    func misaligned() throws {
        let tensors = (0..<8).map { Tensor("\($0)", .float64, pattern(800, seed: $0), misalignment: $0) }
        try checkRoundTrip(tensors, misalignment: 3)
    }

    @Test("names with quotes, line feeds, and of other scripts")
    func names() throws {
        let names = ["", "a \"b\" \\ c", "two\nlines\t\u{1}", "вес", "重み", "🧠.weight", "pccl.revision", "{}"]
        try checkRoundTrip(names.enumerated().map { Tensor($1, pattern(5 + $0, seed: $0)) })
    }

    @Test("several chunks, the last of which is short")
    func chunks() throws {
        try checkRoundTrip([Tensor("small", pattern(3)), Tensor("large", pattern(3 << 20 + 5))])
        try checkRoundTrip([Tensor("whole", .float32, pattern(2 << 20))])
    }

    @Test("a file is laid out as the format asks: aligned, without gaps, larger elements first")
    func layout() throws {
        let folder = Folder()
        try folder.save(
            UInt64.max, [Tensor("b", pattern(3)), Tensor("a", .float64, pattern(16)), Tensor("c", .int16, pattern(2))])
        let name = "snapshot-18446744073709551615.safetensors"
        #expect(folder.names == [name])
        let header = try SnapshotFile("\(folder.path)/\(name)").header
        #expect(header.tensors.map(\.name) == ["a", "c", "b"])
        #expect(header.tensors.map(\.range) == [0..<16, 16..<18, 18..<21])
        #expect(header.revision == UInt64.max)
        let bytes = folder.read(name)
        #expect((bytes.count - 21) % 8 == 0)
        #expect(Array(bytes.suffix(21).prefix(16)) == pattern(16))
    }

    @Test("what is written to the tensors after the call is not in the file")
    func isolation() throws {
        let folder = Folder()
        let tensor = Tensor("weights", .float32, pattern(24 << 20))
        let before = tensor.memory.bytes
        let writing = try folder.begin(1, [tensor])
        #expect(writing.child != nil)
        tensor.memory.fill(0)
        try writing.finish()
        let blank = tensor.blank()
        #expect(try folder.load([blank]).revision == 1)
        #expect(blank.memory.bytes == before)
        #expect(tensor.memory.holds(only: 0))
    }

    @Test("nor is what is written to memory that processes share")
    func sharedMemory() throws {
        let folder = Folder()
        let count = 8 << 20
        let memory = mmap(nil, count, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0)!
        defer { munmap(memory, count) }
        memset(memory, 5, count)
        let tensor = Tensor("shared", [UInt8](repeating: 0, count: count - 4096))
        // Not at the beginning of the mapping.
        tensor.base = memory + 4096
        let writing = try folder.begin(1, [tensor, Tensor("own", [1])])
        #expect(writing.child != nil)
        memset(memory, 6, count)
        try writing.finish()
        let blank = tensor.blank()
        _ = try folder.load([blank, Tensor("own", [0])])
        #expect(blank.memory.holds(only: 5))
    }

    @Test("shared mappings are told from private ones")
    func mappings() throws {
        func range(_ line: String) -> Range<UInt>? { SharedMappings.range(ofSharedIn: Array(line.utf8)[...]) }
        #expect(range("7f00-7f80 rw-s 00000000 00:01 123   /dev/zero (deleted)") == 0x7f00..<0x7f80)
        #expect(range("7f00-7f80 rw-p 00000000 00:01 123   /a file s") == nil)
        #expect(range("") == nil && range("x-y rw-s") == nil && range("7f80-7f00 rw-s") == nil)
        let shared = try #require(SharedMappings())
        let own = Memory(byteCount: 10)
        #expect(!shared.hasPart(of: UnsafeRawBufferPointer(start: own.base, count: 10)))
    }

    @Test("two snapshots may be written at once, of the same revision too")
    func twoAtOnce() throws {
        let folder = Folder()
        let tensor = Tensor("a", pattern(4 << 20))
        let writings = [try folder.begin(1, [tensor]), try folder.begin(2, [tensor]), try folder.begin(2, [tensor])]
        for writing in writings.reversed() { try writing.finish() }
        #expect(folder.names == [1, 2].map { SnapshotName.name(revision: $0) })
        let blank = tensor.blank()
        #expect(try folder.load([blank]).revision == 2)
        #expect(blank.memory.bytes == tensor.memory.bytes)
    }

    @Test("so many of the newest are kept as was asked")
    func keeping() throws {
        let folder = Folder()
        folder.write([1], to: "notes.txt")
        for revision in 1...9 { try folder.save(UInt64(revision), [Tensor("a", [1])]) }
        try folder.save(10, [Tensor("a", [1])], keep: 3)
        #expect(folder.names == ["notes.txt"] + [8, 9, 10].map { SnapshotName.name(revision: $0) })
        // One that was just written stays, whatever its revision.
        try folder.save(1, [Tensor("a", [1])], keep: 2)
        #expect(folder.names == ["notes.txt"] + [1, 9, 10].map { SnapshotName.name(revision: $0) })
    }

    @Test("a file that another program has written is loaded, with no revision and nothing to check by")
    func foreign() throws {
        let folder = Folder()
        let text = #"{"b":{"shape":[2],"data_offsets":[0,8],"dtype":"F32"},"__metadata__":{"format":"pt"}}   "#
        folder.write(bytes(ofHeader: text) + pattern(8), to: "model.safetensors")
        let file = try SnapshotFile("\(folder.path)/model.safetensors")
        #expect(file.header.revision == nil)
        let tensor = Tensor("b", .float32, [UInt8](repeating: 0, count: 8))
        try file.read(into: [tensor.target])
        #expect(tensor.memory.bytes == pattern(8))
    }
}

func bytes(ofHeader text: String) -> [UInt8] {
    (0..<8).map { UInt8(truncatingIfNeeded: text.utf8.count >> (8 * $0)) } + Array(text.utf8)
}
