import StrictJSON

/// What is asked of etcd, of all that version 3 of its API can do.
enum EtcdRequest: Equatable, Sendable {
    case grantLease(seconds: Int)
    case keepAlive(lease: Int64)
    case revoke(lease: Int64)
    case get(key: String)
    case transact(EtcdTransaction)
}

/// All of it, or none, at one revision.
struct EtcdTransaction: Equatable, Sendable {
    enum Condition: Equatable, Sendable {
        /// The revision at which the key was made; 0: there is none.
        case made(key: String, at: Int64)
        /// The revision at which it was last written; 0: there is none.
        case written(key: String, at: Int64)
    }
    enum Operation: Equatable, Sendable {
        case put(key: String, value: [UInt8], lease: Int64)
        case get(key: String)
        /// All keys from one on, and before another.
        case delete(from: String, to: String)
    }
    var conditions: [Condition]
    /// If all of them hold.
    var then: [Operation]
    var otherwise: [Operation]
}

struct EtcdValue: Equatable, Sendable {
    var bytes: [UInt8]
    var madeAt: Int64
    var writtenAt: Int64
    var lease: Int64
}

enum EtcdAnswer: Equatable, Sendable {
    case granted(lease: Int64, seconds: Int)
    /// 0: there is no such lease any more.
    case keptAlive(seconds: Int)
    case revoked
    case found(EtcdValue?)
    /// `found`: of its gets, in their order.
    case transacted(isDone: Bool, revision: Int64, found: [EtcdValue?])
}

enum EtcdFailure: Error, Equatable, Sendable, CustomStringConvertible {
    /// Whether it was done nobody can say.
    case unanswered(String)
    /// It was not done.
    case refused(String)

    var description: String {
        switch self {
        case .unanswered(let reason): reason
        case .refused(let reason): "etcd refuses: \(reason)"
        }
    }
}

// MARK: - to JSON, as etcd's gateway wants it

/// Bytes are base64, 64-bit numbers are text (https://etcd.io/docs/v3.4/dev-guide/api_grpc_gateway/).
extension EtcdRequest {
    var path: String {
        switch self {
        case .grantLease: "/v3/lease/grant"
        case .keepAlive: "/v3/lease/keepalive"
        case .revoke: "/v3/lease/revoke"
        case .get: "/v3/kv/range"
        case .transact: "/v3/kv/txn"
        }
    }

    var json: JSONValue {
        switch self {
        case .grantLease(let seconds): .object([.init("TTL", .text(Int64(seconds)))])
        case .keepAlive(let lease), .revoke(let lease): .object([.init("ID", .text(lease))])
        case .get(let key): .object([.init("key", .bytes(key))])
        case .transact(let transaction):
            .object([
                .init("compare", .array(transaction.conditions.map(\.json))),
                .init("success", .array(transaction.then.map(\.json))),
                .init("failure", .array(transaction.otherwise.map(\.json))),
            ])
        }
    }
}

extension EtcdTransaction.Condition {
    fileprivate var json: JSONValue {
        switch self {
        case .made(let key, let revision):
            .object([
                .init("key", .bytes(key)), .init("target", .string("CREATE")), .init("result", .string("EQUAL")),
                .init("create_revision", .text(revision)),
            ])
        case .written(let key, let revision):
            .object([
                .init("key", .bytes(key)), .init("target", .string("MOD")), .init("result", .string("EQUAL")),
                .init("mod_revision", .text(revision)),
            ])
        }
    }
}

extension EtcdTransaction.Operation {
    fileprivate var json: JSONValue {
        switch self {
        case .put(let key, let value, let lease):
            .object([
                .init(
                    "request_put",
                    .object([
                        .init("key", .bytes(key)), .init("value", .string(Base64.text(of: value))),
                        .init("lease", .text(lease)),
                    ]))
            ])
        case .get(let key): .object([.init("request_range", .object([.init("key", .bytes(key))]))])
        case .delete(let first, let end):
            .object([
                .init(
                    "request_delete_range",
                    .object([.init("key", .bytes(first)), .init("range_end", .bytes(end))]))
            ])
        }
    }
}

extension JSONValue {
    fileprivate static func text(_ number: Int64) -> JSONValue { .string("\(number)") }
    fileprivate static func bytes(_ key: String) -> JSONValue { .string(Base64.text(of: Array(key.utf8))) }
}

// MARK: - from JSON

