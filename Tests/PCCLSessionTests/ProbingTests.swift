import PCCLBase
import PCCLMembership
import PCCLSession
import PCCLTestSupport
import PCCLTransport
import PCCLWire
import Testing

@Suite("Sessions that optimise before anything was sent", .timeLimit(.minutes(2)))
struct ProbingTests {
    private static let stranger = Member(id: PeerID(99), addresses: [], stripes: 1)

    private func figures(_ message: ToMaster) -> [LinkFigure] {
        if case .voteOptimize(let figures) = message { return figures }
        Issue.record("\(message) came in place of a vote")
        return []
    }

    @Test("each votes with a rate of each link, and all go on", arguments: [2, 3])
    func rates(count: Int) throws {
        let master = try ScriptedMaster()
        let peers = try master.view(of: count)
        // On a machine that starves this process for longer than a probe is patient one call may not be enough.
        var isKnown = false
        for _ in 0..<20 where !isKnown {
            let calls = peers.map { $0.session.call(.optimizeTopology) }
            isKnown = true
            for peer in peers {
                let figures = figures(try peer.connection.next())
                #expect(figures.map(\.peer) == peers.map(\.id).filter { $0 != peer.id })
                if figures.contains(where: { $0.bytesPerSecond == nil }) { isKnown = false }
            }
            for peer in peers { try peer.connection.say(.optimizeUnchanged) }
            for call in calls { #expect(try call.value("the call") == .done) }
        }
        #expect(isKnown)
        let sessions = peers.map(\.session)
        let outcomes = try together(count) { try sessions[$0].reduce(3, Memory(int32: 1, count: 1000)).value().outcome }
        #expect(outcomes.allSatisfy { $0 == .success(worldSize: count) })
        for peer in peers { peer.session.close() }
    }

    @Test("a member that does not read is told of without a rate")
    func hungMember() throws {
        let master = try ScriptedMaster()
        let peers = try master.view(of: 2, and: [Self.stranger])
        for peer in peers { _ = peer.session.call(.optimizeTopology) }
        for peer in peers {
            let figures = figures(try peer.connection.next())
            #expect(figures.count == 2)
            #expect(figures.first { $0.peer == Self.stranger.id }?.bytesPerSecond == nil)
        }
        for peer in peers { peer.session.close() }
    }

    @Test("a call that is refused meanwhile ends them: what is left of them is what had been sent")
    func refused() throws {
        // Short, for a link says only after a while that it is idle.
        let master = try ScriptedMaster(deadTime: .seconds(10))
        let peer = try master.view(of: 1, and: [Self.stranger])[0]
        let call = peer.session.call(.optimizeTopology)
        #expect(try peer.frame().kind == .probe)
        try peer.connection.say(.callRefused(reason: "a test"))
        #expect(try call.value("the call") == .failed(.refused("a test")))
        var count = WireLimits.probePayloadBytes
        while true {
            let frame = try peer.frame()
            if frame.kind == .idle { break }
            if frame.kind == .probe { count += Int(frame.payloadBytes) }
        }
        // What a probe would go on for at least, were it not ended.
        #expect(count < 1 << 20)
        peer.session.close()
    }

    @Test("a session that is closed meanwhile answers its call, and ends")
    func closed() throws {
        let master = try ScriptedMaster()
        let peers = try master.view(of: 2, and: [Self.stranger])
        let calls = peers.map { $0.session.call(.optimizeTopology) }
        #expect(try peers[0].frame().kind == .probe)
        for peer in peers { peer.session.close() }
        for call in calls { #expect(try call.value("the call") == .failed(.destroyed)) }
    }
}
