import CTLS
import Glibc

/// TLS 1.3 over one connection. Its owner keeps the descriptor open.
final class TLSSession {
    private let session: OpaquePointer
    private let keys: TLSKeys
    private var bytesUnderKey = 0

    /// What one key may encrypt with AES-GCM is 2^24.5 records (RFC 8446, 5.5), some 390 GB; a run of a month sends more.
    static let bytesPerKey = 64 << 30
    var bytesPerKey = TLSSession.bytesPerKey
    private static let recordBytes = 16 << 10

    /// Nil when there is no memory for it.
    init?(_ keys: TLSKeys, _ descriptor: CInt, _ side: Channel.Side, with other: Channel.Role) {
        self.keys = keys
        // A C string that lives as long as the process.
        let role: StaticString = other == .master ? "master" : "peer"
        let name = UnsafeRawPointer(role.utf8Start).assumingMemoryBound(to: CChar.self)
        guard let session = pccl_tls_begin(keys.keys, descriptor, side == .acceptor, name) else { return nil }
        self.session = session
    }
    deinit { pccl_tls_end(session) }

    var hasBuffered: Bool { pccl_tls_has_buffered(session) }

    func handshake() -> Channel.Progress {
        switch pccl_tls_handshake(session) {
        case pccl_tls_done: .open
        case pccl_tls_wants_write: .waits(.write)
        case pccl_tls_wants_read: .waits(.read)
        case pccl_tls_ended: .failed("the connection was closed while keys were agreed on")
        default: .failed(problem)
        }
    }

    /// As much as is there, at most `count` bytes.
    func read(into target: UnsafeMutableRawPointer, count: Int) -> Channel.Transfer {
        var filled = 0
        while filled < count {
            var part = count - filled
            switch pccl_tls_read(session, target + filled, &part) {
            case pccl_tls_done: filled += part
            case pccl_tls_wants_read, pccl_tls_wants_write: return filled > 0 ? .bytes(filled) : .again
            case pccl_tls_ended: return filled > 0 ? .bytes(filled) : .ended
            // What came before is told first; the next read says it again.
            default: return filled > 0 ? .bytes(filled) : .failed(problem)
            }
        }
        return .bytes(filled)
    }

    /// As much as there is room for.
    func write(_ source: UnsafeRawPointer, count: Int, moreFollows: Bool = false) -> Channel.Transfer {
        var taken = 0
        while taken < count {
            if bytesUnderKey >= bytesPerKey, pccl_tls_renew_key(session) { bytesUnderKey = 0 }
            var part = count - taken
            let isLast = part <= TLSSession.recordBytes
            switch pccl_tls_write(session, source + taken, &part, moreFollows || !isLast) {
            case pccl_tls_done:
                taken += part
                bytesUnderKey += part
            case pccl_tls_wants_read, pccl_tls_wants_write: return taken > 0 ? .bytes(taken) : .again
            case pccl_tls_ended: return taken > 0 ? .bytes(taken) : .failed("the connection was closed")
            default: return taken > 0 ? .bytes(taken) : .failed(problem)
            }
        }
        return .bytes(taken)
    }

    func sayGoodbye() { pccl_tls_say_goodbye(session) }

    /// A secret of the two ends of this connection alone.
    func export(_ label: String) -> [UInt8]? {
        var secret = [UInt8](repeating: 0, count: Int(pccl_tls_key_bytes))
        return pccl_tls_export(session, label, &secret) ? secret : nil
    }

    private var problem: String { String(cString: pccl_tls_problem(session)) }
}
