import PCCLBase
import PCCLWire
import Testing

@testable import PCCLMembership

@Suite("Transcripts: joining and leaving")
struct JoiningTests {
    @Test("the first peer of a group is a member at once")
    func first() {
        var c = Cluster()
        c.connect("A")
        #expect(c.answers["A"] == [.done])
        #expect(c.view("A") == ["A"])
        #expect(c.epoch("A") == 1)
        #expect(c.nodes["A"]?.view?.world == WorldCounts(globalWorldSize: 1, groupCount: 1, largestGroupWorldSize: 1))
        // The world's conversation, whole: hello, welcome and the view. Nothing is proposed to one peer.
        #expect(c.sentByMaster.map(\.message).count == 2)
    }

    @Test("a newcomer waits until all members are at a join point, and ranks go by age")
    func twoNewcomers() {
        var c = Cluster(of: "A", "B")
        let epoch = c.epoch("A")
        c.connect("C")
        c.connect("D")
        #expect(c.answers["C"] == nil && c.answers["D"] == nil)
        c.updateTopology("A")
        #expect(c.answers["A"] == nil, "B has not voted")
        c.updateTopology("B")
        for name in ["A", "B", "C", "D"] {
            #expect(c.answers[name] == [.done])
            #expect(c.view(name) == ["A", "B", "C", "D"])
            #expect(c.epoch(name) == c.epoch("A"))
        }
        #expect(c.epoch("A") > epoch)
        #expect(c.nodes["D"]?.view?.rank == 3)
        #expect(c.isLinked("A", "D") && c.isLinked("C", "D"))
        // Both were admitted in one round: members were asked to link once.
        let proposals = c.sentByMaster.filter { if case .propose = $0.message { true } else { false } }
        #expect(proposals.count == 4)
        c.reduce("A", "B", "C", "D")
        #expect(c.outcomes["D"] == [.success(worldSize: 4)])
    }

    @Test("a join point to which nobody comes changes neither view nor epoch")
    func nobodyWaits() {
        var c = Cluster(of: "A", "B")
        let epoch = c.epoch("A")
        c.updateTopology("B", "A")
        #expect(c.answers == ["A": [.done], "B": [.done]])
        #expect(c.epoch("A") == epoch && c.epoch("B") == epoch)
        #expect(c.view("A") == ["A", "B"])
    }

    @Test("members are told the same about newcomers, whenever each of them asks")
    func pending() {
        var c = Cluster(of: "A", "B")
        c.arePeersPending("A")
        c.connect("C")
        #expect(c.answers["A"] == nil, "the answer is joint")
        c.arePeersPending("B")
        #expect(c.answers["A"] == [.pending(true)] && c.answers["B"] == [.pending(true)])
        c.updateTopology("A", "B")
        c.arePeersPending("A", "B", "C")
        #expect(c.answers["A"]?.last == .pending(false))
        #expect(c.answers["C"]?.last == .pending(false))
    }

    @Test("a newcomer that a member cannot reach is turned away and told whom; the members go on")
    func unreachable() {
        var c = Cluster(of: "A", "B")
        let epoch = c.epoch("A")
        c.separate("B", "C")
        c.connect("C")
        c.updateTopology("A", "B")
        // Nobody has given up dialling yet.
        #expect(c.answers == [:])
        c.pass(Cluster.timeouts.dialPatience)
        guard case .failed(.turnedAway(let reason))? = c.answers["C"]?.first else {
            Issue.record("C: \(String(describing: c.answers["C"]))")
            return
        }
        #expect(reason.contains("\(c.id("B"))"))
        #expect(c.answers["A"] == [.done] && c.answers["B"] == [.done])
        #expect(c.view("A") == ["A", "B"])
        // Nobody came, so nothing changed: a master that died between the two answers would leave both in one epoch.
        #expect(c.epoch("A") == epoch && c.epoch("B") == epoch)
        c.reduce("A", "B")
        #expect(c.outcomes["A"] == [.success(worldSize: 2)])
    }

