import Glibc
import PCCLBase
import PCCLCompute
import PCCLSnapshot
import PCCLTransport

extension SharedState {
    /// Begins to write the tensors and the revision to a file in `directory`, which must be there, and returns. What is
    /// written to the tensors from then on is not in the file. docs/snapshots.md says what a crash leaves.
    ///
    /// A child of this process writes, for which `SIGCHLD` may come; the caller waits for the fork, and for copies of
    /// tensors in memory that processes share. Where the system refuses a child, and with `inBackground` false, it is
    /// written before the call returns.
    ///
    /// Tensors of a CUDA device are copied to the host first.
    ///
    /// `keep`: when it is written, all snapshots in the directory but so many of the highest revisions are removed.
    ///
    /// Throws `.invalidArgument` for entries that cannot be, for a `keep` below 1, and if no file can be made in the
    /// directory. In the foreground also `.internalError`: see `Snapshot.wait`.
    @discardableResult
    public func save(
        to directory: String, keep: Int? = nil, inBackground: Bool = true
    ) throws(PCCLError) -> Snapshot {
        try validate()
        guard keep ?? 1 >= 1 else { throw PCCLError(.invalidArgument, "\(keep ?? 0) snapshots cannot be kept") }
        var sources: [SnapshotSource] = []
        var copies: [DeviceCopy] = []
        // A child has the copies too, from the fork on.
        defer { withExtendedLifetime(copies) {} }
        for entry in entries {
            let shape = entry.shape ?? [entry.count]
            guard let count = SnapshotHeader.elementCount(of: shape), count == entry.count else {
                throw PCCLError(
                    .invalidArgument,
                    "\"\(entry.name)\" has \(entry.count) elements, and the shape \(shape) another number")
            }
            var bytes = entry.bytes
            if let copy = try DeviceCopy(entry) {
                try copy.read()
                bytes = copy.bytes
                copies.append(copy)
            }
            sources.append(SnapshotSource(name: entry.name, type: entry.type, shape: shape, bytes: bytes))
        }
        do throws(SnapshotProblem) {
            let writing = try SnapshotWriting(revision: revision, sources, to: directory, inBackground: inBackground)
            if let reason = writing.foregroundReason {
                Log.write(.warning, "\(writing.path) was written in the foreground: \(reason)")
            }
            return try Snapshot(writing, revision: revision, keep: keep)
        } catch {
            throw PCCLError(error)
        }
    }

    /// Reads the tensors, and takes over the revision, from the newest snapshot in the directory `path` that is whole,
    /// or from the file `path`. That may be a safetensors file of another program: its revision is 0, and nothing is
    /// checked by hashes. A snapshot that is damaged is passed over, with a warning in the log.
    ///
    /// Throws `.noSharedStateAvailable` if there is none, or none that is whole: the reason names what is damaged, and
    /// the tensors may be partly written. `.invalidArgument` if the names, types or counts are not those of the
    /// entries; nothing is written then. `.internalError` if the system refuses to read. The revision stays what it was
    /// after an error.
    public mutating func load(from path: String) throws(PCCLError) {
        try validate()
        var copies: [DeviceCopy] = []
        var targets: [SnapshotTarget] = []
        for entry in entries {
            let copy = try DeviceCopy(entry)
            if let copy { copies.append(copy) }
            targets.append(
                SnapshotTarget(
                    name: entry.name, type: entry.type, count: entry.count, memory: copy?.memory ?? entry.memory))
        }
        let use = { (file: SnapshotFile) throws(SnapshotProblem) -> UInt64 in
            try file.read(into: targets)
            return file.header.revision ?? 0
        }
        let read: UInt64
        do throws(SnapshotProblem) {
            read =
                if SharedState.isDirectory(path) {
                    try SnapshotFile.newest(in: path, passedOver: { Log.write(.warning, "passed over: \($0)") }, use)
                } else {
                    try use(try SnapshotFile(path))
                }
        } catch {
            throw PCCLError(error)
        }
        for copy in copies { try copy.write() }
        revision = read
        for index in entries.indices { entries[index].isUnchanged = false }
    }

    /// Memory of the host that stands for an entry on a device while a file is written or read.
    private final class DeviceCopy {
        let memory: UnsafeMutableRawPointer
        private let entry: Entry
        private let tensor: DeviceTensor

