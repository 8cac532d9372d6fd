import Glibc
import PCCLBase
import PCCLTestSupport
@testable import PCCLTransport
import PCCLWire
import Testing

/// A mesh with a loop and a delegate of its own, which listens on a free port.
final class MeshEnd: @unchecked Sendable, MeshDelegate, LinkDelegate {
    enum Event: Equatable, Sendable {
        case linked(UInt64, stripes: Int)
        case unlinked(UInt64, String)
        case frame(from: UInt64, tag: UInt64)
    }
    static let run = RunID(high: 1, low: 2)

    let id: UInt64
    let loop: EventLoop
    let stripes: UInt16
    let timeouts: Timeouts
    let events = Mailbox<Event>("events of a mesh")
    private(set) var port: UInt16 = 0
    private var mesh: Mesh?
    private var prober: LinkProber?
    private static let nextBase = Guarded(UInt16(21_000))

    init(_ id: UInt64, stripes: UInt16 = 1, deadTime: Interval = .seconds(60), _ credentials: Credentials = .none)
        throws
    {
        self.id = id
        self.stripes = stripes
        timeouts = Timeouts(deadTime: deadTime)
        loop = try EventLoop(name: "test")
        // Each begins elsewhere, so that tests that run side by side do not take each other's ports.
        let base = MeshEnd.nextBase.withLock { base in
            base += 20
            return base
        }
        port = try loop.sync { [self] in
            let mesh = Mesh(
                loop, stripes: stripes, timeouts: timeouts, credentials: credentials, delegate: self, linkDelegate: self
            )
            self.mesh = mesh
            prober = LinkProber(loop) { [weak mesh] in mesh?.link(to: $0) }
            return (try? mesh.listen(on: .v4(0x7f00_0001), basePort: base)) ?? 0
        }
    }

    var member: Member { Member(id: PeerID(id), addresses: [.loopback(port: port)], stripes: stripes) }

    func want(_ members: [Member], run: RunID = MeshEnd.run) throws {
        try loop.sync { [self] in mesh?.want(run: run, me: PeerID(id), members, timeouts: timeouts) }
    }
    func send(_ tag: UInt64, to peer: UInt64) throws {
        try loop.sync { [self] in mesh?.link(to: PeerID(peer))?.send(header(.prepared, tag: tag)) }
    }
    func send(bytes count: Int, to peer: UInt64) throws {
        try loop.sync { [self] in
            var header = header(.data, tag: 1)
            header.payloadBytes = UInt32(count)
            mesh?.link(to: PeerID(peer))?.send(header, payload: Array(repeating: 7, count: count))
        }
    }
    func figure(of peer: UInt64) throws -> LinkFigure? {
        try loop.sync { [self] in mesh?.link(to: PeerID(peer))?.figure }
    }
    /// What is known of the links to these peers once they were probed, one after the other.
    func probe(_ peers: [UInt64]) throws -> Completion<[LinkFigure]> {
        let probed = Completion<[LinkFigure]>()
        try loop.sync { [self] in
            prober?.probe(peers.map { PeerID($0) }) { [self] in
                probed.set(peers.compactMap { mesh?.link(to: PeerID($0))?.figure })
            }
        }
        return probed
    }
    func stopProbing() throws { try loop.sync { [self] in prober?.stop() } }
    func probeBytes(to peer: UInt64) throws -> UInt64 {
        try loop.sync { [self] in mesh?.link(to: PeerID(peer))?.probeBytes ?? 0 }
    }
    func hasLink(to peer: UInt64) throws -> Bool { try loop.sync { [self] in mesh?.link(to: PeerID(peer)) != nil } }
    func addStripe(to peer: UInt64) throws {
        try loop.sync { [self] in
            guard let link = mesh?.link(to: PeerID(peer)) else { return }
            link.onWantsStripe?(link)
        }
    }
    func stripeCount(to peer: UInt64) throws -> Int {
        try loop.sync { [self] in mesh?.link(to: PeerID(peer))?.stripeCount ?? 0 }
    }
    func stop() throws {
        try loop.sync { [self] in
            prober?.close()
            mesh?.close()
            mesh = nil
        }
        loop.stop()
    }

