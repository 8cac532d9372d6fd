import CShims
import Glibc
import PCCLBase

/// Descriptors that a child must not keep which the host process forks: its parent's death would go unnoticed.
package enum ForkedChild {
    package static func closes(_ descriptor: CInt) { pccl_shim_note_descriptor(descriptor) }
    /// Before the descriptor is closed here.
    package static func closesNoMore(_ descriptor: CInt) { pccl_shim_forget_descriptor(descriptor) }
    /// Another one than when a descriptor was opened: this is a child, which has closed it already, and the number may
    /// belong to something else by now.
    package static var generation: UInt32 { pccl_shim_fork_generation() }
}

/// An open descriptor with one owner; closed when the owner lets it go.
package struct Socket: ~Copyable {
    package let descriptor: CInt
    private let generation = ForkedChild.generation

    package init(owning descriptor: CInt) {
        self.descriptor = descriptor
        ForkedChild.closes(descriptor)
    }
    deinit {
        guard generation == ForkedChild.generation else { return }
        ForkedChild.closesNoMore(descriptor)
        Glibc.close(descriptor)
    }

    /// Gives the descriptor to another owner.
    package consuming func release() -> CInt {
        let descriptor = self.descriptor
        ForkedChild.closesNoMore(descriptor)
        discard self
        return descriptor
    }

    /// A listening TCP socket. Port 0 takes any free one.
    package static func listening(at address: SocketAddress, backlog: CInt = 1024) throws(SystemError) -> Socket {
        let socket = try stream(like: address)
        // Without it a restarted listener would have to wait for old connections to time out.
        socket.set(SOL_SOCKET, SO_REUSEADDR, 1)
        if case .v6(let high, let low) = address.host, high == 0, low == 0 {
            // `::` stands for every address of both families.
            socket.set(CInt(IPPROTO_IPV6), IPV6_V6ONLY, 0)
        }
        let bound = address.withSockAddr { bind(socket.descriptor, $0, $1) }
        guard bound == 0 else { throw SystemError(doing: "binding \(address)") }
        guard listen(socket.descriptor, backlog) == 0 else { throw SystemError(doing: "listening at \(address)") }
        return socket
    }

    /// Begins to connect. The socket becomes writable when it is connected or has failed: see `connectError`.
    package static func connecting(to address: SocketAddress) throws(SystemError) -> Socket {
        let socket = try stream(like: address)
        socket.sendAtOnce()
        let status = address.withSockAddr { connect(socket.descriptor, $0, $1) }
        guard status == 0 || errno == EINPROGRESS else { throw SystemError(doing: "connecting to \(address)") }
        return socket
    }

    private static func stream(like address: SocketAddress) throws(SystemError) -> Socket {
        let family = if case .v4 = address.host { AF_INET } else { AF_INET6 }
        let descriptor = socket(
            family, CInt(SOCK_STREAM.rawValue | SOCK_NONBLOCK.rawValue | SOCK_CLOEXEC.rawValue), 0)
        guard descriptor >= 0 else { throw SystemError(doing: "making a socket") }
        return Socket(owning: descriptor)
    }

    package enum AcceptResult: ~Copyable {
        case accepted(Socket, from: SocketAddress.Host)
        case nothing
        /// The process or the system is out of descriptors or memory: try again later.
        case exhausted(SystemError)
    }

    package func accept() -> AcceptResult {
        var storage = sockaddr_storage()
        var length = socklen_t(MemoryLayout<sockaddr_storage>.size)
        let descriptor = withUnsafeMutablePointer(to: &storage) { storage in
            storage.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                pccl_shim_accept(self.descriptor, $0, &length)
            }
        }
        if descriptor >= 0 {
            let socket = Socket(owning: descriptor)
            socket.sendAtOnce()
            return .accepted(socket, from: SocketAddress(storage)?.host ?? .v4(0))
        }
        switch errno {
        case EMFILE, ENFILE, ENOBUFS, ENOMEM: return .exhausted(SystemError(doing: "accepting a connection"))
        default: return .nothing  // None waits, or it was gone before it was taken.
        }
    }

    /// A second small message would wait for the acknowledgement of the first, which its receiver delays by 40 ms.
    private func sendAtOnce() { set(CInt(IPPROTO_TCP), TCP_NODELAY, 1) }

    /// Whenever it is closed, the other end sees a reset.
    package func resetWhenClosed() {
        var abrupt = linger(l_onoff: 1, l_linger: 0)
        setsockopt(descriptor, SOL_SOCKET, SO_LINGER, &abrupt, socklen_t(MemoryLayout<linger>.size))
    }

    /// What became of a connect: 0 when it stands.
    package var connectError: CInt {
        var code: CInt = 0
        var length = socklen_t(MemoryLayout<CInt>.size)
        return getsockopt(descriptor, SOL_SOCKET, SO_ERROR, &code, &length) == 0 ? code : errno
    }

    package var localAddress: SocketAddress? {
        var storage = sockaddr_storage()
        var length = socklen_t(MemoryLayout<sockaddr_storage>.size)
        let status = withUnsafeMutablePointer(to: &storage) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { getsockname(descriptor, $0, &length) }
        }
        return status == 0 ? SocketAddress(storage) : nil
    }

    /// Options of a connection that stands. `SO_RCVBUF` stays unset: setting it ends the kernel's own tuning.
    package func tune(deadTime: Interval, _ configuration: LinkConfiguration) {
        if let name = configuration.congestionControl, pccl_shim_set_congestion_control(descriptor, name) != 0 {
            Log.write(.warning, "PCCL_CONGESTION=\(name): \(SystemError.text(errno)); the system's is used")
        }
        if configuration.growsByItself || configuration.unsentBytes > 0 {
            limit(unsentBytes: configuration.unsentBytes)
        }
        // Unacknowledged bytes for that long mean that nobody is there, whatever the retransmission schedule says.
        set(CInt(IPPROTO_TCP), TCP_USER_TIMEOUT, CInt(clamping: deadTime.milliseconds))
        set(SOL_SOCKET, SO_KEEPALIVE, 1)
    }

    package func limit(unsentBytes: Int) { set(CInt(IPPROTO_TCP), TCP_NOTSENT_LOWAT, CInt(clamping: unsentBytes)) }

    /// Works with every congestion control; where the kernel refuses it the connection is as fast as it will.
    package func limit(bytesPerSecond: UInt64) {
        var rate = bytesPerSecond
        setsockopt(descriptor, SOL_SOCKET, SO_MAX_PACING_RATE, &rate, socklen_t(MemoryLayout<UInt64>.size))
    }

    package var remoteAddress: SocketAddress? {
        var storage = sockaddr_storage()
        var length = socklen_t(MemoryLayout<sockaddr_storage>.size)
        let status = withUnsafeMutablePointer(to: &storage) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { getpeername(descriptor, $0, &length) }
        }
        return status == 0 ? SocketAddress(storage) : nil
    }

    /// Both ends have the same address, so both are on this host.
    var isWithinHost: Bool {
        guard let localAddress, let remoteAddress else { return false }
        return localAddress.host == remoteAddress.host
    }

    var tcpFigures: TCPFigures? {
        var figures = pccl_shim_tcp_figures()
        guard pccl_shim_tcp_figures(descriptor, &figures) == 0 else { return nil }
        return TCPFigures(
            acknowledgedBytes: figures.acknowledged_bytes,
            deliveredBytes: figures.delivered_bytes,
            deliveryBytesPerSecond: figures.delivery_bytes_per_second,
            roundTripNanoseconds: UInt64(figures.round_trip_microseconds) * 1000,
            leastRoundTripNanoseconds: UInt64(figures.least_round_trip_microseconds) * 1000,
            busyMicroseconds: figures.busy_microseconds)
    }

    private func set(_ level: CInt, _ option: CInt, _ value: CInt) {
        var value = value
        setsockopt(descriptor, level, option, &value, socklen_t(MemoryLayout<CInt>.size))
    }
}

