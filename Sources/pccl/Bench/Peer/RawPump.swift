import Glibc

/// The limit line: the bytes of a direct all-reduce over as many TCP connections, and nothing else. No frames, no
/// additions, no agreement. Each pair of peers exchanges, both ways, the other's chunk of the buffer (which an all-reduce
/// would add up; here it lands in a small piece of memory that stays in cache) and the own chunk (in place of the result,
/// which lands in the target). One thread, non-blocking.
final class RawPump: PeerUnderTest {
    private static let stagingBytes = 256 << 10
    /// What one system call sends: no more than the kernel keeps in one piece of memory, which it soon uses again and
    /// finds in cache. On a quiet machine 32 KiB a send and 64 KiB a read moved 64 MiB at 3.3 GB/s each way; 256 KiB and
    /// 1 MiB at 2.0.
    private static let bytesPerSend = 32 << 10
    private static let bytesPerReceive = 64 << 10

    private let rank: Int
    private let peers: Int
    private let bytesPerElement: Int
    private var flows: [Flow] = []
    private let staging = UnsafeMutableRawBufferPointer.allocate(byteCount: stagingBytes, alignment: 4096)

    /// Connects to the peers before this one, `stripes` times each, and accepts those behind it.
    init(rank: Int, ports: [Int], stripes: Int, bytesPerElement: Int, listener: TCPListener) throws(BenchFailure) {
        self.rank = rank
        self.bytesPerElement = bytesPerElement
        peers = ports.count
        for other in 0..<rank {
            for stripe in 0..<stripes {
                let descriptor = try TCPListener.connect(port: ports[other])
                let flow = Flow(descriptor, other: other, stripe: stripe, of: stripes)
                try flow.greet(as: rank)
                flows.append(flow)
            }
        }
        for _ in 0..<(peers - 1 - rank) * stripes {
            flows.append(try Flow(accepting: try listener.accept(), of: stripes))
        }
        for flow in flows { _ = fcntl(flow.descriptor, F_SETFL, O_NONBLOCK) }
    }

    deinit {
        for flow in flows { close(flow.descriptor) }
        staging.deallocate()
    }

    func reduce(_ buffers: [BenchBuffers]) throws {
        for flow in flows { plan(flow, buffers) }
        while true {
            var hasMoved = false
            var waits: [pollfd] = []
            for flow in flows {
                if try flow.send() { hasMoved = true }
                if try flow.receive() { hasMoved = true }
            }
            if hasMoved { continue }
            for flow in flows where !flow.isDone {
                let events = (flow.hasToSend ? POLLOUT : 0) | (flow.hasToReceive ? POLLIN : 0)
                waits.append(pollfd(fd: flow.descriptor, events: Int16(events), revents: 0))
            }
            if waits.isEmpty { return }
            _ = poll(&waits, nfds_t(waits.count), -1)
        }
    }

    /// The chunks of the others hold what they sent in place of results.
    func wrongElements(in buffers: BenchBuffers, _ pattern: ReductionPattern, afterCalls calls: Int) -> Int {
        (0..<peers).filter { $0 != rank }.reduce(0) { wrong, other in
            let chunk = chunk(other, of: buffers.target.count)
            let memory = UnsafeRawBufferPointer(rebasing: UnsafeRawBufferPointer(buffers.target)[chunk])
            return wrong + pattern.wrongElements(in: memory, at: chunk.lowerBound, ofContribution: other)
        }
    }

    private func chunk(_ index: Int, of bytes: Int) -> Range<Int> {
        let elements = bytes / bytesPerElement
        return elements * index / peers * bytesPerElement..<elements * (index + 1) / peers * bytesPerElement
    }

    private func plan(_ flow: Flow, _ buffers: [BenchBuffers]) {
        flow.beginAgain()
        for buffer in buffers {
            let own = chunk(rank, of: buffer.source.count)
            let others = chunk(flow.other, of: buffer.source.count)
            flow.addToSend(flow.share(of: UnsafeMutableRawBufferPointer(rebasing: buffer.source[others])))
            flow.addToSend(flow.share(of: UnsafeMutableRawBufferPointer(rebasing: buffer.source[own])))
            flow.addToReceive(
                flow.share(of: UnsafeMutableRawBufferPointer(rebasing: buffer.source[own])), into: staging)
            flow.addToReceive(flow.share(of: UnsafeMutableRawBufferPointer(rebasing: buffer.target[others])), into: nil)
        }
    }

    /// One connection and what is still to pass over it.
    private final class Flow {
        let descriptor: CInt
        let other: Int
        private let stripe: Int
        private let stripes: Int

        private var sends: [UnsafeMutableRawBufferPointer] = []
        private var receives: [(place: UnsafeMutableRawBufferPointer, count: Int)] = []
        private var sendIndex = 0
        private var receiveIndex = 0
        /// Of the one in the works.
        private var sent = 0
        private var received = 0

        var hasToSend: Bool { sendIndex < sends.count }
        var hasToReceive: Bool { receiveIndex < receives.count }
        var isDone: Bool { !hasToSend && !hasToReceive }

        init(_ descriptor: CInt, other: Int, stripe: Int, of stripes: Int) {
            self.descriptor = descriptor
            self.other = other
            self.stripe = stripe
            self.stripes = stripes
        }

