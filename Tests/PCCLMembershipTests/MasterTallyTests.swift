import PCCLBase
import PCCLWire
import Testing

@testable import PCCLMembership

@Suite("What a master has seen")
struct MasterTallyTests {
    private func events(_ c: Cluster) -> [String] {
        c.master.tally.changes.map { change in
            switch change.kind {
            case .registered(let peer, _): "registered \(peer.value)"
            case .admitted(let peers): "admitted \(peers.map(\.value))"
            case .gone(let peer, _, let cause, let wasMember, _):
                "\(wasMember ? "member" : "newcomer") gone \(peer.value) \(cause.rawValue)"
            case .detached(let peer, _): "detached \(peer.value)"
            case .attached(let peer): "attached \(peer.value)"
            }
        }
    }

    @Test("who comes is registered, then admitted; who goes is gone, for the reason that was")
    func comingAndGoing() {
        var c = Cluster(of: "A", "B", "C", "D")
        let before = events(c).count
        c.leave("B")
        c.kill("C")
        c.freeze("D")
        c.pass(Cluster.timeouts.deadTime * 2)
        c.connect("E")
        c.kill("E")
        #expect(
            events(c).dropFirst(before) == [
                "member gone 2 left", "member gone 3 disconnected", "member gone 4 silent", "registered 5",
                "newcomer gone 5 disconnected",
            ])
        let tally = c.master.tally
        #expect(tally.registrations == 5 && tally.admissions == 4)
        #expect(tally.departures == [.left: 1, .disconnected: 1, .silent: 1])
        #expect(tally.newcomersGone == [.disconnected: 1])
        #expect(tally.flushes == [.loss: 3])
        #expect(tally.changes.map(\.number) == Array(1...UInt64(tally.changes.count)))
    }

    @Test("verdicts are counted for each member that had the operation in flight")
    func verdicts() {
        var c = Cluster(of: "A", "B", "C")
        c.reduce("A", "C")
        c.kill("C")
        #expect(c.master.tally.verdicts == [.restart: 1])
    }

    @Test("only the last changes are kept, and all are counted")
    func limit() {
        var c = Cluster(of: "A")
        for i in 0..<MasterTally.changeLimit {
            c.connect("B\(i)")
            c.kill("B\(i)")
        }
        let tally = c.master.tally
        #expect(tally.changes.count == MasterTally.changeLimit)
        #expect(tally.changes.last?.number == UInt64(2 + 2 * MasterTally.changeLimit))
        #expect(tally.registrations == 1 + UInt64(MasterTally.changeLimit))
    }

    @Test("an operation that waits for a member is known from those who wait, until it has gone on")
    func lateOperation() throws {
        var c = Cluster(of: "A", "B", "C")
        c.reduce("A", "C", tag: 7)
        func late() -> [MasterGroup.LateOperation] {
            let master = c.master
            return master.lateOperations(of: master.groups[0], at: c.now)
        }
        #expect(late().isEmpty, "nobody has said anything")
        let began = c.now
        c.pass(Cluster.timeouts.stragglerPatience, .milliseconds(10))
        let seen = try #require(late().first)
        #expect(late().count == 1)
        #expect(seen.tag == Tag(7) && seen.waiting.array == [c.id("A"), c.id("C")] && seen.missing == [c.id("B")])
        #expect(seen.since >= began && seen.since - began < .milliseconds(20))
        c.reduce("B", tag: 7)
        c.pass(Cluster.timeouts.stragglerPatience * 2)
        #expect(late().isEmpty, "nobody says any more that he waits")
    }

    @Test("a member that names ever new operations takes no more room than one that names some")
    func manyLateOperations() {
        var c = Cluster(of: "A", "B")
        let epoch = Epoch(c.epoch("A"))
        for tag in 0..<200 {
            c.forge(.stalled(epoch: epoch, tag: Tag(UInt64(tag)), missing: [c.id("B"), PeerID(99)]), from: "A")
        }
        let kept = c.master.groups[0].lateOperations
        #expect(kept.count == MasterGroup.lateOperationLimit)
        #expect(kept.last?.tag == Tag(199) && kept.last?.missing == [c.id("B")], "who is no member is not missed")
    }
}
