import PCCLBase
import PCCLWire
import Testing

@testable import PCCLMembership

/// Members that call with different descriptors fail, each when it hears of the difference. A flush may come in between, and
/// takes what was on its way; what the others count as failed says who has yet to fail what.
@Suite("Transcripts: descriptors differ, and the epoch ends before all know")
struct MismatchTests {
    private func isMismatch(_ outcome: OperationOutcome?) -> Bool {
        if case .mismatch? = outcome { true } else { false }
    }

    // B differs. A hears so and tells its caller. C has heard A, and B nobody, when E is lost; D has not called. The three
    // were told three different things: an error, misuse and nothing at all, B having begun again, alone.
    @Test("one member has failed the call, one has heard it, one nobody, one has not called: all fail it, and go on")
    func fourStages() {
        var c = Cluster(of: "A", "B", "C", "D", "E")
        for (from, to) in [("A", "B"), ("C", "B"), ("B", "C")] { c.hold(from: from, to: to) }
        c.reduce("A")
        c.reduce("B", as: Cluster.product)
        c.reduce("C")
        #expect(isMismatch(c.outcomes["A"]?.first) && c.outcomes["B"] == nil && c.outcomes["C"] == nil)
        c.kill("E")
        c.releaseEverything()
        for name in ["A", "B", "C"] {
            #expect(c.outcomes[name]?.count == 1 && isMismatch(c.outcomes[name]?.first), "\(name)")
            #expect(c.nodes[name]?.restored.count == 1 && c.inFlight(name) == 0)
        }

        c.reduce("A", "B", "C")
        #expect(c.inFlight("A") == 1, "D has yet to make the call that failed")
        c.reduce("D")
        #expect(isMismatch(c.outcomes["D"]?.first), "nobody waits in it: it fails at once")
        c.reduce("D")
        for name in ["A", "B", "C", "D"] { #expect(c.outcomes[name]?.last == .success(worldSize: 4)) }
    }

    @Test("a call that others have failed fails at once, too, if it is made while everything stands still")
    func calledWhileHalted() {
        var c = Cluster(of: "A", "B", "C", "D")
        c.reduce("A")
        c.reduce("B", as: Cluster.product)
        c.hold(from: "A", to: "master")
        c.kill("D")
        c.reduce("C")
        #expect(c.outcomes["C"] == nil && c.inFlight("C") == 1)
        c.releaseEverything()
        #expect(isMismatch(c.outcomes["C"]?.first))
        c.reduce("A", "B", "C")
        for name in ["A", "B", "C"] { #expect(c.outcomes[name]?.last == .success(worldSize: 3)) }
    }

    @Test("the same after a repair: the others' next call is not taken for the one that failed")
    func repair() {
        var c = Cluster(of: "A", "B", "C")
        c.reduce("A")
        c.reduce("B", as: Cluster.product)
        c.reduce("A", "B")
        c.breakLink("A", "B")
        c.pass(Cluster.timeouts.repairGrace * 2)
        #expect(c.epoch("C") > 2 && c.inFlight("A") == 1)
        c.reduce("C")
        #expect(isMismatch(c.outcomes["C"]?.first) && c.inFlight("A") == 1)
        c.reduce("C")
        for name in ["A", "B", "C"] { #expect(c.outcomes[name]?.last == .success(worldSize: 3)) }
    }

    @Test("calls that failed in several epochs are all still to come")
    func twice() {
        var c = Cluster(of: "A", "B", "C", "D", "E")
        for lost in ["D", "E"] {
            c.reduce("A")
            c.reduce("B", as: Cluster.product)
            c.kill(lost)
        }
        c.reduce("A", "B", "C", "C")
        #expect(c.outcomes["C"]?.count == 2 && c.inFlight("A") == 1)
        c.reduce("C")
        #expect(c.outcomes["C"]?.map(isMismatch) == [true, true, false])
        for name in ["A", "B", "C"] { #expect(c.outcomes[name]?.last == .success(worldSize: 3)) }
    }

    @Test("a member still holds the call before the failed one: that is a success, the failed one is still to come")
    func preparedBefore() {
        var c = Cluster(of: "A", "B", "C", "D")
        c.withholdResult("A")
        c.reduce("A", "B", "C", "D")
        c.hold(from: "A", to: "C")
        c.finishResult("A")
        #expect(c.outcomes["B"] == [.success(worldSize: 4)] && c.outcomes["C"] == nil)
        c.reduce("A")
        c.reduce("B", as: Cluster.product)
        #expect(isMismatch(c.outcomes["A"]?.last))
        c.kill("D")
        c.releaseEverything()
        #expect(c.outcomes["C"] == [.success(worldSize: 4)])
        c.reduce("A", "B", "C")
        #expect(isMismatch(c.outcomes["C"]?.last) && c.inFlight("A") == 1)
        c.reduce("C")
        for name in ["A", "B", "C"] { #expect(c.outcomes[name]?.last == .success(worldSize: 3)) }
    }

    @Test("the member that knew of the difference is lost with the one that differed: the others know of none")
    func nobodyKnows() {
        var c = Cluster(of: "A", "B", "C", "D")
        c.reduce("A")
        c.hold(from: "B", to: "C")
        c.reduce("B", as: Cluster.product)
        #expect(isMismatch(c.outcomes["A"]?.first) && isMismatch(c.outcomes["B"]?.first))
        c.hold(from: "C", to: "master")
        c.kill("A")
        c.kill("B")
        c.reduce("C", "D")
        c.releaseEverything()
        #expect(c.outcomes["C"] == [.success(worldSize: 2)] && c.outcomes["D"] == [.success(worldSize: 2)])
    }

    @Test("a join point is where calls are counted from: what was missed before it does not come any more")
    func joinPoint() {
        var c = Cluster(of: "A", "B", "C", "D")
        c.reduce("A")
        c.reduce("B", as: Cluster.product)
        c.kill("D")
        c.connect("N")
        c.updateTopology("A", "B", "C")
        #expect(c.view("N") == ["A", "B", "C", "N"])
        c.forgetAnswers()
        c.reduce("A", "B", "C", "N")
        for name in ["A", "B", "C", "N"] { #expect(c.outcomes[name] == [.success(worldSize: 4)]) }
    }

    /// B differs and hears it from C; A's entry is still on its way to B. All three have failed.
    private func entryOutstanding() -> Cluster {
        var c = Cluster(of: "A", "B", "C")
        c.hold(from: "A", to: "B")
        c.reduce("A", "C")
        c.reduce("B", as: Cluster.product)
        for name in ["A", "B", "C"] { #expect(isMismatch(c.outcomes[name]?.first) && c.inFlight(name) == 0) }
        return c
    }

    // Nothing was in flight, so nobody asked for a repair; B took the entry of A's next call for the one that was lost.
    @Test("an entry to a call that has failed is lost with its link: a repair, and the next call is clean")
    func owedEntryIsLost() {
        var c = entryOutstanding()
        c.breakLink("A", "B")
        c.releaseEverything()
        c.pass(Cluster.timeouts.repairGrace * 2)
        c.reduce("A", "B", "C")
        for name in ["A", "B", "C"] { #expect(c.outcomes[name]?.last == .success(worldSize: 3)) }
    }

    @Test("the same while members are in a join point that then admits nobody")
    func owedEntryIsLostWhileJoining() {
        var c = entryOutstanding()
        c.hold(from: "N", to: "master")
        c.connect("N")
        c.release(from: "N", to: "master")
        c.hold(from: "N", to: "master")
        c.updateTopology("A", "B", "C")
        let epoch = c.epoch("A")
        c.breakLink("A", "B")
        c.release(from: "A", to: "B")
        c.kill("N")
        #expect(c.answers["A"] == [.done] && c.epoch("A") == epoch)
        c.pass(Cluster.timeouts.repairGrace * 2)
        c.reduce("A", "B", "C")
        for name in ["A", "B", "C"] { #expect(c.outcomes[name]?.last == .success(worldSize: 3)) }
    }

    @Test("a call fails while a link is down, so its entry never goes out: the member there learns of it by a repair")
    func failedWhileLinkIsDown() {
        var c = Cluster(of: "A", "B", "C")
        c.separate("A", "B")
        c.breakLink("A", "B")
        c.reduce("A")
        c.reduce("C", as: Cluster.product)
        #expect(isMismatch(c.outcomes["A"]?.first) && isMismatch(c.outcomes["C"]?.first))
        c.reunite("A", "B")
        // Peer B's call is like C's, and it would wait for A's entry.
        c.reduce("B", as: Cluster.product)
        c.pass(Cluster.timeouts.repairGrace * 2)
        #expect(isMismatch(c.outcomes["B"]?.first))
        c.reduce("A", "B", "C")
        for name in ["A", "B", "C"] { #expect(c.outcomes[name]?.last == .success(worldSize: 3)) }
    }

    @Test("an entry to a failed call is lost, and then the master: nobody can say what was missed, the member leaves")
    func masterGoneBeforeRepair() {
        var c = entryOutstanding()
        c.breakLink("A", "B")
        c.releaseEverything()
        #expect(c.isLinked("A", "B"))
        c.killMaster()
        c.reduce("B")
        guard case .masterLost? = c.outcomes["B"]?.last else {
            Issue.record("\(String(describing: c.outcomes["B"]))")
            return
        }
    }

    @Test("membership calls of members that have failed the call are not refused because others fail it later")
    func votesStay() {
        var c = Cluster(of: "A", "B", "C", "D")
        c.hold(from: "B", to: "C")
        c.reduce("A")
        c.reduce("B", as: Cluster.product)
        c.reduce("C")
        c.updateTopology("A", "B")
        c.kill("D")
        c.releaseEverything()
        #expect(isMismatch(c.outcomes["C"]?.first))
        c.updateTopology("C")
        for name in ["A", "B", "C"] { #expect(c.answers[name] == [.done]) }
    }
}
