import PCCLBase
import PCCLWire
import Testing

@testable import PCCLMembership

@Suite("Transcripts: a member is lost")
struct LossTests {
    @Test("all survivors hold the result: it is a success, with the world size it was made with")
    func commit() {
        var c = Cluster(of: "A", "B", "C")
        // C's prepared reaches nobody; all else does.
        c.withholdResult("C")
        c.reduce("A", "B", "C")
        #expect(c.outcomes.isEmpty)
        c.kill("C")
        #expect(c.outcomes == ["A": [.success(worldSize: 3)], "B": [.success(worldSize: 3)]])
        #expect(c.view("A") == ["A", "B"])
        #expect(c.nodes["A"]?.restored == [] && c.nodes["B"]?.restored == [])
    }

    @Test("a survivor had already returned success: the others do too")
    func commitAfterCommit() {
        var c = Cluster(of: "A", "B", "C")
        c.hold(from: "C", to: "B")
        c.withholdResult("C")
        c.reduce("C", "A", "B")
        c.releaseEverything()
        c.hold(from: "C", to: "B")
        c.finishResult("C")
        #expect(c.outcomes["A"] == [.success(worldSize: 3)] && c.outcomes["B"] == nil)
        c.kill("C")
        #expect(c.outcomes["B"] == [.success(worldSize: 3)])
        #expect(c.outcomes["A"]?.count == 1)
    }

    @Test("a survivor has not entered: the operation begins again and no caller learns of the loss")
    func restart() {
        var c = Cluster(of: "A", "B", "C")
        c.reduce("A", "C")
        c.kill("C")
        #expect(c.outcomes.isEmpty)
        #expect(c.view("A") == ["A", "B"])
        #expect(c.nodes["A"]?.restored.count == 1, "its input was made whole before it began again")
        c.reduce("B")
        #expect(c.outcomes == ["A": [.success(worldSize: 2)], "B": [.success(worldSize: 2)]])
    }

    @Test("all survivors entered and not all hold the result: all are told, their inputs whole, the view new")
    func abort() {
        var c = Cluster(of: "A", "B", "C")
        c.withholdResult("A")
        c.withholdResult("C")
        c.reduce("A", "B", "C")
        c.kill("C")
        #expect(c.outcomes == ["A": [.memberLost], "B": [.memberLost]])
        #expect(c.nodes["A"]?.restored.count == 1 && c.nodes["B"]?.restored.count == 1)
        #expect(c.nodes["A"]?.view?.worldSize == 2)
        // Frames of the failed attempt are of an old epoch: the call may be repeated at once.
        c.finishResult("A")
        c.reduce("A", "B")
        #expect(c.outcomes["A"]?.last == .success(worldSize: 2))
    }

    @Test("each operation in flight has a verdict of its own")
    func several() {
        var c = Cluster(of: "A", "B", "C")
        c.withholdResult("C", tag: 1)
        c.reduce("A", "B", "C", tag: 1)
        c.withholdResult("A", tag: 2)
        c.reduce("A", "B", "C", tag: 2)
        c.reduce("B", "C", tag: 3)
        c.kill("C")
        #expect(c.outcomes["A"] == [.success(worldSize: 3), .memberLost])
        #expect(c.outcomes["B"] == [.success(worldSize: 3), .memberLost])
        c.reduce("A", tag: 3)
        #expect(c.outcomes["B"]?.last == .success(worldSize: 2))
    }

    @Test("operations k and k+1 of one tag are in flight at a loss: k commits everywhere, k+1 begins again")
    func twoOfOneTag() {
        var c = Cluster(of: "A", "B", "C")
        c.withholdResult("A")
        c.reduce("A", "B", "C")
        // A hears all, commits, and calls again; what it says reaches nobody any more.
        c.holdEverything(from: "A")
        c.hold(from: "B", to: "master")
        c.finishResult("A")
        #expect(c.outcomes["A"] == [.success(worldSize: 3)])
        #expect(c.outcomes["B"] == nil)
        c.reduce("A")
        #expect(c.inFlight("A") == 1)
        c.kill("C")
        c.releaseEverything()
        #expect(c.outcomes["A"] == [.success(worldSize: 3)])
        #expect(c.outcomes["B"] == [.success(worldSize: 3)])
        #expect(c.inFlight("A") == 1 && c.inFlight("B") == 0)
        c.reduce("B")
        #expect(c.outcomes["A"]?.last == .success(worldSize: 2))
        #expect(c.outcomes["B"]?.last == .success(worldSize: 2))
    }

