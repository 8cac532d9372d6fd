import CSnapshots
import Glibc
import PCCLBase
import PCCLCompute
import Synchronization

/// A tensor to be written.
package struct SnapshotSource {
    package var name: String
    package var type: DataType
    package var shape: [Int]
    package var bytes: UnsafeRawBufferPointer

    package init(name: String, type: DataType, shape: [Int], bytes: UnsafeRawBufferPointer) {
        self.name = name
        self.type = type
        self.shape = shape
        self.bytes = bytes
    }
}

/// A snapshot that is being written.
///
/// A child does it, which has the memory as it was at the fork: the kernel copies a page when this process writes it.
/// The child hashes what it writes, too; so the caller waits for the fork alone, which copies page tables and no
/// memory. Memory that the child would share is copied before. Without a child the caller writes it itself.
package final class SnapshotWriting: Sendable {
    private enum Writer: Sendable {
        case child(pid_t, outcome: CInt)
        case caller(pccl_snapshot_outcome)
    }

    package let path: String
    /// Why the caller wrote it itself although it was to be done in the background.
    package let foregroundReason: String?
    private let folder: SnapshotFolder
    private let name: String
    private let partialName: String
    private let writer: Writer

    private static let partials = Atomic(0)
    /// A child that ends without a word is found out that late where another process has the other end of its pipe.
    private static let pollMilliseconds: CInt = 200

    /// Returns when `sources` may be changed. Throws what is wrong before anything is written.
    package init(
        revision: UInt64, _ sources: [SnapshotSource], to path: String, inBackground: Bool
    ) throws(SnapshotProblem) {
        let sources = sources.sorted {
            $0.type.byteCount != $1.type.byteCount
                ? $0.type.byteCount > $1.type.byteCount : $0.name.utf8.lexicographicallyPrecedes($1.name.utf8)
        }
        if let source = sources.first(where: { $0.name == SnapshotHeader.metadataName }) {
            throw SnapshotProblem(.argument, "\(source.name) is no name for a tensor in this format")
        }
        let header = SnapshotHeader(
            revision: revision,
            laying: sources.map { ($0.name, $0.type, $0.shape, $0.bytes.count) })
        guard let draft = header.draft() else {
            throw SnapshotProblem(
                .argument, "so many tensors that their description has more than \(SnapshotHeader.largestBytes) bytes")
        }
        folder = try SnapshotFolder(path, ifAbsent: .argument)
        try folder.removeAbandoned()
        let partial = try folder.makePartial(
            revision: revision, firstNumber: SnapshotWriting.partials.add(1, ordering: .relaxed).oldValue)
        // The child has it too, and with it the lock.
        defer { close(partial.file) }
        name = SnapshotName.name(revision: revision)
        partialName = partial.name
        self.path = folder.path(of: name)
        let job = SnapshotJob(
            draft, sources.map(\.bytes), folder: folder.descriptor, file: partial.file, partialName: partialName,
            name: name)
        var reason: String?
        if inBackground {
            do throws(SnapshotProblem) {
                writer = try SnapshotWriting.fork(job)
                foregroundReason = nil
                return
            } catch {
                reason = error.description
            }
        }
        foregroundReason = reason
        writer = .caller(pccl_snapshot_write(&job.native))
    }

    private static func fork(_ job: SnapshotJob) throws(SnapshotProblem) -> Writer {
        try job.copyShared()
        var pipe: CInt = -1
        let child = pccl_snapshot_fork(&job.native, &pipe)
        guard child > 0 else { throw SnapshotProblem(doing: "making a child that writes") }
        return .child(child, outcome: pipe)
    }

    /// The child that writes, if there is one.
    package var child: pid_t? { if case .child(let child, _) = writer { child } else { nil } }

    /// Blocks until it is written. To be called once.
    package func finish() throws(SnapshotProblem) {
        switch writer {
        case .caller(let outcome): try check(outcome)
        case .child(let child, let pipe):
            defer { close(pipe) }
            let outcome = SnapshotWriting.outcome(of: child, pipe)
            let status = SnapshotWriting.reap(child)
            guard let outcome else {
                unlinkat(folder.descriptor, partialName, 0)
                let how =
                    status.map { $0 & 0x7f == 0 ? "status \($0 >> 8)" : "signal \($0 & 0x7f)" } ?? "status unknown"
                throw SnapshotProblem(.system, "the child that wrote \(path) ended (\(how)) before it was done")
            }
            try check(outcome)
        }
    }

    /// Once it is written: all but so many of the newest go.
    package func removeOlder(keeping count: Int) throws(SnapshotProblem) {
        try folder.removeSnapshots(keeping: count, written: name)
    }

    private func check(_ outcome: pccl_snapshot_outcome) throws(SnapshotProblem) {
        let doing =
            switch pccl_snapshot_step(UInt32(bitPattern: outcome.step)) {
            case pccl_snapshot_done: ""
            case pccl_snapshot_writing: "writing \(path)"
            case pccl_snapshot_synchronizing: "bringing \(path) to disk"
            case pccl_snapshot_renaming: "giving \(path) its name"
            default: "bringing the folder of \(path) to disk"
            }
        guard doing.isEmpty else { throw SnapshotProblem(doing: doing, code: outcome.code) }
    }

    /// What the child says; nil if it ended without a word.
    private static func outcome(of child: pid_t, _ pipe: CInt) -> pccl_snapshot_outcome? {
        while true {
            var watched = pollfd(fd: pipe, events: Int16(POLLIN), revents: 0)
            let isReady = poll(&watched, 1, pollMilliseconds) > 0
            // Looked at before the pipe, for its last word may come in between.
            let isGone = !isReady && hasEnded(child)
            var outcome = pccl_snapshot_outcome()
            let count = read(pipe, &outcome, MemoryLayout<pccl_snapshot_outcome>.size)
            if count == MemoryLayout<pccl_snapshot_outcome>.size { return outcome }
            if count == 0 || isGone { return nil }
        }
    }

    /// The end of this child alone is looked at, and left for `reap`; the program may have other children.
    private static func hasEnded(_ child: pid_t) -> Bool {
        var info = siginfo_t()
        if waitid(P_PID, id_t(child), &info, WEXITED | WNOHANG | WNOWAIT) == 0 { return info.si_signo != 0 }
        // Somebody has waited for it already, or nobody is to: then it has no number any more when it has ended.
        return errno == ECHILD && kill(child, 0) != 0
    }

    /// Nil if the program has waited for it already.
    private static func reap(_ child: pid_t) -> CInt? {
        var status: CInt = 0
        while true {
            if waitpid(child, &status, 0) == child { return status }
            guard errno == EINTR else { return nil }
        }
    }
}

