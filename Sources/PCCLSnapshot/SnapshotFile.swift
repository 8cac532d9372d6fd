import Glibc
import PCCLBase
import PCCLCompute

/// Where a tensor is to be read to.
package struct SnapshotTarget {
    package var name: String
    package var type: DataType
    package var count: Int
    package var memory: UnsafeMutableRawPointer

    package init(name: String, type: DataType, count: Int, memory: UnsafeMutableRawPointer) {
        self.name = name
        self.type = type
        self.count = count
        self.memory = memory
    }
}

/// A snapshot, or a safetensors file of another program, open for reading. Its header was read and fits its length;
/// what the tensors hold is checked when they are read.
package final class SnapshotFile {
    package let path: String
    package let header: SnapshotHeader
    private let descriptor: CInt
    private let dataStart: Int

    package init(_ path: String) throws(SnapshotProblem) {
        // A pipe of that name would keep us waiting.
        let descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)
        guard descriptor >= 0 else {
            throw SnapshotProblem(errno == ENOENT ? .absent : .system, doing: "opening \(path)")
        }
        do throws(SnapshotProblem) {
            (header, dataStart) = try SnapshotFile.header(descriptor, path)
        } catch {
            close(descriptor)
            throw error
        }
        self.path = path
        self.descriptor = descriptor
    }

    deinit { close(descriptor) }

    private static func header(_ descriptor: CInt, _ path: String) throws(SnapshotProblem) -> (SnapshotHeader, Int) {
        var status = stat()
        guard fstat(descriptor, &status) == 0 else { throw SnapshotProblem(doing: "reading \(path)") }
        guard status.st_mode & S_IFMT == S_IFREG else { throw SnapshotProblem(.damaged, "\(path) is no regular file") }
        let prefix = SnapshotHeader.lengthBytes
        guard status.st_size >= prefix else {
            throw SnapshotProblem(.damaged, "\(path) has \(status.st_size) bytes, and no header")
        }
        let length = try bytes(descriptor, path, prefix, at: 0).reversed().reduce(UInt64(0)) { $0 << 8 | UInt64($1) }
        guard length <= SnapshotHeader.largestBytes, Int(length) <= status.st_size - prefix else {
            throw SnapshotProblem(
                .damaged,
                "\(path) says that its header has \(length) bytes; \(status.st_size - prefix) are there, and "
                    + "\(SnapshotHeader.largestBytes) are possible")
        }
        let text = try bytes(descriptor, path, Int(length), at: prefix)
        let dataStart = prefix + text.count
        do throws(SnapshotProblem) {
            return (try SnapshotHeader(parsing: text, dataBytes: Int(status.st_size) - dataStart), dataStart)
        } catch {
            throw SnapshotProblem(error.kind, "\(path): \(error.description)")
        }
    }

    /// Reads all tensors. Throws `.argument`, before anything is read, if the file has others than the caller;
    /// `.damaged` names the first chunk that is not what was written.
    package func read(into targets: [SnapshotTarget]) throws(SnapshotProblem) {
        let targets = try matched(targets)
        for (tensor, target) in zip(header.tensors, targets) {
            let memory = UnsafeMutableRawBufferPointer(start: target.memory, count: tensor.range.count)
            let chunkCount = ContentHash.chunkCount(of: memory.count)
            for chunk in 0..<chunkCount {
                let range = ContentHash.range(ofChunk: chunk, byteCount: memory.count)
                let bytes =
                    range.isEmpty ? .init(start: nil, count: 0) : UnsafeMutableRawBufferPointer(rebasing: memory[range])
                let place = dataStart + tensor.range.lowerBound + range.lowerBound
                try SnapshotFile.read(descriptor, path, bytes, at: place)
                guard let hashes = tensor.chunks else { continue }
                let hash = ContentHash(ofChunk: UnsafeRawBufferPointer(bytes))
                guard hash == hashes[chunk] else {
                    throw SnapshotProblem(
                        .damaged,
                        "\(path) is damaged: chunk \(chunk) of the \(chunkCount) of \(shown(tensor.name)) "
                            + "(\(range.count) bytes at \(place)) has the hash \(hash), and "
                            + "was written with \(hashes[chunk])"
                    )
                }
            }
        }
    }

    /// In the order of the file.
    private func matched(_ targets: [SnapshotTarget]) throws(SnapshotProblem) -> [SnapshotTarget] {
        let byName = Dictionary(targets.map { ($0.name, $0) }, uniquingKeysWith: { first, _ in first })
        var matched: [SnapshotTarget] = []
        for tensor in header.tensors {
            guard let target = byName[tensor.name] else {
                throw SnapshotProblem(
                    .argument, "\(path) has \(shown(tensor.name)), which the shared state does not have")
            }
            guard target.type == tensor.type, target.count == tensor.elementCount else {
                throw SnapshotProblem(
                    .argument,
                    "\(path) has \(shown(tensor.name)) as \(tensor.elementCount ?? 0) × \(shown(tensor.typeName)), "
                        + "and the shared state as \(target.count) × \"\(target.type.safetensorsName)\"")
            }
            matched.append(target)
        }
        let known = Set(header.tensors.map(\.name))
        if let lacking = targets.first(where: { !known.contains($0.name) }) {
            throw SnapshotProblem(.argument, "\(path) has no \(shown(lacking.name)), which the shared state has")
        }
        return matched
    }

    private static func bytes(
        _ descriptor: CInt, _ path: String, _ count: Int, at place: Int
    ) throws(SnapshotProblem) -> [UInt8] {
        let bytes = UnsafeMutableRawBufferPointer.allocate(byteCount: count, alignment: 1)
        defer { bytes.deallocate() }
        try read(descriptor, path, bytes, at: place)
        return Array(bytes)
    }

    private static func read(
        _ descriptor: CInt, _ path: String, _ bytes: UnsafeMutableRawBufferPointer, at place: Int
    ) throws(SnapshotProblem) {
        var done = 0
        while done < bytes.count, let base = bytes.baseAddress {
            let count = pread(descriptor, base + done, bytes.count - done, place + done)
            if count < 0, errno == EINTR { continue }
            guard count != 0 else { throw SnapshotProblem(.damaged, "\(path) has become shorter") }
            guard count > 0 else { throw SnapshotProblem(doing: "reading \(path)") }
            done += count
        }
    }
}

extension SnapshotFile {
    /// The newest snapshot of a folder that `use` accepts. One that is damaged, or cannot be read, is passed over, and
    /// `passedOver` hears why.
    package static func newest<Result>(
        in path: String, passedOver: (SnapshotProblem) -> Void,
        _ use: (SnapshotFile) throws(SnapshotProblem) -> Result
    ) throws(SnapshotProblem) -> Result {
        let folder = try SnapshotFolder(path, ifAbsent: .absent)
        let names = try folder.snapshots()
        var first: SnapshotProblem?
        for name in names {
            do throws(SnapshotProblem) {
                return try use(try SnapshotFile(folder.path(of: name)))
            } catch {
                if error.kind == .argument { throw error }
                // What was removed meanwhile is no news.
                if error.kind == .absent { continue }
                passedOver(error)
                first = first ?? error
            }
        }
        guard let first else { throw SnapshotProblem(.absent, "\(path) has no snapshot") }
        throw SnapshotProblem(
            first.kind, "none of \(names.count) snapshots in \(path) is whole; the newest: \(first.description)")
    }
}