    func meshLinked(_ link: Link) { events.put(.linked(link.peer.value, stripes: link.stripeCount)) }
    func meshUnlinked(_ peer: PeerID, reason: String) { events.put(.unlinked(peer.value, reason)) }
    /// Tag 666 is what an honest peer would not send.
    func link(_ link: Link, placementFor header: FrameHeader) -> Placement {
        header.tag.value == 666 ? .violation("tag 666") : .copy
    }
    func link(_ link: Link, received header: FrameHeader, token: Int) {}
    func link(_ link: Link, received header: FrameHeader, payload: [UInt8]) {
        events.put(.frame(from: link.peer.value, tag: header.tag.value))
    }
    func nextSegment(for link: Link, limit: Int) -> OutgoingSegment? { nil }
    func bytesLeft(for link: Link) -> Int { 0 }
    func link(_ link: Link, sent segment: OutgoingSegment) {}
}

@Suite("The mesh", .timeLimit(.minutes(3)))
struct MeshTests {
    private func hello(
        from: UInt64, to: UInt64, run: RunID = MeshEnd.run, attempt: UInt32 = 1, stripe: UInt16 = 0, count: UInt16 = 1
    ) -> [UInt8] {
        Preamble(role: .stripe).bytes
            + StripeHello(
                run: run, from: PeerID(from), to: PeerID(to), attempt: attempt, stripe: stripe, stripeCount: count
            ).bytes
    }

    /// Greets by hand; returns what came back after the preamble, before the connection was closed or one byte came.
    private func greeted(_ end: MeshEnd, _ bytes: [UInt8]) throws -> (RawSocket, [UInt8]) {
        let raw = try RawSocket(port: end.port)
        try raw.write(bytes)
        #expect(try raw.read(Preamble.byteCount) == Preamble(role: .stripe).bytes)
        return (raw, try raw.read(1))
    }

    @Test("everybody who is wanted is linked with everybody, and frames pass", arguments: [1, 4])
    func fullMesh(stripes: UInt16) throws {
        let ends = try (1...4).map { try MeshEnd(UInt64($0), stripes: stripes) }
        for end in ends { try end.want(ends.map(\.member)) }
        for end in ends {
            let linked = try end.events.take(3)
            let expected = ends.filter { $0.id != end.id }.map { MeshEnd.Event.linked($0.id, stripes: Int(stripes)) }
            #expect(linked.count == 3 && expected.allSatisfy(linked.contains))
        }
        for from in ends { for to in ends where to.id != from.id { try from.send(from.id, to: to.id) } }
        for end in ends {
            let frames = try end.events.take(3)
            for other in ends where other.id != end.id {
                #expect(frames.contains(.frame(from: other.id, tag: other.id)))
            }
        }
        for end in ends { try end.stop() }
    }

    @Test("the larger wish for stripes counts")
    func stripeWishes() throws {
        let (a, b) = (try MeshEnd(1, stripes: 5), try MeshEnd(2, stripes: 2))
        for end in [a, b] { try end.want([a.member, b.member]) }
        #expect(try a.events.take() == .linked(2, stripes: 5))
        #expect(try b.events.take() == .linked(1, stripes: 5))
        try a.stop()
        try b.stop()
    }

    @Test("a dialler that comes before it is known waits, and is linked once it is")
    func acceptorLearnsLater() throws {
        let end = try MeshEnd(1)
        let raw = try RawSocket(port: end.port)
        try raw.write(hello(from: 2, to: 1))
        #expect(try raw.read(Preamble.byteCount) == Preamble(role: .stripe).bytes)
        try end.want([])
        try end.want([Member(id: PeerID(2), addresses: [], stripes: 1)])
        #expect(try raw.read(1) == [StripeAnswer.accepted.rawValue])
        #expect(try end.events.take() == .linked(2, stripes: 1))
        try raw.write(header(.prepared, tag: 4, serial: 1).bytes)
        #expect(try end.events.take() == .frame(from: 2, tag: 4))
        try end.stop()
    }