/// What the kernel knows of a TCP connection.
package struct TCPFigures: Hashable, Sendable {
    package var acknowledgedBytes: UInt64
    /// Those also that lie behind a gap, in whole packets.
    package var deliveredBytes: UInt64
    package var deliveryBytesPerSecond: UInt64
    package var roundTripNanoseconds: UInt64
    /// 0 until there was a round trip.
    package var leastRoundTripNanoseconds: UInt64
    /// Time in which something was sent and not acknowledged yet.
    package var busyMicroseconds: UInt64
}

extension SocketAddress {
    package init?(_ storage: sockaddr_storage) {
        var storage = storage
        let result: SocketAddress? = withUnsafePointer(to: &storage) { pointer in
            switch CInt(pointer.pointee.ss_family) {
            case AF_INET:
                return pointer.withMemoryRebound(to: sockaddr_in.self, capacity: 1) {
                    SocketAddress(
                        .v4(UInt32(bigEndian: $0.pointee.sin_addr.s_addr)), port: UInt16(bigEndian: $0.pointee.sin_port)
                    )
                }
            case AF_INET6:
                return pointer.withMemoryRebound(to: sockaddr_in6.self, capacity: 1) { v6 in
                    let bytes = withUnsafeBytes(of: v6.pointee.sin6_addr) { Array($0) }
                    return SocketAddress(
                        SocketAddress.host(fromSixteen: bytes), port: UInt16(bigEndian: v6.pointee.sin6_port))
                }
            default: return nil
            }
        }
        guard let result else { return nil }
        self = result
    }

