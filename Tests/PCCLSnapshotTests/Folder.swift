import Glibc
import PCCLBase
import PCCLTestSupport

@testable import PCCLSnapshot

/// A folder of one test, and what lies in it.
final class Folder {
    let path: String

    init() {
        var template = Array("/tmp/pccl-snapshots.XXXXXX".utf8CString)
        precondition(mkdtemp(&template) != nil, "no folder for a test")
        path = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }

    deinit {
        chmod(path, 0o700)
        for name in names { unlink("\(path)/\(name)") }
        rmdir(path)
    }

    /// In order.
    var names: [String] {
        guard let list = opendir(path) else { return [] }
        defer { closedir(list) }
        var names: [String] = []
        while let entry = readdir(list) {
            let name = withUnsafePointer(to: &entry.pointee.d_name) {
                $0.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
            }
            if name != ".", name != ".." { names.append(name) }
        }
        return names.sorted()
    }

    /// Of this process, to the folder and what is in it.
    var openDescriptors: Int {
        (0..<1024).count { descriptor in
            var target = [UInt8](repeating: 0, count: 200)
            let count = target.withUnsafeMutableBytes {
                readlink("/proc/self/fd/\(descriptor)", $0.baseAddress!.assumingMemoryBound(to: CChar.self), $0.count)
            }
            return count > 0 && target[..<count].starts(with: path.utf8)
        }
    }

    func write(_ bytes: [UInt8], to name: String) {
        let file = open("\(path)/\(name)", O_WRONLY | O_CREAT | O_TRUNC, 0o600)
        precondition(file >= 0 && Glibc.write(file, bytes, bytes.count) == bytes.count, "no file for a test")
        close(file)
    }

    func read(_ name: String) -> [UInt8] {
        let file = open("\(path)/\(name)", O_RDONLY)
        precondition(file >= 0, "\(name) is not there")
        defer { close(file) }
        var bytes = [UInt8](repeating: 0, count: Int(lseek(file, 0, SEEK_END)))
        precondition(pread(file, &bytes, bytes.count, 0) == bytes.count)
        return bytes
    }
}

/// A tensor of a test: what is saved, and what is loaded.
final class Tensor {
    let name: String
    let type: DataType
    let shape: [Int]
    let memory: Memory
    var base: UnsafeMutableRawPointer

    convenience init(_ name: String, _ bytes: [UInt8]) { self.init(name, .uint8, bytes) }

    init(_ name: String, _ type: DataType, _ bytes: [UInt8], shape: [Int]? = nil, misalignment: Int = 0) {
        self.name = name
        self.type = type
        self.shape = shape ?? [bytes.count / type.byteCount]
        memory = Memory(bytes, misalignment: misalignment)
        base = memory.base
    }

    var source: SnapshotSource {
        SnapshotSource(
            name: name, type: type, shape: shape, bytes: UnsafeRawBufferPointer(start: base, count: memory.byteCount))
    }
    var target: SnapshotTarget {
        SnapshotTarget(name: name, type: type, count: memory.byteCount / type.byteCount, memory: base)
    }
    /// The same tensor, with nothing in it.
    func blank(misalignment: Int = 0) -> Tensor {
        Tensor(
            name, type, [UInt8](repeating: 0xee, count: memory.byteCount), shape: shape, misalignment: misalignment)
    }
}

extension Folder {
    func begin(_ revision: UInt64, _ tensors: [Tensor], inBackground: Bool = true) throws -> SnapshotWriting {
        try SnapshotWriting(revision: revision, tensors.map(\.source), to: path, inBackground: inBackground)
    }

    func save(_ revision: UInt64, _ tensors: [Tensor], keep: Int? = nil, inBackground: Bool = true) throws {
        let writing = try begin(revision, tensors, inBackground: inBackground)
        try writing.finish()
        if let keep { try writing.removeOlder(keeping: keep) }
    }

    /// From the newest that is whole: its revision, and what was passed over.
    func load(_ tensors: [Tensor]) throws -> (revision: UInt64?, passedOver: [SnapshotProblem]) {
        var passedOver: [SnapshotProblem] = []
        let targets = tensors.map(\.target)
        let revision = try SnapshotFile.newest(in: path, passedOver: { passedOver.append($0) }) {
            (file: SnapshotFile) throws(SnapshotProblem) -> UInt64? in
            try file.read(into: targets)
            return file.header.revision
        }
        return (revision, passedOver)
    }

    func problem(_ body: () throws -> Void) -> SnapshotProblem? {
        do {
            try body()
            return nil
        } catch {
            return error as? SnapshotProblem
        }
    }
}
