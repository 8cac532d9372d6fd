import Glibc

/// Who listens on a TCP port of this machine, as far as /proc tells this user.
package struct PortHolder: Equatable {
    package struct Process: Equatable {
        package let id: Int32
        /// Its name as the kernel has it: the file's, cut to 15 characters.
        package let command: String
    }
    /// The number that the kernel gave to the socket.
    package let inode: UInt64
    /// Nil for a process of another user, unless one asks as root.
    package let process: Process?

    /// All that listen on the port, whatever the address. Empty when there are none, or there is no /proc.
    package static func listeners(onPort port: UInt16) -> [PortHolder] {
        var inodes: [UInt64] = []
        for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
            let found = listeningInodes(onPort: port, in: contents(of: table))
            inodes += found.filter { !inodes.contains($0) }
        }
        if inodes.isEmpty { return [] }
        let owners = processes(holding: inodes)
        return inodes.map { inode in PortHolder(inode: inode, process: owners.first { $0.inode == inode }?.process) }
    }

    /// Reads the text of /proc/net/tcp or tcp6: after a headline, one socket a line, in columns. The second is the local
    /// address and port in hexadecimal, the fourth the state, the tenth the inode.
    package static func listeningInodes(onPort port: UInt16, in table: String) -> [UInt64] {
        let stateListen = "0A"
        return table.split(separator: "\n").compactMap { line -> UInt64? in
            let columns = line.split(separator: " ")
            guard columns.count >= 10, columns[3] == stateListen,
                let colon = columns[1].lastIndex(of: ":"),
                UInt16(columns[1][columns[1].index(after: colon)...], radix: 16) == port
            else { return nil }
            return UInt64(columns[9])
        }
    }

    private static func processes(holding inodes: [UInt64]) -> [(inode: UInt64, process: Process)] {
        var found: [(inode: UInt64, process: Process)] = []
        for entry in entries(of: "/proc") {
            guard let id = Int32(entry) else { continue }
            let descriptors = "/proc/\(id)/fd"
            for descriptor in entries(of: descriptors) {
                guard let inode = socketInode(ofLink: "\(descriptors)/\(descriptor)"), inodes.contains(inode) else {
                    continue
                }
                let name = contents(of: "/proc/\(id)/comm").split(separator: "\n").first.map(String.init)
                found.append((inode, Process(id: id, command: name ?? "an unnamed process")))
            }
        }
        return found
    }

    /// A socket among a process's descriptors is a link to `socket:[inode]`.
    private static func socketInode(ofLink path: String) -> UInt64? {
        var text = [CChar](repeating: 0, count: 64)
        let length = readlink(path, &text, text.count)
        guard length > 0 else { return nil }
        let target = String(decoding: text[..<length].map { UInt8(bitPattern: $0) }, as: UTF8.self)
        guard target.hasPrefix("socket:["), target.hasSuffix("]") else { return nil }
        return UInt64(target.dropFirst("socket:[".count).dropLast())
    }

    /// Empty for a folder that may not be read, or has gone with its process.
    private static func entries(of folder: String) -> [String] {
        guard let stream = opendir(folder) else { return [] }
        defer { closedir(stream) }
        var names: [String] = []
        while let entry = readdir(stream) {
            let name = withUnsafePointer(to: &entry.pointee.d_name) { pointer in
                pointer.withMemoryRebound(to: CChar.self, capacity: MemoryLayout.size(ofValue: pointer.pointee)) {
                    String(cString: $0)
                }
            }
            if !name.hasPrefix(".") { names.append(name) }
        }
        return names
    }

    private static func contents(of path: String) -> String {
        let file = open(path, O_RDONLY | O_CLOEXEC)
        guard file >= 0 else { return "" }
        defer { close(file) }
        var bytes: [UInt8] = []
        var piece = [UInt8](repeating: 0, count: 16384)
        while true {
            let count = read(file, &piece, piece.count)
            guard count > 0 else { return String(decoding: bytes, as: UTF8.self) }
            bytes += piece[..<count]
        }
    }
}
