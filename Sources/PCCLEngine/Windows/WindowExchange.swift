import Glibc
import PCCLBase
import PCCLCompute
import PCCLTransport
import PCCLWire

/// The windows of device memory that this process and its peers of the host have, and who has mapped whose.
///
///     nothing ──an operation on a device, all members on this host──▶ being made ──▶ there
///     to each peer of the host:   I have a window, hand me yours at this socket
///     from each:                  the same; then its descriptor comes to the socket, and is mapped
///
/// A window is made when it may be of use for the first time, and kept until the communicator ends. What the driver does that
/// takes long is done by a worker. Bound to the engine's loop.
final class WindowExchange {
    /// What runs of operations need of it.
    struct Own {
        let window: DeviceWindow
        let location: DeviceLocation
        /// One for each kind of step, so that they go on side by side.
        let filling: DeviceWorker
        let folding: DeviceWorker
        let taking: DeviceWorker

        var workers: [DeviceWorker] { [filling, folding, taking] }
    }

    private enum State {
        case nothing
        case beingMade
        case there(Own, LocalSocket)
        /// It will not be tried again.
        case failed
    }

    private let loop: EventLoop
    private let configuration: WindowConfiguration
    var link: (PeerID) -> Link? = { _ in nil }
    /// A window was mapped, or is not any more.
    var onChange: () -> Void = {}
    private var state = State.nothing
    private var regions = RegionAllocator(byteCount: 0, grain: 1)
    /// For whatever takes long.
    private var keeper: DeviceWorker?
    /// What we have told each peer, so that we know whose window comes.
    private var tokens: [PeerID: WindowToken] = [:]
    private var invitations: [PeerID: WindowInvitation] = [:]
    /// Peers that have not got our window yet, although they have asked.
    private var owed: Set<PeerID> = []
    private(set) var mapped: [PeerID: DeviceWindow] = [:]
    /// Memory of the device for copies of what is overwritten.
    private var spare: [DeviceWindow] = []
    private var spareWanted = 0

    init(_ loop: EventLoop, _ configuration: WindowConfiguration) {
        self.loop = loop
        self.configuration = configuration
    }

    var own: Own? { if case .there(let own, _) = state { own } else { nil } }
    private var socket: LocalSocket? { if case .there(_, let socket) = state { socket } else { nil } }

    /// Nothing is under way any more.
    func close() {
        socket?.close()
        for window in mapped.values { letGo(window) }
        mapped = [:]
        for memory in spare { letGo(memory) }
        spare = []
        // Nothing of the driver is called when this returns.
        let workers = own?.workers ?? []
        state = .failed
        for worker in workers { worker.stop() }
        keeper?.stop()
        keeper = nil
    }

    // MARK: making

    /// An operation could have used windows with these peers on this device: sees to it that a later one can.
    func prepare(at location: DeviceLocation, with peers: [PeerID]) {
        for peer in owed { handOver(to: peer) }
        guard case .nothing = state, configuration.windowBytes > 0 else { return }
        guard peers.allSatisfy({ link($0).map { $0.isWithinHost && $0.mayShare } ?? false }) else { return }
        state = .beingMade
        do { keeper = try DeviceWorker(at: location, name: "pccl-windows") } catch { return fail("\(error)") }
        let configuration = configuration
        keep { () throws(DeviceError) in
            try DeviceReducer.load(at: location)
            let own = Own(
                window: try WindowExchange.window(at: location, configuration), location: location,
                filling: try DeviceWorker(at: location, name: "pccl-fill"),
                folding: try DeviceWorker(at: location, name: "pccl-fold"),
                taking: try DeviceWorker(at: location, name: "pccl-take"))
            // One that gets no stream from the driver says so now, and not to an operation.
            for worker in own.workers { try worker.perform { (_) throws(DeviceError) in } }
            return own
        } then: { exchange, own in
            exchange.windowIsMade(own)
        }
    }

