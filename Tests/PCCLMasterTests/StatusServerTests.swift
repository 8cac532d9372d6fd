import Glibc
import PCCLBase
import PCCLTestSupport
import PCCLTransport
import Testing

@testable import pccl_master

/// Clients that ask, and clients that do all but that.
@Suite("The status server", .serialized)
struct StatusServerTests {
    private static let request = Array("GET /healthz HTTP/1.1\r\nHost: here\r\n\r\n".utf8)

    /// The master answers at once unless `answers` says otherwise.
    private func server(
        _ limits: HTTPLimits = .standard, answers: @escaping StatusServer.Snapshotting = StatusServerTests.atOnce
    ) throws -> StatusServer {
        try StatusServer(at: .loopback(port: 0), limits: limits, takeSnapshot: answers)
    }

    private static let atOnce: StatusServer.Snapshotting = { show in
        show(ToldMaster.eventful.snapshot())
        return true
    }

    private func ask(_ server: StatusServer, _ request: [UInt8] = StatusServerTests.request) throws -> String {
        let client = try RawSocket(port: server.address.port)
        try client.write(request)
        return String(decoding: try client.readToEnd(), as: UTF8.self)
    }

    /// Swift takes CR LF for one character.
    private func statusLine(_ answer: String) -> String { String(answer.prefix { !$0.isNewline }) }

    @Test("each path has its answer, and the connection ends behind it")
    func pages() throws {
        let server = try server()
        defer { server.close() }
        let answer = try ask(server)
        #expect(statusLine(answer) == "HTTP/1.1 200 OK" && answer.hasSuffix("\r\n\r\nok\n"))
        for (path, type) in [
            ("/", "text/html"), ("/metrics", "text/plain; version=0.0.4"), ("/api/status", "application/json"),
        ] {
            let answer = try ask(server, Array("GET \(path) HTTP/1.0\r\n\r\n".utf8))
            #expect(statusLine(answer) == "HTTP/1.1 200 OK" && answer.contains("Content-Type: \(type)"), "\(path)")
        }
        let head = try ask(server, Array("HEAD /metrics HTTP/1.1\r\n\r\n".utf8))
        #expect(statusLine(head) == "HTTP/1.1 200 OK" && head.hasSuffix("\r\n\r\n"))
        #expect(statusLine(try ask(server, Array("GET /etc/passwd HTTP/1.1\r\n\r\n".utf8))) == "HTTP/1.1 404 Not Found")
        #expect(
            statusLine(try ask(server, Array("DELETE / HTTP/1.1\r\n\r\n".utf8))) == "HTTP/1.1 405 Method Not Allowed")
    }

    @Test("a client that has said all and closed its side is answered")
    func halfClosed() throws {
        let server = try server()
        defer { server.close() }
        let client = try RawSocket(port: server.address.port)
        try client.write(Self.request)
        shutdown(client.descriptor, CInt(SHUT_WR))
        #expect(statusLine(String(decoding: try client.readToEnd(), as: UTF8.self)) == "HTTP/1.1 200 OK")
    }

    @Test("who says nothing, or a byte now and then, is hung up on at the deadline")
    func slow() throws {
        var limits = HTTPLimits.standard
        limits.connectionSeconds = 0.3
        let server = try server(limits)
        defer { server.close() }
        let silent = try RawSocket(port: server.address.port)
        let slow = try RawSocket(port: server.address.port)
        try slow.write(Array("GET / HTTP/1.1\r\nX".utf8))
        let begun = EventLoop.now
        #expect(try silent.readToEnd() == [] && slow.readToEnd() == [])
        #expect(EventLoop.now - begun < .seconds(5))
        #expect(statusLine(try ask(server)) == "HTTP/1.1 200 OK")
    }

    @Test("ten megabytes of head are refused at the limit")
    func endlessHead() throws {
        let server = try server()
        defer { server.close() }
        let client = try RawSocket(port: server.address.port)
        try client.write(Array("GET / HTTP/1.1\r\nField: ".utf8))
        let block = [UInt8](repeating: UInt8(ascii: "v"), count: 1 << 20)
        // It may be hung up on before the end.
        for _ in 0..<10 { if (try? client.write(block)) == nil { break } }
        let answer = String(decoding: (try? client.read(1 << 10)) ?? [], as: UTF8.self)
        #expect(answer.isEmpty || statusLine(answer) == "HTTP/1.1 431 Request Header Fields Too Large")
        #expect(statusLine(try ask(server)) == "HTTP/1.1 200 OK")
    }

    @Test("a thousand connections that say nothing keep nobody from asking")
    func crowd() throws {
        let server = try server()
        defer { server.close() }
        var crowd: [RawSocket] = []
        // Few at a time, for a process has few descriptors.
        for _ in 0..<10 {
            crowd = try (0..<100).map { _ in try RawSocket(port: server.address.port) }
            #expect(statusLine(try ask(server)) == "HTTP/1.1 200 OK")
        }
        crowd.removeAll()
    }

    @Test("garbage is answered with a refusal")
    func garbage() throws {
        let server = try server()
        defer { server.close() }
        for bytes in [[0x7f, 1, 2, 3], [0x16, 3, 1, 0], Array("hello\r\n".utf8), [0], Array("GET\r\n".utf8)]
            as [[UInt8]]
        {
            #expect(statusLine(try ask(server, bytes)) == "HTTP/1.1 400 Bad Request")
        }
    }

    @Test("a master whose loop stands still is not healthy, and is again when it goes on")
    func stuck() throws {
        var limits = HTTPLimits.standard
        limits.snapshotSeconds = 0.2
        limits.snapshotLifeSeconds = 0
        let asked = Mailbox<@Sendable (StatusSnapshot) -> Void>("a question")
        let server = try server(limits) { show in
            asked.put(show)
            return true
        }
        defer { server.close() }
        let answer = try ask(server)
        #expect(statusLine(answer) == "HTTP/1.1 503 Service Unavailable")
        #expect(answer.hasSuffix("the master's loop has not answered for 0.2 s\n"))
        let late = try asked.take()
        late(ToldMaster.eventful.snapshot())

        let client = try RawSocket(port: server.address.port)
        try client.write(Self.request)
        try asked.take()(ToldMaster.eventful.snapshot())
        #expect(statusLine(String(decoding: try client.readToEnd(), as: UTF8.self)) == "HTTP/1.1 200 OK")
    }

    @Test("a master that has ended is said to be ending")
    func ended() throws {
        let server = try server { _ in false }
        defer { server.close() }
        let answer = try ask(server)
        #expect(statusLine(answer) == "HTTP/1.1 503 Service Unavailable" && answer.hasSuffix("the master is ending\n"))
    }

    @Test("many who ask at once make the master's loop show itself once")
    func shared() throws {
        var limits = HTTPLimits.standard
        limits.snapshotSeconds = 10
        limits.snapshotLifeSeconds = 10
        let asked = Mailbox<@Sendable (StatusSnapshot) -> Void>("a question")
        let server = try server(limits) { show in
            asked.put(show)
            return true
        }
        defer { server.close() }
        let clients = try (0..<20).map { _ in try RawSocket(port: server.address.port) }
        for client in clients { try client.write(Self.request) }
        let show = try asked.take()
        show(ToldMaster.eventful.snapshot())
        for client in clients {
            #expect(statusLine(String(decoding: try client.readToEnd(), as: UTF8.self)) == "HTTP/1.1 200 OK")
        }
    }
}
