import Glibc

/// A folder of snapshots, held open: it stays the same one whatever becomes of its name.
final class SnapshotFolder: Sendable {
    let path: String
    let descriptor: CInt

    /// `kind` says what it is if there is no such folder.
    init(_ path: String, ifAbsent kind: SnapshotProblem.Kind) throws(SnapshotProblem) {
        self.path = path
        descriptor = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard descriptor >= 0 else { throw SnapshotProblem(kind, doing: "opening the folder \(path)") }
    }

    deinit { close(descriptor) }

    func path(of name: String) -> String { path.hasSuffix("/") ? path + name : "\(path)/\(name)" }

    /// Names of snapshots, those of the newest revision first.
    func snapshots() throws(SnapshotProblem) -> [String] {
        // Names are in the order of revisions.
        try names().filter { SnapshotName.revision(of: $0) != nil }.sorted(by: >)
    }

    /// All but so many of the newest, and never `written`, though it may be older: then a run that began anew uses the
    /// folder of another one.
    func removeSnapshots(keeping count: Int, written: String) throws(SnapshotProblem) {
        for name in try snapshots().dropFirst(count) where name != written {
            // Another process may have done it.
            guard unlinkat(descriptor, name, 0) == 0 || errno == ENOENT else {
                throw SnapshotProblem(doing: "removing \(path(of: name))")
            }
        }
    }

    /// What is left of writers that are gone. One that lives holds a lock on its file.
    func removeAbandoned() throws(SnapshotProblem) {
        for name in try names() where SnapshotName.isPartial(name) {
            let file = openat(descriptor, name, O_RDWR | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW)
            guard file >= 0 else { continue }
            if flock(file, LOCK_EX | LOCK_NB) == 0 { unlinkat(descriptor, name, 0) }
            close(file)
        }
    }

    /// A new file with a name that nobody has, locked by this process and by the children it is passed to.
    func makePartial(revision: UInt64, firstNumber: Int) throws(SnapshotProblem) -> (name: String, file: CInt) {
        for number in firstNumber..<firstNumber + 1000 {
            let name = SnapshotName.partialName(revision: revision, process: Int(getpid()), number: number)
            let file = openat(descriptor, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0o666)
            if file < 0, errno == EEXIST { continue }
            guard file >= 0 else { throw SnapshotProblem(.argument, doing: "making a file in \(path)") }
            // Between the two calls another process may have taken it for abandoned, and removed it. Where a file
            // system has no locks, nobody can do so.
            var status = stat()
            let isOurs = flock(file, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK
            if isOurs, fstat(file, &status) == 0, status.st_nlink > 0 { return (name, file) }
            close(file)
        }
        throw SnapshotProblem(.system, "\(path): a thousand names for a new file are taken")
    }

    private func names() throws(SnapshotProblem) -> [String] {
        // Its own place in the list, whatever others read.
        let again = openat(descriptor, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard again >= 0, let list = fdopendir(again) else {
            throw SnapshotProblem(doing: "reading the folder \(path)")
        }
        defer { closedir(list) }
        var names: [String] = []
        while let entry = readdir(list) {
            let name = withUnsafePointer(to: &entry.pointee.d_name) {
                $0.withMemoryRebound(to: CChar.self, capacity: Int(entry.pointee.d_reclen)) { String(cString: $0) }
            }
            names.append(name)
        }
        return names
    }
}