/// What C needs to write, in memory of its own.
private final class SnapshotJob {
    var native: pccl_snapshot_job
    private let header: UnsafeMutableBufferPointer<UInt8>
    private let tensors: UnsafeMutableBufferPointer<pccl_snapshot_tensor>
    private let scratch: UnsafeMutablePointer<UInt8>
    private let partialName: UnsafeMutablePointer<CChar>
    private let name: UnsafeMutablePointer<CChar>
    private var copies: [UnsafeMutableRawPointer] = []

    init(
        _ draft: SnapshotHeader.Draft, _ bytes: [UnsafeRawBufferPointer], folder: CInt, file: CInt, partialName: String,
        name: String
    ) {
        header = .allocate(capacity: draft.bytes.count)
        _ = header.initialize(from: draft.bytes)
        tensors = .allocate(capacity: bytes.count)
        _ = tensors.initialize(
            from: zip(bytes, draft.digits).map { bytes, digits in
                pccl_snapshot_tensor(bytes: bytes.baseAddress, count: bytes.count, digits: digits)
            })
        let chunkCount = bytes.map { ContentHash.chunkCount(of: $0.count) }.max() ?? 1
        scratch = .allocate(capacity: chunkCount * 16 + 8)
        self.partialName = SnapshotJob.copy(partialName)
        self.name = SnapshotJob.copy(name)
        native = pccl_snapshot_job(
            folder: folder, file: file, temporary_name: self.partialName, name: self.name,
            header: header.baseAddress.unsafelyUnwrapped, header_count: header.count, tensors: tensors.baseAddress,
            tensor_count: tensors.count, chunk_bytes: ContentHash.chunkBytes, scratch: scratch)
    }

    deinit {
        header.deallocate()
        tensors.deallocate()
        scratch.deallocate()
        partialName.deallocate()
        name.deallocate()
        for copy in copies { free(copy) }
    }

    /// Puts copies in the place of memory that would change under a child's eyes.
    func copyShared() throws(SnapshotProblem) {
        guard let shared = SharedMappings() else { throw SnapshotProblem(doing: "reading /proc/self/maps") }
        for index in tensors.indices {
            let bytes = UnsafeRawBufferPointer(start: tensors[index].bytes, count: tensors[index].count)
            guard shared.hasPart(of: bytes) else { continue }
            guard let copy = malloc(bytes.count) else {
                throw SnapshotProblem(doing: "copying \(bytes.count) bytes of shared memory")
            }
            copies.append(copy)
            UnsafeMutableRawBufferPointer(start: copy, count: bytes.count).copyMemory(from: bytes)
            tensors[index].bytes = UnsafeRawPointer(copy)
        }
    }

    private static func copy(_ text: String) -> UnsafeMutablePointer<CChar> {
        let characters = Array(text.utf8CString)
        let copy = UnsafeMutablePointer<CChar>.allocate(capacity: characters.count)
        copy.initialize(from: characters, count: characters.count)
        return copy
    }
}