    @Test("a further loss during the flush: again, with fewer members and a higher epoch")
    func lossDuringFlush() {
        var c = Cluster(of: "A", "B", "C", "D")
        for name in ["A", "C", "D"] { c.withholdResult(name) }
        c.reduce("A", "B", "C", "D")
        c.hold(from: "C", to: "master")
        c.kill("D")
        #expect(c.outcomes.isEmpty, "C has not reported")
        guard case .flushing(let first) = c.phase else {
            Issue.record("\(c.phase)")
            return
        }
        #expect(first.cause == .loss && first.reports.count == 2)
        c.kill("C")
        c.releaseEverything()
        #expect(c.outcomes == ["A": [.memberLost], "B": [.memberLost]])
        #expect(c.view("A") == ["A", "B"] && c.epoch("A") == c.epoch("B"))
        #expect(Epoch(c.epoch("A")) > first.epoch)
    }

    @Test("what comes between halt and verdict changes nothing: the report must stay true")
    func halted() {
        var c = Cluster(of: "A", "B", "C")
        let epoch = Epoch(c.epoch("A"))
        c.withholdResult("A")
        c.withholdResult("C")
        c.reduce("A", "B", "C")
        c.hold(from: "B", to: "master")
        c.kill("C")
        guard case .flushing = c.phase else {
            Issue.record("\(c.phase)")
            return
        }
        let launches = ["B", "C"].map { (c.id($0), c.nodes[$0]?.running.keys.first ?? LaunchNumber(0)) }
        c.deliver(.resultWhole(Tag(1), c.nodes["A"]?.running.keys.first ?? LaunchNumber(0)), to: "A")
        for (peer, launch) in launches { c.deliver(.prepared(peer, epoch, Tag(1), launch), to: "A") }
        #expect(c.outcomes["A"] == nil && c.inFlight("A") == 1)
        c.releaseEverything()
        #expect(c.outcomes == ["A": [.memberLost], "B": [.memberLost]])
    }

    @Test("calls made while everything stands still begin with the new epoch")
    func callsDuringFlush() {
        var c = Cluster(of: "A", "B", "C")
        c.reduce("A", tag: 1)
        c.hold(from: "B", to: "master")
        c.kill("C")
        c.reduce("A", tag: 2)
        c.reduce("A", tag: 2)
        #expect(c.outcomes["A"] == [.tagInUse])
        c.reduce("B", tag: 2)
        #expect(c.inFlight("A") == 2)
        c.releaseEverything()
        c.reduce("B", tag: 1)
        #expect(c.outcomes["A"]?.suffix(2) == [.success(worldSize: 2), .success(worldSize: 2)])
        #expect(c.outcomes["B"] == [.success(worldSize: 2), .success(worldSize: 2)])
    }

    @Test("who is left alone is told that members were lost; a further call finds too few")
    func lastOne() {
        var c = Cluster(of: "A", "B")
        c.reduce("A")
        c.kill("B")
        #expect(c.outcomes["A"] == [.memberLost])
        c.reduce("A")
        #expect(c.outcomes["A"]?.last == .tooFewPeers)
        #expect(c.view("A") == ["A"])
    }

    @Test("a vote that crosses a verdict is not lost")
    func voteCrossesVerdict() {
        var c = Cluster(of: "A", "B", "C")
        c.connect("D")
        c.hold(from: "master", to: "A")
        c.kill("C")
        // A has not heard of the flush when it votes; B votes after the verdict was due.
        c.updateTopology("A")
        c.updateTopology("B")
        #expect(c.answers["A"] == nil)
        c.releaseEverything()
        #expect(c.answers["A"] == [.done] && c.answers["B"] == [.done] && c.answers["D"] == [.done])
        #expect(c.view("D") == ["A", "B", "D"])
    }

    @Test("who asked whether newcomers wait is answered jointly, also across a loss")
    func pendingAcrossLoss() {
        var c = Cluster(of: "A", "B", "C")
        c.connect("D")
        c.arePeersPending("A", "C")
        c.kill("C")
        #expect(c.answers["A"] == nil, "B has not asked")
        c.arePeersPending("B")
        #expect(c.answers["A"] == [.pending(true)] && c.answers["B"] == [.pending(true)])

        // The only one who had not asked is lost: the answer comes with that.
        var d = Cluster(of: "A", "B", "C")
        d.arePeersPending("A", "B")
        d.kill("C")
        #expect(d.answers["A"] == [.pending(false)] && d.answers["B"] == [.pending(false)])
    }

