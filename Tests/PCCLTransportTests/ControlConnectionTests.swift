import Glibc
import PCCLBase
import PCCLTestSupport
@testable import PCCLTransport
import PCCLWire
import Testing

/// One end of a control connection, on a loop of its own.
final class ControlEnd: @unchecked Sendable {
    enum Event: Equatable, Sendable {
        case greeted
        case message([UInt8])
        case closed(String)
    }
    let loop: EventLoop
    let events = Mailbox<Event>("events of a control connection")
    private var connection: ControlConnection?

    /// Over a socket that is connected.
    init(_ descriptor: CInt, _ credentials: Credentials = .none) throws {
        loop = try EventLoop(name: "test")
        try loop.sync { [self] in open(Socket(owning: descriptor), .acceptor(.v4(0)), credentials) }
    }

    /// Dials.
    init(to address: SocketAddress, _ credentials: Credentials = .none) throws {
        loop = try EventLoop(name: "test")
        try loop.sync { [self] in
            do {
                open(try Socket.connecting(to: address), .dialler(address), credentials)
            } catch {
                events.put(.closed("\(error)"))
            }
        }
    }

    private func open(_ socket: consuming Socket, _ side: ControlConnection.Side, _ credentials: Credentials) {
        let connection = ControlConnection(loop, socket, side, credentials)
        self.connection = connection
        connection.onGreeted = { [events] in events.put(.greeted) }
        connection.onMessage = { [events] in events.put(.message($0)) }
        connection.onClosed = { [weak self] in
            self?.connection = nil
            self?.events.put(.closed($0))
        }
        connection.start()
    }

    func send(_ messages: [[UInt8]]) throws {
        try loop.sync { [self] in for message in messages { connection?.send(message) } }
    }
    func closeWhenSent() throws {
        try loop.sync { [self] in
            connection?.closeWhenSent()
            connection = nil
        }
    }
    func stop() throws {
        try loop.sync { [self] in
            connection?.closeNow()
            connection = nil
        }
        loop.stop()
    }
    func closeReason() throws -> String {
        while true { if case .closed(let reason) = try events.take() { return reason } }
    }
}

@Suite("A control connection", .timeLimit(.minutes(3)))
struct ControlConnectionTests {
    static let sizes = [0, 1, 3, 4, 5, 100, 4095, 65_531, 65_532, 65_536, 70_000, 1 << 20, 5 << 20]

    private func raw() throws -> (ControlEnd, RawSocket) {
        let (a, b) = socketPair()
        makeBlocking(b)
        return (try ControlEnd(a), RawSocket(owning: b))
    }

    private func framed(_ message: [UInt8]) -> [UInt8] {
        var writer = ByteWriter()
        writer.write(UInt32(message.count))
        return writer.bytes + message
    }