        /// The other side says who it is, in two bytes.
        init(accepting descriptor: CInt, of stripes: Int) throws(BenchFailure) {
            var greeting: [UInt8] = [0, 0]
            guard recv(descriptor, &greeting, 2, Int32(MSG_WAITALL)) == 2 else {
                throw BenchFailure("a peer of the pump connected and said nothing")
            }
            self.descriptor = descriptor
            other = Int(greeting[0])
            stripe = Int(greeting[1])
            self.stripes = stripes
        }

        func greet(as rank: Int) throws(BenchFailure) {
            let greeting = [UInt8(rank), UInt8(stripe)]
            guard Glibc.send(descriptor, greeting, 2, Int32(MSG_NOSIGNAL)) == 2 else {
                throw BenchFailure("cannot greet a peer of the pump: \(systemError())")
            }
        }

        /// This connection's part of what goes to a peer.
        func share(of memory: UnsafeMutableRawBufferPointer) -> UnsafeMutableRawBufferPointer {
            let range = memory.count * stripe / stripes..<memory.count * (stripe + 1) / stripes
            return UnsafeMutableRawBufferPointer(rebasing: memory[range])
        }

        func beginAgain() {
            sends.removeAll(keepingCapacity: true)
            receives.removeAll(keepingCapacity: true)
            (sendIndex, receiveIndex, sent, received) = (0, 0, 0, 0)
        }

        func addToSend(_ memory: UnsafeMutableRawBufferPointer) {
            if !memory.isEmpty { sends.append(memory) }
        }

        /// As many bytes as `memory` has, into it or into this other memory over and over.
        func addToReceive(_ memory: UnsafeMutableRawBufferPointer, into other: UnsafeMutableRawBufferPointer?) {
            if !memory.isEmpty { receives.append((other ?? memory, memory.count)) }
        }

        /// Once; whether anything went out.
        func send() throws(BenchFailure) -> Bool {
            guard hasToSend else { return false }
            let memory = sends[sendIndex]
            let length = min(memory.count - sent, RawPump.bytesPerSend)
            let count = Glibc.send(descriptor, memory.baseAddress! + sent, length, Int32(MSG_NOSIGNAL))
            guard count > 0 else {
                try checkMerelyFull("send to")
                return false
            }
            sent += count
            if sent == memory.count { (sendIndex, sent) = (sendIndex + 1, 0) }
            return true
        }

        func receive() throws(BenchFailure) -> Bool {
            guard hasToReceive else { return false }
            let (place, wanted) = receives[receiveIndex]
            let offset = received % place.count
            let length = min(wanted - received, place.count - offset, RawPump.bytesPerReceive)
            let count = recv(descriptor, place.baseAddress! + offset, length, 0)
            guard count != 0 else { throw BenchFailure("peer \(other) of the pump has closed its connection") }
            guard count > 0 else {
                try checkMerelyFull("receive from")
                return false
            }
            received += count
            if received == wanted { (receiveIndex, received) = (receiveIndex + 1, 0) }
            return true
        }

        private func checkMerelyFull(_ what: String) throws(BenchFailure) {
            guard errno == EAGAIN || errno == EINTR else {
                throw BenchFailure("cannot \(what) peer \(other) of the pump: \(systemError())")
            }
        }
    }
}

/// A port on 127.0.0.1 that the system chose.
final class TCPListener {
    private let descriptor: CInt
    let port: Int

    init() throws(BenchFailure) {
        let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue) | TCPListener.closeOnExec, 0)
        self.descriptor = descriptor
        var address = TCPListener.loopback(port: 0)
        var length = socklen_t(MemoryLayout<sockaddr_in>.size)
        let result = withUnsafeMutablePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { address in
                bind(descriptor, address, length) == 0 && listen(descriptor, SOMAXCONN) == 0
                    && getsockname(descriptor, address, &length) == 0
            }
        }
        port = Int(UInt16(bigEndian: address.sin_port))
        guard result else { throw BenchFailure("cannot listen on 127.0.0.1: \(systemError())") }
    }

    deinit { close(descriptor) }

    func accept() throws(BenchFailure) -> CInt {
        while true {
            let connection = Glibc.accept(descriptor, nil, nil)
            if connection >= 0 {
                TCPListener.sendAtOnce(connection)
                return connection
            }
            guard errno == EINTR else { throw BenchFailure("cannot accept a peer of the pump: \(systemError())") }
        }
    }

    static func connect(port: Int) throws(BenchFailure) -> CInt {
        let connection = socket(AF_INET, Int32(SOCK_STREAM.rawValue) | closeOnExec, 0)
        var address = loopback(port: port)
        let result = withUnsafePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                Glibc.connect(connection, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
            }
        }
        guard result == 0 else { throw BenchFailure("cannot connect to 127.0.0.1:\(port): \(systemError())") }
        sendAtOnce(connection)
        return connection
    }

    private static let closeOnExec = Int32(SOCK_CLOEXEC.rawValue)

    private static func loopback(port: Int) -> sockaddr_in {
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_port = UInt16(port).bigEndian
        address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
        return address
    }

    private static func sendAtOnce(_ connection: CInt) {
        var on: CInt = 1
        setsockopt(connection, Int32(IPPROTO_TCP), TCP_NODELAY, &on, socklen_t(MemoryLayout<CInt>.size))
    }
}