    /// A v4 address in v6 clothes, as a dual-stack listener shows it, is the v4 address.
    private static func host(fromSixteen bytes: [UInt8]) -> Host {
        let words = stride(from: 0, to: 16, by: 8).map { start in
            bytes[start..<start + 8].reduce(UInt64(0)) { $0 << 8 | UInt64($1) }
        }
        if words[0] == 0, words[1] >> 32 == 0xffff { return .v4(UInt32(truncatingIfNeeded: words[1])) }
        return .v6(high: words[0], low: words[1])
    }

    func withSockAddr<R>(_ body: (UnsafePointer<sockaddr>, socklen_t) -> R) -> R {
        switch host {
        case .v4(let bits):
            var address = sockaddr_in()
            address.sin_family = sa_family_t(AF_INET)
            address.sin_port = port.bigEndian
            address.sin_addr.s_addr = bits.bigEndian
            return withUnsafePointer(to: &address) {
                $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                    body($0, socklen_t(MemoryLayout<sockaddr_in>.size))
                }
            }
        case .v6(let high, let low):
            var address = sockaddr_in6()
            address.sin6_family = sa_family_t(AF_INET6)
            address.sin6_port = port.bigEndian
            withUnsafeMutableBytes(of: &address.sin6_addr) {
                $0.storeBytes(of: high.bigEndian, as: UInt64.self)
                $0.storeBytes(of: low.bigEndian, toByteOffset: 8, as: UInt64.self)
            }
            return withUnsafePointer(to: &address) {
                $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                    body($0, socklen_t(MemoryLayout<sockaddr_in6>.size))
                }
            }
        }
    }

    /// `ADDRESS`, `ADDRESS:PORT` or `[ADDRESS]:PORT`, numeric; port 0 if there is none.
    package init?(numeric text: String) {
        var host = text[...]
        var port: UInt16 = 0
        let hasPort = text.hasPrefix("[") ? text.contains("]:") : text.count { $0 == ":" } == 1
        if hasPort, let colon = text.lastIndex(of: ":") {
            guard let number = UInt16(text[text.index(after: colon)...]) else { return nil }
            (host, port) = (text[..<colon], number)
        }
        if host.hasPrefix("["), host.hasSuffix("]") { host = host.dropFirst().dropLast() }
        var v4 = in_addr()
        var v6 = in6_addr()
        if inet_pton(AF_INET, String(host), &v4) == 1 {
            self.init(.v4(UInt32(bigEndian: v4.s_addr)), port: port)
        } else if inet_pton(AF_INET6, String(host), &v6) == 1 {
            self.init(SocketAddress.host(fromSixteen: withUnsafeBytes(of: v6) { Array($0) }), port: port)
        } else {
            return nil
        }
    }

    /// Numeric addresses and names, by the system's resolver; blocking. In the resolver's order.
    package static func resolve(host: String, port: UInt16) throws(SystemError) -> [SocketAddress] {
        var hints = addrinfo()
        hints.ai_socktype = CInt(SOCK_STREAM.rawValue)
        var list: UnsafeMutablePointer<addrinfo>?
        let status = getaddrinfo(host, nil, &hints, &list)
        defer { if let list { freeaddrinfo(list) } }
        guard status == 0 else {
            let text = gai_strerror(status).map { String(cString: $0) } ?? "error \(status)"
            throw SystemError(code: EHOSTUNREACH, doing: "looking up the name \(host) (\(text))")
        }
        var addresses: [SocketAddress] = []
        var entry = list
        while let info = entry {
            var storage = sockaddr_storage()
            withUnsafeMutableBytes(of: &storage) {
                $0.copyMemory(
                    from: UnsafeRawBufferPointer(start: info.pointee.ai_addr, count: Int(info.pointee.ai_addrlen)))
            }
            if var address = SocketAddress(storage) {
                address.port = port
                addresses.append(address)
            }
            entry = info.pointee.ai_next
        }
        return addresses
    }
}
