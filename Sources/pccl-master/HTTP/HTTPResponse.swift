enum HTTPStatus: Int, Sendable {
    case ok = 200
    case badRequest = 400
    case notFound = 404
    case methodUnknown = 405
    case addressTooLong = 414
    case headersTooLarge = 431
    case unavailable = 503
    case versionUnknown = 505

    var reason: String {
        switch self {
        case .ok: "OK"
        case .badRequest: "Bad Request"
        case .notFound: "Not Found"
        case .methodUnknown: "Method Not Allowed"
        case .addressTooLong: "URI Too Long"
        case .headersTooLarge: "Request Header Fields Too Large"
        case .unavailable: "Service Unavailable"
        case .versionUnknown: "HTTP Version Not Supported"
        }
    }
}

struct HTTPResponse: Equatable, Sendable {
    var status: HTTPStatus
    var contentType: String
    var body: [UInt8]
    /// What a browser may do with a page; nothing, unless something is said.
    var policy = "default-src 'none'"

    static func text(_ status: HTTPStatus, _ text: String) -> HTTPResponse {
        HTTPResponse(status: status, contentType: "text/plain; charset=utf-8", body: Array((text + "\n").utf8))
    }

    /// As it is sent. Each connection carries one.
    func bytes(withBody: Bool = true) -> [UInt8] {
        var head = [
            "HTTP/1.1 \(status.rawValue) \(status.reason)",
            "Content-Type: \(contentType)",
            "Content-Length: \(body.count)",
            "Connection: close",
            "Cache-Control: no-store",
            "X-Content-Type-Options: nosniff",
            "Content-Security-Policy: \(policy); frame-ancestors 'none'",
        ]
        if status == .methodUnknown { head.append("Allow: GET, HEAD") }
        return Array((head.joined(separator: "\r\n") + "\r\n\r\n").utf8) + (withBody ? body : [])
    }
}
