import Glibc
import PCCLBase
import PCCLTestSupport
@testable import PCCLTransport
import PCCLWire

/// A link with a loop and a delegate of its own. Everything that happens to it lies in `events`.
final class LinkEnd: @unchecked Sendable, LinkDelegate {
    enum Event: Equatable, Sendable {
        case asked(FrameHeader)
        case frame(FrameHeader, [UInt8])
        case placed(FrameHeader, token: Int)
        case sent(token: Int)
        case broken(String)
    }

    let loop: EventLoop
    let events = Mailbox<Event>("events of a link")
    /// How many stripes there were when one more was wanted.
    let wishes = Mailbox<Int>("wishes of a link")
    // The loop's thread only.
    var link: Link?
    var queue: [OutgoingSegment] = []
    private var lent: [Memory] = []
    var place: (FrameHeader) -> Placement = { _ in .copy }
    var onEvent: (LinkEnd, Event) -> Void = { _, _ in }

    init(
        peer: UInt64 = 1, _ descriptors: [CInt], deadTime: Interval = .seconds(60),
        _ configuration: LinkConfiguration = LinkConfiguration(), isMaker: Bool = true
    ) throws {
        loop = try EventLoop(name: "test")
        try loop.sync { [self] in
            let link = Link(
                loop, peer: PeerID(peer), channels: descriptors.map { Channel(Socket(owning: $0)) }, isMaker: isMaker,
                timeouts: Timeouts(deadTime: deadTime),
                configuration: configuration, delegate: self)
            link.onWantsStripe = { [weak self] link in self?.wishes.put(link.stripeCount) }
            link.onBroken = { [weak self] _, reason in self?.note(.broken(reason)) }
            self.link = link
            link.start()
        }
    }

    static func pair(
        stripes: Int, _ configuration: LinkConfiguration = LinkConfiguration()
    ) throws -> (LinkEnd, LinkEnd) {
        let sockets = (0..<stripes).map { _ in socketPair() }
        return (try LinkEnd(sockets.map(\.0), configuration), try LinkEnd(sockets.map(\.1), configuration))
    }

    /// A link of several stripes, whose other ends the test holds.
    static func withRawEnds(
        _ stripes: Int, _ configuration: LinkConfiguration = LinkConfiguration(), isMaker: Bool = true
    ) throws -> (LinkEnd, [RawSocket]) {
        let sockets = (0..<stripes).map { _ in socketPair() }
        for (_, raw) in sockets { makeBlocking(raw) }
        let end = try LinkEnd(sockets.map(\.0), configuration, isMaker: isMaker)
        return (end, sockets.map { RawSocket(owning: $0.1) })
    }

    /// A link with one stripe, whose other end the test holds.
    static func withRawEnd(deadTime: Interval = .seconds(60)) throws -> (LinkEnd, RawSocket) {
        let (a, b) = socketPair()
        makeBlocking(b)
        return (try LinkEnd([a], deadTime: deadTime), RawSocket(owning: b))
    }

    func onLoop<Value: Sendable>(_ body: @escaping @Sendable (LinkEnd) -> Value) throws -> Value {
        try loop.sync { [self] in body(self) }
    }

    func placing(_ place: @escaping @Sendable (FrameHeader) -> Placement) throws {
        try onLoop { $0.place = place }
    }

    func send(_ header: FrameHeader, _ payload: [UInt8] = [], inOrder: Bool = false) throws {
        try onLoop { $0.link?.send(header, payload: payload, inOrder: inOrder) }
    }

    func enqueue(_ header: FrameHeader, _ memory: Memory, owner: UInt32 = 1, token: Int = 1) throws {
        try onLoop { end in
            end.lent.append(memory)
            var header = header
            header.payloadBytes = UInt32(memory.byteCount)
            end.queue.append(
                OutgoingSegment(
                    header: header, payload: UnsafeRawPointer(memory.base), owner: LaunchNumber(owner), token: token))
            end.link?.kick()
        }
    }

    /// Of memory that somebody has lent, at this address, for as long as the link is there.
    func enqueue(_ header: FrameHeader, lentAt address: UInt, byteCount: Int) throws {
        try onLoop { end in
            guard let payload = UnsafeRawPointer(bitPattern: address) else { return }
            var header = header
            header.payloadBytes = UInt32(byteCount)
            end.queue.append(
                OutgoingSegment(header: header, payload: payload, owner: LaunchNumber(1), token: 1, isLent: true))
            end.link?.kick()
        }
    }

    func abandon(_ owner: UInt32) throws { try onLoop { $0.link?.abandon(LaunchNumber(owner)) } }

    func stop() throws {
        try onLoop {
            $0.link?.close()
            $0.link = nil
            $0.onEvent = { _, _ in }
        }
        loop.stop()
    }

    private func note(_ event: Event) {
        events.put(event)
        onEvent(self, event)
    }

    // MARK: the delegate

    func link(_ link: Link, placementFor header: FrameHeader) -> Placement {
        note(.asked(header))
        return place(header)
    }
    func link(_ link: Link, received header: FrameHeader, token: Int) { note(.placed(header, token: token)) }
    func link(_ link: Link, received header: FrameHeader, payload: [UInt8]) { note(.frame(header, payload)) }
    func nextSegment(for link: Link, limit: Int) -> OutgoingSegment? { queue.isEmpty ? nil : queue.removeFirst() }
    func bytesLeft(for link: Link) -> Int { queue.reduce(0) { $0 + Int($1.header.payloadBytes) } }
    func link(_ link: Link, sent segment: OutgoingSegment) { note(.sent(token: segment.token)) }
}

extension LinkEnd {
    /// The next frames that came with their payload, whatever else happens.
    func frames(_ count: Int) throws -> [(header: FrameHeader, payload: [UInt8])] {
        var frames: [(FrameHeader, [UInt8])] = []
        while frames.count < count {
            switch try events.take() {
            case .frame(let header, let payload): frames.append((header, payload))
            case .broken(let reason): throw Stuck(waitingFor: "a frame over a link that broke: \(reason)")
            default: break
            }
        }
        return frames
    }

    func brokenReason() throws -> String {
        while true { if case .broken(let reason) = try events.take() { return reason } }
    }
}

func header(
    _ kind: FrameHeader.Kind, launch: UInt32 = 1, tag: UInt64 = 0, offset: UInt64 = 0, payloadBytes: Int = 0,
    serial: UInt64 = 0
) -> FrameHeader {
    FrameHeader(
        kind: kind, chunk: 3, epoch: Epoch(5), launch: LaunchNumber(launch), tag: Tag(tag), offset: offset,
        payloadBytes: UInt32(payloadBytes), serial: serial)
}

/// Of a stripe, so many numbered frames have been taken in.
func acknowledgement(stripe: UInt16 = 0, _ count: UInt64) -> FrameHeader {
    FrameHeader(
        kind: .acknowledge, chunk: stripe, epoch: .none, launch: LaunchNumber(0), tag: Tag(0), offset: count)
}

let headerBytes = FrameHeader.byteCount

extension FrameHeader {
    var bytes: [UInt8] {
        var bytes = [UInt8](repeating: 0, count: FrameHeader.byteCount)
        bytes.withUnsafeMutableBytes { store(to: $0.baseAddress!) }
        return bytes
    }
}
