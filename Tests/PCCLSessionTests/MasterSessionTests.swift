import Glibc
import PCCLBase
import PCCLMembership
import PCCLSession
import PCCLTestSupport
import PCCLTransport
import PCCLWire
import Testing

@Suite("The master's session", .timeLimit(.minutes(3)))
struct MasterSessionTests {
    private func framed(_ message: [UInt8]) -> [UInt8] {
        var writer = ByteWriter()
        writer.write(UInt32(message.count))
        return writer.bytes + message
    }

    /// The messages that come before the end of the connection.
    private func messages(_ raw: RawSocket) throws -> [ToPeer] {
        #expect(try raw.read(Preamble.byteCount) == Preamble(role: .control).bytes)
        var messages: [ToPeer] = []
        while true {
            let head = try raw.read(4)
            guard head.count == 4 else { return messages }
            var reader = ByteReader(head)
            messages.append(try ToPeer(try raw.read(Int(try reader.read(UInt32.self)))))
        }
    }

    @Test("it listens on a real port when asked for any, and frees it when closed")
    func port() throws {
        let master = try MasterSession(listen: .loopback(port: 0), timeouts: .standard)
        let port = master.address.port
        #expect(port != 0)
        #expect(throws: SystemError.self) {
            _ = try MasterSession(listen: .loopback(port: port), timeouts: .standard)
        }
        let waiters = (0..<2).map { _ in InThread { master.awaitEnd() } }
        master.close()
        master.close()
        for waiter in waiters { try waiter.result() }
        let next = try MasterSession(listen: .loopback(port: port), timeouts: .standard)
        #expect(next.address.port == port)
        next.close()
    }

    @Test("who speaks another protocol, and who says nothing, is hung up on; a run is not disturbed")
    func strangers() throws {
        let run = try Run(deadTime: .milliseconds(500))
        let peers = try run.members(2)
        for bytes in [
            [], Array("GET / HTTP/1.1\r\n\r\n".utf8), Preamble(version: 7, role: .control).bytes,
            Preamble(role: .control).bytes, Preamble(role: .stripe).bytes,
            Preamble(role: .control).bytes + [0xff, 0xff, 0xff, 0xff],
        ] as [[UInt8]] {
            let raw = try RawSocket(port: run.master.address.port)
            try raw.write(bytes)
            #expect(try raw.readToEnd() == Preamble(role: .control).bytes)
        }
        _ = try together(2) { try peers[$0].reduce(1, Memory(int32: 1, count: 10)).value() }
        #expect(peers.allSatisfy { $0.currentView?.worldSize == 2 })
        for peer in peers { peer.close() }
        run.master.close()
    }

    @Test("who begins with anything but hello is told why it is turned away")
    func noHello() throws {
        let run = try Run()
        let raw = try RawSocket(port: run.master.address.port)
        try raw.write(Preamble(role: .control).bytes + framed(ToMaster.voteJoin.bytes))
        #expect(try messages(raw) == [.turnedAway(reason: "the first message must be hello")])
        let garbage = try RawSocket(port: run.master.address.port)
        try garbage.write(Preamble(role: .control).bytes + framed([0xee, 1, 2]))
        #expect(try messages(garbage) == [])
        run.master.close()
    }

    @Test("a registered peer that breaks the protocol is lost, and told why; the others go on")
    func violator() throws {
        let run = try Run()
        let member = try run.members(1)[0]
        let raw = try RawSocket(port: run.master.address.port)
        let hello = ToMaster.hello(Hello(group: GroupID(0), listenPort: 9, addresses: [], stripes: 1))
        try raw.write(Preamble(role: .control).bytes + framed(hello.bytes) + framed([0xee]))
        let last = try messages(raw).last
        guard case .turnedAway(let reason)? = last else {
            Issue.record("\(String(describing: last)) instead of a reason")
            return
        }
        #expect(reason.contains("protocol violation"))
        #expect(try member.ask(.updateTopology) == .done)
        #expect(member.currentView?.worldSize == 1)
        member.close()
        run.master.close()
    }

    @Test("silent connections cannot keep peers out, however many they are")
    func manyStrangers() throws {
        let run = try Run()
        let strangers = try (0..<300).map { _ in try RawSocket(port: run.master.address.port) }
        let peers = try run.members(2)
        #expect(peers.allSatisfy { $0.currentView?.worldSize == 2 })
        withExtendedLifetime(strangers) {}
        for peer in peers { peer.close() }
        run.master.close()
    }
}