    /// Has the keeper do what takes long. `then` comes on the loop's thread, if this is still there.
    private func keep<Made: Sendable>(
        _ work: @escaping @Sendable () throws(DeviceError) -> Made,
        then: @escaping @Sendable (WindowExchange, Result<Made, DeviceError>) -> Void
    ) {
        let made = Guarded<Made?>(nil)
        let exchange = Loan(self)
        keeper?.submit { (_) throws(DeviceError) in
            let value = try work()
            made.withLock { $0 = value }
        } then: { [loop] result in
            loop.submit {
                guard let exchange = exchange.object else { return }
                switch result {
                case .success: if let value = made.withLock({ $0 }) { then(exchange, .success(value)) }
                case .failure(let error): then(exchange, .failure(error))
                }
            }
        }
    }

    private static func window(
        at location: DeviceLocation, _ configuration: WindowConfiguration
    ) throws(DeviceError) -> DeviceWindow {
        var bytes = configuration.windowBytes
        while true {
            do throws(DeviceError) {
                return try DeviceWindow(byteCount: bytes, at: location)
            } catch {
                guard error.isOutOfMemory, bytes / 2 >= configuration.leastWindowBytes else { throw error }
                bytes /= 2
            }
        }
    }

    private func fail(_ reason: String) {
        state = .failed
        Log.write(.warning, "peers of this host reach this peer's device through the host's memory: \(reason)")
    }

    private func windowIsMade(_ made: Result<Own, DeviceError>) {
        guard case .beingMade = state else { return }
        do {
            let own = try made.get()
            let socket = try LocalSocket(loop, mostBytes: WindowHandOver.byteCount) { [weak self] bytes, descriptor in
                self?.take(bytes, descriptor)
            }
            state = .there(own, socket)
            regions = RegionAllocator(byteCount: own.window.byteCount, grain: WindowConfiguration.grain)
            Log.write(.debug, "a window of \(own.window.byteCount >> 20) MiB on CUDA device \(own.location.device)")
            for peer in peersWithLinks { invite(peer) }
            for peer in invitations.keys.sorted() { handOver(to: peer) }
        } catch {
            fail("\(error)")
        }
    }

    // MARK: peers

    private var peersWithLinks: [PeerID] = []

    func linkUp(_ link: Link) {
        if !peersWithLinks.contains(link.peer) { peersWithLinks.append(link.peer) }
        if own != nil { invite(link.peer) }
    }

    func linkDown(_ peer: PeerID) {
        peersWithLinks.removeAll { $0 == peer }
        tokens[peer] = nil
        invitations[peer] = nil
        owed.remove(peer)
        if let window = mapped.removeValue(forKey: peer) {
            letGo(window)
            onChange()
        }
    }

    private func invite(_ peer: PeerID) {
        guard let link = link(peer), link.isWithinHost, link.mayShare, let socket, let network = LocalSocket.network
        else { return }
        let token = WindowToken(high: .random(in: .min ... .max), low: .random(in: .min ... .max))
        tokens[peer] = token
        let bytes = WindowInvitation(token: token, network: network, socket: socket.name).bytes
        link.send(
            FrameHeader(
                kind: .window, epoch: .none, launch: LaunchNumber(0), tag: Tag(0), payloadBytes: UInt32(bytes.count)),
            payload: bytes)
    }

    func takeInvitation(_ payload: [UInt8], from peer: PeerID) {
        guard let link = link(peer), link.isWithinHost, link.mayShare,
            let invitation = try? WindowInvitation(payload), invitation.network == LocalSocket.network
        else { return }
        invitations[peer] = invitation
        handOver(to: peer)
    }

    private func handOver(to peer: PeerID) {
        guard let own, let socket, let invitation = invitations[peer] else { return }
        do {
            let descriptor = try own.window.export()
            defer { Glibc.close(descriptor) }
            let message = WindowHandOver(
                token: invitation.token, windowBytes: UInt64(own.window.byteCount),
                roundBytes: UInt64(configuration.roundBytes))
            try socket.send(message.bytes, descriptor, to: invitation.socket)
            owed.remove(peer)
        } catch {
            // It may be busy.
            owed.insert(peer)
            Log.write(.debug, "\(peer) does not get this peer's window: \(error)")
        }
    }