    @Test("of two newcomers only the unreachable one is turned away; the other is admitted in the same call")
    func oneOfTwo() {
        var c = Cluster(of: "A", "B")
        c.separate("A", "C")
        c.connect("C")
        c.connect("D")
        c.updateTopology("A", "B")
        c.pass(Cluster.timeouts.dialPatience)
        #expect(c.view("D") == ["A", "B", "D"])
        #expect(c.answers["D"] == [.done] && c.answers["A"] == [.done])
        #expect(c.nodes["C"]?.machine.isMember == false)
        c.reduce("A", "B", "D")
        #expect(c.outcomes["D"] == [.success(worldSize: 3)])
    }

    @Test("of two newcomers that cannot reach each other the later one goes")
    func twoNewcomersApart() {
        var c = Cluster(of: "A")
        c.connect("B")
        c.connect("C")
        c.separate("B", "C")
        c.updateTopology("A")
        c.pass(Cluster.timeouts.dialPatience)
        #expect(c.view("A") == ["A", "B"])
        #expect(c.nodes["C"]?.machine.isMember == false)
    }

    @Test("a newcomer that dies while linking does not keep the members")
    func newcomerDies() {
        var c = Cluster(of: "A", "B")
        c.separate("B", "C")
        c.connect("C")
        c.updateTopology("A", "B")
        c.kill("C")
        #expect(c.answers == ["A": [.done], "B": [.done]])
        #expect(c.view("A") == ["A", "B"])
        #expect(c.epoch("A") == c.epoch("B"))
        c.reduce("A", "B")
        #expect(c.outcomes["B"] == [.success(worldSize: 2)])
    }

    @Test("a member that dies while linking is lost first; then the newcomer is admitted to what is left")
    func memberDies() {
        var c = Cluster(of: "A", "B")
        c.separate("B", "C")
        c.connect("C")
        c.updateTopology("A", "B")
        c.kill("B")
        #expect(c.answers["A"] == [.done])
        #expect(c.answers["C"] == [.done])
        #expect(c.view("A") == ["A", "C"] && c.view("C") == ["A", "C"])
        c.reduce("A", "C")
        #expect(c.outcomes["C"] == [.success(worldSize: 2)])
    }

    @Test("a newcomer that never answers is given up after its patience and its master's")
    func silentNewcomer() {
        var c = Cluster(of: "A", "B")
        c.connect("C")
        c.freeze("C")
        c.updateTopology("A", "B")
        c.pass(Cluster.timeouts.dialPatience * 3)
        #expect(c.answers["A"] == [.done] && c.answers["B"] == [.done])
        #expect(c.view("A") == ["A", "B"])
    }

    @Test("a newcomer whose group died becomes its first member")
    func orphanedGroup() {
        var c = Cluster(of: "A", "B")
        c.connect("C")
        c.kill("A")
        #expect(c.answers["C"] == nil)
        c.kill("B")
        #expect(c.answers["C"] == [.done])
        #expect(c.view("C") == ["C"])
    }

    @Test("a peer that leaves is a loss for the others, and may come again under another id")
    func leaving() {
        var c = Cluster(of: "A", "B", "C")
        let before = c.id("B")
        c.leave("B")
        #expect(c.view("A") == ["A", "C"] && c.view("C") == ["A", "C"])
        #expect(c.nodes["B"]?.view == nil)
        c.nodes["B"] = nil
        c.connect("B")
        c.updateTopology("A", "C")
        #expect(c.id("B") > before)
        #expect(c.view("C") == ["A", "C", "B"])
    }