    @Test("a join point is completed by the loss of the only member that did not come")
    func joinAcrossLoss() {
        var c = Cluster(of: "A", "B", "C")
        c.connect("D")
        c.updateTopology("A", "B")
        c.kill("C")
        #expect(c.answers["A"] == [.done] && c.answers["D"] == [.done])
        #expect(c.view("B") == ["A", "B", "D"])
    }

    @Test("a peer that hangs is evicted after the dead time; when it goes on it learns so, and its next calls say why")
    func hungPeer() {
        var c = Cluster(of: "A", "B", "C")
        c.withholdResult("C")
        c.reduce("A", "C")
        c.freeze("C")
        c.pass(Cluster.timeouts.deadTime, Cluster.timeouts.heartbeatPeriod * 2)
        #expect(c.view("A") == ["A", "B"])
        c.reduce("B")
        #expect(c.outcomes["A"] == [.success(worldSize: 2)])
        #expect(c.outcomes["C"] == nil)

        c.thaw("C")
        guard case .masterLost(let why)? = c.outcomes["C"]?.first else {
            Issue.record("C: \(String(describing: c.outcomes["C"]))")
            return
        }
        #expect(why.contains("nothing was heard"))
        #expect(c.nodes["C"]?.restored.count == 1)
        c.reduce("C")
        c.updateTopology("C")
        #expect(c.outcomes["C"]?.last == .masterLost(why))
        guard case .failed(.turnedAway(let again))? = c.answers["C"]?.first else {
            Issue.record("C: \(String(describing: c.answers["C"]))")
            return
        }
        #expect(again == why)

        c.forgetAnswers()
        c.connect("C")
        c.updateTopology("A", "B")
        #expect(c.answers["C"] == [.done])
        #expect(c.nodes["C"]?.machine.departure == nil)
    }

    @Test("a peer that is silent towards the master only is evicted too, however well it serves the others")
    func silentTowardsMaster() {
        var c = Cluster(of: "A", "B")
        c.hold(from: "B", to: "master")
        c.pass(Cluster.timeouts.deadTime, Cluster.timeouts.heartbeatPeriod * 2)
        #expect(c.view("A") == ["A"])
        #expect(c.nodes["B"]?.machine.isMember == false)
    }
}

