import Glibc
import PCCLBase
import PCCLCompute
import PCCLTestSupport
import Testing

@testable import PCCLSnapshot

@Suite("Nothing in a file is taken for granted", .timeLimit(.minutes(2)))
struct DamageTests {
    private let name = SnapshotName.name(revision: 1)

    @Test("damage is found, and the error says in which chunk of which tensor")
    func damagedChunk() throws {
        let folder = Folder()
        let tensors = [Tensor("first", .float64, pattern(80)), Tensor("second", pattern(3 << 20 + 5))]
        try folder.save(1, tensors)
        var bytes = folder.read(name)
        bytes[bytes.count - 5 - 1 << 20 - 1] ^= 1
        folder.write(bytes, to: name)
        let problem = folder.problem { _ = try folder.load(tensors) }
        #expect(problem?.kind == .damaged)
        #expect(
            problem?.description.contains("chunk 1 of the 4 of \"second\"") == true, "\(String(describing: problem))")
    }

    @Test("no bit of a small file can change without being seen")
    func everyBit() throws {
        let folder = Folder()
        let tensors = [Tensor("w", .int16, pattern(12), shape: [2, 3]), Tensor("v", pattern(3))]
        try folder.save(1, tensors)
        let whole = folder.read(name)
        let headerEnd = whole.count - 15
        for index in whole.indices {
            for bit in 0..<8 {
                var bytes = whole
                bytes[index] ^= 1 << bit
                folder.write(bytes, to: name)
                // A blank of the header may be another blank.
                if index < headerEnd, bytes[index] == 9 || bytes[index] == 10 || bytes[index] == 13 { continue }
                let blanks = tensors.map { $0.blank() }
                guard let loaded = try? folder.load(blanks) else { continue }
                // Where the words of the format itself are damaged, it may be a file of another program.
                #expect(loaded.revision == nil, "byte \(index), bit \(bit)")
            }
        }
    }

    @Test("a file that was cut short, at any length, is passed over for the one before")
    func truncated() throws {
        let folder = Folder()
        let tensors = [Tensor("w", .float32, pattern(12))]
        try folder.save(0, tensors)
        try folder.save(1, [Tensor("w", .float32, pattern(12, seed: 2))])
        let whole = folder.read(name)
        for length in whole.indices {
            folder.write(Array(whole[..<length]), to: name)
            let blanks = tensors.map { $0.blank() }
            let loaded = try folder.load(blanks)
            #expect(loaded.revision == 0 && loaded.passedOver.map(\.kind) == [.damaged])
            #expect(blanks[0].memory.bytes == tensors[0].memory.bytes)
        }
        folder.write(whole + [0], to: name)
        #expect(try folder.load(tensors).revision == 0)
    }

    @Test(
        "headers that cannot be are refused",
        arguments: [
            "", "{", "[]", "null", "{}x", " {}", "\u{feff}{}", #"{"a":1}"#, #"{"a":{}}"#, #"{"__metadata__":[]}"#,
            #"{"__metadata__":{"a":1}}"#,
            #"{"a":{"dtype":"U8","shape":[4]}}"#,
            #"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0]}}"#,
            #"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4],"more":1}}"#,
            #"{"a":{"dtype":8,"shape":[4],"data_offsets":[0,4]}}"#,
            #"{"a":{"dtype":"U8","shape":4,"data_offsets":[0,4]}}"#,
            #"{"a":{"dtype":"U8","shape":[5],"data_offsets":[0,4]}}"#,
            #"{"a":{"dtype":"U8","shape":[-4],"data_offsets":[0,4]}}"#,
            #"{"a":{"dtype":"U8","shape":[4.5],"data_offsets":[0,4]}}"#,
            #"{"a":{"dtype":"U8","shape":[4],"data_offsets":[4,0]}}"#,
            #"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,1e30]}}"#,
            #"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,9223372036854775807]}}"#,
            #"{"a":{"dtype":"U8","shape":[4503599627370496,4503599627370496],"data_offsets":[0,4]}}"#,
            #"{"a":{"dtype":"F64","shape":[4503599627370496,1024],"data_offsets":[0,4]}}"#,
            // A gap, an overlap, the same twice, bytes that nobody has, and more than there are.
            #"{"a":{"dtype":"U8","shape":[3],"data_offsets":[1,4]}}"#,
            #"{"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]},"#
                + #""b":{"dtype":"U8","shape":[2],"data_offsets":[2,4]}}"#,
            #"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"#
                + #""b":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}"#,
            #"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"#
                + #""a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}"#,
            #"{"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}}"#,
            #"{"a":{"dtype":"U8","shape":[5],"data_offsets":[0,5]}}"#,
            // Ours, and not whole.
            #"{"__metadata__":{"pccl.snapshot":"2"},"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}"#,
            #"{"__metadata__":{"pccl.snapshot":"1"},"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}"#,
            #"{"__metadata__":{"pccl.snapshot":"1","pccl.revision":"-1"},"#
                + #""a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}"#,
            #"{"__metadata__":{"pccl.snapshot":"1","pccl.revision":"1"},"#
                + #""a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}"#,
        ])
    func rubbish(text: String) throws {
        let folder = Folder()
        folder.write(bytes(ofHeader: text) + [1, 2, 3, 4], to: name)
        #expect(folder.problem { _ = try SnapshotFile("\(folder.path)/\(name)") }?.kind == .damaged)
    }

    @Test("lengths of a header that are too large for the file, for the format, or for a number are refused")
    func lengths() throws {
        let folder = Folder()
        for length in [UInt64.max, 1 << 63, UInt64(Int64.max), 1 << 32, 100_000_001, 5] {
            let bytes = (0..<8).map { UInt8(truncatingIfNeeded: length >> (8 * UInt64($0))) }
            folder.write(bytes + Array("{}  ".utf8), to: name)
            #expect(folder.problem { _ = try SnapshotFile("\(folder.path)/\(name)") }?.kind == .damaged)
        }
    }

    @Test("a header with a hundred thousand names is read in a moment")
    func manyNames() throws {
        let folder = Folder()
        let entries = (0..<100_000).map { #""\#($0)":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}"# }
        folder.write(bytes(ofHeader: "{\(entries.joined(separator: ","))}"), to: name)
        #expect(try SnapshotFile("\(folder.path)/\(name)").header.tensors.count == 100_000)
    }

    @Test("what is no regular file is refused, and is not waited for")
    func noFile() throws {
        let folder = Folder()
        mkfifo("\(folder.path)/\(name)", 0o600)
        #expect(folder.problem { _ = try SnapshotFile("\(folder.path)/\(name)") }?.kind == .damaged)
        #expect(folder.problem { _ = try SnapshotFile(folder.path) }?.kind == .damaged)
        #expect(folder.problem { _ = try SnapshotFile("\(folder.path)/none") }?.kind == .absent)
    }

    @Test("tensors that are not those of the caller are refused, both are named, and nothing is written")
    func mismatches() throws {
        let folder = Folder()
        try folder.save(1, [Tensor("w", .float32, pattern(16)), Tensor("v", pattern(2))])
        let (w, v) = (Tensor("w", .float32, pattern(16, seed: 3)), Tensor("v", pattern(2, seed: 3)))
        let cases: [([Tensor], [String])] = [
            ([w], ["\"v\""]), ([w, v, Tensor("x", [1])], ["\"x\""]),
            ([v, Tensor("w", .float32, pattern(12))], ["4 × \"F32\"", "3 × \"F32\""]),
            ([v, Tensor("w", .int32, pattern(16))], ["4 × \"F32\"", "4 × \"I32\""]),
        ]
        for (tensors, words) in cases {
            let problem = folder.problem { _ = try folder.load(tensors) }
            #expect(problem?.kind == .argument)
            for word in words { #expect(problem?.description.contains(word) == true, "\(String(describing: problem))") }
        }
        #expect(w.memory.bytes == pattern(16, seed: 3) && v.memory.bytes == pattern(2, seed: 3))
    }

    @Test("a type that we do not have is named where it is asked for")
    func foreignType() throws {
        let folder = Folder()
        folder.write(bytes(ofHeader: #"{"a":{"dtype":"F8_E4M3","shape":[1],"data_offsets":[0,1]}}"#) + [1], to: name)
        let problem = folder.problem { _ = try folder.load([Tensor("a", [1])]) }
        #expect(problem?.kind == .argument && problem?.description.contains("F8_E4M3") == true)
    }

    @Test("only names of snapshots are names of snapshots")
    func names() {
        for revision in [0, 1, 42, UInt64.max] {
            #expect(SnapshotName.revision(of: SnapshotName.name(revision: revision)) == revision)
        }
        for name in [
            "", "snapshot-1.safetensors", "snapshot-18446744073709551616.safetensors", "snapshot-.safetensors",
            "snapshot-+0000000000000000001.safetensors", "snapshot-00000000000000000001.safetensors2",
        ] {
            #expect(SnapshotName.revision(of: name) == nil)
        }
    }
}
