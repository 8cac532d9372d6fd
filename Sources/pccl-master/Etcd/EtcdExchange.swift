import Glibc
import PCCLBase
import PCCLTransport
import StrictJSON

/// One question to etcd and its answer, over a connection of its own. Bound to its loop; whoever made it sees to the
/// deadline.
///
/// HTTP/1.0: the answer ends where the connection does, and nothing has to be taken apart. One that was cut short is no JSON
/// any more.
final class EtcdExchange {
    private enum State {
        case connecting
        case writing(sent: Int)
        case reading
        case closed
    }

    private let loop: EventLoop
    private let socket: Socket
    private let request: EtcdRequest
    private let bytes: [UInt8]
    private let onAnswer: (Result<EtcdAnswer, EtcdFailure>) -> Void
    private var poll: Poll?
    private var state = State.connecting
    private var received: [UInt8] = []
    private var scratch = [UInt8](repeating: 0, count: EtcdExchange.readBytes)

    private static let readBytes = 64 << 10
    /// A value of etcd's default limit, in base64, twice.
    private static let answerLimit = 8 << 20

    init(
        _ loop: EventLoop, to address: SocketAddress, _ request: EtcdRequest,
        onAnswer: @escaping (Result<EtcdAnswer, EtcdFailure>) -> Void
    ) throws(SystemError) {
        self.loop = loop
        self.request = request
        self.onAnswer = onAnswer
        socket = try Socket.connecting(to: address)
        bytes = EtcdExchange.bytes(of: request, to: address)
    }

    static func bytes(of request: EtcdRequest, to address: SocketAddress) -> [UInt8] {
        let body = Array(request.json.written().utf8)
        let head = """
            POST \(request.path) HTTP/1.0\r
            Host: \(address)\r
            Content-Type: application/json\r
            Content-Length: \(body.count)\r
            \r\n
            """
        return Array(head.utf8) + body
    }

    func start() {
        poll = Poll(loop, descriptor: socket.descriptor) { [weak self] _ in self?.act() }
        guard let poll else { return finish(.failure(.unanswered("the connection cannot be watched"))) }
        poll.watch(.write)
    }

    /// `onAnswer` is not called.
    func close() {
        poll?.close()
        poll = nil
        state = .closed
    }

    private func finish(_ result: Result<EtcdAnswer, EtcdFailure>) {
        close()
        onAnswer(result)
    }

    private func act() {
        switch state {
        case .connecting:
            let code = socket.connectError
            guard code == 0 else { return finish(.failure(.unanswered(SystemError.text(code)))) }
            write(from: 0)
        case .writing(let sent): write(from: sent)
        case .reading: read()
        case .closed: break
        }
    }

    private func write(from start: Int) {
        var sent = start
        while sent < bytes.count {
            let written = bytes.withUnsafeBytes {
                Glibc.send(socket.descriptor, $0.baseAddress! + sent, $0.count - sent, CInt(MSG_NOSIGNAL))
            }
            if written > 0 {
                sent += written
            } else if errno == EAGAIN || errno == EWOULDBLOCK {
                state = .writing(sent: sent)
                return
            } else if errno != EINTR {
                return finish(.failure(.unanswered(SystemError(doing: "writing").description)))
            }
        }
        state = .reading
        poll?.watch(.read)
    }

    private func read() {
        let count = recv(socket.descriptor, &scratch, scratch.count, 0)
        if count > 0 {
            received += scratch[..<count]
            if received.count > EtcdExchange.answerLimit {
                finish(.failure(.unanswered("an answer of more than \(EtcdExchange.answerLimit) bytes")))
            }
        } else if count == 0 {
            finish(EtcdExchange.answer(to: request, received))
        } else if errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR {
            finish(.failure(.unanswered(SystemError(doing: "reading").description)))
        }
    }

    /// Of all that came until the connection was closed.
    static func answer(to request: EtcdRequest, _ received: [UInt8]) -> Result<EtcdAnswer, EtcdFailure> {
        let separator = Array("\r\n\r\n".utf8)
        let end = received.indices.first { received[$0...].starts(with: separator) }
        guard let end, let status = status(of: received[..<end]) else {
            return .failure(.unanswered("what answered does not speak HTTP, or was cut short"))
        }
        return Result { () throws(EtcdFailure) in
            try EtcdAnswer(to: request, status: status, body: Array(received[(end + separator.count)...]))
        }
    }

    private static func status(of head: ArraySlice<UInt8>) -> Int? {
        let words = head.prefix { $0 != 13 }.split(separator: 32, maxSplits: 2)
        guard words.count >= 2, words[0].starts(with: Array("HTTP/1.".utf8)) else { return nil }
        return Int(String(decoding: words[1], as: UTF8.self))
    }
}
