import Glibc
import PCCLBase
import PCCLWire

/// A connection between a peer and its master: the preamble, then messages, each behind its length in four bytes.
///
/// Bound to its loop. After `onClosed` nothing more is called.
package final class ControlConnection {
    package enum Side: Sendable {
        /// We dialled: the socket is still connecting.
        case dialler(SocketAddress)
        case acceptor(SocketAddress.Host)
    }

    private let loop: EventLoop
    private let socket: Socket
    private let side: Side
    private var poll: Poll?
    private var isConnecting: Bool
    private var isGreeted = false
    private var hasIntroducedItself = false
    private var isClosing = false
    private var incoming: [UInt8] = []
    private var outgoing: [UInt8] = []

    /// The other end was closed in an orderly way, as the kernel does for a process that ends; otherwise it broke.
    package private(set) var wasClosedByPeer = false

    package var onGreeted: (() -> Void)?
    package var onMessage: (([UInt8]) -> Void)?
    package var onClosed: ((String) -> Void)?

    /// A master that writes to a peer which does not read holds no more than this.
    private static let outgoingLimit = 64 << 20
    private static let readBytes = 64 << 10

    package init(_ loop: EventLoop, _ socket: consuming Socket, _ side: Side) {
        self.loop = loop
        self.socket = socket
        self.side = side
        isConnecting = if case .dialler = side { true } else { false }
    }

    package func start() {
        poll = Poll(loop, descriptor: socket.descriptor) { [weak self] ready in self?.act(ready) }
        guard poll != nil else { return fail("the connection cannot be watched") }
        outgoing = Preamble(role: .control).bytes
        if isConnecting { poll?.watch(.write) } else { flush() }
    }

    package func send(_ message: [UInt8]) {
        guard poll != nil, !isClosing else { return }
        var length = ByteWriter()
        length.write(UInt32(message.count))
        outgoing += length.bytes
        outgoing += message
        guard outgoing.count <= ControlConnection.outgoingLimit else {
            return fail("it does not read what it is sent")
        }
        if !isConnecting { flush() }
    }

    /// Closes once everything sent has left. `onClosed` is not called.
    package func closeWhenSent() {
        onGreeted = nil
        onMessage = nil
        onClosed = nil
        isClosing = true
        loop.keep(self) { [self] in closeNow() }
        flush()
    }

    package func closeNow() {
        onGreeted = nil
        onMessage = nil
        onClosed = nil
        poll?.close()
        poll = nil
        loop.letGo(self)
    }

    /// Closes so that the other end sees a connection that broke, not one that was closed.
    package func abandon() {
        socket.resetWhenClosed()
        closeNow()
    }

    private func fail(_ reason: String) {
        let onClosed = self.onClosed
        closeNow()
        onClosed?(reason)
    }

    private func act(_ ready: Poll.Interest) {
        if isConnecting {
            let code = socket.connectError
            guard code == 0 else { return fail(SystemError.text(code)) }
            isConnecting = false
            flush()
            return
        }
        if ready.contains(.write) { flush() }
        if ready.contains(.read) { read() }
    }

    private func flush() {
        guard poll != nil, !isConnecting else { return }
        while !outgoing.isEmpty {
            let written = outgoing.withUnsafeBytes {
                Glibc.send(socket.descriptor, $0.baseAddress, $0.count, CInt(MSG_NOSIGNAL))
            }
            if written > 0 {
                outgoing.removeFirst(written)
            } else if errno == EAGAIN || errno == EWOULDBLOCK {
                break
            } else if errno != EINTR {
                if isClosing { return closeNow() }
                return fail(SystemError(doing: "writing").description)
            }
        }
        if outgoing.isEmpty, isClosing {
            // Closing with unread bytes would reset the connection and destroy what was just sent.
            shutdown(socket.descriptor, CInt(SHUT_WR))
            var unread = [UInt8](repeating: 0, count: ControlConnection.readBytes)
            while recv(socket.descriptor, &unread, unread.count, 0) > 0 {}
            return closeNow()
        }
        poll?.watch(isClosing ? .write : outgoing.isEmpty ? .read : [.read, .write])
    }

    private func read() {
        var buffer = [UInt8](repeating: 0, count: ControlConnection.readBytes)
        let count = recv(socket.descriptor, &buffer, buffer.count, 0)
        if count > 0 {
            incoming += buffer[..<count]
            digest()
        } else if count == 0 {
            wasClosedByPeer = true
            fail(isGreeted ? "the connection was closed" : "the connection was closed before a greeting")
        } else if errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR {
            fail(SystemError(doing: "reading").description)
        }
    }

    /// Who has not said hello yet may not make us hold much.
    private var messageLimit: Int {
        switch side {
        case .acceptor where !hasIntroducedItself: WireLimits.helloBytes
        case .acceptor, .dialler: WireLimits.controlMessageBytes
        }
    }

    private func digest() {
        if !isGreeted {
            do {
                guard try Preamble.check(incoming, expecting: .control) else { return }
            } catch {
                return fail(error.description)
            }
            incoming.removeFirst(Preamble.byteCount)
            isGreeted = true
            onGreeted?()
        }
        var position = 0
        while poll != nil, !isClosing, incoming.count - position >= 4 {
            let length = (0..<4).reduce(0) { $0 | Int(incoming[position + $1]) << (8 * $1) }
            guard length <= messageLimit else {
                return fail("a message of \(length) bytes was announced, \(messageLimit) are allowed")
            }
            guard incoming.count - position - 4 >= length else { break }
            let message = Array(incoming[position + 4..<position + 4 + length])
            position += 4 + length
            hasIntroducedItself = true
            onMessage?(message)
        }
        incoming.removeFirst(min(position, incoming.count))
    }
}
