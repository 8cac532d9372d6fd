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
    private let loop: EventLoop
    private var channel: Channel?
    private var isOpen = false
    private var poll: Poll?
    private(set) var isConnecting: Bool
    private var received: [UInt8] = []
    private var onStep: (StripeHandshake, Step) -> Void

    init(
        _ loop: EventLoop, _ socket: consuming Socket, _ role: Role, _ credentials: Credentials = .none,
        run: RunID? = nil, deadline: Instant,
        onStep: @escaping (StripeHandshake, Step) -> Void
    ) {
        self.role = role
        self.deadline = deadline
        self.onStep = onStep
        switch role {
        case .dialler, .offerer: isConnecting = true
        case .listener, .taker: isConnecting = false
        }
        self.loop = loop
        let channel = Channel(socket, isConnecting ? .dialler : .acceptor, to: .peer, credentials, run: run)
        self.channel = channel
        poll = Poll(loop, descriptor: channel.descriptor) { [weak self] _ in self?.act() }
        poll?.watch(isConnecting ? .write : .read)
        // The first words of who listens: not yet, for whoever made this does not know it yet.
        if !isConnecting { loop.atEndOfTurn { [weak self] in self?.act() } }
    }

    /// Ends the handshake and hands the connection over.
    func release() -> Channel? {
        poll?.close()
        poll = nil
        return channel.take()
    }

    func close() {
        poll?.close()
        poll = nil
        channel = nil
    }

    func answer(_ answer: StripeAnswer) { send([answer.rawValue]) }

    /// What came in was an offer: greets over it, and tells of the answer.
    func takeUp(_ hello: StripeHello, onStep: @escaping (StripeHandshake, Step) -> Void) {
        role = .taker
        self.onStep = onStep
        received = []
        poll?.watch(.read)
        send(hello.bytes)
        // The answer may have been read already, with what came before it.
        if channel?.hasBuffered ?? false { loop.atEndOfTurn { [weak self] in self?.act() } }
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
        if let problem = channel?.sendWhole(bytes) { fail(problem) }
    }

    private func fail(_ reason: String) {
        guard poll != nil else { return }
        poll?.close()
        poll = nil
        if !isConnecting { channel?.closeGently(loop) }
        close()
        onStep(self, .failed(reason))
    }

    private func act() {
        guard let channel, poll != nil else { return }
        if isConnecting {
            let code = channel.socket.connectError
            guard code == 0 else { return fail(SystemError.text(code)) }
            isConnecting = false
        }
        guard isOpen || open(channel) else { return }
        while poll != nil, received.count < expectedBytes {
            var bytes = [UInt8](repeating: 0, count: expectedBytes - received.count)
            let transfer = bytes.withUnsafeMutableBytes { bytes -> Channel.Transfer in
                bytes.baseAddress.map { channel.read(into: $0, count: bytes.count) } ?? .again
            }
            switch transfer {
            case .bytes(let count):
                received += bytes[..<count]
                if digest() { return }
            case .again: return
            case .ended: return fail("the connection was closed during the greeting")
            case .failed(let reason): return fail(reason)
            }
        }
    }

    /// False while it is not.
    private func open(_ channel: Channel) -> Bool {
        switch channel.open() {
        case .waits(let interest):
            poll?.watch(interest)
            return false
        case .failed(let reason):
            fail(reason)
            return false
        case .open:
            isOpen = true
            poll?.watch(.read)
            switch role {
            case .dialler(let hello), .offerer(let hello): send(Preamble(role: .stripe).bytes + hello.bytes)
            case .listener: send(Preamble(role: .stripe).bytes)
            case .taker: break
            }
            return poll != nil
        }
    }

    /// True when a step was made.
    private func digest() -> Bool {
        if case .taker = role {
        } else {
            do {
                guard try Preamble.check(received, expecting: .stripe), received.count == expectedBytes else {
                    return false
                }
            } catch {
                fail(error.description)
                return true
            }
        }
        // Whatever comes next is for the link.
        poll?.watch([])
        switch role {
        case .dialler, .taker:
            if let answer = received.last.flatMap({ StripeAnswer(rawValue: $0) }) {
                onStep(self, .answer(answer))
            } else {
                fail("an unknown answer came back")
            }
        case .listener, .offerer:
            do {
                let hello = try StripeHello(Array(received[Preamble.byteCount...]))
                self.hello = hello
                onStep(self, .hello(hello))
            } catch {
                fail("what should greet is no greeting: \(error)")
            }
        }
        return true
    }
}