extension EtcdAnswer {
    /// What etcd's gateway answered to the request: its status line's number, and what followed the head. Members that are
    /// zero, false or empty are left out by it.
    init(to request: EtcdRequest, status: Int, body: [UInt8]) throws(EtcdFailure) {
        let json: JSONValue
        do throws(JSONError) {
            json = try JSONValue(parsing: String(decoding: body, as: UTF8.self), allowingRepetition: true)
        } catch {
            throw .unanswered("status \(status), and an answer that is cut short or no JSON: \(error)")
        }
        guard status == 200 else { throw EtcdAnswer.failure(status, json) }
        switch request {
        case .grantLease:
            let lease = json.number("ID")
            guard lease != 0 else { throw .unanswered("a lease without a name") }
            self = .granted(lease: lease, seconds: Int(clamping: json.number("TTL")))
        case .keepAlive:
            // A stream of which one answer is wanted.
            guard let result = json["result"] else { throw EtcdAnswer.failure(status, json["error"] ?? json) }
            self = .keptAlive(seconds: Int(clamping: result.number("TTL")))
        case .revoke: self = .revoked
        case .get: self = .found(try json.firstValue())
        case .transact:
            var found: [EtcdValue?] = []
            for response in json.list("responses") {
                if let range = response["response_range"] { found.append(try range.firstValue()) }
            }
            guard let header = json["header"] else { throw .unanswered("an answer without a header") }
            self = .transacted(
                isDone: json["succeeded"] == .bool(true), revision: header.number("revision"), found: found)
        }
    }

    /// With these the request may have been done all the same: cancelled, deadline exceeded, aborted, internal, unavailable
    /// and whatever has no number.
    private static func failure(_ status: Int, _ json: JSONValue) -> EtcdFailure {
        let text: String =
            switch (json["message"], json["error"]) {
            case (.string(let text), _), (nil, .string(let text)): text
            default: "status \(status)"
            }
        // Numbers of gRPC for: invalid argument, not found, permission denied, resource exhausted, failed precondition, out
        // of range, unimplemented, unauthenticated.
        let isCertain: Bool =
            if case .number(let code) = json["code"] { [3, 5, 7, 8, 9, 11, 12, 16].contains(code) } else { false }
        return isCertain ? .refused(text) : .unanswered(text)
    }
}

extension JSONValue {
    /// A 64-bit number, as text or not; 0 if it is left out.
    fileprivate func number(_ key: String) -> Int64 {
        switch self[key] {
        case .string(let text): Int64(text) ?? 0
        case .number(let value): Int64(exactly: value) ?? 0
        default: 0
        }
    }

    fileprivate func list(_ key: String) -> [JSONValue] {
        if case .array(let values) = self[key] { values } else { [] }
    }

    fileprivate func firstValue() throws(EtcdFailure) -> EtcdValue? {
        guard let first = list("kvs").first else { return nil }
        let text: String = if case .string(let text) = first["value"] { text } else { "" }
        guard let bytes = Base64.bytes(of: text) else { throw .unanswered("a value that is no base64") }
        return EtcdValue(
            bytes: bytes, madeAt: first.number("create_revision"), writtenAt: first.number("mod_revision"),
            lease: first.number("lease"))
    }
}

/// RFC 4648, section 4, with padding.
enum Base64 {
    private static let letters = Array("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/".utf8)
    private static let padding = UInt8(ascii: "=")
    /// 255: no letter.
    private static let values: [UInt8] = (0...UInt8.max).map { letter in
        letters.firstIndex(of: letter).map(UInt8.init) ?? 255
    }

    static func text(of bytes: [UInt8]) -> String {
        var text: [UInt8] = []
        text.reserveCapacity((bytes.count + 2) / 3 * 4)
        for start in stride(from: 0, to: bytes.count, by: 3) {
            let count = min(3, bytes.count - start)
            let bits = (0..<3).reduce(0) { $0 << 8 | ($1 < count ? Int(bytes[start + $1]) : 0) }
            for place in 0...3 { text.append(place <= count ? letters[bits >> (18 - 6 * place) & 63] : padding) }
        }
        return String(decoding: text, as: UTF8.self)
    }

    static func bytes(of text: String) -> [UInt8]? {
        let letters = Array(text.utf8)
        guard letters.count % 4 == 0 else { return nil }
        let padded = letters.suffix(2).reversed().prefix { $0 == padding }.count
        var bytes: [UInt8] = []
        bytes.reserveCapacity(letters.count / 4 * 3)
        for start in stride(from: 0, to: letters.count, by: 4) {
            let isLast = start + 4 == letters.count
            var bits = 0
            for place in 0...3 {
                let isPadding = isLast && place >= 4 - padded
                let value = isPadding ? 0 : values[Int(letters[start + place])]
                guard value < 64 else { return nil }
                bits = bits << 6 | Int(value)
            }
            let count = isLast ? 3 - padded : 3
            for place in 0..<count { bytes.append(UInt8(truncatingIfNeeded: bits >> (16 - 8 * place))) }
        }
        return bytes
    }
}
