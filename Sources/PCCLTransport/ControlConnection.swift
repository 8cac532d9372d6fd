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
    private let channel: Channel
    private let side: Side
    private let greeting: Preamble.Role
    private var poll: Poll?
    private var isConnecting: Bool
    private var isOpen = false
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

    /// `run`: the one this side knows of, if any. `greeting`: what this side says that it is.
    package init(
        _ loop: EventLoop, _ socket: consuming Socket, _ side: Side, _ credentials: Credentials = .none,
        run: RunID? = nil, greeting: Preamble.Role = .control
    ) {
        self.loop = loop
        self.greeting = greeting
        self.side = side
        switch side {
        case .dialler:
            isConnecting = true
            channel = Channel(socket, .dialler, to: .master, credentials, run: run)
        case .acceptor:
            isConnecting = false
            channel = Channel(socket, .acceptor, to: .peer, credentials, run: run)
        }
    }

    package func start() {
        poll = Poll(loop, descriptor: channel.descriptor) { [weak self] ready in self?.act(ready) }
        guard poll != nil else { return fail("the connection cannot be watched") }
        outgoing = Preamble(role: greeting).bytes
        if isConnecting { poll?.watch(.write) } else { open() }
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
        flush()
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
        channel.socket.resetWhenClosed()
        closeNow()
    }

    private func fail(_ reason: String) {
        let onClosed = self.onClosed
        if !isGreeted, !isConnecting, poll != nil {
            poll?.close()
            poll = nil
            channel.closeGently(loop)
        }
        closeNow()
        onClosed?(reason)
    }

    private func act(_ ready: Poll.Interest) {
        if isConnecting {
            let code = channel.socket.connectError
            guard code == 0 else { return fail(SystemError.text(code)) }
            isConnecting = false
            return open()
        }
        guard isOpen else { return open() }
        if ready.contains(.write) { flush() }
        if ready.contains(.read) { read() }
    }

    private func open() {
        switch channel.open() {
        case .open:
            isOpen = true
            flush()
            // What came behind the opening may have been read with it.
            if poll != nil { read() }
        case .waits(let interest): poll?.watch(interest)
        case .failed(let reason): fail(reason)
        }
    }

    private func flush() {
        guard poll != nil, isOpen else { return }
        sending: while !outgoing.isEmpty {
            switch channel.write(outgoing) {
            case .bytes(let count): outgoing.removeFirst(count)
            case .again: break sending
            case .ended:
                if isClosing { return closeNow() }
                return fail("the connection was closed")
            case .failed(let reason):
                if isClosing { return closeNow() }
                return fail(reason)
            }
        }
        if outgoing.isEmpty, isClosing {
            channel.endSending()
            // Closing with unread bytes would reset the connection and destroy what was just sent.
            var unread = [UInt8](repeating: 0, count: ControlConnection.readBytes)
            while recv(channel.descriptor, &unread, unread.count, 0) > 0 {}
            return closeNow()
        }
        poll?.watch(isClosing ? .write : outgoing.isEmpty ? .read : [.read, .write])
    }

    private func read() {
        var buffer = [UInt8](repeating: 0, count: ControlConnection.readBytes)
        repeat {
            let transfer = buffer.withUnsafeMutableBytes { bytes -> Channel.Transfer in
                bytes.baseAddress.map { channel.read(into: $0, count: bytes.count) } ?? .again
            }
            switch transfer {
            case .bytes(let count):
                incoming += buffer[..<count]
                digest()
            case .again: return
            case .ended:
                wasClosedByPeer = true
                return fail(isGreeted ? "the connection was closed" : "the connection was closed before a greeting")
            case .failed(let reason): return fail(reason)
            }
        } while poll != nil && !isClosing && channel.hasBuffered
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
