import Glibc
import PCCLBase
import PCCLWire

/// The first bytes of a stripe, until both sides know each other.
///
/// ```
///   dialler: connect, preamble + StripeHello ──▶            listener: preamble at once
///            ◀── preamble, StripeAnswer                               answer when all stripes of the attempt are there
///
///   offerer: connect, preamble + StripeHello (offer) ──▶    listener: preamble at once
///            ◀── preamble, StripeHello                                `takeUp`: it is the dialler from here on
///            StripeAnswer ──▶
/// ```
/// Not a byte more than that is read here: frames may follow at once.
final class StripeHandshake {
    enum Role {
        case dialler(StripeHello)
        case listener
        /// Connects, and then is greeted as a listener is.
        case offerer(StripeHello)
        /// Has taken up an offer, and waits for the answer.
        case taker
    }
    enum Step {
        /// A stranger told us who it is.
        case hello(StripeHello)
        case answer(StripeAnswer)
        case failed(String)
    }

    let deadline: Instant
    private(set) var hello: StripeHello?
    private var role: Role
    private var socket: Socket?
    private var poll: Poll?
    private(set) var isConnecting: Bool
    private var received: [UInt8] = []
    private var onStep: (StripeHandshake, Step) -> Void

    init(
        _ loop: EventLoop, _ socket: consuming Socket, _ role: Role, deadline: Instant,
        onStep: @escaping (StripeHandshake, Step) -> Void
    ) {
        self.role = role
        self.deadline = deadline
        self.onStep = onStep
        switch role {
        case .dialler, .offerer: isConnecting = true
        case .listener, .taker: isConnecting = false
        }
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

    /// What came in was an offer: greets over it, and tells of the answer.
    func takeUp(_ hello: StripeHello, onStep: @escaping (StripeHandshake, Step) -> Void) {
        role = .taker
        self.onStep = onStep
        received = []
        poll?.watch(.read)
        send(hello.bytes)
    }

    private var expectedBytes: Int {
        switch role {
        case .dialler: Preamble.byteCount + 1
        case .listener, .offerer: Preamble.byteCount + StripeHello.byteCount
        case .taker: 1
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
            switch role {
            case .dialler(let hello), .offerer(let hello): send(Preamble(role: .stripe).bytes + hello.bytes)
            case .listener, .taker: break
            }
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
        if case .taker = role {
        } else {
            do {
                guard try Preamble.check(received, expecting: .stripe), received.count == expectedBytes else { return }
            } catch {
                return fail(error.description)
            }
        }
        // Whatever comes next is for the link.
        poll?.watch([])
        switch role {
        case .dialler, .taker:
            guard let answer = received.last.flatMap({ StripeAnswer(rawValue: $0) }) else {
                return fail("an unknown answer came back")
            }
            onStep(self, .answer(answer))
        case .listener, .offerer:
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
