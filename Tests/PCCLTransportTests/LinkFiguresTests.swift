import Glibc
import PCCLBase
import PCCLTestSupport
import PCCLWire
import Testing

@testable import PCCLTransport

@Suite("What transfers tell of a link", .timeLimit(.minutes(1)))
struct LinkFiguresTests {
    @Test("a link that carried a word has a latency; one that carried megabytes has a rate too", arguments: [1, 3])
    func figures(stripes: UInt16) throws {
        let (one, two) = (try MeshEnd(1, stripes: stripes), try MeshEnd(2, stripes: stripes))
        for end in [one, two] { try end.want([one.member, two.member]) }
        for end in [one, two] {
            try end.events.waitUntil { $0.contains { if case .linked = $0 { true } else { false } } }
        }
        try one.send(5, to: 2)
        try two.events.waitUntil { $0.contains(.frame(from: 1, tag: 5)) }
        let young = try one.figure(of: 2)
        #expect(young?.peer == PeerID(2))
        #expect(young?.bytesPerSecond == nil, "a word says nothing of the rate")
        // Over loopback a rate is an average, and that takes a tenth of a second of transfers.
        var old: LinkFigure?
        for round in 1...200 where old?.bytesPerSecond == nil {
            for _ in 0..<8 { try one.send(bytes: 1 << 20, to: 2) }
            try two.events.waitUntil { $0.count { $0 == .frame(from: 1, tag: 1) } == 8 * round }
            old = try one.figure(of: 2)
        }
        #expect(old?.bytesPerSecond ?? 0 > 1_000_000)
        #expect((1..<100_000_000).contains(old?.latencyNanoseconds ?? 0))
        #expect(try two.figure(of: 1)?.bytesPerSecond == nil, "the way back carried nothing")
        for end in [one, two] { try end.stop() }
    }

    @Test("what is no TCP connection has no figures")
    func noTCP() throws {
        let (mine, theirs) = socketPair()
        defer { close(theirs) }
        let end = try MeshEnd(1)
        let figure = try end.loop.sync { () -> LinkFigure in
            let link = Link(
                end.loop, peer: PeerID(9), channels: [Channel(Socket(owning: mine))],
                timeouts: Timeouts(deadTime: .seconds(5)), delegate: end
            )
            defer { link.close() }
            return link.figure
        }
        #expect(figure == LinkFigure(peer: PeerID(9)))
        try end.stop()
    }
}
