import PCCLBase
import PCCLWire
import Testing

@testable import PCCLMembership

@Suite("Transcripts: the shared state is synchronised")
struct SharingTests {
    private func offer(
        _ revision: UInt64, _ content: UInt64, _ strategy: SharedStateStrategy = .enforcePopular
    ) -> StateOffer {
        StateOffer(
            revision: revision, strategy: strategy,
            entries: ["bias", "weights"].map { name in
                StateEntry(
                    name: name, type: .float32, count: 10, allowsInequality: false,
                    hash: ContentHash(high: 0, low: name == "bias" ? 1 : content))
            })
    }

    private func key(_ content: UInt64) -> StateDecision.Key {
        .init(entry: 1, hash: ContentHash(high: 0, low: content))
    }

    private func decisions(_ c: Cluster, toldTo name: String) -> [StateDecision] {
        c.told(name).compactMap { if case .receiveState(let decision) = $0 { decision } else { nil } }
    }

    @Test("once all have called: who differs receives what differs, and all end together")
    func everybody() {
        var c = Cluster(of: "A", "B", "C")
        let epoch = c.epoch("A")
        c.fetching = ["C"]
        c.call("A", .synchronizeState(offer(5, 7)))
        c.call("C", .synchronizeState(offer(5, 9)))
        #expect(c.nodes["A"]?.isLent == true && c.sentByMaster.isEmpty)
        c.call("B", .synchronizeState(offer(5, 7)))
        #expect(c.answers.isEmpty, "A and B hold it, and give it")
        #expect(c.nodes["C"]?.fetch?.keys == [key(7)] && c.nodes["C"]?.fetch?.sources == [c.id("A"), c.id("B")])
        c.finishFetching("C")
        for name in ["A", "B", "C"] {
            #expect(c.answers[name] == [.synchronized(revision: 5)])
            #expect(c.nodes[name]?.isLent == false && c.epoch(name) == epoch)
        }
    }

    @Test("where all hold the same nothing is sent, and the next revision is one more")
    func same() {
        var c = Cluster(of: "A", "B")
        for name in ["A", "B"] { c.call(name, .synchronizeState(offer(5, 7))) }
        #expect(c.answers["B"] == [.synchronized(revision: 5)] && decisions(c, toldTo: "B").isEmpty)
        c.forgetAnswers()
        c.call("A", .synchronizeState(offer(6, 8)))
        c.call("B", .synchronizeState(offer(7, 8)))
        #expect(c.answers["A"] == [.synchronized(revision: 6)])
        guard case .failed(.refused(let reason))? = c.answers["B"]?.first else {
            Issue.record("\(c.answers)")
            return
        }
        #expect(reason.contains("revision 7, where 6 is due"))
        #expect(c.view("A") == ["A"] && c.nodes["B"]?.machine.isMember == false && c.nodes["B"]?.isLent == false)
    }

    @Test(
        "with operations in flight, in another call or unconnected it is refused at once; nothing is launched meanwhile"
    )
    func refusedAtOnce() {
        var c = Cluster(of: "A", "B")
        c.reduce("A")
        c.call("A", .synchronizeState(offer(0, 1)))
        #expect(c.answers["A"] == [.failed(.operationsInFlight)])
        c.reduce("B")
        c.forgetAnswers()
        c.call("A", .synchronizeState(offer(0, 1)))
        c.arePeersPending("A")
        #expect(c.answers["A"] == [.failed(.callInProgress)])
        c.reduce("A")
        guard case .misuse? = c.outcomes["A"]?.first else {
            Issue.record("\(c.outcomes)")
            return
        }
        c.leave("A")
        #expect(c.answers["A"]?.last == .failed(.destroyed) && c.nodes["A"]?.isLent == false)
    }