    @Test("messages of all sizes arrive whole and in order, both ways at once")
    func roundTrip() throws {
        let (a, b) = socketPair()
        let ends = [try ControlEnd(a), try ControlEnd(b)]
        for (i, end) in ends.enumerated() { try end.send(Self.sizes.map { pattern($0, seed: i) }) }
        for (i, end) in ends.enumerated() {
            #expect(try end.events.take() == .greeted)
            for size in Self.sizes { #expect(try end.events.take() == .message(pattern(size, seed: 1 - i))) }
        }
        for end in ends { try end.stop() }
    }

    @Test("dialled over TCP, what was sent before the connection stood arrives too")
    func overTCP() throws {
        let listener = try Socket.listening(at: .loopback(port: 0))
        let dialler = try ControlEnd(to: .loopback(port: listener.port))
        try dialler.send([[1, 2, 3]])
        var accepted: CInt = -1
        makeBlocking(listener.descriptor)
        accepted = accept(listener.descriptor, nil, nil)
        _ = fcntl(accepted, F_SETFL, fcntl(accepted, F_GETFL) | O_NONBLOCK)
        let acceptor = try ControlEnd(accepted)
        #expect(try acceptor.events.take(2) == [.greeted, .message([1, 2, 3])])
        try acceptor.send([[4]])
        #expect(try dialler.events.take(2) == [.greeted, .message([4])])
        try dialler.stop()
        #expect(try acceptor.closeReason() == "the connection was closed")
        try acceptor.stop()
    }

    @Test("a message cut into single bytes is put together again")
    func byteByByte() throws {
        let (end, raw) = try raw()
        for byte in Preamble(role: .control).bytes + framed([9, 8, 7]) + framed([]) { try raw.write([byte]) }
        #expect(try end.events.take(3) == [.greeted, .message([9, 8, 7]), .message([])])
        try end.stop()
    }

    static let strangers: [(bytes: [UInt8], reason: String)] = [
        (Array("HTTP/1.1 400 Bad Request\r\n".utf8), "does not speak this protocol (it began with \"HTTP/1.1 400 Bad"),
        ([0x16, 3, 1, 0, 5], "it speaks TLS, and this side has no keys (PCCL_KEYS)"),
        ([0x7f, 0x70, 0x63, 0x63, 0x6c, 0x2d, 0x73, 0x00], "does not speak this protocol"),
        (Preamble(version: 99, role: .control).bytes, "protocol version 99"),
        (Preamble(role: .stripe).bytes, "a peer answered where a master was expected"),
    ]

    @Test("a stranger is turned away from its first bytes, and the reason says what it is", arguments: strangers)
    func strangersAreTurnedAway(stranger: (bytes: [UInt8], reason: String)) throws {
        let (end, raw) = try raw()
        try raw.write(stranger.bytes)
        let event = try end.events.take()
        guard case .closed(let reason) = event else {
            Issue.record("\(event) instead of an end")
            return
        }
        #expect(reason.contains(stranger.reason))
        // Our own greeting tells the other side as much, and then the connection ends.
        #expect(try raw.readToEnd().starts(with: Preamble(role: .control).bytes))
        try end.stop()
    }

    @Test("a connection that ends before or within a greeting says so", arguments: [0, 1, 15])
    func cutGreeting(count: Int) throws {
        let (end, raw) = try raw()
        try raw.write(Array(Preamble(role: .control).bytes[..<count]))
        _ = try raw.read(Preamble.byteCount)
        raw.close()
        #expect(try end.events.take() == .closed("the connection was closed before a greeting"))
        try end.stop()
    }

    @Test("a length that lies ends the connection before memory is taken", arguments: [UInt32(32 << 20) + 1, .max])
    func lengthLie(length: UInt32) throws {
        let (end, raw) = try raw()
        var writer = ByteWriter()
        writer.write(length)
        try raw.write(Preamble(role: .control).bytes + framed([1]) + writer.bytes)
        #expect(try end.events.take(2) == [.greeted, .message([1])])
        #expect(try end.closeReason().contains("\(length) bytes was announced"))
        try end.stop()
    }

    @Test("the first message to an acceptor may only be as large as a greeting")
    func firstMessage() throws {
        let (end, raw) = try raw()
        try raw.write(Preamble(role: .control).bytes + framed(pattern(WireLimits.helloBytes + 1)).prefix(100))
        #expect(try end.events.take() == .greeted)
        #expect(try end.closeReason().contains("\(WireLimits.helloBytes) are allowed"))
        try end.stop()
    }

    @Test("a message cut short by the end of the connection is not delivered")
    func cutMessage() throws {
        let (end, raw) = try raw()
        try raw.write(Preamble(role: .control).bytes + framed([1, 2, 3]).dropLast())
        _ = try raw.read(Preamble.byteCount)
        raw.close()
        #expect(try end.events.take(2) == [.greeted, .closed("the connection was closed")])
        try end.stop()
    }

    /// libuv watches a descriptor no more once it has reported an error of it.
    @Test("a connection that is reset gives what arrived before, and then ends", arguments: [0, 1000, 150_000])
    func reset(size: Int) throws {
        let (end, raw) = try raw()
        try raw.write(Preamble(role: .control).bytes + framed([1]) + framed(pattern(size)))
        // With our greeting unread this is a reset.
        raw.close()
        #expect(try end.events.take(3) == [.greeted, .message([1]), .message(pattern(size))])
        #expect(try end.closeReason().contains("reset"))
        try end.stop()
    }

    @Test("closed when sent: the last message arrives, however large, and the owner hears nothing more")
    func lastMessageArrives() throws {
        for size in [1, 100_000, 8 << 20] {
            let (end, raw) = try raw()
            try raw.write(Preamble(role: .control).bytes + framed([1]))
            #expect(try end.events.take(2) == [.greeted, .message([1])])
            // Unread bytes at the closing side must not turn the end into a reset.
            try raw.write(framed(pattern(1000)))
            try end.send([pattern(size)])
            try end.closeWhenSent()
            #expect(try raw.read(Preamble.byteCount) == Preamble(role: .control).bytes)
            #expect(try raw.read(4 + size) == framed(pattern(size)))
            #expect(try raw.read(1) == [])
            try end.stop()
            #expect(!end.events.waiting.contains { if case .closed = $0 { true } else { false } })
        }
    }

    @Test("nobody there: the reason is the system's")
    func refused() throws {
        let end = try ControlEnd(to: .loopback(port: Socket.freePort()))
        #expect(try end.closeReason().contains("refused"))
        try end.stop()
    }

    @Test("who does not read is given up before it has cost much memory")
    func outgoingLimit() throws {
        let (end, raw) = try raw()
        try end.send((0..<5).map { _ in [UInt8](repeating: 1, count: 16 << 20) })
        #expect(try end.closeReason() == "it does not read what it is sent")
        withExtendedLifetime(raw) {}
        try end.stop()
    }

    @Test("a loop that stops takes a connection along that still had to send")
    func stopWhileSending() async {
        // In a process of its own, whose descriptors nobody else opens.
        await #expect(processExitsWith: .success) {
            func once() throws {
                let (a, b) = socketPair()
                let other = RawSocket(owning: b)
                let end = try ControlEnd(a)
                try end.send([[UInt8](repeating: 1, count: 8 << 20)])
                try end.closeWhenSent()
                end.loop.stop()
                withExtendedLifetime(other) {}
            }
            try once()
            let before = openDescriptors
            for _ in 0..<5 { try once() }
            #expect(openDescriptors == before)
        }
    }
}
