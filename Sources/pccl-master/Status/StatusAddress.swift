/// What `--http` says: `[ADDRESS:]PORT`. An IPv6 address stands in brackets.
struct StatusAddress: Equatable {
    var host: String
    var port: UInt16

    /// Others are let in only when somebody says so: nobody is asked who he is.
    static let defaultHost = "127.0.0.1"

    init?(parsing text: String) {
        guard let colon = text.lastIndex(of: ":") else {
            guard let port = UInt16(text) else { return nil }
            (host, self.port) = (StatusAddress.defaultHost, port)
            return
        }
        guard let port = UInt16(text[text.index(after: colon)...]) else { return nil }
        let name = text[..<colon]
        let isBracketed = name.hasPrefix("[") && name.hasSuffix("]")
        guard isBracketed || !name.contains(":") else { return nil }
        host = String(isBracketed ? name.dropFirst().dropLast() : name)
        guard !host.isEmpty, !host.contains(where: { $0.isWhitespace || $0 == "[" || $0 == "]" }) else { return nil }
        self.port = port
    }
}