    private func take(_ bytes: [UInt8], _ descriptor: CInt) {
        guard let message = try? WindowHandOver(bytes), let own,
            let peer = tokens.first(where: { $0.value == message.token })?.key,
            let byteCount = Int(exactly: message.windowBytes)
        else {
            Glibc.close(descriptor)
            return
        }
        guard message.roundBytes == UInt64(configuration.roundBytes) else {
            Glibc.close(descriptor)
            return Log.write(
                .warning,
                "\(peer) is reached through the host's memory: it goes through \(message.roundBytes) bytes of a device at "
                    + "once, and this peer through \(configuration.roundBytes); is PCCL_DEVICE_ROUND the same?")
        }
        keep { () throws(DeviceError) in
            defer { Glibc.close(descriptor) }
            return try DeviceWindow(importing: descriptor, byteCount: byteCount, at: own.location)
        } then: { exchange, window in
            exchange.windowIsMapped(window, peer, message.token)
        }
    }

    private func windowIsMapped(_ result: Result<DeviceWindow, DeviceError>, _ peer: PeerID, _ token: WindowToken) {
        switch result {
        case .success(let window):
            guard tokens[peer] == token else { return letGo(window) }
            if let old = mapped.updateValue(window, forKey: peer) { letGo(old) }
            onChange()
        case .failure(let error):
            Log.write(.info, "\(peer) is reached through the host's memory: its window cannot be mapped: \(error)")
        }
    }

    // MARK: memory

    /// A part of the own window; nil when there is none so large.
    func takeRegion(_ bytes: Int) -> Int? {
        defer { onChange() }
        return regions.take(bytes)
    }
    func giveBack(region offset: Int) {
        regions.giveBack(offset)
        onChange()
    }

    /// What an operation would find.
    var room: WindowRoom? {
        own.map {
            WindowRoom(
                location: $0.location, regionBytes: regions.largest, asideBytes: spare.first?.byteCount ?? 0,
                roundBytes: configuration.roundBytes)
        }
    }

    /// Memory of the device. Nil if none is at hand; then it is for the next who asks.
    func takeSpare(_ bytes: Int) -> DeviceWindow? {
        let fitting = spare.indices.filter { spare[$0].byteCount >= bytes }
        guard let place = fitting.min(by: { spare[$0].byteCount < spare[$1].byteCount }) else {
            makeSpare(bytes)
            return nil
        }
        defer { onChange() }
        return spare.remove(at: place)
    }

    /// Kept for the next, within a limit that one alone may exceed: the least of them go first.
    func giveBack(spare memory: DeviceWindow) {
        spare.append(memory)
        spare.sort { $0.byteCount > $1.byteCount }
        while spare.count > 1, spare.reduce(0, { $0 + $1.byteCount }) > configuration.spareBytes {
            letGo(spare.removeLast())
        }
        onChange()
    }

    func makeSpare(_ bytes: Int) {
        guard let own, spareWanted < bytes, spare.first.map({ $0.byteCount < bytes }) ?? true else { return }
        spareWanted = bytes
        keep { () throws(DeviceError) in
            try DeviceWindow(byteCount: bytes, at: own.location)
        } then: { exchange, memory in
            exchange.spareWanted = 0
            if case .success(let memory) = memory { exchange.giveBack(spare: memory) }
        }
    }

    /// Unmapping may take long.
    func letGo(_ window: DeviceWindow) {
        keeper?.submit({ (_) throws(DeviceError) in withExtendedLifetime(window) {} }, then: { _ in })
    }
}

extension WindowConfiguration {
    /// Regions begin at multiples of it.
    static let grain = 64 << 10
}

/// An object of the loop's on its way through another thread, which does not touch it.
struct Loan<Object: AnyObject>: @unchecked Sendable {
    private(set) weak var object: Object?
    init(_ object: Object?) { self.object = object }
}