    @Test("frames that follow a greeting at once are not lost")
    func framesBehindTheGreeting() throws {
        let end = try MeshEnd(1)
        let raw = try RawSocket(port: end.port)
        try raw.write(hello(from: 2, to: 1) + header(.prepared, tag: 4, serial: 1).bytes)
        try end.want([Member(id: PeerID(2), addresses: [], stripes: 1)])
        #expect(try end.events.take(2) == [.linked(2, stripes: 1), .frame(from: 2, tag: 4)])
        try end.stop()
    }

    @Test("another run, another peer, and who is not known after the dial patience are told so")
    func refusals() throws {
        let end = try MeshEnd(1, deadTime: .milliseconds(200))
        try end.want([])
        let other = RunID(high: 1, low: 3)
        #expect(try greeted(end, hello(from: 2, to: 1, run: other)).1 == [StripeAnswer.otherRun.rawValue])
        #expect(try greeted(end, hello(from: 2, to: 7)).1 == [StripeAnswer.notMe.rawValue])
        #expect(try greeted(end, hello(from: 2, to: 1)).1 == [StripeAnswer.unknownPeer.rawValue])
        try end.stop()
        #expect(end.events.all == [])
    }

    @Test("what is no greeting, and who says nothing, is hung up on")
    func strangers() throws {
        let end = try MeshEnd(1, deadTime: .milliseconds(200))
        try end.want([])
        for bytes in [
            [], Array("GET / HTTP/1.1\r\n\r\n".utf8), Preamble(role: .control).bytes,
            Preamble(version: 99, role: .stripe).bytes, Preamble(role: .stripe).bytes,
            Preamble(role: .stripe).bytes + [UInt8](repeating: 0xff, count: 40),
        ] as [[UInt8]] {
            #expect(try greeted(end, bytes).1 == [])
        }
        try end.stop()
    }

    @Test("a stripe that comes twice, or from an older attempt, is dropped; a newer attempt replaces")
    func attempts() throws {
        let end = try MeshEnd(1)
        try end.want([Member(id: PeerID(2), addresses: [], stripes: 2)])
        let first = try RawSocket(port: end.port)
        try first.write(hello(from: 2, to: 1, attempt: 5, stripe: 0, count: 2))
        _ = try first.read(Preamble.byteCount)
        // The answer to the second one shows that the first was taken in before.
        #expect(try greeted(end, hello(from: 2, to: 1, attempt: 5, stripe: 0, count: 2)).1 == [])
        #expect(try greeted(end, hello(from: 2, to: 1, attempt: 4, stripe: 1, count: 2)).1 == [])
        let newer = try RawSocket(port: end.port)
        try newer.write(hello(from: 2, to: 1, attempt: 6, stripe: 1, count: 2))
        #expect(try first.read(1) == [])
        let (last, answer) = try greeted(end, hello(from: 2, to: 1, attempt: 6, stripe: 0, count: 2))
        #expect(answer == [StripeAnswer.accepted.rawValue])
        #expect(try newer.read(17) == Preamble(role: .stripe).bytes + [StripeAnswer.accepted.rawValue])
        #expect(try end.events.take() == .linked(2, stripes: 2))
        withExtendedLifetime(last) {}
        try end.stop()
    }

    @Test("either side adds stripes to a link that stands, both at once too", arguments: [0, 1, 2])
    func furtherStripes(who: Int) throws {
        let (a, b) = (try MeshEnd(1), try MeshEnd(2))
        for end in [a, b] { try end.want([a.member, b.member]) }
        #expect(try a.events.take() == .linked(2, stripes: 1))
        #expect(try b.events.take() == .linked(1, stripes: 1))
        if who != 1 { try a.addStripe(to: 2) }
        if who != 0 { try b.addStripe(to: 1) }
        let wanted = who == 2 ? 3 : 2
        for (end, peer) in [(a, 2), (b, 1)] as [(MeshEnd, UInt64)] {
            while try end.stripeCount(to: peer) != wanted {}
        }
        for i in 0..<50 { try a.send(UInt64(i), to: 2) }
        let frames = try b.events.take(50)
        for i in 0..<50 { #expect(frames.contains(.frame(from: 1, tag: UInt64(i)))) }
        try a.stop()
        try b.stop()
    }

    @Test("a further stripe of a link that there is not is refused")
    func strangeStripes() throws {
        let end = try MeshEnd(1)
        try end.want([Member(id: PeerID(2), addresses: [], stripes: 1)])
        #expect(try greeted(end, hello(from: 2, to: 1, count: 0)).1 == [StripeAnswer.noSuchLink.rawValue])
        let (first, _) = try greeted(end, hello(from: 2, to: 1, attempt: 5))
        #expect(
            try greeted(end, hello(from: 2, to: 1, attempt: 4, stripe: 1, count: 0)).1
                == [StripeAnswer.noSuchLink.rawValue])
        let (second, answer) = try greeted(end, hello(from: 2, to: 1, attempt: 5, stripe: 1, count: 0))
        #expect(answer == [StripeAnswer.accepted.rawValue])
        #expect(try end.stripeCount(to: 2) == 2)
        withExtendedLifetime((first, second)) {}
        try end.stop()
    }

