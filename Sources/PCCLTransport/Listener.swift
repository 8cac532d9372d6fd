import Glibc
import PCCLBase

/// Accepts connections on one port until it is closed.
package final class Listener {
    private let loop: EventLoop
    private let socket: Socket
    private let onAccept: (consuming Socket, SocketAddress.Host) -> Void
    private var poll: Poll?
    private var pause: LoopTimer?
    package let address: SocketAddress

    /// Connections taken per turn: the others wait in the backlog while the loop serves those it has.
    private static let acceptsPerTurn = 64
    /// Out of descriptors: the backlog is left alone for this long, since polling it would spin.
    private static let exhaustionPause = Interval.milliseconds(100)

    package init(
        _ loop: EventLoop, at address: SocketAddress,
        onAccept: @escaping (consuming Socket, SocketAddress.Host) -> Void
    ) throws(SystemError) {
        self.loop = loop
        self.onAccept = onAccept
        socket = try Socket.listening(at: address)
        self.address = socket.localAddress ?? address
    }

    /// Listens on the first free port from `base` on, or on any free port if none of `count` is.
    package convenience init(
        _ loop: EventLoop, host: SocketAddress.Host, bumpingFrom base: UInt16, count: UInt16,
        onAccept: @escaping (consuming Socket, SocketAddress.Host) -> Void
    ) throws(SystemError) {
        let free = (0..<count).map { base &+ $0 }.first { port in
            port >= base && (try? Socket.listening(at: SocketAddress(host, port: port))) != nil
        }
        do {
            try self.init(loop, at: SocketAddress(host, port: free ?? 0), onAccept: onAccept)
        } catch {
            // Somebody took the port between the look and the bind.
            try self.init(loop, at: SocketAddress(host, port: 0), onAccept: onAccept)
        }
    }

    package func start() {
        poll = Poll(loop, descriptor: socket.descriptor) { [weak self] _ in self?.acceptSome() }
        poll?.watch(.read)
    }

    package func close() {
        poll?.close()
        poll = nil
        pause?.close()
        pause = nil
    }

    private func acceptSome() {
        for _ in 0..<Listener.acceptsPerTurn {
            switch socket.accept() {
            case .accepted(let socket, let host): onAccept(socket, host)
            case .nothing: return
            case .exhausted(let error):
                Log.write(.error, "\(error); \(address) accepts nobody for a while")
                poll?.watch([])
                let pause = self.pause ?? LoopTimer(loop) { [weak self] in self?.poll?.watch(.read) }
                self.pause = pause
                pause.fire(at: loop.now + Listener.exhaustionPause)
                return
            }
        }
    }
}