    @Test("others wait in another call: both are refused, naming each other, and the memory is the callers' again")
    func misuse() {
        var c = Cluster(of: "A", "B")
        c.call("A", .synchronizeState(offer(0, 1)))
        c.updateTopology("B")
        c.pass(c.timeouts.stragglerPatience * 2)
        for name in ["A", "B"] {
            guard case .failed(.refused(let reason))? = c.answers[name]?.first else {
                Issue.record("\(name): \(c.answers)")
                continue
            }
            #expect(reason.contains(name == "A" ? "at the join point" : "in a synchronisation"))
        }
        #expect(c.nodes["A"]?.isLent == false)
    }

    @Test("a source is lost in the middle: what is left is received from the others")
    func lostSource() {
        var c = Cluster(of: "A", "B", "C")
        c.fetching = ["C"]
        for (name, content) in [("A", 7), ("B", 7), ("C", 9)] {
            c.call(name, .synchronizeState(offer(0, UInt64(content))))
        }
        let first = c.nodes["C"]?.fetch?.launch
        c.kill("A")
        #expect(c.nodes["C"]?.fetch?.sources == [c.id("B")] && c.nodes["C"]?.fetch?.launch != first)
        // What was asked for before is not what is waited for.
        first.map { c.deliver(.stateFetched($0, failure: nil), to: "C") }
        #expect(c.answers.isEmpty)
        c.finishFetching("C")
        #expect(c.answers["B"] == [.synchronized(revision: 0)] && c.answers["C"] == [.synchronized(revision: 0)])
    }

    @Test("the last source is lost: who was receiving has nothing to give, and what it had before is not elected")
    func lostContent() {
        var c = Cluster(of: "A", "B", "C")
        c.fetching = ["B", "C"]
        c.call("A", .synchronizeState(offer(0, 7, .sendOnly)))
        for name in ["B", "C"] { c.call(name, .synchronizeState(offer(0, 9, .receiveOnly))) }
        c.kill("A")
        #expect(c.answers == ["B": [.failed(.noSharedState)], "C": [.failed(.noSharedState)]])
        // And they can go on with a new one.
        c.forgetAnswers()
        for name in ["B", "C"] { c.call(name, .synchronizeState(offer(3, 4))) }
        #expect(c.answers["C"] == [.synchronized(revision: 3)])
    }

    @Test("alone after that it is no success either: the tensors are torn")
    func lostContentAlone() {
        var c = Cluster(of: "A", "B")
        c.fetching = ["B"]
        c.call("A", .synchronizeState(offer(0, 7)))
        c.call("B", .synchronizeState(offer(0, 9)))
        c.kill("A")
        #expect(c.answers["B"] == [.failed(.noSharedState)])
        c.call("B", .synchronizeState(offer(8, 2)))
        #expect(c.answers["B"]?.last == .synchronized(revision: 8))
    }

    @Test("who has received gives it on when the first source is lost")
    func handedOn() {
        var c = Cluster(of: "A", "B", "C")
        c.fetching = ["B", "C"]
        c.call("A", .synchronizeState(offer(0, 7, .sendOnly)))
        // Both may give what they have; only A's is elected.
        for name in ["B", "C"] { c.call(name, .synchronizeState(offer(0, 9, .receiveOnly))) }
        c.finishFetching("B")
        c.kill("A")
        // Receivers give nothing, even what they have received.
        #expect(c.answers["C"] == [.failed(.noSharedState)])
        var d = Cluster(of: "A", "B", "C", "D")
        d.fetching = ["B", "C"]
        for (name, content) in [("A", 7), ("B", 8), ("C", 9), ("D", 7)] {
            d.call(name, .synchronizeState(offer(0, UInt64(content))))
        }
        d.finishFetching("B")
        d.kill("A")
        d.kill("D")
        #expect(d.nodes["C"]?.fetch?.sources == [d.id("B")])
        d.finishFetching("C")
        #expect(d.answers["B"] == [.synchronized(revision: 0)] && d.answers["C"] == d.answers["B"])
    }

    @Test("what cannot be received ends the call for all")
    func cannotReceive() {
        var c = Cluster(of: "A", "B")
        c.fetching = ["B"]
        c.call("A", .synchronizeState(offer(0, 7)))
        c.call("B", .synchronizeState(offer(0, 9)))
        c.finishFetching("B", failure: "no source gives it")
        #expect(c.answers == ["A": [.failed(.noSharedState)], "B": [.failed(.noSharedState)]])
        #expect(c.logs.contains { $0.contains("no source gives it") })
    }

