import Glibc

/// A file that is written as a whole or not at all: under another name first, brought to disk, then renamed.
struct KeyFile {
    var name: String
    var bytes: [UInt8]
    /// Others than its owner may not read it.
    var isSecret = false

    private var mode: mode_t { isSecret ? 0o600 : 0o644 }

    /// Takes the place of the file of this name, if there is one.
    func replace(in folder: String) throws(KeysProblem) {
        let path = "\(folder)/\(name)"
        let draft = try writeDraft(besides: path)
        guard Glibc.rename(draft, path) == 0 else {
            let problem = KeysProblem(doing: "giving \(path) its name")
            unlink(draft)
            throw problem
        }
        try KeyFile.synchronize(folder)
    }

    /// Refuses where there is something of this name.
    func create(in folder: String) throws(KeysProblem) {
        let path = "\(folder)/\(name)"
        let draft = try writeDraft(besides: path)
        defer { unlink(draft) }
        guard KeyFile.renameToNew(draft, path) else {
            throw errno == EEXIST
                ? KeysProblem("\(path) is there already, and is left as it is: take another name, or remove it first")
                : KeysProblem(doing: "giving \(path) its name")
        }
        try KeyFile.synchronize(folder)
    }

    /// A file beside the path, complete and on disk.
    private func writeDraft(besides path: String) throws(KeysProblem) -> String {
        var draft = Array("\(path).XXXXXX".utf8CString)
        let descriptor = mkstemp(&draft)
        guard descriptor >= 0 else { throw KeysProblem(doing: "making a file beside \(path)") }
        let draftPath = String(decoding: draft.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
        do throws(KeysProblem) {
            try KeyFile.write(bytes, to: descriptor, mode, draftPath)
        } catch {
            unlink(draftPath)
            throw error
        }
        return draftPath
    }

    /// Closes the descriptor.
    private static func write(
        _ bytes: [UInt8], to descriptor: CInt, _ mode: mode_t, _ path: String
    ) throws(KeysProblem) {
        var rest = bytes[...]
        while !rest.isEmpty {
            let count = rest.withUnsafeBytes { Glibc.write(descriptor, $0.baseAddress, $0.count) }
            if count < 0, errno == EINTR { continue }
            guard count > 0 else {
                let problem = KeysProblem(doing: "writing \(path)")
                close(descriptor)
                throw problem
            }
            rest = rest.dropFirst(count)
        }
        guard fchmod(descriptor, mode) == 0, fsync(descriptor) == 0 else {
            let problem = KeysProblem(doing: "bringing \(path) to disk")
            close(descriptor)
            throw problem
        }
        guard close(descriptor) == 0 else { throw KeysProblem(doing: "writing \(path)") }
    }

    /// Fails with EEXIST where there is something. The file gets a second name, which takes nobody's; file systems that
    /// know no second names, as those of memory sticks, have to be asked first.
    private static func renameToNew(_ old: String, _ new: String) -> Bool {
        if link(old, new) == 0 { return true }
        guard errno == EPERM || errno == EOPNOTSUPP else { return false }
        var status = stat()
        guard lstat(new, &status) != 0 else {
            errno = EEXIST
            return false
        }
        return Glibc.rename(old, new) == 0
    }

    /// A name is on disk when its folder is.
    static func synchronize(_ folder: String) throws(KeysProblem) {
        let descriptor = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard descriptor >= 0 else { throw KeysProblem(doing: "opening the folder \(folder)") }
        defer { close(descriptor) }
        // Some network file systems have no fsync of a folder.
        guard fsync(descriptor) == 0 || errno == EINVAL else {
            throw KeysProblem(doing: "bringing the folder \(folder) to disk")
        }
    }

    // MARK: - reading

    /// More has no file of ours: a list of 100,000 revoked certificates has less than 5 MB.
    private static let largest = 64 << 20

    /// Nil if there is none.
    static func read(_ path: String) throws(KeysProblem) -> [UInt8]? {
        let descriptor = open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else {
            if errno == ENOENT { return nil }
            throw KeysProblem(doing: "opening \(path)")
        }
        defer { close(descriptor) }
        var status = stat()
        guard fstat(descriptor, &status) == 0, status.st_mode & S_IFMT == S_IFREG, status.st_size <= largest else {
            throw KeysProblem("\(path) is not a file of `pccl keys`")
        }
        var bytes = [UInt8](repeating: 0, count: Int(status.st_size))
        var count = 0
        while count < bytes.count {
            let more = bytes.withUnsafeMutableBytes {
                Glibc.read(descriptor, $0.baseAddress! + count, $0.count - count)
            }
            if more < 0, errno == EINTR { continue }
            guard more > 0 else { throw KeysProblem(doing: "reading \(path)") }
            count += more
        }
        return bytes
    }

    /// The bits of its mode that let others than its owner at it; 0 too if there is no such file.
    static func modeForOthers(_ path: String) -> mode_t {
        var status = stat()
        return stat(path, &status) == 0 ? status.st_mode & 0o077 : 0
    }
}

/// A folder of files that appears with all of them.
struct KeyFolder {
    private let draft: String
    private let path: String

