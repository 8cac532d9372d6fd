/// `etcd://HOST:PORT[,HOST:PORT...]/prefix`: where etcd answers, and below which key the masters of one run meet.
struct EtcdLocation: Equatable {
    struct Endpoint: Equatable, Sendable {
        /// Without brackets.
        var host: String
        var port: UInt16
    }

    var endpoints: [Endpoint]
    /// Begins with a slash and does not end with one.
    var prefix: String

    static let scheme = "etcd://"
    static let form = "etcd://HOST:PORT[,HOST:PORT...]/PREFIX"

    /// Nil: it is not of that form.
    init?(parsing text: String) {
        guard text.hasPrefix(EtcdLocation.scheme) else { return nil }
        let rest = text.dropFirst(EtcdLocation.scheme.count)
        guard let slash = rest.firstIndex(of: "/") else { return nil }
        var prefix = rest[slash...]
        while prefix.hasSuffix("/") { prefix = prefix.dropLast() }
        guard !prefix.isEmpty, prefix.utf8.allSatisfy({ (33..<127).contains($0) }) else { return nil }
        self.prefix = String(prefix)
        endpoints = []
        for part in rest[..<slash].split(separator: ",", omittingEmptySubsequences: false) {
            guard let colon = part.lastIndex(of: ":"), let port = UInt16(part[part.index(after: colon)...]), port > 0
            else { return nil }
            var host = part[..<colon]
            if host.hasPrefix("["), host.hasSuffix("]") {
                host = host.dropFirst().dropLast()
            } else if host.contains(":") {
                return nil
            }
            guard !host.isEmpty else { return nil }
            endpoints.append(Endpoint(host: String(host), port: port))
        }
    }

    var leaderKey: String { prefix + "/leader" }
    var stateKey: String { prefix + "/state" }
    var partsKey: String { prefix + "/part/" }
}
