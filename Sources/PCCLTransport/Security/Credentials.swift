import CTLS
import Glibc
import PCCLBase

/// What this process shows to others, and asks them for: certificates, a join token, both, or neither. Whoever is asked for
/// something and does not show it is refused; nothing is tried without.
///
/// Any thread may use it.
package final class Credentials: Sendable {
    package struct Problem: Error, Equatable, CustomStringConvertible {
        package var description: String
        package init(_ description: String) { self.description = description }
    }

    package static let none = Credentials(token: nil, keys: nil)

    let token: JoinToken?
    private let keys: KeysFolder?

    package var asksForKeys: Bool { keys != nil }
    package var asksForToken: Bool { token != nil }

    private init(token: JoinToken?, keys: KeysFolder?) {
        self.token = token
        self.keys = keys
    }

    /// `keys`: a folder with `ca.pem`, `certificate.pem`, `key.pem` and maybe `revoked.pem`. The token is given by itself or in
    /// a file. What is empty is not given.
    package convenience init(keys folder: String?, token: String?, tokenFile: String?) throws(Problem) {
        var secret: JoinToken?
        if let token, !token.isEmpty {
            secret = JoinToken(Array(token.utf8))
            if secret == nil {
                throw Problem("a join token has at least \(JoinToken.leastBytes) bytes: `pccl keys token` makes one")
            }
        } else if let tokenFile, !tokenFile.isEmpty {
            secret = JoinToken(try Credentials.read(tokenFile))
            if secret == nil { throw Problem("\(tokenFile) is no join token: `pccl keys token` makes one") }
        }
        var keys: KeysFolder?
        if let folder, !folder.isEmpty { keys = try KeysFolder(folder) }
        self.init(token: secret, keys: keys)
    }

    private static func read(_ path: String) throws(Problem) -> [UInt8] {
        guard let file = fopen(path, "re") else { throw Problem("\(path): \(SystemError.text(errno))") }
        defer { fclose(file) }
        var bytes = [UInt8](repeating: 0, count: JoinToken.mostBytes + 64)
        return Array(bytes.prefix(fread(&bytes, 1, bytes.count, file)))
    }

    /// For tests, which do not wait.
    func lookAtOnce() { keys?.lookAtOnce() }

    /// Nil without keys, or without memory for it.
    func beginTLS(_ descriptor: CInt, _ side: Channel.Side, with other: Channel.Role) -> TLSSession? {
        keys.flatMap { TLSSession($0.current(), descriptor, side, with: other) }
    }
}

/// Keys, as they are in their files now: what is replaced there counts for the next connection.
private final class KeysFolder: Sendable {
    private struct State {
        var keys: TLSKeys
        var dates: [Int64]
        var lookedAt: Instant
    }
    private static let files = ["ca.pem", "certificate.pem", "key.pem", "revoked.pem"]
    private static let lookPeriod = Interval.seconds(1)

    private let folder: String
    private let state: Guarded<State>

    init(_ folder: String) throws(Credentials.Problem) {
        self.folder = folder
        let dates = KeysFolder.dates(folder)
        state = Guarded(State(keys: try TLSKeys(folder), dates: dates, lookedAt: EventLoop.now))
        var status = stat()
        if stat("\(folder)/key.pem", &status) == 0, status.st_mode & 0o077 != 0 {
            Log.write(.warning, "\(folder)/key.pem can be read by others than its owner: chmod 600 it")
        }
    }

    func lookAtOnce() { state.withLock { $0.lookedAt = Instant(nanoseconds: 0) } }

    func current() -> TLSKeys {
        state.withLock { state in
            let now = EventLoop.now
            guard now - state.lookedAt >= KeysFolder.lookPeriod else { return state.keys }
            state.lookedAt = now
            let dates = KeysFolder.dates(folder)
            guard dates != state.dates else { return state.keys }
            do {
                state.keys = try TLSKeys(folder)
                state.dates = dates
                Log.write(.info, "the keys in \(folder) were read anew")
            } catch {
                // Maybe only some of the files have been replaced so far.
                Log.write(
                    .warning, "the keys in \(folder) have changed, and cannot be used: \(error); the old ones are")
            }
            return state.keys
        }
    }

    /// When each was last changed, in nanoseconds, and which file it is; a missing one has zeros.
    private static func dates(_ folder: String) -> [Int64] {
        files.flatMap { name -> [Int64] in
            var status = stat()
            guard stat("\(folder)/\(name)", &status) == 0 else { return [0, 0] }
            let date = Int64(status.st_mtim.tv_sec) * 1_000_000_000 + Int64(status.st_mtim.tv_nsec)
            return [date, Int64(truncatingIfNeeded: status.st_ino)]
        }
    }
}

/// Certificates and a private key, read once.
final class TLSKeys: @unchecked Sendable {
    // OpenSSL counts the references to it, under locks of its own.
    let keys: OpaquePointer

    init(_ folder: String) throws(Credentials.Problem) {
        var problem = [CChar](repeating: 0, count: Int(pccl_tls_problem_bytes))
        guard let keys = pccl_tls_read_keys(folder, &problem) else {
            throw Credentials.Problem(
                String(decoding: problem.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self))
        }
        self.keys = keys
    }
    deinit { pccl_tls_free_keys(keys) }
}
