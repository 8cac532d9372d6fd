import Glibc
import PCCLBase
import PCCLWire

/// A connection, and what protects it: nothing, TLS 1.3, a join token, or both.
///
/// ```
///   connect ─▶ TLS handshake, if there are keys ─▶ join token, if there is one ─▶ open
/// ```
/// Both sides must have the same; who lacks something is told so, where there is a way to tell it, and refused.
///
///   token: dialler ──▶ opening (run, number)      acceptor ──▶ opening (run, number), at once
///          dialler ──▶ proof of both              acceptor ──▶ verdict, proof of both
///
/// Bound to its loop.
package final class Channel {
    package enum Side: Sendable { case dialler, acceptor }
    package enum Role: Sendable { case master, peer }

    enum Progress: Equatable {
        case open
        case waits(Poll.Interest)
        case failed(String)
    }
    enum Transfer: Equatable {
        case bytes(Int)
        /// Nothing, for now.
        case again
        /// The other side has closed the connection.
        case ended
        case failed(String)
    }

    let socket: Socket
    private let side: Side
    private let other: Role
    private let credentials: Credentials
    private let run: RunID?
    private(set) var tls: TLSSession?
    private var stage: Stage
    private var received: [UInt8] = []
    private var own: TokenOpening?
    private var theirs: TokenOpening?

    private enum Stage {
        /// The acceptor looks whether it is TLS that begins.
        case looking
        case handshake
        case openings
        case proof
        case open
    }

    /// `other`: who has to be at the other end. `run`: the one that this side knows of.
    package init(
        _ socket: consuming Socket, _ side: Side, to other: Role, _ credentials: Credentials = .none, run: RunID? = nil
    ) {
        self.socket = socket
        self.side = side
        self.other = other
        self.credentials = credentials
        self.run = run
        stage =
            switch (credentials.asksForKeys, credentials.asksForToken) {
            case (true, _): side == .acceptor ? .looking : .handshake
            case (false, true): .openings
            case (false, false): .open
            }
    }

    /// What needs no opening: a connection that was greeted, in tests.
    package convenience init(_ socket: consuming Socket) { self.init(socket, .dialler, to: .peer) }

    var descriptor: CInt { socket.descriptor }
    var isProtected: Bool { tls != nil }
    /// Something came that was not read: the socket may not tell of it any more.
    var hasBuffered: Bool { tls?.hasBuffered ?? false }

    // MARK: opening

    /// Called when the socket is connected, and then whenever it is ready for what was waited for.
    func open() -> Progress {
        while true {
            let progress: Progress
            switch stage {
            case .looking: progress = look()
            case .handshake: progress = handshake()
            case .openings: progress = exchangeOpenings()
            case .proof: progress = exchangeProofs()
            case .open: return .open
            }
            guard progress == .open else { return progress }
        }
    }

    private func look() -> Progress {
        var first: UInt8 = 0
        let count = recv(socket.descriptor, &first, 1, CInt(MSG_PEEK))
        if count < 0 {
            return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR
                ? .waits(.read) : .failed(SystemError(doing: "reading").description)
        }
        if count == 0 { return .failed("the connection was closed before a greeting") }
        if first == Preamble.magic[0] {
            _ = write(Preamble(role: .keysWanted).bytes)
            return .failed("it came without keys")
        }
        stage = .handshake
        return .open
    }

    private func handshake() -> Progress {
        guard let tls = tls ?? credentials.beginTLS(socket.descriptor, side, with: other) else {
            return .failed("no memory is left for TLS")
        }
        self.tls = tls
        let progress = tls.handshake()
        if progress == .open { stage = credentials.asksForToken ? .openings : .open }
        return progress
    }

    private func exchangeOpenings() -> Progress {
        if own == nil {
            let own = TokenOpening(
                run: run, number: (0..<TokenOpening.numberBytes).map { _ in .random(in: .min ... .max) })
            self.own = own
            if let problem = sendWhole(Preamble(role: .token).bytes + own.bytes) { return .failed(problem) }
        }
        // A wrong first byte is enough.
        if let progress = receive(Preamble.byteCount + TokenOpening.byteCount, check: checkPreamble) { return progress }
        let theirs = TokenOpening(Array(received[Preamble.byteCount...]))
        self.theirs = theirs
        received = []
        if let run, let other = theirs.run, other != run { return .failed("it is of another run") }
        stage = .proof
        if side == .dialler, let problem = sendWhole(proof(by: .dialler)) { return .failed(problem) }
        return .open
    }

    private func checkPreamble() -> String? {
        do {
            _ = try Preamble.check(received, expecting: .token)
            return nil
        } catch .otherRole(let role)
            where role == Preamble.Role.control.rawValue || role == Preamble.Role.stripe.rawValue
        {
            return side == .acceptor
                ? "it came without a join token" : "it asks for no join token, so nobody knows who it is"
        } catch {
            return error.description
        }
    }

    private static let accepted: UInt8 = 1
    private static let refused: UInt8 = 0

    private func exchangeProofs() -> Progress {
        switch side {
        case .acceptor:
            if let progress = receive(TokenOpening.proofBytes) { return progress }
            guard JoinToken.areEqual(received, proof(by: .dialler)) else {
                _ = write([Channel.refused])
                return .failed("its join token is another")
            }
            if let problem = sendWhole([Channel.accepted] + proof(by: .acceptor)) { return .failed(problem) }
        case .dialler:
            if let progress = receive(1) { return progress }
            guard received[0] == Channel.accepted else { return .failed("it refused our join token") }
            if let progress = receive(1 + TokenOpening.proofBytes) { return progress }
            guard JoinToken.areEqual(Array(received[1...]), proof(by: .acceptor)) else {
                return .failed("its join token is another")
            }
        }
        received = []
        stage = .open
        return .open
    }

    private func proof(by prover: JoinToken.Prover) -> [UInt8] {
        let binding = tls?.export("EXPORTER-pccl-join-token") ?? [UInt8](repeating: 0, count: TokenOpening.proofBytes)
        guard let token = credentials.token, let own, let theirs else { return [] }
        let (dialler, acceptor) = side == .dialler ? (own, theirs) : (theirs, own)
        return token.proof(by: prover, dialler, acceptor, binding: binding)
    }

    /// Until `received` has so many bytes, and not one more; nil then.
    private func receive(_ count: Int, check: () -> String? = { nil }) -> Progress? {
        while received.count < count {
            var bytes = [UInt8](repeating: 0, count: count - received.count)
            let transfer = bytes.withUnsafeMutableBytes { bytes -> Transfer in
                bytes.baseAddress.map { read(into: $0, count: bytes.count) } ?? .again
            }
            switch transfer {
            case .bytes(let count):
                received += bytes[..<count]
                if let problem = check() { return .failed(problem) }
            case .again: return .waits(.read)
            case .ended: return .failed("the connection was closed before a greeting")
            case .failed(let reason): return .failed(reason)
            }
        }
        return nil
    }

    /// A fresh connection has room for these few bytes; one that has not is broken. Nil if it has.
    func sendWhole(_ bytes: [UInt8]) -> String? {
        switch write(bytes) {
        case .bytes(bytes.count): nil
        case .failed(let reason): reason
        case .bytes, .again, .ended: "it takes no greeting"
        }
    }

    // MARK: carrying

    func read(into target: UnsafeMutableRawPointer, count: Int) -> Transfer {
        if let tls { return tls.read(into: target, count: count) }
        return Channel.transfer(recv(socket.descriptor, target, count, 0), "reading")
    }

    func write(_ bytes: [UInt8]) -> Transfer {
        bytes.withUnsafeBytes { bytes in
            guard let base = bytes.baseAddress else { return .bytes(0) }
            if let tls { return tls.write(base, count: bytes.count) }
            return Channel.transfer(send(socket.descriptor, base, bytes.count, CInt(MSG_NOSIGNAL)), "writing")
        }
    }

    /// As much as is there, to the first place until that is full, and then to the second.
    func read(into vectors: (iovec, iovec)) -> Transfer {
        guard let tls else {
            let count = withUnsafePointer(to: vectors) {
                $0.withMemoryRebound(to: iovec.self, capacity: 2) { readv(socket.descriptor, $0, 2) }
            }
            return Channel.transfer(count, "reading")
        }
        return Channel.inTurn([vectors.0, vectors.1]) { base, count, _ in tls.read(into: base, count: count) }
    }

    /// As much as there is room for.
    func write(_ vectors: (iovec, iovec, iovec, iovec)) -> Transfer {
        guard let tls else {
            var vectors = vectors
            let count = withUnsafeMutablePointer(to: &vectors) {
                $0.withMemoryRebound(to: iovec.self, capacity: 4) { vectors in
                    var message = msghdr()
                    message.msg_iov = vectors
                    message.msg_iovlen = 4
                    return sendmsg(socket.descriptor, &message, CInt(MSG_NOSIGNAL))
                }
            }
            return Channel.transfer(count, "writing")
        }
        return Channel.inTurn([vectors.0, vectors.1, vectors.2, vectors.3]) {
            tls.write($0, count: $1, moreFollows: $2)
        }
    }

    /// The last argument of `move`: more follows.
    private static func inTurn(
        _ vectors: [iovec], _ move: (UnsafeMutableRawPointer, Int, Bool) -> Transfer
    ) -> Transfer {
        var moved = 0
        let total = vectors.reduce(0) { $0 + $1.iov_len }
        for vector in vectors {
            guard let base = vector.iov_base, vector.iov_len > 0 else { continue }
            switch move(base, vector.iov_len, moved + vector.iov_len < total) {
            case .bytes(let count):
                moved += count
                if count < vector.iov_len { return .bytes(moved) }
            case let other: return moved > 0 ? .bytes(moved) : other
            }
        }
        return .bytes(moved)
    }

    private static func transfer(_ count: Int, _ doing: String) -> Transfer {
        if count > 0 { return .bytes(count) }
        if count == 0 { return .ended }
        return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR
            ? .again : .failed(SystemError(doing: doing).description)
    }

    // MARK: ending

    /// Nothing more is sent: the other side reads what was, and then the end.
    func endSending() {
        tls?.sayGoodbye()
        shutdown(socket.descriptor, CInt(SHUT_WR))
    }

    /// Of a connection that is refused: the other side is to read why, and one that is closed with unread bytes would destroy
    /// what was just sent.
    func closeGently(_ loop: EventLoop) {
        shutdown(socket.descriptor, CInt(SHUT_WR))
        if loop.mayLinger { Farewell.say(on: self, loop) }
    }
}

/// Keeps a refused connection until the other side has closed it, or a while has passed.
private final class Farewell {
    private let channel: Channel
    private let loop: EventLoop
    private var poll: Poll?
    private var timer: LoopTimer?

    private static let patience = Interval.seconds(1)

    static func say(on channel: Channel, _ loop: EventLoop) {
        let farewell = Farewell(channel, loop)
        loop.keep(farewell) { farewell.end() }
    }

    private init(_ channel: Channel, _ loop: EventLoop) {
        self.channel = channel
        self.loop = loop
        poll = Poll(loop, descriptor: channel.descriptor) { [weak self] _ in self?.read() }
        poll?.watch(.read)
        timer = LoopTimer(loop) { [weak self] in self?.end() }
        timer?.fire(at: loop.now + Farewell.patience)
    }

    private func read() {
        var unread = [UInt8](repeating: 0, count: 4096)
        let count = recv(channel.descriptor, &unread, unread.count, 0)
        if count == 0 || (count < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR) { end() }
    }

    private func end() {
        poll?.close()
        poll = nil
        timer?.close()
        timer = nil
        loop.letGo(self)
    }
}
