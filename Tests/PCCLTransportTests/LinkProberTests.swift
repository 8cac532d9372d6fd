import PCCLBase
import PCCLTestSupport
import PCCLWire
import Testing

@testable import PCCLTransport

@Suite("Probes of links", .timeLimit(.minutes(1)))
struct LinkProberTests {
    private func linked(_ count: Int, stripes: UInt16 = 1) throws -> [MeshEnd] {
        let ends = try (1...count).map { try MeshEnd(UInt64($0), stripes: stripes) }
        for end in ends { try end.want(ends.map(\.member)) }
        for end in ends { _ = try end.events.take(count - 1) }
        return ends
    }

    /// What is known once the links to `known` have a rate. On a machine that starves this process for longer than a probe
    /// is patient that may take more than one.
    private func probed(_ end: MeshEnd, _ peers: [UInt64], known: Set<UInt64>) throws -> [LinkFigure] {
        var figures: [LinkFigure] = []
        for _ in 0..<20 {
            figures = try end.probe(peers).value("the probes")
            if figures.allSatisfy({ !known.contains($0.peer.value) || $0.bytesPerSecond != nil }) { break }
        }
        return figures
    }

    /// A peer in the hands of the test, and the mesh that is linked with it and with an honest one, peer 2.
    private func linkedWithRaw() throws -> (MeshEnd, honest: MeshEnd, RawSocket) {
        let (end, honest) = (try MeshEnd(1), try MeshEnd(2))
        let raw = try RawSocket(port: end.port)
        try raw.write(
            Preamble(role: .stripe).bytes
                + StripeHello(
                    run: MeshEnd.run, from: PeerID(3), to: PeerID(1), attempt: 1, stripe: 0, stripeCount: 1
                ).bytes)
        try end.want([end.member, honest.member, Member(id: PeerID(3), addresses: [], stripes: 1)])
        try honest.want([end.member, honest.member])
        _ = try raw.read(Preamble.byteCount + 1)
        _ = try end.events.take(2)
        return (end, honest, raw)
    }

    @Test("peers that have not sent anything know all rates afterwards", arguments: [1, 3])
    func rates(stripes: UInt16) throws {
        let ends = try linked(3, stripes: stripes)
        #expect(try ends[0].figure(of: 2)?.bytesPerSecond == nil)
        let inRounds: [[UInt64]] = [[2, 3], [3, 1], [1, 2]]
        let all = try together(3) { try probed(ends[$0], inRounds[$0], known: [1, 2, 3]) }
        for figures in all {
            #expect(figures.count == 2)
            #expect(figures.allSatisfy { $0.bytesPerSecond != nil }, "\(figures)")
        }
        // Nobody was handed a frame.
        for end in ends { #expect(end.events.waiting.isEmpty) }
        for end in ends { try end.stop() }
    }

    @Test("a link that has a rate is not probed, and no link at all is no obstacle")
    func ratesThatAreKnown() throws {
        let ends = try linked(3)
        _ = try probed(ends[0], [2], known: [2])
        let first = try ends[0].probeBytes(to: 2)
        #expect(first >= 1 << 20)
        #expect(try ends[0].probe([7, 2, 3]).value("a second probe").count == 2)
        #expect(try ends[0].probeBytes(to: 2) == first)
        #expect(try ends[0].probeBytes(to: 3) >= 1 << 20)
        #expect(try ends[0].probe([]).value("none").isEmpty)
        for end in ends { try end.stop() }
    }

    @Test("a peer that does not read has no rate, and the probe of the next goes on")
    func hungPeer() throws {
        let (end, honest, raw) = try linkedWithRaw()
        let figures = try probed(end, [3, 2], known: [2])
        #expect(figures.map(\.peer) == [PeerID(3), PeerID(2)])
        #expect(figures[0].bytesPerSecond == nil && figures[1].bytesPerSecond != nil)
        // What was not read is still there, and only that.
        let unread = try end.probeBytes(to: 3)
        #expect(unread > 0 && unread < 32 << 20)
        try end.send(8, to: 3)
        var probes: UInt64 = 0
        while let frame = try? FrameHeader(raw.read(headerBytes)), frame.kind != .prepared {
            if frame.kind == .probe { probes += UInt64(frame.payloadBytes) }
            _ = try raw.read(Int(frame.payloadBytes))
        }
        #expect(try end.probeBytes(to: 3) == unread)
        #expect(probes <= unread && probes + UInt64(WireLimits.probePayloadBytes) >= unread)
        for end in [end, honest] { try end.stop() }
    }

    @Test("a link that breaks while it is probed is passed over")
    func lostPeer() throws {
        let (end, honest, raw) = try linkedWithRaw()
        let broken = try end.probe([3, 2])
        #expect(try FrameHeader(raw.read(headerBytes)).kind == .probe)
        raw.close()
        #expect(try broken.value("the probes").map(\.peer) == [PeerID(2)])
        #expect(try end.probeBytes(to: 2) > 0)
        for end in [end, honest] { try end.stop() }
    }

    @Test("who stops is not answered, and may begin anew")
    func stopped() throws {
        let (end, honest, raw) = try linkedWithRaw()
        let first = Mailbox<Void>("the first probe")
        try end.probe([3, 2]).whenSet { _ in first.put(()) }
        #expect(try FrameHeader(raw.read(headerBytes)).kind == .probe)
        try end.stopProbing()
        let sent = try end.probeBytes(to: 3)
        #expect(try probed(end, [2], known: [2])[0].bytesPerSecond != nil)
        #expect(first.all.isEmpty)
        #expect(try end.probeBytes(to: 3) == sent)
        withExtendedLifetime(raw) {}
        for end in [end, honest] { try end.stop() }
    }
}

@Suite("Probe frames", .timeLimit(.minutes(1)))
struct ProbeFrameTests {
    private static let largest = WireLimits.probePayloadBytes