    /// Beside the path, under another name, for its owner alone.
    init(for path: String, _ files: [KeyFile]) throws(KeysProblem) {
        self.path = path
        let parent = KeyFolder.parent(of: path)
        var template = Array("\(parent)/.\(KeyFolder.name(of: path)).XXXXXX".utf8CString)
        guard mkdtemp(&template) != nil else {
            throw errno == ENOENT
                ? KeysProblem("there is no folder \(parent) for \(path): make it first")
                : KeysProblem(doing: "making a folder in \(parent)")
        }
        draft = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
        do throws(KeysProblem) {
            for file in files { try file.replace(in: draft) }
        } catch {
            remove()
            throw error
        }
    }

    /// Nothing may be there but an empty folder.
    func appear() throws(KeysProblem) {
        guard rename(draft, path) == 0 else {
            let problem =
                switch errno {
                case EEXIST, ENOTEMPTY, ENOTDIR: KeyFolder.isTaken(path)
                default: KeysProblem(doing: "giving the folder \(path) its name")
                }
            remove()
            throw problem
        }
        try KeyFile.synchronize(KeyFolder.parent(of: path))
    }

    func remove() {
        for name in KeyFolder.names(in: draft) { unlink("\(draft)/\(name)") }
        rmdir(draft)
    }

    static func isTaken(_ path: String) -> KeysProblem {
        KeysProblem("\(path) is there already, and is left as it is: name another folder")
    }

    /// There is nothing, or an empty folder.
    static func isFree(_ path: String) -> Bool {
        var status = stat()
        return lstat(path, &status) != 0 || (status.st_mode & S_IFMT == S_IFDIR && names(in: path).isEmpty)
    }

    static func exists(_ path: String) -> Bool {
        var status = stat()
        return stat(path, &status) == 0 && status.st_mode & S_IFMT == S_IFDIR
    }

    static func names(in path: String) -> [String] {
        guard let folder = opendir(path) else { return [] }
        defer { closedir(folder) }
        var names: [String] = []
        while let entry = readdir(folder) {
            let name = withUnsafeBytes(of: &entry.pointee.d_name) {
                String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self)
            }
            if name != ".", name != ".." { names.append(name) }
        }
        return names.sorted()
    }

    /// Without slashes at its end.
    static func path(_ text: String) -> String {
        var text = text[...]
        while text.count > 1, text.hasSuffix("/") { text.removeLast() }
        return String(text)
    }

    static func parent(of path: String) -> String {
        guard let slash = path.lastIndex(of: "/") else { return "." }
        return slash == path.startIndex ? "/" : String(path[..<slash])
    }

    static func name(of path: String) -> String {
        path.lastIndex(of: "/").map { String(path[path.index(after: $0)...]) } ?? path
    }
}
