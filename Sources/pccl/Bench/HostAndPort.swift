import Glibc

/// An address with a port as people write it, a name or numbers: `host:48148`, `[fd00::1]:48148`.
struct HostAndPort: Equatable, CustomStringConvertible {
    var host: String
    var port: UInt16

    init(host: String, port: UInt16) {
        self.host = host
        self.port = port
    }

    init?(parsing text: String) {
        guard let colon = text.lastIndex(of: ":"), let port = UInt16(text[text.index(after: colon)...]) else {
            return nil
        }
        let host = text[..<colon].drop { $0 == "[" }
        self.init(host: String(host.last == "]" ? host.dropLast() : host), port: port)
        guard !self.host.isEmpty, !self.host.contains(where: \.isWhitespace) else { return nil }
    }

    var description: String { host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)" }

    /// Whether it is an address of this host: to others nobody can bind.
    var isOfThisHost: Bool {
        var found: UnsafeMutablePointer<addrinfo>?
        guard getaddrinfo(host, nil, nil, &found) == 0, let found else { return false }
        defer { freeaddrinfo(found) }
        return sequence(first: found, next: \.pointee.ai_next).contains { candidate in
            let address = candidate.pointee
            let descriptor = socket(address.ai_family, Int32(SOCK_DGRAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
            defer { close(descriptor) }
            return bind(descriptor, address.ai_addr, address.ai_addrlen) == 0
        }
    }
}
