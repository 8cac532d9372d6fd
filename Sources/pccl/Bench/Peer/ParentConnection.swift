import Glibc

/// A measured peer's connection to `pccl bench`, over which it is told what to do. When it ends, however it came to that,
/// this process ends too: nobody reads what it would measure.
final class ParentConnection {
    private let descriptor: CInt
    private var unread: [UInt8] = []

    init(path: String) throws(BenchFailure) {
        descriptor = try UnixSocket.connect(path: path)
        var thread = pthread_t()
        let argument = UnsafeMutableRawPointer(bitPattern: Int(descriptor))
        guard pthread_create(&thread, nil, watchParent, argument) == 0 else {
            throw BenchFailure("cannot start a thread")
        }
        pthread_detach(thread)
    }

    func say(_ line: ControlLine) { writeAll(line.written + "\n", to: descriptor) }

    /// Waits for the next line; nil when the parent is gone.
    func next() -> ControlLine? {
        var block = [UInt8](repeating: 0, count: 4096)
        while true {
            if let end = unread.firstIndex(of: UInt8(ascii: "\n")) {
                let line = String(decoding: unread[..<end], as: UTF8.self)
                unread.removeSubrange(...end)
                return ControlLine(parsing: line)
            }
            let count = read(descriptor, &block, block.count)
            if count == 0 || (count < 0 && errno != EINTR) { return nil }
            if count > 0 { unread += block[..<count] }
        }
    }
}

/// Wakes only when the other side hangs up: lines that come are the main thread's.
private func watchParent(_ argument: UnsafeMutableRawPointer?) -> UnsafeMutableRawPointer? {
    // The descriptor is 0 where the pointer is nil.
    let descriptor = CInt(Int(bitPattern: argument))
    // POLLRDHUP, which Glibc keeps to _GNU_SOURCE.
    let hangUp: Int16 = 0x2000
    while true {
        var wait = pollfd(fd: descriptor, events: hangUp, revents: 0)
        if poll(&wait, 1, -1) > 0 && wait.revents != 0 { _exit(2) }
    }
}

/// Stream sockets with a name in the file system, which all network namespaces share.
enum UnixSocket {
    static func connect(path: String) throws(BenchFailure) -> CInt {
        let descriptor = try make()
        guard withAddress(path, { Glibc.connect(descriptor, $0, $1) }) == 0 else {
            throw BenchFailure("cannot connect to \(path): \(systemError())")
        }
        return descriptor
    }

    static func listen(path: String) throws(BenchFailure) -> CInt {
        let descriptor = try make()
        guard withAddress(path, { Glibc.bind(descriptor, $0, $1) }) == 0, Glibc.listen(descriptor, SOMAXCONN) == 0
        else {
            throw BenchFailure("cannot listen at \(path): \(systemError())")
        }
        return descriptor
    }

    private static func make() throws(BenchFailure) -> CInt {
        let descriptor = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
        guard descriptor >= 0 else { throw BenchFailure("cannot make a socket: \(systemError())") }
        return descriptor
    }

    /// -1 for a path that does not fit, with `errno` set.
    private static func withAddress(_ path: String, _ body: (UnsafePointer<sockaddr>, socklen_t) -> CInt) -> CInt {
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        let bytes = Array(path.utf8)
        let fits = withUnsafeMutableBytes(of: &address.sun_path) { place in
            guard bytes.count < place.count else { return false }
            place.copyBytes(from: bytes)
            return true
        }
        guard fits else {
            errno = ENAMETOOLONG
            return -1
        }
        return withUnsafePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                body($0, socklen_t(MemoryLayout<sockaddr_un>.size))
            }
        }
    }
}
