import Glibc
import PCCLBase
import PCCLTransport

/// The other end of a connection, in the hands of a test: blocking, with a limit, and free to say what it likes.
package final class RawSocket: @unchecked Sendable {
    package let descriptor: CInt
    private var isClosed = false

    package init(owning descriptor: CInt) {
        self.descriptor = descriptor
        // SO_RCVTIMEO turns a read that would hang into a failure.
        var limit = timeval(tv_sec: patienceSeconds, tv_usec: 0)
        setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &limit, socklen_t(MemoryLayout<timeval>.size))
        setsockopt(descriptor, SOL_SOCKET, SO_SNDTIMEO, &limit, socklen_t(MemoryLayout<timeval>.size))
    }

    /// Connects to a port of this machine.
    package convenience init(port: UInt16) throws {
        let descriptor = socket(AF_INET, CInt(SOCK_STREAM.rawValue), 0)
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_port = port.bigEndian
        address.sin_addr.s_addr = UInt32(0x7f00_0001).bigEndian
        let code = withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
            }
        }
        self.init(owning: descriptor)
        if code != 0 { throw SystemError(doing: "connecting a test") }
    }

    deinit { close() }

    package func close() {
        guard !isClosed else { return }
        isClosed = true
        Glibc.close(descriptor)
    }

    package func write(_ bytes: [UInt8]) throws {
        var sent = 0
        while sent < bytes.count {
            let count = bytes.withUnsafeBytes {
                send(descriptor, $0.baseAddress! + sent, bytes.count - sent, CInt(MSG_NOSIGNAL))
            }
            guard count > 0 else { throw SystemError(doing: "writing in a test") }
            sent += count
        }
    }

    /// Something has come that nobody has read.
    package func awaitBytes() throws {
        var byte: UInt8 = 0
        guard recv(descriptor, &byte, 1, CInt(MSG_PEEK)) == 1 else {
            throw SystemError(doing: "waiting in a test")
        }
    }

    /// Exactly that many bytes; fewer if the other side closes.
    package func read(_ count: Int) throws -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: count)
        var filled = 0
        while filled < count {
            let got = bytes.withUnsafeMutableBytes { recv(descriptor, $0.baseAddress! + filled, count - filled, 0) }
            if got == 0 { break }
            if got < 0 && errno == ECONNRESET { break }
            guard got > 0 else { throw SystemError(doing: "reading in a test") }
            filled += got
        }
        return Array(bytes[..<filled])
    }

    /// All that still comes until the other side closes.
    package func readToEnd() throws -> [UInt8] {
        var all: [UInt8] = []
        while true {
            let some = try read(1)
            if some.isEmpty { return all }
            all += some
        }
    }
}

/// Two connected stream sockets that do not block.
package func socketPair() -> (CInt, CInt) {
    var pair: [CInt] = [-1, -1]
    let code = socketpair(
        AF_UNIX, CInt(SOCK_STREAM.rawValue | SOCK_NONBLOCK.rawValue | SOCK_CLOEXEC.rawValue), 0, &pair)
    precondition(code == 0, "no sockets for a test")
    return (pair[0], pair[1])
}

package func makeBlocking(_ descriptor: CInt) {
    _ = fcntl(descriptor, F_SETFL, fcntl(descriptor, F_GETFL) & ~O_NONBLOCK)
}

extension Socket {
    /// A port of this machine on which nobody listens.
    package static func freePort() throws -> UInt16 { try listening(at: .loopback(port: 0)).port }

    /// The port it is bound to.
    package var port: UInt16 { localAddress?.port ?? 0 }
}

/// Two ends of a TCP connection on this host, the first of which does not block.
package func tcpPair() throws -> (CInt, RawSocket) {
    let listener = socket(AF_INET, CInt(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
    defer { close(listener) }
    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    address.sin_addr.s_addr = UInt32(0x7f00_0001).bigEndian
    var length = socklen_t(MemoryLayout<sockaddr_in>.size)
    let code = withUnsafeMutablePointer(to: &address) {
        $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
            bind(listener, $0, length) | listen(listener, 1) | getsockname(listener, $0, &length)
        }
    }
    guard code == 0 else { throw SystemError(doing: "listening in a test") }
    let raw = try RawSocket(port: UInt16(bigEndian: address.sin_port))
    let accepted = accept(listener, nil, nil)
    guard accepted >= 0 else { throw SystemError(doing: "accepting in a test") }
    _ = fcntl(accepted, F_SETFL, fcntl(accepted, F_GETFL) | O_NONBLOCK)
    return (accepted, raw)
}
