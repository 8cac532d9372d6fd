import PCCLBase
import PCCLWire
import Testing

@testable import PCCLMembership

@Suite("Transcripts: a master is started anew with its journal")
struct RestartedMasterTests {
    @Test("members go on in their epoch: operations end, and no call fails")
    func goesOn() {
        var c = Cluster(of: "A", "B", grace: longGrace)
        let epoch = c.epoch("A")
        c.reduce("A")
        c.arePeersPending("A")
        c.killMaster()
        c.reduce("B")
        #expect(c.outcomes == ["A": [.success(worldSize: 2)], "B": [.success(worldSize: 2)]])
        c.pass(c.timeouts.deadTime * 2)
        c.restartMaster(keepingJournal: true)
        c.seek()
        #expect(c.master.run == Cluster.run && c.epoch("A") == epoch)
        c.arePeersPending("B")
        #expect(c.answers == ["A": [.pending(false)], "B": [.pending(false)]])
    }

    @Test("a flush under way is begun again, in a higher epoch")
    func flush() {
        var c = Cluster(of: "A", "B", "C", grace: longGrace)
        for name in ["A", "C"] { c.withholdResult(name) }
        c.reduce("A", "B", "C")
        c.hold(from: "B", to: "master")
        c.kill("C")
        guard case .flushing(let flush) = c.phase else {
            Issue.record("\(c.phase)")
            return
        }
        c.killMaster()
        c.releaseEverything()
        c.pass(c.timeouts.deadTime)
        #expect(c.outcomes.isEmpty, "the verdict is waited for")
        c.restartMaster(keepingJournal: true)
        c.seek()
        #expect(c.flushes(toldTo: "A").count == 2 && c.flushes(toldTo: "A").allSatisfy { $0 >= flush.epoch })
        #expect(c.flushes(toldTo: "A").last.map { $0 > flush.epoch } == true)
        #expect(c.outcomes == ["A": [.memberLost], "B": [.memberLost]])
        #expect(c.view("A") == ["A", "B"] && Epoch(c.epoch("A")) > flush.epoch)
    }

    @Test("a repair under way is begun again, whatever the master knows", arguments: [true, false])
    func repair(keepingJournal: Bool) {
        var c = Cluster(of: "A", "B", grace: longGrace)
        c.hold(from: "A", to: "B")
        c.reduce("A")
        c.breakLink("A", "B")
        c.hold(from: "B", to: "master")
        c.pass(c.timeouts.repairGrace * 2)
        guard case .flushing(let flush) = c.phase, flush.cause == .repair else {
            Issue.record("\(c.phase)")
            return
        }
        c.killMaster()
        c.releaseEverything()
        c.restartMaster(keepingJournal: keepingJournal)
        c.seek()
        #expect(Epoch(c.epoch("A")) > flush.epoch && c.view("A") == ["A", "B"])
        c.reduce("B")
        #expect(c.outcomes == ["A": [.success(worldSize: 2)], "B": [.success(worldSize: 2)]])
    }

    @Test("a link that breaks while a member is without its master is repaired later", arguments: [true, false])
    func brokenLinkMeanwhile(restarts: Bool) {
        var c = Cluster(of: "A", "B", grace: longGrace)
        let epoch = c.epoch("A")
        c.hold(from: "A", to: "B")
        c.reduce("A")
        c.separate("A", "master")
        if restarts { c.killMaster() } else { c.breakConnection("A") }
        // Otherwise A would be taken for dead: see above.
        c.hold(from: "B", to: "master")
        c.breakLink("A", "B")
        c.release(from: "A", to: "B")
        if restarts { c.restartMaster(keepingJournal: true) }
        c.reunite("A", "master")
        if restarts { c.release(from: "B", to: "master") }
        c.seek()
        c.release(from: "B", to: "master")
        #expect(c.epoch("A") > epoch && c.epoch("A") == c.epoch("B"))
        c.reduce("B")
        #expect(c.outcomes == ["A": [.success(worldSize: 2)], "B": [.success(worldSize: 2)]])
    }

    @Test("a proposal under way is made again, in a higher epoch, to the newcomer under its new id")
    func proposal() {
        var c = Cluster(of: "A", "B", grace: longGrace)
        c.connect("C")
        let before = c.id("C")
        c.updateTopology("A")
        c.hold(from: "A", to: "master")
        c.updateTopology("B")
        guard case .linking(let proposal) = c.phase else {
            Issue.record("\(c.phase)")
            return
        }
        c.killMaster()
        c.releaseEverything()
        // The members would find that nobody waits, were they all back before it.
        c.separate("A", "master")
        c.restartMaster(keepingJournal: true)
        c.seek()
        #expect(c.id("C") > before && c.answers.isEmpty)
        c.reunite("A", "master")
        c.seek()
        #expect(c.proposals(toldTo: "B").last.map { $0 > proposal.epoch } == true)
        for name in ["A", "B", "C"] {
            #expect(c.answers[name] == [.done])
            #expect(c.view(name) == ["A", "B", "C"] && Epoch(c.epoch(name)) > proposal.epoch)
        }
    }

