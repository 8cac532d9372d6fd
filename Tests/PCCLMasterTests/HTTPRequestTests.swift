import Testing

@testable import pccl_master

@Suite("Requests over HTTP")
struct HTTPRequestTests {
    private func read(_ text: String, limits: HTTPLimits = .standard) -> HTTPRequestReader.Outcome {
        var reader = HTTPRequestReader(limits)
        return reader.take(Array(text.utf8))
    }

    private func status(_ text: String) -> HTTPStatus? {
        if case .refused(let status, _) = read(text) { status } else { nil }
    }

    @Test("the method and the path are taken, the query and the fields are left")
    func request() {
        #expect(
            read("GET /metrics?a=/b HTTP/1.1\r\nHost: here\r\nX-Y:\t z\r\n\r\nbody")
                == .asked(HTTPRequest(method: .get, path: "/metrics")))
        #expect(read("HEAD / HTTP/1.0\r\n\r\n") == .asked(HTTPRequest(method: .head, path: "/")))
    }

    @Test("a request that comes byte by byte is the same request")
    func byteByByte() {
        var reader = HTTPRequestReader(.standard)
        let bytes = Array("GET /healthz HTTP/1.1\r\nHost: here\r\n\r\n".utf8)
        for byte in bytes.dropLast() { #expect(reader.take([byte]) == .incomplete) }
        #expect(reader.take([bytes[bytes.count - 1]]) == .asked(HTTPRequest(method: .get, path: "/healthz")))
    }

    @Test("every beginning of a request is incomplete, and none is refused")
    func cutShort() {
        let text = "GET /api/status HTTP/1.1\r\nHost: here\r\nAccept: */*\r\n\r\n"
        for count in 0..<text.utf8.count {
            #expect(read(String(decoding: text.utf8.prefix(count), as: UTF8.self)) == .incomplete)
        }
    }

    @Test(
        "what is no request is refused, with the status that says why",
        arguments: [
            ("\u{7f}pccl-sw", HTTPStatus.badRequest), ("\u{16}\u{3}\u{1}", .badRequest), ("hello\r\n", .badRequest),
            ("GET / HTTP/1.1\nHost: here\n\n", .badRequest), ("GET /\r\n", .badRequest), ("\r\n", .badRequest),
            ("GET  / HTTP/1.1\r\n", .badRequest), ("GET /\u{e4} HTTP/1.1\r\n", .badRequest),
            ("GET http://else/ HTTP/1.1\r\n", .badRequest), ("GET / HTTP/2.0\r\n", .versionUnknown),
            ("PRI * HTTP/2.0\r\n\r\n", .versionUnknown), ("POST / HTTP/1.1\r\n", .methodUnknown),
            ("GET / HTTP/1.1\r\nno colon\r\n", .badRequest), ("GET / HTTP/1.1\r\n: none\r\n", .badRequest),
            ("GET / HTTP/1.1\r\nA b: c\r\n", .badRequest), ("GET / HTTP/1.1\r\nA: \u{0}\r\n", .badRequest),
        ])
    func refused(text: String, expected: HTTPStatus) {
        #expect(status(text) == expected, "\(text.debugDescription)")
    }

    @Test("a line or a head that does not end is refused at its limit, and no more of it is kept")
    func endless() {
        var reader = HTTPRequestReader(.standard)
        var fed = 0
        var outcome = HTTPRequestReader.Outcome.incomplete
        while outcome == .incomplete, fed < 1 << 20 {
            outcome = reader.take(Array(repeating: UInt8(ascii: "A"), count: 100))
            fed += 100
        }
        #expect(fed <= HTTPLimits.standard.requestLineBytes + 200)
        guard case .refused(.addressTooLong, _) = outcome else {
            Issue.record("\(outcome)")
            return
        }
        #expect(status("GET /" + String(repeating: "a", count: 3000) + " HTTP/1.1\r\n\r\n") == .addressTooLong)
        #expect(
            status("GET / HTTP/1.1\r\n" + String(repeating: "Field: value\r\n", count: 1000)) == .headersTooLarge)
        #expect(status("GET / HTTP/1.1\r\nField: " + String(repeating: "v", count: 10 << 20)) == .headersTooLarge)
    }
}

@Suite("Where the status is shown")
struct StatusAddressTests {
    @Test("a port alone is one of this host; an IPv6 address stands in brackets")
    func addresses() {
        #expect(StatusAddress(parsing: "48149")?.host == "127.0.0.1")
        #expect(StatusAddress(parsing: "48149")?.port == 48149)
        #expect(StatusAddress(parsing: "0.0.0.0:0")?.host == "0.0.0.0")
        #expect(StatusAddress(parsing: "[::1]:80")?.host == "::1")
        #expect(StatusAddress(parsing: "head.example:8080")?.host == "head.example")
    }

    @Test(
        "what is none is refused", arguments: ["", "x", ":80", "::1:80", "[]:80", "a b:80", "1.2.3.4:", "65536", "-1"])
    func none(text: String) { #expect(StatusAddress(parsing: text) == nil) }
}
