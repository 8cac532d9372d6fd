import Glibc
import PCCLBase
import PCCLMembership
import PCCLSession
import PCCLTestSupport
import PCCLTransport
import PCCLWire

/// The master's side of control connections in the hands of a test, which says what a master might and sees what it is told.
/// Its peers are numbered from 1 in the order in which they connect.
final class ScriptedMaster: Sendable {
    static let run = RunID(high: 3, low: 4)
    let timeouts: Timeouts
    private let listener: CInt
    private let port: UInt16

    init(deadTime: Interval = .seconds(60)) throws {
        timeouts = Timeouts(deadTime: deadTime)
        let socket = try Socket.listening(at: .loopback(port: 0))
        port = socket.port
        listener = socket.release()
        makeBlocking(listener)
    }

    deinit { close(listener) }

    /// Peers that are registered, and the view of all of them and of `strangers`, whom the test plays.
    func view(of count: Int, and strangers: [Member] = []) throws -> [ScriptedPeer] {
        var peers: [ScriptedPeer] = []
        var connecting: [PeerSession.CallCompletion] = []
        for number in 1...UInt64(count) {
            let session = try Run.peer([.loopback(port: port)], timeouts)
            connecting.append(session.call(.connect))
            let raw = RawSocket(owning: accept(listener, nil, nil))
            try raw.write(Preamble(role: .control).bytes)
            _ = try raw.read(Preamble.byteCount)
            let connection = ScriptedConnection(raw)
            guard case .hello(let hello) = try connection.next() else { throw Stuck(waitingFor: "hello") }
            try connection.say(
                .welcome(
                    peer: PeerID(number), run: ScriptedMaster.run, secret: PeerSecret(high: 5, low: number),
                    deadTimeMilliseconds: UInt32(timeouts.deadTime.milliseconds), masterGraceMilliseconds: 0))
            peers.append(
                ScriptedPeer(id: PeerID(number), session: session, connection: connection, port: hello.listenPort))
        }
        let members =
            peers.map { Member(id: $0.id, addresses: [.loopback(port: $0.port)], stripes: 1) } + strangers
        for peer in peers { try peer.connection.say(.propose(epoch: Epoch(1), members: members)) }
        for stranger in strangers { for peer in peers { try peer.link(from: stranger.id) } }
        for peer in peers {
            guard case .linked = try peer.connection.next() else { throw Stuck(waitingFor: "linked") }
        }
        let world = WorldCounts(
            globalWorldSize: UInt32(members.count), groupCount: 1, largestGroupWorldSize: UInt32(members.count))
        for peer in peers { try peer.connection.say(.view(epoch: Epoch(1), members: members, world: world)) }
        for answer in try connecting.map({ try $0.value("a connect") }) where answer != .done {
            throw Unexpected(answer: answer)
        }
        return peers
    }
}

/// A session, and what the master holds of it.
final class ScriptedPeer {
    let id: PeerID
    let session: PeerSession
    let connection: ScriptedConnection
    let port: UInt16
    /// The other end of the link to a stranger.
    private(set) var stripe: RawSocket?

    init(id: PeerID, session: PeerSession, connection: ScriptedConnection, port: UInt16) {
        self.id = id
        self.session = session
        self.connection = connection
        self.port = port
    }

    fileprivate func link(from stranger: PeerID) throws {
        let raw = try RawSocket(port: port)
        try raw.write(
            Preamble(role: .stripe).bytes
                + StripeHello(run: ScriptedMaster.run, from: stranger, to: id, attempt: 1, stripe: 0, stripeCount: 1)
                .bytes)
        _ = try raw.read(Preamble.byteCount + 1)
        stripe = raw
    }

    /// The next frame that a stranger gets, without its payload.
    func frame() throws -> FrameHeader {
        let bytes = try stripe?.read(FrameHeader.byteCount) ?? []
        guard bytes.count == FrameHeader.byteCount else { throw Stuck(waitingFor: "a frame") }
        let header = try bytes.withUnsafeBytes { try FrameHeader($0.baseAddress!) }
        _ = try stripe?.read(Int(header.payloadBytes))
        return header
    }
}

final class ScriptedConnection {
    private let raw: RawSocket
    init(_ raw: RawSocket) { self.raw = raw }

    func say(_ message: ToPeer) throws {
        var length = ByteWriter()
        length.write(UInt32(message.bytes.count))
        try raw.write(length.bytes + message.bytes)
    }

    /// The next message that is no heartbeat.
    func next() throws -> ToMaster {
        while true {
            let length = try raw.read(4)
            guard length.count == 4 else { throw Stuck(waitingFor: "a message of a peer that has gone") }
            let message = try ToMaster(raw.read((0..<4).reduce(0) { $0 | Int(length[$1]) << (8 * $1) }))
            if message != .heartbeat { return message }
        }
    }
}
