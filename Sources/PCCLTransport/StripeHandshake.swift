import Glibc
import PCCLBase
import PCCLWire

/// The first bytes of a stripe, until both sides know each other.
///
/// ```
///   dialler: connect, preamble + StripeHello ──▶            listener: preamble at once
///            ◀── preamble, StripeAnswer                               answer when all stripes of the attempt are there
/// ```
/// Not a byte more than that is read here: frames may follow at once.
final class StripeHandshake {
    enum Role {
        case dialler(StripeHello)
        case listener
    }
    enum Step {
        /// A stranger told us who it is.
        case hello(StripeHello)
        case answer(StripeAnswer)
        case failed(String)
    }

    let deadline: Instant
    private(set) var hello: StripeHello?
    private let role: Role
    private var socket: Socket?
    private var poll: Poll?
    private var isConnecting: Bool
    private var received: [UInt8] = []
    private let onStep: (StripeHandshake, Step) -> Void

    init(
        _ loop: EventLoop, _ socket: consuming Socket, _ role: Role, deadline: Instant,
        onStep: @escaping (StripeHandshake, Step) -> Void
    ) {
        self.role = role
        self.deadline = deadline
        self.onStep = onStep
        isConnecting = if case .dialler = role { true } else { false }
        let descriptor = socket.descriptor
        self.socket = consume socket
        poll = Poll(loop, descriptor: descriptor) { [weak self] _ in self?.act() }
        poll?.watch(isConnecting ? .write : .read)
        if case .listener = role { send(Preamble(role: .stripe).bytes) }
    }

    /// Ends the handshake and hands the connection over.
    func release() -> CInt? {
        poll?.close()
        poll = nil
        return socket.take()?.release()
    }

    func close() {
        poll?.close()
        poll = nil
        socket = nil
    }

    func answer(_ answer: StripeAnswer) { send([answer.rawValue]) }

    private var expectedBytes: Int {
        switch role {
        case .dialler: Preamble.byteCount + 1
        case .listener: Preamble.byteCount + StripeHello.byteCount
        }
    }

    /// A fresh connection has room for these few bytes; one that has not is broken.
    private func send(_ bytes: [UInt8]) {
        let descriptor = descriptor
        let sent = bytes.withUnsafeBytes { Glibc.send(descriptor, $0.baseAddress, $0.count, CInt(MSG_NOSIGNAL)) }
        if sent != bytes.count { fail(SystemError(doing: "greeting").description) }
    }

    private var descriptor: CInt {
        switch socket {
        case .some(let socket): socket.descriptor
        case .none: -1
        }
    }

    private func fail(_ reason: String) {
        guard poll != nil else { return }
        close()
        onStep(self, .failed(reason))
    }

    private func act() {
        if isConnecting {
            let code =
                switch socket {
                case .some(let socket): socket.connectError
                case .none: EBADF
                }
            guard code == 0 else { return fail(SystemError.text(code)) }
            isConnecting = false
            poll?.watch(.read)
            if case .dialler(let hello) = role { send(Preamble(role: .stripe).bytes + hello.bytes) }
            return
        }
        var bytes = [UInt8](repeating: 0, count: expectedBytes - received.count)
        let count = recv(descriptor, &bytes, bytes.count, 0)
        if count > 0 {
            received += bytes[..<count]
            digest()
        } else if count == 0 {
            fail("the connection was closed during the greeting")
        } else if errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR {
            fail(SystemError(doing: "reading").description)
        }
    }

    private func digest() {
        do {
            guard try Preamble.check(received, expecting: .stripe), received.count == expectedBytes else { return }
        } catch {
            return fail(error.description)
        }
        // Whatever comes next is for the link.
        poll?.watch([])
        switch role {
        case .dialler:
            guard let answer = StripeAnswer(rawValue: received[Preamble.byteCount]) else {
                return fail("an unknown answer came back")
            }
            onStep(self, .answer(answer))
        case .listener:
            do {
                let hello = try StripeHello(Array(received[Preamble.byteCount...]))
                self.hello = hello
                onStep(self, .hello(hello))
            } catch {
                fail("what should greet is no greeting: \(error)")
            }
        }
    }
}