@Suite("Transcripts: a link breaks and nobody is lost")
struct BrokenLinkTests {
    @Test("operations in flight begin again after the grace, and no caller learns of it")
    func repair() {
        var c = Cluster(of: "A", "B", "C")
        c.reduce("A", "B")
        let epoch = c.epoch("A")
        c.breakLink("A", "B")
        #expect(c.isLinked("A", "B"), "it is made again at once")
        #expect(c.epoch("A") == epoch, "a member may have died: its loss would be known in a moment")
        c.pass(Cluster.timeouts.repairGrace * 2)
        #expect(c.epoch("A") > epoch && c.view("A") == ["A", "B", "C"])
        #expect(c.outcomes.isEmpty)
        c.reduce("C")
        for name in ["A", "B", "C"] { #expect(c.outcomes[name] == [.success(worldSize: 3)]) }
    }

    @Test("all had entered: the operation begins again all the same, its inputs restored")
    func repairOfAll() {
        var c = Cluster(of: "A", "B")
        c.withholdResult("A")
        c.withholdResult("B")
        c.reduce("A", "B")
        c.breakLink("A", "B")
        c.pass(Cluster.timeouts.repairGrace * 2)
        #expect(c.nodes["A"]?.restored.count == 1)
        c.finishResult("A")
        c.finishResult("B")
        #expect(c.outcomes == ["A": [.success(worldSize: 2)], "B": [.success(worldSize: 2)]])
    }

    @Test("the link took the last prepared with it: the operation is a success without beginning again")
    func lostPrepared() {
        var c = Cluster(of: "A", "B")
        c.withholdResult("A")
        c.reduce("A", "B")
        c.hold(from: "A", to: "B")
        c.finishResult("A")
        #expect(c.outcomes["A"] == [.success(worldSize: 2)] && c.outcomes["B"] == nil)
        c.breakLink("A", "B")
        c.releaseEverything()
        c.pass(Cluster.timeouts.repairGrace * 2)
        #expect(c.outcomes["B"] == [.success(worldSize: 2)])
        #expect(c.nodes["B"]?.restored == [])
    }

    @Test("a loss within the grace is a loss and not a repair")
    func lossWithinGrace() {
        var c = Cluster(of: "A", "B", "C")
        for name in ["A", "B", "C"] { c.withholdResult(name) }
        c.reduce("A", "B", "C")
        c.breakLink("A", "C")
        c.kill("C")
        #expect(c.outcomes == ["A": [.memberLost], "B": [.memberLost]])
        let epoch = c.epoch("A")
        c.pass(Cluster.timeouts.deadTime)
        #expect(c.epoch("A") == epoch, "the report of the broken link was settled with the loss")
    }

    @Test("a loss during a repair makes it a loss")
    func lossDuringRepair() {
        var c = Cluster(of: "A", "B", "C")
        for name in ["A", "B", "C"] { c.withholdResult(name) }
        c.reduce("A", "B", "C")
        c.hold(from: "B", to: "master")
        c.breakLink("A", "C")
        c.pass(Cluster.timeouts.repairGrace * 2)
        guard case .flushing(let flush) = c.phase, flush.cause == .repair else {
            Issue.record("\(c.phase)")
            return
        }
        c.kill("C")
        c.releaseEverything()
        #expect(c.outcomes == ["A": [.memberLost], "B": [.memberLost]])
    }

    @Test("an operation that is launched while a link is down starts when it is back")
    func launchedWhileDown() {
        var c = Cluster(of: "A", "B")
        c.separate("A", "B")
        c.breakLink("A", "B")
        c.reduce("A", "B")
        #expect(c.outcomes.isEmpty)
        c.reunite("A", "B")
        #expect(c.outcomes == ["A": [.success(worldSize: 2)], "B": [.success(worldSize: 2)]])
    }

    @Test("a member that no other can reach for the time a connection may take is given up")
    func unreachableForGood() {
        var c = Cluster(of: "A", "B", "C")
        c.separate("A", "B")
        c.separate("B", "C")
        c.breakLink("A", "B")
        c.breakLink("B", "C")
        c.pass(Cluster.timeouts.dialPatience)
        #expect(c.view("A") == ["A", "B", "C"])
        c.pass(Cluster.timeouts.unreachableGrace * 2)
        #expect(c.view("A") == ["A", "C"], "B is in two broken pairs, A and C in one each")
        c.updateTopology("B")
        guard case .failed(.turnedAway(let reason))? = c.answers["B"]?.last else {
            Issue.record("B: \(String(describing: c.answers["B"]))")
            return
        }
        #expect(reason.contains("cannot reach"))
    }

    /// Chaos, seed 12: 27 members were evicted whose links stood again.
    @Test("a link that stands again before one of the two is chosen is given up no more")
    func reachableAgain() {
        var c = Cluster(of: "A", "B", "C")
        c.separate("A", "B")
        c.breakLink("A", "B")
        c.pass(Cluster.timeouts.dialPatience)
        #expect(c.phase.isSettled && c.master.groups[0].brokenLinks.contains { $0.gaveUp })
        c.reunite("A", "B")
        #expect(!c.master.groups[0].brokenLinks.contains { $0.gaveUp })
        c.pass(Cluster.timeouts.unreachableGrace * 2)
        #expect(c.view("A") == ["A", "B", "C"])
    }

    @Test("the report of a member that cannot be reached outlives a loss")
    func unreachableAcrossLoss() {
        var c = Cluster(of: "A", "B", "C", "D")
        c.separate("A", "C")
        c.breakLink("A", "C")
        c.pass(Cluster.timeouts.dialPatience, Cluster.timeouts.repairGrace)
        c.kill("D")
        #expect(c.view("A") == ["A", "B", "C"])
        c.pass(Cluster.timeouts.unreachableGrace * 2)
        #expect(c.view("A") == ["A", "B"])
    }
}

extension MasterGroup.Phase {
    fileprivate var isSettled: Bool { if case .settled = self { true } else { false } }
}

@Suite("Whom to give up")
struct LeastReachableTests {
    private func group(_ pairs: [(UInt64, UInt64)], gaveUp: Bool = true) -> MasterGroup {
        var group = MasterGroup(id: GroupID(0))
        group.members = (1...4).map { PeerID($0) }
        group.brokenLinks = pairs.map {
            MasterGroup.BrokenLink(
                from: PeerID($0.0), to: PeerID($0.1), gaveUp: gaveUp, since: Instant(nanoseconds: 0))
        }
        return group
    }

    @Test("the member in most broken pairs goes")
    func most() {
        #expect(group([(1, 2), (3, 2)]).leastReachable() == PeerID(2))
        #expect(group([(1, 2), (1, 3), (1, 4)]).leastReachable() == PeerID(1))
    }

