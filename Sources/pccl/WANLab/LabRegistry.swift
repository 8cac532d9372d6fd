import CShims
import Glibc
import WANLab

/// The labs of this machine: a folder for each, with a lock that its process holds as long as it lives. What a killed lab
/// leaves behind is found by its lock being free.
struct LabRegistry {
    static let folder = "/run/pccl-lab"
    private static let hiddenPrefix = ".new-"

    let lab: CInt
    private let lock: CInt

    var controlPath: String { Self.controlPath(of: lab) }
    static func controlPath(of lab: CInt) -> String { "\(folder)/\(lab)/control" }

    /// Enters this process.
    init() throws(LabError) {
        lab = getpid()
        // Made elsewhere and moved here with its lock held, so that no other lab's cleaning ever sees it unlocked.
        let hidden = "\(Self.folder)/\(Self.hiddenPrefix)\(lab)"
        mkdir(Self.folder, 0o755)
        guard mkdir(hidden, 0o700) == 0 || errno == EEXIST else {
            throw LabError("cannot make \(hidden): \(systemError())")
        }
        lock = open("\(hidden)/lock", O_CREAT | O_RDWR | O_CLOEXEC, 0o600)
        guard lock >= 0, flock(lock, LOCK_EX | LOCK_NB) == 0, rename(hidden, "\(Self.folder)/\(lab)") == 0 else {
            throw LabError("cannot make \(Self.folder)/\(lab): \(systemError())")
        }
    }

    /// Ends the processes in this lab's namespaces and removes these, and all else that the lab put on the machine.
    func remove() {
        Self.remove(lab)
        close(lock)
    }

    /// Labs that run, by process id.
    static func running() -> [CInt] { known().filter(isHeld) }

    /// Removes what labs that no longer run have left; gives their process ids.
    static func clean() -> [CInt] {
        let stale = known().filter { !isHeld($0) }
        for lab in stale { remove(lab) }
        // One that was killed before it had its place.
        for name in entries(of: folder) where name.hasPrefix(hiddenPrefix) {
            guard let lab = CInt(name.dropFirst(hiddenPrefix.count)), kill(lab, 0) != 0, errno == ESRCH else {
                continue
            }
            unlink("\(folder)/\(name)/lock")
            rmdir("\(folder)/\(name)")
        }
        return stale
    }

    private static func known() -> [CInt] {
        let folders = entries(of: folder).compactMap { CInt($0) }
        return Set(folders + namespaces().map(\.lab)).sorted()
    }

    private static func namespaces() -> [(lab: CInt, path: String)] {
        entries(of: LabNamespaces.folder).compactMap { name in
            guard name.hasPrefix(LabNamespaces.prefix) else { return nil }
            let numbers = name.dropFirst(LabNamespaces.prefix.count).split(separator: "-")
            guard numbers.count == 2, let lab = CInt(numbers[0]), CInt(numbers[1]) != nil else { return nil }
            return (lab, "\(LabNamespaces.folder)/\(name)")
        }
    }

    private static func isHeld(_ lab: CInt) -> Bool {
        let descriptor = open("\(folder)/\(lab)/lock", O_RDWR | O_CLOEXEC)
        // Somebody has tidied /run while the lab was running: then its process id is all there is to go by.
        guard descriptor >= 0 else { return kill(lab, 0) == 0 || errno == EPERM }
        defer { close(descriptor) }
        return flock(descriptor, LOCK_EX | LOCK_NB) != 0
    }

    private static func remove(_ lab: CInt) {
        let paths = namespaces().filter { $0.lab == lab }.map(\.path)
        killProcesses(in: paths)
        for path in paths {
            while pccl_shim_detach_mount(path) == 0 {}
            unlink(path)
        }
        for file in ["lock", "control"] { unlink("\(folder)/\(lab)/\(file)") }
        rmdir("\(folder)/\(lab)")
    }

    /// Two rounds: what a process started while it was being killed is found by the second.
    private static func killProcesses(in paths: [String]) {
        let inodes = Set(paths.compactMap(inode))
        guard !inodes.isEmpty else { return }
        for _ in 0..<2 {
            for process in entries(of: "/proc").compactMap({ CInt($0) }) where process != getpid() {
                if let found = inode("/proc/\(process)/ns/net"), inodes.contains(found) { kill(process, SIGKILL) }
            }
        }
    }

    private static func inode(_ path: String) -> UInt? {
        var status = stat()
        return stat(path, &status) == 0 ? UInt(status.st_ino) : nil
    }

    private static func entries(of folder: String) -> [String] {
        guard let directory = opendir(folder) else { return [] }
        defer { closedir(directory) }
        var names: [String] = []
        while let entry = readdir(directory) {
            let name = withUnsafePointer(to: &entry.pointee.d_name) {
                $0.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
            }
            if name != ".", name != ".." { names.append(name) }
        }
        return names
    }
}