    @Test("a link that breaks is made again, and both sides hear of both")
    func redial() throws {
        let (a, b) = (try MeshEnd(1), try MeshEnd(2))
        for end in [a, b] { try end.want([a.member, b.member]) }
        #expect(try a.events.take() == .linked(2, stripes: 1))
        #expect(try b.events.take() == .linked(1, stripes: 1))
        for round in 0..<3 {
            let (liar, judge) = round % 2 == 0 ? (a, b) : (b, a)
            try liar.send(666, to: judge.id)
            guard case .unlinked(liar.id, let reason) = try judge.events.take() else {
                Issue.record("the judge was not told")
                break
            }
            #expect(reason.contains("tag 666"))
            guard case .unlinked(judge.id, _) = try liar.events.take() else {
                Issue.record("the liar was not told")
                break
            }
            #expect(try liar.events.take() == .linked(judge.id, stripes: 1))
            #expect(try judge.events.take() == .linked(liar.id, stripes: 1))
            try a.send(UInt64(round), to: 2)
            #expect(try b.events.take() == .frame(from: 1, tag: UInt64(round)))
        }
        try a.stop()
        try b.stop()
    }

    @Test("a link that nobody wants any more is dropped without a word here, and the other side is told")
    func unwanted() throws {
        let (a, b) = (try MeshEnd(1), try MeshEnd(2))
        for end in [a, b] { try end.want([a.member, b.member]) }
        _ = try a.events.take()
        _ = try b.events.take()
        try b.want([b.member])
        #expect(try a.events.take() == .unlinked(2, "the connection was closed"))
        #expect(try !b.hasLink(to: 1))
        #expect(try !a.hasLink(to: 2))
        // Wanted again, it comes again.
        try b.want([a.member, b.member])
        #expect(try b.events.take() == .linked(1, stripes: 1))
        #expect(try a.events.take() == .linked(2, stripes: 1))
        try a.stop()
        try b.stop()
    }

    @Test("who cannot be reached is reported with address and reason, and reached when it comes at last")
    func unreachable() throws {
        let port = try Socket.freePort()
        let end = try MeshEnd(2, deadTime: .milliseconds(200))
        let target = try MeshEnd(1)
        // The first address leads nowhere: the second is tried.
        let both = Member(id: PeerID(1), addresses: [.loopback(port: port), .loopback(port: target.port)], stripes: 1)
        try end.want([Member(id: PeerID(1), addresses: [.loopback(port: port)], stripes: 1)])
        guard case .unlinked(1, let reason) = try end.events.take() else {
            Issue.record("it was not reported")
            return
        }
        #expect(reason.contains("127.0.0.1:\(port)") && reason.contains("refused"))
        try end.want([])
        try target.want([end.member])
        try end.want([both])
        #expect(try end.events.take { $0 == .linked(1, stripes: 1) } == .linked(1, stripes: 1))
        try end.stop()
        try target.stop()
    }