        /// Nil if the entry is memory of the host.
        init?(_ entry: Entry) throws(PCCLError) {
            let tensor = try entry.asked { () throws(DeviceError) in
                try DeviceTensor(entry.memory, byteCount: entry.byteCount)
            }
            guard let tensor else { return nil }
            self.entry = entry
            self.tensor = tensor
            guard let memory = malloc(entry.byteCount) else {
                throw PCCLError(.internalError, "\"\(entry.name)\": no memory for \(entry.byteCount) bytes")
            }
            self.memory = memory
        }

        deinit { free(memory) }

        var bytes: UnsafeRawBufferPointer { UnsafeRawBufferPointer(start: memory, count: entry.byteCount) }

        func read() throws(PCCLError) {
            try entry.asked { () throws(DeviceError) in try tensor.read(0..<entry.byteCount, into: memory) }
        }

        func write() throws(PCCLError) {
            try entry.asked { () throws(DeviceError) in try tensor.write(bytes, at: 0) }
        }
    }

    private static func isDirectory(_ path: String) -> Bool {
        var status = stat()
        return stat(path, &status) == 0 && status.st_mode & S_IFMT == S_IFDIR
    }
}

/// A snapshot that is being written, or was. It is written also if nobody waits and nobody keeps this object.
public final class Snapshot: Sendable {
    /// The file's name, once it is whole.
    public let path: String
    public let revision: UInt64
    private let outcome = Completion<PCCLError?>()
    private let generation = ForkedChild.generation

    init(_ writing: SnapshotWriting, revision: UInt64, keep: Int?) throws(SnapshotProblem) {
        path = writing.path
        self.revision = revision
        guard writing.child != nil else {
            try Snapshot.finish(writing, keep)
            outcome.set(nil)
            return
        }
        let waiting = Waiting { [outcome, path] in
            do throws(SnapshotProblem) {
                try Snapshot.finish(writing, keep)
                Log.write(.debug, "\(path) is on disk")
                outcome.set(nil)
            } catch {
                Log.write(.warning, error.description)
                outcome.set(PCCLError(error))
            }
        }
        if !waiting.start() { waiting.body() }
    }

    /// What cannot be removed is no reason to say that the new one is not there.
    private static func finish(_ writing: SnapshotWriting, _ keep: Int?) throws(SnapshotProblem) {
        try writing.finish()
        guard let keep else { return }
        do throws(SnapshotProblem) {
            try writing.removeOlder(keeping: keep)
        } catch {
            Log.write(.warning, "older snapshots stay: \(error)")
        }
    }

    /// Blocks until it is on disk. Several threads may wait; all get the same outcome, also later.
    ///
    /// Throws `.internalError` if it could not be written: a full disk, a child that was killed. Older snapshots are as
    /// they were. `.invalidUsage` in a child that this process has forked.
    public func wait() throws(PCCLError) {
        try requireOwnProcess()
        if let error = outcome.wait() { throw error }
    }

    /// The same for code that may not block its thread.
    public func wait() async throws(PCCLError) {
        try requireOwnProcess()
        if let error = await outcome.outcome() { throw error }
    }

    /// Whether `wait` would return at once.
    public var isDone: Bool { outcome.current != nil }

    private func requireOwnProcess() throws(PCCLError) {
        guard generation == ForkedChild.generation || isDone else {
            throw PCCLError(.invalidUsage, "\(path) was begun by the process that this one was forked from")
        }
    }
}

/// A thread that waits for a child, so that none is left for others to wait for.
private final class Waiting: Sendable {
    let body: @Sendable () -> Void

    init(_ body: @escaping @Sendable () -> Void) { self.body = body }

    /// False if there are no more threads.
    func start() -> Bool {
        var (all, before) = (sigset_t(), sigset_t())
        sigfillset(&all)
        // Signals are for the program's threads; this one has them blocked from its first moment.
        pthread_sigmask(SIG_SETMASK, &all, &before)
        defer { pthread_sigmask(SIG_SETMASK, &before, nil) }
        var thread = pthread_t()
        let context = Unmanaged.passRetained(self)
        guard pthread_create(&thread, nil, runWaiting, context.toOpaque()) == 0 else {
            context.release()
            return false
        }
        pthread_detach(thread)
        return true
    }
}

private func runWaiting(_ context: UnsafeMutableRawPointer?) -> UnsafeMutableRawPointer? {
    if let context { Unmanaged<Waiting>.fromOpaque(context).takeRetainedValue().body() }
    return nil
}

extension PCCLError {
    init(_ problem: SnapshotProblem) {
        let code: Code =
            switch problem.kind {
            case .absent, .damaged: .noSharedStateAvailable
            case .argument: .invalidArgument
            case .system: .internalError
            }
        self.init(code, problem.description)
    }
}