    @Test("a pair that both sides report counts once")
    func once() {
        #expect(group([(1, 2), (2, 1), (1, 3)]).leastReachable() == PeerID(1))
    }

    @Test("among equals the youngest goes")
    func youngest() {
        #expect(group([(1, 2)]).leastReachable() == PeerID(2))
        #expect(group([(4, 3), (1, 2)]).leastReachable() == PeerID(4))
    }

    @Test("a link that is merely broken is nobody's fault")
    func merelyBroken() {
        #expect(group([(1, 2)], gaveUp: false).leastReachable() == nil)
        #expect(group([]).leastReachable() == nil)
    }
}

@Suite("Transcripts: a member is late")
struct StragglerTests {
    @Test("it is waited for, as long as it takes, and named", arguments: [Interval.seconds(4), .seconds(60)])
    func waitedFor(late: Interval) {
        var c = Cluster(of: "A", "B", "C")
        c.reduce("A", "B")
        c.pass(late)
        #expect(c.view("C") == ["A", "B", "C"])
        #expect(c.logs.contains { $0.hasPrefix("A: ") && $0.contains("for peer 3: it has not called") })
        c.reduce("C")
        #expect(
            c.outcomes == ["A": [.success(worldSize: 3)], "B": [.success(worldSize: 3)], "C": [.success(worldSize: 3)]])
    }

    @Test(
        "a deadline was set: it is lost then, not before, learns why, and the others are told or go on without it",
        arguments: LossPolicy.allCases)
    func deadline(onLoss: LossPolicy) {
        var c = Cluster(of: "A", "B", "C", stragglerDeadline: .seconds(8))
        c.reduce("A", "B", onLoss: onLoss)
        c.pass(.milliseconds(7900))
        #expect(c.view("A") == ["A", "B", "C"] && c.outcomes.isEmpty)
        c.pass(.milliseconds(200))
        #expect(c.view("A") == ["A", "B"])
        let outcome: OperationOutcome = onLoss == .abort ? .memberLost : .success(worldSize: 2)
        #expect(c.outcomes == ["A": [outcome], "B": [outcome]])
        #expect(c.nodes["C"]?.machine.departure?.contains("straggler deadline") == true)
        c.reduce("C")
        guard case .masterLost(let reason)? = c.outcomes["C"]?.first else {
            Issue.record("C: \(String(describing: c.outcomes["C"]))")
            return
        }
        #expect(reason.contains("tag 1"))
    }

    @Test("members wait for several, and who waits in another operation is late all the same")
    func several() {
        var c = Cluster(of: "A", "B", "C", stragglerDeadline: .seconds(8))
        c.reduce("A")
        c.pass(.seconds(4))
        c.reduce("B", tag: 2)
        // C has called neither; B is late for the first, A for the second, which is younger.
        c.pass(.seconds(5))
        #expect(c.view("A") == ["A"] && c.outcomes["A"] == [.memberLost])
    }

    @Test("who waits was just not heard: nobody is lost on one member's word")
    func deaf() {
        var c = Cluster(of: "A", "B", "C", stragglerDeadline: .seconds(3))
        for other in ["B", "C"] { c.hold(from: other, to: "A") }
        c.reduce("A", "B", "C")
        c.pass(.seconds(4))
        #expect(c.view("A") == ["A", "B", "C"] && c.outcomes.isEmpty)
        for other in ["B", "C"] { c.lose(from: other, to: "A") }
        c.pass(.seconds(4))
        let success: [OperationOutcome] = [.success(worldSize: 3)]
        #expect(c.outcomes == ["A": success, "B": success, "C": success])
    }

    @Test("who asks whether peers are pending is not late, but in another call: all are told after the dead time")
    func asking() {
        var c = Cluster(of: "A", "B", stragglerDeadline: .seconds(2))
        c.arePeersPending("A")
        c.reduce("B")
        c.pass(.seconds(12))
        guard case .misuse? = c.outcomes["B"]?.first, case .failed(.refused)? = c.answers["A"]?.first else {
            Issue.record("\(c.outcomes), \(c.answers)")
            return
        }
        #expect(c.view("A") == ["A", "B"])
    }

    @Test("a message that claims to have waited is nothing without a deadline")
    func claim() {
        var c = Cluster(of: "A", "B")
        c.forge(
            .stalled(epoch: Epoch(c.epoch("A")), tag: Tag(1), missing: [c.id("B")], waitedMilliseconds: .max), from: "A"
        )
        #expect(c.view("A") == ["A", "B"])
    }
}
