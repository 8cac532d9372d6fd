/// What is asked: the method and the path of a request, all that a page without parameters needs.
struct HTTPRequest: Equatable {
    enum Method: String {
        case get = "GET"
        case head = "HEAD"
    }
    var method: Method
    /// Without the query.
    var path: String
}

struct HTTPLimits: Sendable {
    /// Browsers send some hundred bytes, up to two thousand with cookies of other services of this host.
    var headBytes = 8 << 10
    var requestLineBytes = 2 << 10
    /// More push out the oldest that has not asked yet. A page takes one for some milliseconds each second.
    var connections = 64
    /// From the moment when a connection is taken to the one when it is closed, whatever was said meanwhile.
    var connectionSeconds = 5.0
    /// For the master's loop to show itself.
    var snapshotSeconds = 2.0
    /// What was seen is shown again for this long: nobody makes the master's loop show itself more often.
    var snapshotLifeSeconds = 0.1

    static let standard = HTTPLimits()
}

/// The head of a request, read strictly and no further than its limits (RFC 9112). A body is never read.
struct HTTPRequestReader {
    enum Outcome: Equatable {
        case incomplete
        case asked(HTTPRequest)
        case refused(HTTPStatus, String)
    }

    private let limits: HTTPLimits
    private var bytes: [UInt8] = []
    /// Where the next line feed is looked for, so that who sends byte by byte makes nobody read all again.
    private var searched = 0
    private var lineStart = 0
    private var request: HTTPRequest?

    init(_ limits: HTTPLimits) { self.limits = limits }

    mutating func take(_ more: some Collection<UInt8>) -> Outcome {
        bytes += more.prefix(limits.headBytes + 1 - bytes.count)
        // A method is upper-case letters: whoever begins otherwise speaks something else, and need not be waited for.
        if let first = bytes.first, !(UInt8(ascii: "A")...UInt8(ascii: "Z")).contains(first) {
            return .refused(.badRequest, "this is an HTTP server, and that was no HTTP request")
        }
        while let end = bytes[searched...].firstIndex(of: UInt8(ascii: "\n")) {
            guard end > lineStart, bytes[end - 1] == UInt8(ascii: "\r") else {
                return .refused(.badRequest, "a line must end with CR LF")
            }
            let line = bytes[lineStart..<end - 1]
            (lineStart, searched) = (end + 1, end + 1)
            if let request {
                if line.isEmpty { return .asked(request) }
                if let problem = HTTPRequestReader.problem(ofField: line) { return .refused(.badRequest, problem) }
            } else {
                guard line.count <= limits.requestLineBytes else { return tooLongLine }
                switch HTTPRequestReader.request(line) {
                case .success(let read): request = read
                case .failure(let refusal): return .refused(refusal.status, refusal.text)
                }
            }
        }
        searched = bytes.count
        if request == nil, bytes.count > limits.requestLineBytes + 1 { return tooLongLine }
        guard bytes.count <= limits.headBytes else {
            return .refused(.headersTooLarge, "the head of a request may have \(limits.headBytes) bytes")
        }
        return .incomplete
    }

    private var tooLongLine: Outcome {
        .refused(.addressTooLong, "the first line of a request may have \(limits.requestLineBytes) bytes")
    }

    private struct Refusal: Error {
        var status: HTTPStatus
        var text: String
    }

    private static func request(_ line: ArraySlice<UInt8>) -> Result<HTTPRequest, Refusal> {
        let words = line.split(separator: UInt8(ascii: " "), omittingEmptySubsequences: false)
        guard words.count == 3, words.allSatisfy({ !$0.isEmpty }), line.allSatisfy({ (0x20..<0x7f).contains($0) })
        else {
            return .failure(Refusal(status: .badRequest, text: "the first line must be: METHOD PATH HTTP/1.1"))
        }
        let (name, target, version) = (text(words[0]), text(words[1]), text(words[2]))
        guard version == "HTTP/1.1" || version == "HTTP/1.0" else {
            return .failure(Refusal(status: .versionUnknown, text: "HTTP/1.1 and HTTP/1.0 are spoken here"))
        }
        guard let method = HTTPRequest.Method(rawValue: name) else {
            return .failure(Refusal(status: .methodUnknown, text: "there is nothing but GET and HEAD here"))
        }
        guard target.hasPrefix("/") else {
            return .failure(Refusal(status: .badRequest, text: "a path begins with /"))
        }
        return .success(HTTPRequest(method: method, path: String(target.prefix { $0 != "?" })))
    }

    /// Nothing is made of fields; but that they are some tells a request from what only begins like one.
    private static func problem(ofField line: ArraySlice<UInt8>) -> String? {
        guard let colon = line.firstIndex(of: UInt8(ascii: ":")), colon > line.startIndex,
            line[..<colon].allSatisfy({ (0x21..<0x7f).contains($0) }),
            line[colon...].allSatisfy({ $0 == 0x09 || ($0 >= 0x20 && $0 != 0x7f) })
        else { return "a header field must be: NAME: VALUE" }
        return nil
    }

    private static func text(_ bytes: ArraySlice<UInt8>) -> String { String(decoding: bytes, as: UTF8.self) }
}