    @Test(
        "of two peers only the one that is to be dialled can dial: it does, and again when the link breaks",
        arguments: [1, 3])
    func reversed(stripes: UInt16) throws {
        let (a, b) = (try MeshEnd(1, deadTime: .seconds(2)), try MeshEnd(2, stripes: stripes, deadTime: .seconds(2)))
        let nowhere = Member(id: PeerID(1), addresses: [.loopback(port: try Socket.freePort())], stripes: 1)
        try b.want([nowhere, b.member])
        try a.want([a.member, b.member])
        func linked() throws {
            #expect(try a.events.take { $0 == .linked(2, stripes: Int(stripes)) } == .linked(2, stripes: Int(stripes)))
            #expect(try b.events.take { $0 == .linked(1, stripes: Int(stripes)) } == .linked(1, stripes: Int(stripes)))
            try a.send(7, to: 2)
            try b.send(8, to: 1)
            #expect(try b.events.take { $0 == .frame(from: 1, tag: 7) } == .frame(from: 1, tag: 7))
            #expect(try a.events.take { $0 == .frame(from: 2, tag: 8) } == .frame(from: 2, tag: 8))
        }
        try linked()
        try a.send(666, to: 2)
        _ = try b.events.take { if case .unlinked(1, let reason) = $0 { reason.contains("tag 666") } else { false } }
        try linked()
        try a.addStripe(to: 2)
        while try b.stripeCount(to: 1) != Int(stripes) + 1 {}
        try a.stop()
        try b.stop()
    }

    @Test("offers that nobody waits for come to nothing")
    func strangeOffers() throws {
        let offer = StripeHello.offer
        let end = try MeshEnd(2, stripes: 2, deadTime: .seconds(1))
        let nowhere = Member(id: PeerID(1), addresses: [.loopback(port: try Socket.freePort())], stripes: 1)
        try end.want([nowhere, Member(id: PeerID(3), addresses: [], stripes: 1)])
        // Who is to dial us has nothing to offer; who is not known may become so, and is told after a while that it is not.
        for stranger in [3, 4] as [UInt64] {
            #expect(
                try greeted(end, hello(from: stranger, to: 2, count: offer)).1 == [StripeAnswer.unknownPeer.rawValue])
        }
        // One of two, and a second time the same one: the link does not come of it, and it ends.
        let (half, first) = (try RawSocket(port: end.port), hello(from: 1, to: 2, attempt: 9, count: offer))
        try half.write(first)
        _ = try half.read(Preamble.byteCount)
        #expect(try greeted(end, first).1 == [])
        #expect(try greeted(end, hello(from: 1, to: 2, attempt: 8, stripe: 1, count: offer)).1 == [])
        #expect(try half.read(1) == [])
        // Both: each is greeted as if we had dialled.
        let (left, right) = (try RawSocket(port: end.port), try RawSocket(port: end.port))
        try left.write(hello(from: 1, to: 2, attempt: 10, count: offer))
        try right.write(hello(from: 1, to: 2, attempt: 10, stripe: 1, count: offer))
        for raw in [left, right] {
            _ = try raw.read(Preamble.byteCount)
            let greeting = try StripeHello(try raw.read(StripeHello.byteCount))
            #expect(greeting.from == PeerID(2) && greeting.to == PeerID(1) && greeting.stripeCount == 2)
            try raw.write([StripeAnswer.accepted.rawValue])
        }
        #expect(try end.events.take { $0 == .linked(1, stripes: 2) } == .linked(1, stripes: 2))
        // It stands: another offer is not needed.
        #expect(try greeted(end, hello(from: 1, to: 2, attempt: 11, count: offer)).1 == [])
        try end.stop()
    }

    @Test("making and ending meshes, links and listeners leaves no descriptor, and no thread")
    func nothingIsLeft() async {
        await #expect(processExitsWith: .success) {
            func once() throws {
                let (a, b) = (try MeshEnd(1, stripes: 3), try MeshEnd(2, stripes: 3))
                for end in [a, b] { try end.want([a.member, b.member]) }
                _ = try a.events.take()
                _ = try b.events.take()
                let stranger = try RawSocket(port: a.port)
                _ = try stranger.read(Preamble.byteCount)
                try a.send(666, to: 2)
                _ = try b.events.take()
                try a.stop()
                try b.stop()
            }
            try once()
            let (descriptors, threads) = (openDescriptors, runningThreads)
            for _ in 0..<10 { try once() }
            #expect(openDescriptors == descriptors)
            #expect(threadsFall(to: threads))
        }
    }
}