    private func probe(_ count: Int, serial: UInt64) -> FrameHeader {
        FrameHeader(
            kind: .probe, epoch: .none, launch: LaunchNumber(0), tag: Tag(0), payloadBytes: UInt32(count),
            serial: serial)
    }

    @Test("so many bytes go out as were asked for, in numbered frames, and nobody is told that they arrived")
    func outgoing() throws {
        let (end, raw) = try LinkEnd.withRawEnd()
        try end.onLoop { $0.link?.probe(byteCount: Self.largest + 100) }
        for (serial, count) in [(1, Self.largest), (2, 100)] as [(UInt64, Int)] {
            #expect(try raw.read(headerBytes) == probe(count, serial: serial).bytes)
            #expect(try raw.read(count).count == count)
        }
        try end.send(header(.prepared))
        #expect(try raw.read(headerBytes) == header(.prepared, serial: 3).bytes)
        try raw.write(acknowledgement(3).bytes + header(.credit, serial: 1).bytes)
        #expect(try end.frames(1)[0].header.kind == .credit)
        try end.stop()
        #expect(!end.events.all.contains(.sent(token: 0)))
    }

    @Test("they are thrown away as they come, whoever asks for what, and are acknowledged")
    func incoming() throws {
        let (end, raw) = try LinkEnd.withRawEnd()
        try end.placing { $0.kind == .prepared ? .copy : .violation("not asked for") }
        for (serial, count) in [(1, Self.largest), (2, 0), (3, 12_345)] as [(UInt64, Int)] {
            try raw.write(probe(count, serial: serial).bytes + pattern(count))
        }
        let next = header(.prepared, serial: 4)
        try raw.write(next.bytes)
        #expect(try end.events.take(2) == [.asked(next), .frame(next, [])])
        var acknowledged: UInt64 = 0
        while acknowledged < 4 {
            let frame = try FrameHeader(raw.read(headerBytes))
            if frame.kind == .acknowledge { acknowledged = frame.offset }
        }
        #expect(acknowledged == 4)
        try end.stop()
    }

    @Test("a segment goes before them, and ends them")
    func operationsComeFirst() throws {
        let (end, raw) = try LinkEnd.withRawEnd()
        try end.onLoop { $0.link?.probe(byteCount: 1 << 30) }
        #expect(try FrameHeader(raw.read(headerBytes)).kind == .probe)
        let memory = Memory(pattern(1000))
        try end.enqueue(header(.data), memory)
        var probes = 1
        _ = try raw.read(Self.largest)
        while true {
            let frame = try FrameHeader(raw.read(headerBytes))
            let payload = try raw.read(Int(frame.payloadBytes))
            if frame.kind == .data {
                #expect(payload == memory.bytes)
                break
            }
            probes += 1
        }
        try end.send(header(.credit))
        #expect(try raw.read(headerBytes) == header(.credit, serial: UInt64(probes + 2)).bytes)
        try end.stop()
    }

    @Test("what they found counts until operations have sent enough to tell more")
    func found() throws {
        let (end, raw) = try LinkEnd.withRawEnd()
        #expect(try end.onLoop { $0.link?.figure.bytesPerSecond } == nil)
        try end.onLoop { $0.link?.probed = (bytesPerSecond: 77, bytesLeft: 1000) }
        for (count, rate) in [(999, 77), (1, nil)] as [(Int, UInt64?)] {
            try end.enqueue(header(.data), Memory(byteCount: count))
            _ = try raw.read(headerBytes + count)
            #expect(try end.onLoop { $0.link?.figure.bytesPerSecond } == rate)
        }
        try end.stop()
    }

    @Test("those that a stripe has not delivered are not sent again: their numbers are void")
    func brokenStripe() throws {
        let (end, raws) = try LinkEnd.withRawEnds(2)
        try end.onLoop { $0.link?.probe(byteCount: 2000) }
        #expect(try raws[0].read(headerBytes) == probe(2000, serial: 1).bytes)
        raws[0].close()
        let void = FrameHeader(kind: .void, epoch: .none, launch: LaunchNumber(0), tag: Tag(0), serial: 1)
        #expect(try raws[1].read(headerBytes) == void.bytes)
        try end.stop()
    }

    @Test("where segments are only offered their bytes travel all the same")
    func withinHost() throws {
        var configuration = LinkConfiguration()
        configuration.sharing = .ifPossible
        let (end, raws) = try LinkEnd.withRawEnds(1, configuration)
        let next = header(.prepared, serial: 1)
        try raws[0].write(header(.fetching).bytes + next.bytes)
        #expect(try end.events.take(2) == [.asked(next), .frame(next, [])])
        try end.onLoop { $0.link?.probe(byteCount: Self.largest) }
        var frame = try FrameHeader(raws[0].read(headerBytes))
        if frame.kind == .acknowledge { frame = try FrameHeader(raws[0].read(headerBytes)) }
        #expect(frame == probe(Self.largest, serial: 1))
        #expect(try raws[0].read(Self.largest).count == Self.largest)
        try end.stop()
    }
}

extension FrameHeader {
    fileprivate init(_ bytes: [UInt8]) throws {
        guard bytes.count == FrameHeader.byteCount else {
            throw WireError.cutShort(needed: FrameHeader.byteCount, had: bytes.count)
        }
        self = try bytes.withUnsafeBytes { try FrameHeader($0.baseAddress!) }
    }
}
