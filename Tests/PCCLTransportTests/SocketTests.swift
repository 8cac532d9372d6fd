import Glibc
import PCCLBase
import PCCLTestSupport
@testable import PCCLTransport
import Testing

@Suite("Sockets, addresses and listeners")
struct SocketTests {
    final class ListenerCell: @unchecked Sendable { var listener: Listener? }

    @Test("numeric addresses are taken as they are", arguments: ["127.0.0.1", "0.0.0.0", "10.1.2.3", "::1", "::"])
    func numericAddresses(host: String) throws {
        let addresses = try SocketAddress.resolve(host: host, port: 4711)
        #expect(addresses.map(\.hostDescription) == [host])
        #expect(addresses.map(\.port) == [4711])
    }

    @Test("localhost is this machine")
    func localhost() throws {
        let addresses = try SocketAddress.resolve(host: "localhost", port: 1)
        #expect(!addresses.isEmpty)
        #expect(addresses.allSatisfy { ["127.0.0.1", "::1"].contains($0.hostDescription) })
    }

    @Test("a name that does not exist is named in the error")
    func unknownName() {
        #expect {
            try SocketAddress.resolve(host: "no-such-host.invalid", port: 1)
        } throws: { error in
            "\(error)".contains("no-such-host.invalid")
        }
    }

    static let anyAddresses: [SocketAddress.Host] = [.v4(0x7f00_0001), .v6(high: 0, low: 1), .v6(high: 0, low: 0)]

    @Test(
        "port 0 becomes a real port, on which connections are accepted", .timeLimit(.minutes(3)),
        arguments: anyAddresses)
    func portZero(host: SocketAddress.Host) throws {
        let loop = try EventLoop(name: "test")
        let cell = ListenerCell()
        let accepted = Mailbox<SocketAddress.Host>("a connection")
        let result = try loop.sync { () -> Result<SocketAddress, SystemError> in
            do throws(SystemError) {
                let listener = try Listener(loop, at: SocketAddress(host, port: 0)) { _, from in accepted.put(from) }
                listener.start()
                cell.listener = listener
                return .success(listener.address)
            } catch {
                return .failure(error)
            }
        }
        var address = try result.get()
        #expect(address.port != 0)
        // `::` takes connections of both families; from IPv4 they show as such.
        if host == .v6(high: 0, low: 0) { address.host = .v4(0x7f00_0001) }
        let socket = try Socket.connecting(to: address)
        #expect(try accepted.take() == address.host)
        #expect(socket.connectError == 0)
        try loop.sync { cell.listener?.close() }
        loop.stop()
    }

    @Test("a listener passes over ports that are taken, and falls back to any", .timeLimit(.minutes(3)))
    func portBump() throws {
        let loop = try EventLoop(name: "test")
        let taken = try Socket.listening(at: .loopback(port: 0))
        let base = taken.port
        func bumped(from base: UInt16, count: UInt16) throws -> UInt16 {
            try loop.sync {
                (try? Listener(loop, host: .v4(0x7f00_0001), bumpingFrom: base, count: count) { _, _ in })?.address.port
                    ?? 0
            }
        }
        let next = try bumped(from: base, count: 512)
        #expect(next != base && next != 0)
        let fallback = try bumped(from: base, count: 1)
        #expect(fallback != base && fallback != 0)
        // At the end of the range it does not wrap around into the ports of the system.
        let last = try bumped(from: 65535, count: 512)
        #expect(last >= 1024)
        loop.stop()
    }

    // A join point took 44 ms: the second of two small messages waited for the acknowledgement of the first.
    @Test("both ends of a connection send at once what they are given")
    func nothingWaits() throws {
        func sendsAtOnce(_ descriptor: CInt) -> Bool {
            var value: CInt = 0
            var length = socklen_t(MemoryLayout<CInt>.size)
            return getsockopt(descriptor, CInt(IPPROTO_TCP), TCP_NODELAY, &value, &length) == 0 && value != 0
        }
        let listening = try Socket.listening(at: .loopback(port: 0))
        let dialled = try Socket.connecting(to: .loopback(port: listening.port))
        #expect(sendsAtOnce(dialled.descriptor))
        var polled = pollfd(fd: listening.descriptor, events: Int16(POLLIN), revents: 0)
        #expect(poll(&polled, 1, 60_000) == 1)
        guard case .accepted(let accepted, _) = listening.accept() else {
            Issue.record("nothing was accepted")
            return
        }
        #expect(sendsAtOnce(accepted.descriptor))
    }

    @Test("a port in use is named in the error")
    func portInUse() throws {
        let taken = try Socket.listening(at: .loopback(port: 0))
        let address = SocketAddress.loopback(port: taken.port)
        #expect {
            _ = try Socket.listening(at: address)
        } throws: { error in
            "\(error)".contains("\(address)") && (error as? SystemError)?.code == EADDRINUSE
        }
    }

    @Test("a descriptor that was given away is not closed")
    func releasedDescriptor() throws {
        let (a, b) = socketPair()
        let socket = Socket(owning: a)
        let descriptor = socket.release()
        #expect(descriptor == a)
        #expect(fcntl(a, F_GETFD) >= 0)
        close(a)
        close(b)
    }
}
