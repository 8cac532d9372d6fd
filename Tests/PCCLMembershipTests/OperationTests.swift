import PCCLBase
import PCCLWire
import Testing

@testable import PCCLMembership

@Suite("Transcripts: operations of a whole view")
struct OperationTests {
    @Test("an operation is committed by the members alone: the master hears nothing of it")
    func commit() {
        var c = Cluster(of: "A", "B", "C")
        c.reduce("A", "B")
        #expect(c.outcomes.isEmpty)
        c.reduce("C")
        for name in ["A", "B", "C"] { #expect(c.outcomes[name] == [.success(worldSize: 3)]) }
        #expect(c.sentToMaster.isEmpty && c.sentByMaster.isEmpty)
        #expect(c.inFlight("A") == 0)
    }

    @Test("nobody returns before all hold the result")
    func waitsForAll() {
        var c = Cluster(of: "A", "B")
        c.withholdResult("B")
        c.reduce("A", "B")
        #expect(c.outcomes.isEmpty)
        c.finishResult("B")
        #expect(c.outcomes == ["A": [.success(worldSize: 2)], "B": [.success(worldSize: 2)]])
    }

    @Test("a tag may be used again at once, by a member that is one call ahead")
    func again() {
        var c = Cluster(of: "A", "B")
        // B has not heard that A is prepared when A calls again.
        c.hold(from: "A", to: "B")
        c.reduce("B")
        c.reduce("A")
        #expect(c.outcomes["A"] == nil, "B has not heard A's entry")
        c.release(from: "A", to: "B")
        #expect(c.outcomes == ["A": [.success(worldSize: 2)], "B": [.success(worldSize: 2)]])

        c.withholdResult("A")
        c.reduce("A", "B")
        c.hold(from: "A", to: "B")
        c.finishResult("A")
        #expect(c.outcomes["A"]?.count == 2 && c.outcomes["B"]?.count == 1)
        c.reduce("A", as: Cluster.product)
        c.release(from: "A", to: "B")
        #expect(c.outcomes["B"]?.count == 2)
        c.reduce("B", as: Cluster.product)
        #expect(c.outcomes["A"]?.count == 3 && c.outcomes["B"]?.count == 3)
        #expect(c.outcomes["B"]?.allSatisfy { $0 == .success(worldSize: 2) } == true)
    }

    @Test("operations with different tags run side by side and end in any order")
    func manyTags() {
        var c = Cluster(of: "A", "B")
        c.reduce("A", tag: 1)
        c.reduce("A", tag: 2)
        c.reduce("B", tag: 2)
        #expect(c.outcomes["A"]?.count == 1 && c.inFlight("A") == 1)
        c.reduce("B", tag: 1)
        #expect(c.outcomes["A"]?.count == 2)
    }

    @Test("descriptors that differ fail the call on all three members, also on the one that calls late")
    func mismatch() {
        var c = Cluster(of: "A", "B", "C")
        c.reduce("A")
        c.reduce("B", as: Cluster.product)
        for name in ["A", "B"] {
            guard case .mismatch(let text)? = c.outcomes[name]?.first else {
                Issue.record("\(name): \(String(describing: c.outcomes[name]))")
                continue
            }
            // Both peers and both calls are named.
            for part in ["\(c.id("A"))", "\(c.id("B"))", "sum", "product", "tag 1"] { #expect(text.contains(part)) }
        }
        #expect(c.inFlight("A") == 0)
        c.reduce("C")
        guard case .mismatch? = c.outcomes["C"]?.first else {
            Issue.record("C: \(String(describing: c.outcomes["C"]))")
            return
        }
        #expect(c.nodes["A"]?.restored.count == 1 && c.nodes["C"]?.restored.count == 1)
    }

    @Test("the entry still owed to a failed call is not taken for one of the next")
    func swallowing() {
        var c = Cluster(of: "A", "B", "C")
        c.reduce("A")
        c.reduce("B", as: Cluster.product)
        // A and B repeat the call, rightly now, before C has made its first.
        c.reduce("A", "B")
        #expect(c.inFlight("A") == 1)
        c.reduce("C")
        guard case .mismatch? = c.outcomes["C"]?.first else {
            Issue.record("C's first call is the failed one")
            return
        }
        #expect(c.inFlight("A") == 1, "C's first entry belongs to the call that failed")
        c.reduce("C")
        for name in ["A", "B", "C"] { #expect(c.outcomes[name]?.last == .success(worldSize: 3)) }
    }

    @Test("a mismatch in one tag leaves others alone")
    func mismatchOfOneTag() {
        var c = Cluster(of: "A", "B")
        c.reduce("A", tag: 1)
        c.reduce("A", tag: 2)
        c.reduce("B", tag: 1, as: Cluster.product)
        #expect(c.inFlight("A") == 1)
        c.reduce("B", tag: 2)
        #expect(c.outcomes["A"]?.last == .success(worldSize: 2))
    }

    @Test("one member in a join point and one in a collective: both are told, and can go on")
    func misuse() {
        var c = Cluster(of: "A", "B", "C")
        let epoch = c.epoch("A")
        c.reduce("A", "C")
        c.updateTopology("B")
        #expect(c.outcomes.isEmpty && c.answers.isEmpty)
        c.pass(Cluster.timeouts.stragglerPatience, Cluster.timeouts.repairGrace)
        for name in ["A", "C"] {
            guard case .misuse(let text)? = c.outcomes[name]?.first else {
                Issue.record("\(name): \(String(describing: c.outcomes[name]))")
                continue
            }
            #expect(text.contains("waits in tag 1, and \(c.id("B")) in another call"), "\(text)")
        }
        guard case .failed(.refused(let text))? = c.answers["B"]?.first else {
            Issue.record("B: \(String(describing: c.answers["B"]))")
            return
        }
        #expect(text.hasSuffix("peers \(c.id("A").value) and \(c.id("C").value) in an operation with tag 1"), "\(text)")
        #expect(c.view("A") == ["A", "B", "C"] && c.epoch("A") > epoch)
        c.forgetAnswers()
        c.reduce("A", "B", "C")
        #expect(c.outcomes["B"] == [.success(worldSize: 3)])
        c.updateTopology("A", "B", "C")
        #expect(c.answers["A"] == [.done])
    }

    @Test("members in different membership calls are told who is where")
    func severalCalls() {
        var c = Cluster(of: "A", "B", "C")
        c.updateTopology("A")
        c.arePeersPending("B", "C")
        c.pass(Cluster.timeouts.stragglerPatience * 2)
        for (name, place) in [("A", "peers 2 and 3 in the question"), ("B", "peer 1 at the join point")] {
            guard case .failed(.refused(let text))? = c.answers[name]?.first else {
                Issue.record("\(name): \(String(describing: c.answers[name]))")
                continue
            }
            #expect(text.contains(place), "\(text)")
        }
    }

    @Test("one member asks who waits and the other reduces: both are told, but only after the dead time")
    func misuseOfAsking() {
        var c = Cluster(of: "A", "B")
        c.reduce("A")
        c.arePeersPending("B")
        // B may yet reduce from another thread, and A may yet ask: that is allowed.
        c.pass(Cluster.timeouts.stragglerPatience * 2)
        #expect(c.outcomes.isEmpty && c.answers.isEmpty)
        c.pass(Cluster.timeouts.deadTime * 2)
        guard case .misuse? = c.outcomes["A"]?.first else {
            Issue.record("A: \(c.outcomes)")
            return
        }
        guard case .failed(.refused)? = c.answers["B"]?.first else {
            Issue.record("B: \(c.answers)")
            return
        }
    }

    @Test("asking while operations run is no misuse, in whatever order the members come to it")
    func askingWhileRunning() {
        var c = Cluster(of: "A", "B")
        c.reduce("A")
        c.arePeersPending("B")
        c.pass(Cluster.timeouts.stragglerPatience * 2)
        c.arePeersPending("A")
        #expect(c.answers == ["A": [.pending(false)], "B": [.pending(false)]])
        c.reduce("B")
        #expect(c.outcomes == ["A": [.success(worldSize: 2)], "B": [.success(worldSize: 2)]])
    }

    @Test("one member in a join point and one asking who waits: both are refused")
    func misuseOfVotes() {
        var c = Cluster(of: "A", "B")
        c.updateTopology("A")
        c.arePeersPending("B")
        c.pass(Cluster.timeouts.stragglerPatience, Cluster.timeouts.repairGrace)
        for name in ["A", "B"] {
            guard case .failed(.refused)? = c.answers[name]?.first else {
                Issue.record("\(name): \(String(describing: c.answers[name]))")
                continue
            }
        }
        c.forgetAnswers()
        c.updateTopology("A", "B")
        #expect(c.answers == ["A": [.done], "B": [.done]])
    }

    @Test("a member that does not come is named and waited for; it is not lost")
    func straggler() {
        var c = Cluster(of: "A", "B")
        c.reduce("A")
        c.pass(Cluster.timeouts.deadTime * 4)
        #expect(c.view("A") == ["A", "B"])
        #expect(c.outcomes.isEmpty)
        #expect(c.logs.contains { $0.contains("has waited") && $0.contains("\(c.id("B"))") })
        c.reduce("B")
        #expect(c.outcomes["A"] == [.success(worldSize: 2)])
    }

    @Test("frames that come twice, from a stranger, or of another epoch change nothing")
    func strayFrames() {
        var c = Cluster(of: "A", "B", "C")
        let epoch = Epoch(c.epoch("A"))
        let stranger = PeerID(99)
        c.withholdResult("A")
        c.reduce("A", "B", "C")
        // All of them claim that somebody is prepared who is not, or was told already.
        for (peer, epoch, launch) in [
            (stranger, epoch, 1), (c.id("B"), Epoch(epoch.value - 1), 1), (c.id("B"), epoch.next, 1),
            (c.id("B"), epoch, 77), (c.id("B"), epoch, 1),
        ] {
            c.deliver(.prepared(peer, epoch, Tag(1), LaunchNumber(UInt32(launch))), to: "A")
        }
        c.deliver(.entered(c.id("B"), Epoch(epoch.value - 1), Tag(1), LaunchNumber(1), Cluster.product), to: "A")
        c.deliver(.resultWhole(Tag(1), LaunchNumber(55)), to: "A")
        c.deliver(.resultWhole(Tag(2), LaunchNumber(1)), to: "A")
        #expect(c.outcomes["A"] == nil)
        c.finishResult("A")
        for name in ["A", "B", "C"] { #expect(c.outcomes[name] == [.success(worldSize: 3)]) }
        c.deliver(.prepared(c.id("B"), epoch, Tag(1), LaunchNumber(1)), to: "A")
        c.deliver(.resultWhole(Tag(1), LaunchNumber(1)), to: "A")
        #expect(c.outcomes["A"]?.count == 1)
    }
}