    @Test("votes are counted again", arguments: MissedWordTests.Joint.allCases)
    func votes(joint: MissedWordTests.Joint) {
        var c = Cluster(of: "A", "B", grace: longGrace)
        c.figures = ["A": [("B", 70)], "B": [("A", 80)]]
        c.isSolverHeld = true
        joint.make(&c, "A")
        c.killMaster()
        c.restartMaster(keepingJournal: true)
        c.seek()
        #expect(c.answers.isEmpty && c.questions.isEmpty)
        joint.make(&c, "B")
        if joint == .optimize {
            #expect(c.questions.map { $0.problem.figures.map { $0.map(\.bytesPerSecond) } } == [[[70], [80]]])
            c.releaseSolver()
        }
        #expect(c.answers == ["A": [joint.answer], "B": [joint.answer]])
        #expect(c.sentToMaster.count { $0.from == "A" && $0.message == .voteJoin } == (joint == .join ? 1 : 0))
    }

    @Test("nothing is decided before all members are back, or lost", arguments: [true, false])
    func waitsForAll(comesBack: Bool) {
        var c = Cluster(of: "A", "B", "C", grace: longGrace)
        c.separate("C", "master")
        c.killMaster()
        c.restartMaster(keepingJournal: true)
        c.seek()
        c.connect("D")
        c.updateTopology("A", "B")
        #expect(c.isRecovering && c.answers.isEmpty && c.proposals(toldTo: "A") == [])
        if comesBack {
            c.reunite("C", "master")
            c.seek()
            #expect(!c.isRecovering && c.answers.isEmpty, "C has not come to the join point")
            c.updateTopology("C")
        } else {
            c.pass(c.timeouts.deadTime)
        }
        let view = comesBack ? ["A", "B", "C", "D"] : ["A", "B", "D"]
        for name in view {
            #expect(c.view(name) == view)
            #expect(c.answers[name] == [.done])
        }
    }

    @Test("a member that reports a broken link while others are not back yet is no proof against them")
    func brokenLinkWhileRecovering() {
        var c = Cluster(of: "A", "B", grace: longGrace)
        c.reduce("A")
        c.separate("B", "master")
        c.killMaster()
        c.restartMaster(keepingJournal: true)
        c.seek()
        c.breakLink("A", "B")
        #expect(c.view("A") == ["A", "B"])
        c.reunite("B", "master")
        c.seek()
        c.reduce("B")
        #expect(c.outcomes == ["A": [.success(worldSize: 2)], "B": [.success(worldSize: 2)]])
        #expect(c.view("A") == ["A", "B"])
    }

    @Test("a newcomer that waited in connect is registered anew, under a new id, and gets in")
    func newcomer() {
        var c = Cluster(of: "A", grace: longGrace)
        c.connect("B")
        let before = c.id("B")
        c.killMaster()
        c.pass(c.timeouts.deadTime)
        #expect(c.answers["B"] == nil)
        c.restartMaster(keepingJournal: true)
        c.seek()
        #expect(c.id("B") > before)
        c.updateTopology("A")
        #expect(c.answers["B"] == [.done] && c.view("A") == ["A", "B"])
    }

    @Test("a call that is made between attach and its answer is not lost")
    func callMeanwhile() {
        var c = Cluster(of: "A", "B", grace: longGrace)
        c.killMaster()
        c.restartMaster(keepingJournal: true)
        c.hold(from: "master", to: "A")
        c.seek()
        #expect(!c.isRecovering && c.isHeldUp(from: "master", to: "A"))
        c.updateTopology("A", "B")
        c.releaseEverything()
        #expect(c.answers == ["A": [.done], "B": [.done]])
    }

    @Test("after the grace calls fail with the reason and collectives go on; when a master comes, calls work again")
    func afterTheGrace() {
        let grace = Cluster.timeouts.deadTime * 2
        var c = Cluster(of: "A", "B", grace: grace)
        c.connect("C")
        c.updateTopology("A")
        c.killMaster()
        c.pass(grace * 9 / 10)
        #expect(c.answers.isEmpty)
        c.pass(c.timeouts.heartbeatPeriod * 2)
        #expect(c.answers["A"] == [.failed(.masterLost("refused"))])
        #expect(c.answers["C"] == [.failed(.masterUnreachable("refused"))])
        c.arePeersPending("B")
        #expect(c.answers["B"] == [.failed(.masterLost("refused"))])
        c.reduce("A", "B")
        #expect(c.outcomes == ["A": [.success(worldSize: 2)], "B": [.success(worldSize: 2)]])

        c.restartMaster(keepingJournal: true)
        c.seek()
        c.forgetAnswers()
        c.arePeersPending("A", "B")
        #expect(c.answers == ["A": [.pending(false)], "B": [.pending(false)]])
        c.connect("C")
        c.updateTopology("A", "B")
        #expect(c.view("C") == ["A", "B", "C"])
    }

