import CShims
import Glibc
import WANLab

/// The Unix socket through which a running lab is told what to do: a line in, a line (or for `stats` some lines) out, the
/// last of which begins with `ok` or `error`.
struct ControlSocket {
    let listener: CInt
    private var clients: [CInt: [UInt8]] = [:]
    /// No command is longer.
    private static let longestLine = 4096

    init(path: String) throws(LabError) {
        listener = socket(AF_UNIX, CInt(SOCK_STREAM.rawValue | SOCK_NONBLOCK.rawValue | SOCK_CLOEXEC.rawValue), 0)
        let status = withUnixAddress(path) { bind(listener, $0, $1) }
        guard listener >= 0, status == 0, listen(listener, 16) == 0 else {
            throw LabError("cannot listen at \(path): \(systemError())")
        }
    }

    mutating func accept() -> CInt? {
        let client = pccl_shim_accept(listener, nil, nil)
        guard client >= 0 else { return nil }
        clients[client] = []
        return client
    }

    func owns(_ descriptor: CInt) -> Bool { clients[descriptor] != nil }

    /// The whole lines that have come. A client that has gone is forgotten.
    mutating func readLines(_ client: CInt) -> [String] {
        var bytes = [UInt8](repeating: 0, count: 1024)
        let count = read(client, &bytes, bytes.count)
        if count < 0 && (errno == EAGAIN || errno == EINTR) { return [] }
        guard count > 0, var pending = clients[client], pending.count < Self.longestLine else {
            clients[client] = nil
            close(client)
            return []
        }
        pending += bytes[..<count]
        var lines: [String] = []
        while let end = pending.firstIndex(of: UInt8(ascii: "\n")) {
            lines.append(String(decoding: pending[..<end], as: UTF8.self))
            pending.removeSubrange(...end)
        }
        clients[client] = pending
        return lines
    }

    /// A client that does not read its answers loses them: the network does not wait for it.
    func answer(_ client: CInt, _ text: String) {
        _ = send(client, text, text.utf8.count, CInt(MSG_NOSIGNAL | MSG_DONTWAIT))
    }

    /// Sends one line to a lab and gives back its answer's lines.
    static func ask(_ path: String, _ line: String) throws(LabError) -> [String] {
        let descriptor = socket(AF_UNIX, CInt(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
        defer { close(descriptor) }
        guard descriptor >= 0, withUnixAddress(path, { connect(descriptor, $0, $1) }) == 0 else {
            throw LabError("cannot reach the lab at \(path): \(systemError())")
        }
        writeAll(line + "\n", to: descriptor)
        var bytes: [UInt8] = []
        var chunk = [UInt8](repeating: 0, count: 4096)
        while true {
            let count = read(descriptor, &chunk, chunk.count)
            if count < 0 && errno == EINTR { continue }
            guard count > 0 else { throw LabError("the lab has ended before it answered") }
            bytes += chunk[..<count]
            guard bytes.last == UInt8(ascii: "\n") else { continue }
            let lines = bytes.split(separator: UInt8(ascii: "\n")).map { String(decoding: $0, as: UTF8.self) }
            if let last = lines.last, last.hasPrefix("ok") || last.hasPrefix("error") { return lines }
        }
    }
}

private func withUnixAddress(_ path: String, _ body: (UnsafePointer<sockaddr>, socklen_t) -> CInt) -> CInt {
    var address = sockaddr_un()
    address.sun_family = sa_family_t(AF_UNIX)
    let bytes = Array(path.utf8)
    let capacity = MemoryLayout.size(ofValue: address.sun_path)
    guard bytes.count < capacity else {
        errno = ENAMETOOLONG
        return -1
    }
    withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: bytes) }
    return withUnsafePointer(to: &address) {
        $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { body($0, socklen_t(MemoryLayout<sockaddr_un>.size)) }
    }
}