    @Test(
        "a control connection breaks in the middle: the offer is said again, and the call ends well",
        arguments: ["A", "B"])
    func brokenConnection(name: String) {
        var c = Cluster(of: "A", "B", grace: longGrace)
        c.fetching = ["B"]
        c.call("A", .synchronizeState(offer(0, 7)))
        c.call("B", .synchronizeState(offer(0, 9)))
        c.breakConnection(name)
        c.seek()
        #expect(c.answers.isEmpty && c.told(name).contains(.repeatOffer))
        c.finishFetching("B")
        #expect(c.answers == ["A": [.synchronized(revision: 0)], "B": [.synchronized(revision: 0)]])
    }

    @Test("an answer that was missed is told again, and is no vote for the next synchronisation")
    func missedAnswer() {
        var c = Cluster(of: "A", "B", grace: longGrace)
        c.hold(from: "master", to: "B")
        for name in ["A", "B"] { c.call(name, .synchronizeState(offer(4, 7))) }
        #expect(c.answers == ["A": [.synchronized(revision: 4)]])
        c.breakConnection("B")
        c.seek()
        #expect(c.answers["B"] == [.synchronized(revision: 4)])
        c.call("A", .synchronizeState(offer(5, 8)))
        #expect(c.answers["A"]?.count == 1)
        c.call("B", .synchronizeState(offer(5, 8)))
        #expect(c.answers["B"]?.last == .synchronized(revision: 5))
    }

    @Test(
        "the master is started anew in the middle, or after it told some: all end alike", arguments: [true, false],
        [true, false])
    func restart(keepingJournal: Bool, hasToldSome: Bool) {
        var c = Cluster(of: "A", "B", grace: longGrace)
        for name in ["A", "B"] { c.call(name, .synchronizeState(offer(4, 7))) }
        c.forgetAnswers()
        c.fetching = ["B"]
        c.call("A", .synchronizeState(offer(5, 8)))
        c.call("B", .synchronizeState(offer(5, 9)))
        if hasToldSome {
            c.hold(from: "master", to: "B")
            c.finishFetching("B")
            #expect(c.answers == ["A": [.synchronized(revision: 5)]])
        }
        c.killMaster()
        c.releaseEverything()
        c.restartMaster(keepingJournal: keepingJournal)
        c.seek()
        c.finishFetching("B")
        #expect(c.answers == ["A": [.synchronized(revision: 5)], "B": [.synchronized(revision: 5)]])
        // What was agreed on is known.
        c.call("A", .synchronizeState(offer(6, 1)))
        c.call("B", .synchronizeState(offer(7, 1)))
        #expect(c.answers["A"]?.last == .synchronized(revision: 6) && c.view("A") == ["A"])
    }

    @Test("a state that does not fit the caller's, or that nobody asked for, is a violation")
    func violations() {
        for decision in [
            StateDecision(
                session: 1, revision: 0, sources: [PeerID(1)],
                keys: [.init(entry: 2, hash: ContentHash(high: 0, low: 1))]),
            StateDecision(session: 1, revision: 0, sources: [PeerID(1)], keys: [key(1), key(1)]),
            StateDecision(session: 1, revision: 0, sources: [PeerID(2)], keys: [key(1)]),
        ] {
            var c = Cluster(of: "A", "B")
            c.call("B", .synchronizeState(offer(0, 7)))
            c.forge(.receiveState(decision), to: "B")
            #expect(c.nodes["B"]?.fetch == nil)
            #expect(c.nodes["B"]?.connection == nil, "the master is given up")
        }
        var c = Cluster(of: "A", "B")
        c.forge(.receiveState(StateDecision(session: 1, revision: 0, sources: [], keys: [])), to: "B")
        #expect(c.nodes["B"]?.connection == nil)
    }
}
