/// The first sixteen bytes in either direction of every connection: who speaks, and which version of the protocol.
///
/// Both sides send theirs at once, so that a wrong port (a web server, a peer instead of a master, another version) is
/// recognised from the first bytes that come back.
package struct Preamble: Equatable, Sendable {
    package enum Role: UInt8, Sendable {
        /// A peer towards its master, and the master's answer.
        case control = 1
        /// A peer towards a peer.
        case stripe = 2
        /// Before either: who knows the join token? See `TokenOpening`.
        case token = 3
        /// In place of an answer, to who has no keys.
        case keysWanted = 4
        /// A master towards whoever comes while another one leads. It closes the connection.
        case standby = 5
    }

    package static let byteCount = 16
    package static let magic: [UInt8] = Array("\u{7f}pccl-sw".utf8)
    package static let currentVersion: UInt16 = 12

    package var version: UInt16
    package var role: Role
    package init(version: UInt16 = Preamble.currentVersion, role: Role) {
        self.version = version
        self.role = role
    }

    package var bytes: [UInt8] {
        var writer = ByteWriter()
        for byte in Preamble.magic { writer.write(byte) }
        writer.write(version)
        writer.write(role.rawValue)
        // Line ends: a web server, or another service that speaks in lines, answers at once instead of waiting for more.
        for byte in [13, 10, 13, 10, 0] as [UInt8] { writer.write(byte) }
        return writer.bytes
    }

    package enum Problem: Error, Equatable, Sendable, CustomStringConvertible {
        case notPCCL(beginsWith: String)
        case tls
        case otherVersion(UInt16)
        case otherRole(UInt8)

        package static let standby = Problem.otherRole(Role.standby.rawValue)

        package var description: String {
            switch self {
            case .tls: "it speaks TLS, and this side has no keys (PCCL_KEYS)"
            case .notPCCL(let text): "what answered does not speak this protocol (it began with \"\(text)\")"
            case .otherVersion(let version):
                "the other side speaks protocol version \(version), this library version \(Preamble.currentVersion)"
            case .otherRole(1): "a master or a control connection answered where a peer was expected"
            case .otherRole(2): "a peer answered where a master was expected"
            case .otherRole(3): "the other side asks for a join token, and this side has none (PCCL_TOKEN_FILE)"
            case .otherRole(4): "the other side asks for a certificate, and this side has no keys (PCCL_KEYS)"
            case .otherRole(5): "this master does not lead now"
            case .otherRole(let role): "the other side has the unknown role \(role)"
            }
        }
    }

    /// Checks as many bytes as have arrived: a wrong first byte is enough to turn a stranger away.
    /// Returns false while more bytes are needed.
    package static func check(_ bytes: [UInt8], expecting role: Role) throws(Problem) -> Bool {
        let known = min(bytes.count, magic.count)
        if bytes.first == tlsHandshake { throw .tls }
        guard bytes[..<known].elementsEqual(magic[..<known]) else { throw .notPCCL(beginsWith: printable(bytes)) }
        guard bytes.count >= byteCount else { return false }
        let version = UInt16(bytes[8]) | UInt16(bytes[9]) << 8
        guard version == currentVersion else { throw .otherVersion(version) }
        guard bytes[10] == role.rawValue else { throw .otherRole(bytes[10]) }
        return true
    }

    /// A TLS record with a handshake (RFC 8446, 5.1).
    private static let tlsHandshake: UInt8 = 0x16

    private static func printable(_ bytes: [UInt8]) -> String {
        String(
            decoding: bytes.prefix(byteCount).map { (32..<127).contains($0) ? $0 : UInt8(ascii: ".") }, as: UTF8.self)
    }
}