    @Test("after the grace a member that is lost ends the run for the others, as without any")
    func lossAfterTheGrace() {
        let grace = Cluster.timeouts.deadTime
        var c = Cluster(of: "A", "B", grace: grace)
        c.killMaster()
        c.reduce("A")
        c.pass(grace * 2)
        #expect(c.outcomes.isEmpty && c.view("A") == ["A", "B"])
        c.kill("B")
        guard case .masterLost(let reason)? = c.outcomes["A"]?.first else {
            Issue.record("A: \(c.outcomes)")
            return
        }
        #expect(reason.contains("nobody can say who is left"))
    }

    @Test("a loss within the grace waits for the master, and is judged by the next one")
    func lossWithinGrace() {
        var c = Cluster(of: "A", "B", "C", grace: longGrace)
        c.killMaster()
        c.reduce("A")
        c.kill("C")
        c.pass(c.timeouts.deadTime * 2)
        #expect(c.outcomes.isEmpty && c.view("A") == ["A", "B", "C"])
        c.restartMaster(keepingJournal: true)
        c.seek()
        c.pass(c.timeouts.deadTime)
        #expect(c.view("A") == ["A", "B"])
        c.reduce("B")
        #expect(c.outcomes == ["A": [.success(worldSize: 2)], "B": [.success(worldSize: 2)]])
    }

    @Test("ids and epochs are never given twice")
    func neverTwice() {
        var c = Cluster(of: "A", grace: longGrace)
        var ids = [c.id("A")]
        var epochs = [c.epoch("A")]
        for (round, keepingJournal) in [true, true, false, true, false, false].enumerated() {
            // One that is gone before a member has heard of it, and one that stays.
            let (brief, lasting) = ("brief \(round)", "lasting \(round)")
            for name in [brief, lasting] {
                c.killMaster()
                c.restartMaster(keepingJournal: keepingJournal)
                c.seek()
                c.connect(name)
                ids.append(c.id(name))
                if name == brief { c.kill(name) }
            }
            for name in c.view("A") { c.updateTopology(name) }
            #expect(c.view(lasting) == c.view("A"))
            epochs.append(c.epoch("A"))
        }
        #expect(Set(ids).count == ids.count, "\(ids)")
        #expect(zip(epochs, epochs.dropFirst()).allSatisfy { $0 < $1 }, "\(epochs)")
    }
}

@Suite("Transcripts: a master is started anew and knows nothing")
struct BlankMasterTests {
    /// A, B and C, of whom A has missed the view that admitted C.
    private static func withoutLastView() -> Cluster {
        var c = Cluster(of: "A", "B", grace: longGrace)
        c.connect("C")
        c.updateTopology("A")
        c.hold(from: "A", to: "master")
        c.updateTopology("B")
        c.hold(from: "master", to: "A")
        c.release(from: "A", to: "master")
        c.lose(from: "master", to: "A")
        return c
    }

    @Test("it takes over the run that members report, and they go on in their epoch")
    func takesOver() {
        var c = Cluster(of: "A", "B", grace: longGrace)
        let epoch = c.epoch("A")
        c.reduce("A")
        c.updateTopology("A")
        c.arePeersPending("B")
        c.killMaster()
        c.restartMaster(keepingJournal: false)
        #expect(c.master.run != Cluster.run)
        c.seek()
        #expect(c.master.run == Cluster.run && !c.isRecovering)
        #expect(c.epoch("A") == epoch && c.epoch("B") == epoch)
        c.reduce("B")
        #expect(c.outcomes == ["A": [.success(worldSize: 2)], "B": [.success(worldSize: 2)]])
    }

    /// A has missed the view of A, B and C.
    @Test("the highest view that is told holds; a member of an older one is turned away", arguments: [true, false])
    func highestView(oldestFirst: Bool) {
        var c = Self.withoutLastView()
        #expect(c.epoch("A") < c.epoch("B") && c.epoch("B") == c.epoch("C"))
        let late = oldestFirst ? ["B", "C"] : ["A"]
        for name in late { c.separate(name, "master") }
        c.killMaster()
        c.restartMaster(keepingJournal: false)
        c.seek()
        for name in late { c.reunite(name, "master") }
        c.seek()
        guard case .failed(.turnedAway(let reason))? = c.answers["A"]?.last else {
            Issue.record("A: \(String(describing: c.answers["A"]))")
            return
        }
        #expect(reason.contains("not known here"))
        c.pass(c.timeouts.deadTime)
        #expect(c.view("B") == ["B", "C"] && c.view("C") == ["B", "C"])
        c.connect("A")
        c.updateTopology("B", "C")
        #expect(c.view("A") == ["B", "C", "A"])
    }

