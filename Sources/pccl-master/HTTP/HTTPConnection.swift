import Glibc
import PCCLTransport

/// One request, one answer, and the end. Bound to its loop; who made it sees to the deadline.
///
/// ```
///   reading ──▶ waiting ──▶ writing ──▶ draining ──▶ closed
///      └────────────────────▶ (refused)
/// ```
final class HTTPConnection {
    private enum State {
        case reading(HTTPRequestReader)
        /// The answer is being made.
        case waiting(HTTPRequest)
        case writing([UInt8], sent: Int)
        /// All is sent. What still comes is thrown away: closing with unread bytes would reset the connection, and the
        /// other end might lose the answer.
        case draining
        case closed
    }

    private let socket: Socket
    private let loop: EventLoop
    private var poll: Poll?
    private var state: State
    private var scratch = [UInt8](repeating: 0, count: HTTPConnection.readBytes)
    private let onRequest: (HTTPRequest) -> Void
    private let onClosed: () -> Void

    private static let readBytes = 4 << 10

    init(
        _ loop: EventLoop, _ socket: consuming Socket, _ limits: HTTPLimits,
        onRequest: @escaping (HTTPRequest) -> Void, onClosed: @escaping () -> Void
    ) {
        self.loop = loop
        self.socket = socket
        state = .reading(HTTPRequestReader(limits))
        self.onRequest = onRequest
        self.onClosed = onClosed
    }

    /// It has not asked for anything yet.
    var isIdle: Bool { if case .reading = state { true } else { false } }

    func start() {
        poll = Poll(loop, descriptor: socket.descriptor) { [weak self] ready in self?.act(ready) }
        guard let poll else { return end() }
        poll.watch(.read)
    }

    /// The answer to its request.
    func answer(_ response: HTTPResponse) {
        switch state {
        case .waiting(let request): send(response.bytes(withBody: request.method == .get))
        case .reading, .writing, .draining, .closed: break
        }
    }

    /// At once, whatever is under way. `onClosed` is not called.
    func close() {
        poll?.close()
        poll = nil
        state = .closed
    }

    private func end() {
        if case .closed = state { return }
        close()
        onClosed()
    }

    private func act(_ ready: Poll.Interest) {
        switch state {
        case .reading(let reader): read(reader)
        case .writing: flush()
        case .draining: _ = receive()
        case .waiting, .closed: break
        }
    }

    private func read(_ reader: HTTPRequestReader) {
        var reader = reader
        let count = receive()
        guard count > 0 else { return }
        switch reader.take(scratch[..<count]) {
        case .incomplete: state = .reading(reader)
        case .refused(let status, let text): send(HTTPResponse.text(status, text).bytes())
        case .asked(let request):
            state = .waiting(request)
            // A body is nobody's business, and who has said all may close its side.
            poll?.watch([])
            onRequest(request)
        }
    }

    /// 0: nothing came. Ends at the end of the connection.
    private func receive() -> Int {
        let count = recv(socket.descriptor, &scratch, scratch.count, 0)
        if count > 0 { return count }
        if count == 0 || (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR) { end() }
        return 0
    }

    private func send(_ bytes: [UInt8]) {
        state = .writing(bytes, sent: 0)
        flush()
    }

    private func flush() {
        guard case .writing(let bytes, var sent) = state else { return }
        while sent < bytes.count {
            let written = bytes.withUnsafeBytes {
                Glibc.send(socket.descriptor, $0.baseAddress! + sent, $0.count - sent, CInt(MSG_NOSIGNAL))
            }
            if written > 0 {
                sent += written
            } else if errno == EAGAIN || errno == EWOULDBLOCK {
                state = .writing(bytes, sent: sent)
                poll?.watch(.write)
                return
            } else if errno != EINTR {
                return end()
            }
        }
        state = .draining
        shutdown(socket.descriptor, CInt(SHUT_WR))
        poll?.watch(.read)
    }
}
