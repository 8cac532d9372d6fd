import CTLS
import PCCLBase
import PCCLWire

/// A secret that all processes of a run know, and nobody else. It never travels: each side proves to the other that it knows
/// it, by a keyed hash of two numbers that are used once.
package struct JoinToken: Sendable {
    package static let leastBytes = 16
    /// Longer ones are refused: they are files of something else.
    package static let mostBytes = 4096

    private let secret: [UInt8]

    /// White space around it does not count: it may come from a file that ends with a line end. Nil if it is shorter or longer
    /// than tokens are.
    package init?(_ text: [UInt8]) {
        let isSpace: (UInt8) -> Bool = { $0 == 32 || (9...13).contains($0) }
        let secret = Array(text.drop(while: isSpace).reversed().drop(while: isSpace).reversed())
        guard (JoinToken.leastBytes...JoinToken.mostBytes).contains(secret.count) else { return nil }
        self.secret = secret
    }

    /// Who proves that it knows the token: no proof of one side is one of the other.
    enum Prover: UInt8 {
        case dialler = 1
        case acceptor = 2
    }

    /// HMAC-SHA-256 over the prover, both runs and numbers, and what only this connection has, or zeros. Empty, which proves
    /// nothing, if there is no memory for it.
    func proof(by prover: Prover, _ dialler: TokenOpening, _ acceptor: TokenOpening, binding: [UInt8]) -> [UInt8] {
        let message =
            Array("pccl join token".utf8) + [prover.rawValue] + dialler.bytes + acceptor.bytes + binding
        var mac = [UInt8](repeating: 0, count: Int(pccl_tls_key_bytes))
        return pccl_tls_mac(secret, secret.count, message, message.count, &mac) ? mac : []
    }

    static func areEqual(_ a: [UInt8], _ b: [UInt8]) -> Bool {
        a.count == b.count && pccl_tls_are_equal(a, b, a.count)
    }
}