    /// Simulated: seed 8466745401753220723. B does not hear of anything until the end.
    @Test("two masters that know nothing go on from the same view: never with the same epoch")
    func twoFromOneView() {
        var c = Cluster(of: "A", "B", grace: longGrace)
        var epochs: [UInt32] = []
        for name in ["A", "B"] {
            let other = name == "A" ? "B" : "A"
            c.separate(other, "master")
            c.killMaster()
            c.restartMaster(keepingJournal: false)
            c.seek()
            c.pass(c.timeouts.deadTime)
            #expect(c.view(name) == [name])
            epochs.append(c.epoch(name))
            c.kill(name)
            c.reunite(other, "master")
        }
        #expect(epochs[0] != epochs[1], "\(epochs)")
    }

    /// Simulated: seed 5159065906346410674, where the master looked at that link again and again.
    @Test("what a member of an older view has said of its links goes with it")
    func linksOfOlderView() {
        var c = Self.withoutLastView()
        for name in ["B", "C"] { c.separate(name, "master") }
        c.killMaster()
        c.separate("A", "B")
        c.breakLink("A", "B")
        c.pass(c.timeouts.dialPatience)
        c.restartMaster(keepingJournal: false)
        c.seek()
        #expect(c.master.groups[0].brokenLinks.contains { $0.from == c.id("A") && $0.gaveUp })
        for name in ["B", "C"] { c.reunite(name, "master") }
        c.seek()
        #expect(c.master.groups[0].brokenLinks.allSatisfy { $0.from != c.id("A") && $0.to != c.id("A") })
    }

    @Test("newcomers of a group of which nobody has told wait until the dead time is over")
    func newcomersWait() {
        var c = Cluster(of: "A", grace: longGrace)
        c.connect("B", group: 1)
        #expect(c.answers["B"] == [.done])
        c.separate("B", "master")
        c.killMaster()
        c.restartMaster(keepingJournal: false)
        c.seek()
        c.connect("C", group: 1)
        c.connect("D", group: 2)
        #expect(c.answers["C"] == nil && c.answers["D"] == nil)
        // Those who were there come first.
        c.reunite("B", "master")
        c.seek()
        c.updateTopology("B")
        #expect(c.view("C") == ["B", "C"])
        #expect(c.answers["D"] == nil)
        c.pass(c.timeouts.deadTime)
        #expect(c.view("D") == ["D"])
    }

    @Test("a newcomer that comes first is given an id that no member can have")
    func newcomerFirst() {
        var c = Cluster(of: "A", grace: longGrace)
        c.connect("B")
        c.connect("C", group: 1)
        #expect(c.id("C") > c.id("B"))
        for name in ["A", "C"] { c.separate(name, "master") }
        c.killMaster()
        c.restartMaster(keepingJournal: false)
        c.seek()
        #expect(c.id("B") > c.id("C"))
        for name in ["A", "C"] { c.reunite(name, "master") }
        c.seek()
        c.updateTopology("A")
        #expect(c.view("A") == ["A", "B"] && c.view("C") == ["C"])
        #expect(c.answers["B"] == [.done] && c.answers["A"] == [.done])
    }

    @Test("a member that nobody hears of is lost after the dead time, and the others go on without it")
    func missingMember() {
        var c = Cluster(of: "A", "B", "C", grace: longGrace)
        c.reduce("A")
        c.killMaster()
        c.kill("C")
        c.restartMaster(keepingJournal: false)
        c.seek()
        #expect(c.isRecovering && c.outcomes.isEmpty)
        c.pass(c.timeouts.deadTime)
        #expect(c.view("A") == ["A", "B"])
        c.reduce("B")
        #expect(c.outcomes == ["A": [.success(worldSize: 2)], "B": [.success(worldSize: 2)]])
    }

    @Test("a flush that nobody else knows of is begun again for those who stand still")
    func flush() {
        var c = Cluster(of: "A", "B", "C", grace: longGrace)
        for name in ["A", "C"] { c.withholdResult(name) }
        c.reduce("A", "B", "C")
        c.hold(from: "B", to: "master")
        c.kill("C")
        let old = c.flushes(toldTo: "A")
        c.killMaster()
        c.releaseEverything()
        c.restartMaster(keepingJournal: false)
        c.seek()
        c.pass(c.timeouts.deadTime)
        #expect(c.outcomes == ["A": [.memberLost], "B": [.memberLost]])
        #expect(c.view("A") == ["A", "B"] && old.allSatisfy { $0 < Epoch(c.epoch("A")) })
    }
}