    @Test("calls that make no sense are answered at once and change nothing")
    func wrongCalls() {
        var c = Cluster()
        c.connect("A")
        c.connect("A")
        #expect(c.answers["A"] == [.done, .failed(.alreadyConnected)])
        c.connect("B")
        c.forgetAnswers()
        c.updateTopology("B")
        #expect(c.answers["B"] == [.failed(.notConnected)], "a newcomer is no member yet")
        c.reduce("B")
        #expect(c.outcomes["B"] == [.notConnected])
        c.reduce("A")
        #expect(c.outcomes["A"] == [.tooFewPeers])
        c.updateTopology("A")
        #expect(c.view("B") == ["A", "B"])
        c.forgetAnswers()

        c.updateTopology("A")
        c.updateTopology("A")
        c.arePeersPending("A")
        #expect(c.answers["A"] == [.failed(.callInProgress), .failed(.callInProgress)])
        c.reduce("A")
        guard case .misuse? = c.outcomes["A"]?.first else {
            Issue.record("reducing inside a join point: \(String(describing: c.outcomes["A"]))")
            return
        }
        c.reduce("B")
        c.forgetAnswers()
        c.updateTopology("B")
        #expect(c.answers["B"] == [.failed(.operationsInFlight)])
        c.reduce("B")
        #expect(c.outcomes["B"] == [.tagInUse])
    }

    @Test("after it was destroyed a communicator says so, whatever comes late")
    func destroyed() {
        var c = Cluster(of: "A", "B")
        c.leave("B")
        c.forgetAnswers()
        c.updateTopology("B")
        c.reduce("B")
        #expect(c.answers["B"] == [.failed(.destroyed)])
        #expect(c.outcomes["B"] == [.destroyed])
        c.deliver(.masterClosed("late"), to: "B")
        c.deliver(.linkDown(c.id("A"), "late"), to: "B")
        c.deliver(.fromMaster(.heartbeat), to: "B")
        c.deliver(
            .fromMaster(.world(WorldCounts(globalWorldSize: 1, groupCount: 1, largestGroupWorldSize: 1))), to: "B")
        c.updateTopology("B")
        #expect(c.answers["B"]?.last == .failed(.destroyed))
        c.deliver(.fromMaster(.turnedAway(reason: "late")), to: "B")
        c.updateTopology("B")
        #expect(c.answers["B"]?.last == .failed(.destroyed))
    }

    @Test("destroying ends every call and operation of this peer, once")
    func destroyInTheMiddle() {
        var c = Cluster(of: "A", "B")
        c.reduce("A", tag: 1)
        c.reduce("A", tag: 2)
        c.leave("A")
        #expect(c.outcomes["A"] == [.destroyed, .destroyed])
        #expect(c.nodes["A"]?.restored.count == 2)
        #expect(c.view("B") == ["B"])

        var d = Cluster(of: "A", "B")
        d.updateTopology("A")
        d.leave("A")
        #expect(d.answers["A"] == [.failed(.destroyed)])
        #expect(d.view("B") == ["B"])
    }
}

@Suite("Transcripts: groups")
struct GroupTests {
    @Test("a loss in one group is not seen in another, except in the counts")
    func twoGroups() {
        var c = Cluster()
        c.connect("A", group: 1)
        c.connect("B", group: 1)
        c.connect("X", group: 2)
        c.connect("Y", group: 2)
        c.updateTopology("A", "X")
        #expect(c.view("B") == ["A", "B"] && c.view("Y") == ["X", "Y"])
        #expect(c.nodes["A"]?.view?.world == WorldCounts(globalWorldSize: 4, groupCount: 2, largestGroupWorldSize: 2))
        #expect(!c.isLinked("A", "X"))
        let epoch = c.epoch("A")
        c.forgetAnswers()

        c.reduce("A")
        c.kill("Y")
        #expect(c.view("X") == ["X"])
        #expect(c.epoch("A") == epoch, "the other group's epoch stays")
        #expect(c.outcomes["A"] == nil, "its operations go on")
        #expect(c.nodes["A"]?.view?.world == WorldCounts(globalWorldSize: 3, groupCount: 2, largestGroupWorldSize: 2))
        let told = c.sentByMaster.filter { $0.to == "A" || $0.to == "B" }
        #expect(told.allSatisfy { if case .world = $0.message { true } else { false } })
        c.reduce("B")
        #expect(c.outcomes["A"] == [.success(worldSize: 2)])

        c.kill("X")
        #expect(c.nodes["B"]?.view?.world == WorldCounts(globalWorldSize: 2, groupCount: 1, largestGroupWorldSize: 2))
    }
}
