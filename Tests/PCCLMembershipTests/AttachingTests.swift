import PCCLBase
import PCCLWire
import Testing

@testable import PCCLMembership

/// Far longer than any of these tests lets pass, unless it is about the end of it.
private let grace = Interval.seconds(60)

extension Cluster {
    /// Time for every peer that looks for its master to try again, and less than the dead time.
    fileprivate mutating func seek() { pass(timeouts.longestRedial * 2) }

    /// What the master sent to this peer, without heartbeats.
    fileprivate func told(_ name: Name) -> [ToPeer] {
        sentByMaster.filter { $0.to == name && $0.message != .heartbeat }.map(\.message)
    }

    fileprivate func views(toldTo name: Name) -> [[PeerID]] {
        told(name).compactMap { if case .view(_, let members, _, _) = $0 { members.map(\.id) } else { nil } }
    }
    fileprivate func flushes(toldTo name: Name) -> [Epoch] {
        told(name).compactMap { if case .flush(let epoch) = $0 { epoch } else { nil } }
    }
    fileprivate func proposals(toldTo name: Name) -> [Epoch] {
        told(name).compactMap { if case .propose(let epoch, _) = $0 { epoch } else { nil } }
    }

    fileprivate var isRecovering: Bool {
        if case .recovering? = master.groups.first?.phase { true } else { false }
    }

    /// As this member would attach again: with its own view, unless another is given.
    fileprivate func attachment(of name: Name) -> PCCLWire.Attachment? {
        guard let peer = master.peers.first(where: { $0.id == id(name) }), let secret = peer.secret,
            let view = nodes[name]?.machine.view
        else { return nil }
        let members = view.members.map { Member(id: $0, addresses: [], stripes: 1) }
        return PCCLWire.Attachment(
            run: master.run, peer: peer.id, secret: secret, group: peer.group, listenPort: 48150, addresses: [],
            stripes: 1,
            view: HeldView(
                epoch: view.epoch, highestEpoch: view.epoch, members: members, arrangement: view.arrangement))
    }
}

@Suite("Transcripts: a control connection breaks")
struct BrokenConnectionTests {
    @Test("that is no loss: operations and calls go on")
    func noLoss() {
        var c = Cluster(of: "A", "B", grace: grace)
        let epoch = c.epoch("A")
        c.reduce("A")
        c.updateTopology("B")
        c.breakConnection("B")
        #expect(c.told("B").contains { if case .attached = $0 { true } else { false } })
        c.reduce("A", tag: 2)
        c.breakConnection("A")
        #expect(c.answers.isEmpty && c.inFlight("A") == 2, "B waits in its call, and A for B")
        #expect(c.view("A") == ["A", "B"] && c.epoch("A") == epoch && c.epoch("B") == epoch)

        var d = Cluster(of: "A", "B", grace: grace)
        d.reduce("A")
        d.arePeersPending("A")
        d.breakConnection("A")
        d.breakConnection("B")
        d.reduce("B")
        d.arePeersPending("B")
        for name in ["A", "B"] {
            #expect(d.outcomes[name] == [.success(worldSize: 2)])
            #expect(d.answers[name] == [.pending(false)])
        }
    }

    @Test("and so does a link to that member: it has died, and is lost at once", arguments: [false, true])
    func deadMember(isLinkFirst: Bool) {
        var c = Cluster(of: "A", "B", "C", grace: grace)
        c.reduce("A")
        if isLinkFirst {
            c.separate("A", "C")
            c.breakLink("A", "C")
            #expect(c.view("A") == ["A", "B", "C"], "a link alone is no reason")
            c.breakConnection("C")
        } else {
            for name in ["A", "B"] { c.hold(from: name, to: "master") }
            c.kill("C", resetsConnections: true)
            #expect(c.view("A") == ["A", "B", "C"], "nor is a connection")
            c.releaseEverything()
        }
        #expect(c.view("A") == ["A", "B"] && c.view("B") == ["A", "B"])
        c.reduce("B")
        #expect(c.outcomes["A"] == [.success(worldSize: 2)] && c.outcomes["B"] == [.success(worldSize: 2)])
    }

    /// Chaos, seed 5: the others waited for it in a join point for the whole dead time.
    @Test("and so if nothing was in flight when it died")
    func deadMemberAtRest() {
        var c = Cluster(of: "A", "B", "C", grace: grace)
        c.updateTopology("A", "B")
        c.kill("C", resetsConnections: true)
        #expect(c.view("A") == ["A", "B"] && c.view("B") == ["A", "B"])
        #expect(c.answers["A"] == [.done] && c.answers["B"] == [.done])
    }

    @Test("a link that broke at rest and stands again is no sign of anything")
    func linkAtRest() {
        var c = Cluster(of: "A", "B", grace: grace)
        c.breakLink("A", "B")
        c.breakConnection("B")
        #expect(c.view("A") == ["A", "B"] && c.epoch("A") == 2)
    }

    @Test("what a member said of a link is forgotten when it attaches: it says again what still holds")
    func oldWordOnALink() {
        var c = Cluster(of: "A", "B", "C", grace: grace)
        c.hold(from: "B", to: "master")
        c.separate("A", "B")
        c.breakLink("A", "B")
        c.separate("A", "master")
        c.breakConnection("A")
        // Mended while nobody hears of it.
        c.reunite("A", "B")
        c.reunite("A", "master")
        c.seek()
        c.release(from: "B", to: "master")
        #expect(c.view("C") == ["A", "B", "C"])
        c.breakConnection("B")
        c.seek()
        #expect(c.view("A") == ["A", "B", "C"] && c.view("B") == ["A", "B", "C"])
    }

    /// Its master was stopped for longer than it waits, for example, and still had the vote.
    @Test("the vote of a member that no longer waits is forgotten when it attaches")
    func voteOfWhoGaveUp() {
        var c = Cluster(of: "A", "B", grace: grace)
        c.forge(.voteJoin, from: "A")
        c.breakConnection("A")
        c.seek()
        c.connect("C")
        c.updateTopology("B")
        #expect(c.view("B") == ["A", "B"] && c.answers["B"] == nil)
        c.updateTopology("A")
        #expect(c.view("A") == ["A", "B", "C"] && c.view("B") == ["A", "B", "C"])
    }

    @Test("a proposal that finds a member outside of any call is given up for a flush")
    func proposalToWhoGaveUp() {
        var c = Cluster(of: "A", "B", grace: grace)
        c.connect("C")
        c.hold(from: "C", to: "master")
        c.forge(.voteJoin, from: "A")
        c.updateTopology("B")
        c.breakConnection("A")
        c.seek()
        c.reduce("A", tag: 9)
        c.release(from: "C", to: "master")
        #expect(c.inFlight("A") == 1 && c.view("A") == ["A", "B"], "its operation is not forgotten")
    }

    @Test("who does not come back is lost after the dead time, and turned away when it does")
    func deadTime() {
        var c = Cluster(of: "A", "B", grace: grace)
        c.separate("B", "master")
        c.breakConnection("B")
        c.pass(c.timeouts.deadTime * 4 / 5)
        #expect(c.view("A") == ["A", "B"])
        c.pass(c.timeouts.heartbeatPeriod * 2)
        #expect(c.view("A") == ["A"])
        c.updateTopology("B")
        #expect(c.answers["B"] == nil, "it still hopes")
        c.reunite("B", "master")
        c.seek()
        #expect(c.answers["B"] == [.failed(.turnedAway("it was taken for lost"))])
        #expect(c.nodes["B"]?.machine.isMember == false)
    }

    @Test("a member that closes its connection has ended, and nobody waits for it")
    func closed() {
        var c = Cluster(of: "A", "B", grace: grace)
        c.kill("B")
        #expect(c.view("A") == ["A"])
    }

    @Test("a newcomer's connection breaks: it is registered anew, under a new id, and gets in")
    func newcomer() {
        var c = Cluster(of: "A", grace: grace)
        c.connect("B")
        let before = c.id("B")
        c.breakConnection("B")
        #expect(c.id("B") > before && c.answers["B"] == nil)
        #expect(c.master.peers.map(\.id) == [c.id("A"), c.id("B")])
        c.updateTopology("A")
        #expect(c.answers["B"] == [.done] && c.view("B") == ["A", "B"])
    }

    @Test("a member attaches before its old connection is known to be broken: the new one counts")
    func attachesFirst() {
        var c = Cluster(of: "A", "B", grace: grace)
        let old = c.nodes["A"]?.connection
        guard let attachment = c.attachment(of: "A"), let old else {
            Issue.record("A is no member")
            return
        }
        #expect(c.knock(.attach(attachment)).map { $0.bytes[0] } == [ToPeer.attached(world: counts).bytes[0]])
        #expect(c.master.peers.first { $0.id == c.id("A") }?.connection != old)
        // A hears that its connection was closed in the meantime, and takes its place back.
        #expect(c.nodes["A"]?.connection != old)
        c.updateTopology("A", "B")
        #expect(c.answers == ["A": [.done], "B": [.done]] && c.view("A") == ["A", "B"])
    }

    private let counts = WorldCounts(globalWorldSize: 2, groupCount: 1, largestGroupWorldSize: 2)
}

@Suite("Transcripts: a member attaches again and is told what it has missed")
struct MissedWordTests {
    /// The calls that leave view and epoch as they were, and what answers them.
    enum Joint: CaseIterable {
        case join, pending, optimize

        func make(_ c: inout Cluster, _ name: String) {
            switch self {
            case .join: c.updateTopology(name)
            case .pending: c.arePeersPending(name)
            case .optimize: c.optimizeTopology(name)
            }
        }
        var answer: CallAnswer { self == .pending ? .pending(false) : .done }
        func isAnswer(_ message: ToPeer) -> Bool {
            switch (self, message) {
            case (.join, .joinUnchanged), (.pending, .pendingAnswer), (.optimize, .optimizeUnchanged): true
            default: false
            }
        }
    }

    @Test("a lost answer is said again, and not twice", arguments: Joint.allCases, [false, true])
    func lostAnswer(joint: Joint, restarts: Bool) {
        var c = Cluster(of: "A", "B", grace: grace)
        joint.make(&c, "A")
        c.hold(from: "master", to: "A")
        joint.make(&c, "B")
        #expect(c.answers == ["B": [joint.answer]])
        if restarts {
            c.lose(from: "master", to: "A")
            c.killMaster()
            c.restartMaster(keepingJournal: true)
            c.seek()
        } else {
            c.breakConnection("A")
        }
        #expect(c.answers == ["A": [joint.answer], "B": [joint.answer]])
        #expect(c.told("A").count { joint.isAnswer($0) } == 2, "the lost one, and the one said again")
        c.breakConnection("A")
        c.breakConnection("B")
        #expect(c.told("A").count { joint.isAnswer($0) } == 2)
        #expect(c.told("B").count { joint.isAnswer($0) } == 1)
        // It counted as the answer to that call, and to no further one.
        joint.make(&c, "A")
        #expect(c.answers["A"]?.count == 1)
        joint.make(&c, "B")
        #expect(c.answers["A"] == [joint.answer, joint.answer] && c.answers["B"] == [joint.answer, joint.answer])
    }

    /// C is admitted, and the word of it to A is held up.
    private func heldView() -> Cluster {
        var c = Cluster(of: "A", "B", grace: grace)
        c.connect("C")
        c.updateTopology("A")
        c.hold(from: "A", to: "master")
        c.updateTopology("B")
        c.hold(from: "master", to: "A")
        c.release(from: "A", to: "master")
        #expect(c.view("A") == ["A", "B"] && c.view("B") == ["A", "B", "C"])
        return c
    }

    @Test("a lost view is told again, and ends the call that waited for it")
    func lostView() {
        var c = heldView()
        let all = ["A", "B", "C"].map { c.id($0) }
        c.breakConnection("A")
        #expect(c.views(toldTo: "A") == [all, all])
        #expect(c.answers["A"] == [.done])
        #expect(c.view("A") == ["A", "B", "C"] && c.epoch("A") == c.epoch("B"))
    }

    @Test("a lost view is told again after a restart, with the members that it had, even if one is lost since")
    func lostViewAfterRestart() {
        var c = heldView()
        let all = ["A", "B", "C"].map { c.id($0) }
        let epoch = c.epoch("B")
        c.kill("C")
        c.lose(from: "master", to: "A")
        c.killMaster()
        c.restartMaster(keepingJournal: true)
        c.seek()
        #expect(c.views(toldTo: "A") == [all, all])
        #expect(c.answers["A"] == [.done])
        // And the loss is told after it.
        #expect(c.view("A") == ["A", "B"] && c.view("B") == ["A", "B"])
        #expect(c.epoch("A") == c.epoch("B") && c.epoch("A") > epoch)
        c.reduce("A", "B")
        #expect(c.outcomes["A"] == [.success(worldSize: 2)])
    }

    @Test("a lost verdict is told again after a restart, even if one more member is lost since")
    func lostVerdict() {
        var c = Cluster(of: "A", "B", "C", "D", grace: grace)
        for name in ["A", "D"] { c.withholdResult(name) }
        c.reduce("A", "B", "C", "D")
        c.hold(from: "B", to: "master")
        c.kill("D")
        c.hold(from: "master", to: "A")
        c.release(from: "B", to: "master")
        #expect(c.outcomes == ["B": [.memberLost], "C": [.memberLost]])
        let epoch = c.epoch("B")
        c.kill("C")
        c.lose(from: "master", to: "A")
        c.killMaster()
        c.restartMaster(keepingJournal: true)
        c.seek()
        #expect(c.outcomes["A"] == [.memberLost])
        let verdicts = c.told("A").compactMap { message -> [PeerID]? in
            if case .verdict(Epoch(epoch), let members, _, _, _, _) = message { members.map(\.id) } else { nil }
        }
        #expect(verdicts == [["A", "B", "C"].map { c.id($0) }, ["A", "B", "C"].map { c.id($0) }])
        #expect(c.nodes["A"]?.restored.count == 1)
        #expect(c.view("A") == ["A", "B"] && c.epoch("A") == c.epoch("B") && c.epoch("A") > epoch)
        c.finishResult("A")
        c.reduce("A", "B")
        #expect(c.outcomes["A"]?.last == .success(worldSize: 2) && c.outcomes["B"]?.last == .success(worldSize: 2))
    }

    @Test("a proposal and a flush that were lost with the connection are said again")
    func lostQuestion() {
        var c = Cluster(of: "A", "B", grace: grace)
        c.connect("C")
        c.hold(from: "master", to: "A")
        c.updateTopology("A", "B")
        #expect(c.view("B") == ["A", "B"])
        c.breakConnection("A")
        #expect(c.view("A") == ["A", "B", "C"])

        c.hold(from: "master", to: "A")
        c.kill("C")
        #expect(c.view("B") == ["A", "B", "C"])
        c.breakConnection("A")
        #expect(c.view("A") == ["A", "B"] && c.view("B") == ["A", "B"])
        #expect(Set(c.flushes(toldTo: "A")).count == 1, "it is the same flush")
    }
}

@Suite("Transcripts: a master is started anew with its journal")
struct RestartedMasterTests {
    @Test("members go on in their epoch: operations end, and no call fails")
    func goesOn() {
        var c = Cluster(of: "A", "B", grace: grace)
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
        var c = Cluster(of: "A", "B", "C", grace: grace)
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
        var c = Cluster(of: "A", "B", grace: grace)
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
        var c = Cluster(of: "A", "B", grace: grace)
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
        var c = Cluster(of: "A", "B", grace: grace)
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
        var c = Cluster(of: "A", "B", grace: grace)
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
        var c = Cluster(of: "A", "B", "C", grace: grace)
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
        var c = Cluster(of: "A", "B", grace: grace)
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
        var c = Cluster(of: "A", grace: grace)
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
        var c = Cluster(of: "A", "B", grace: grace)
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
        var c = Cluster(of: "A", "B", "C", grace: grace)
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
        var c = Cluster(of: "A", grace: grace)
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
        var c = Cluster(of: "A", "B", grace: grace)
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
        var c = Cluster(of: "A", "B", grace: grace)
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
        var c = Cluster(of: "A", "B", grace: grace)
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
        var c = Cluster(of: "A", grace: grace)
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
        var c = Cluster(of: "A", grace: grace)
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
        var c = Cluster(of: "A", "B", "C", grace: grace)
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
        var c = Cluster(of: "A", "B", "C", grace: grace)
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

@Suite("Transcripts: who attaches wrongly")
struct WrongAttachmentTests {
    private func turnedAway(_ answers: [ToPeer]) -> String? {
        guard answers.count == 1, case .turnedAway(let reason)? = answers.first else { return nil }
        return reason
    }

    @Test("a wrong secret is turned away, and the member is not disturbed", arguments: [false, true])
    func wrongSecret(restarts: Bool) throws {
        var c = Cluster(of: "A", "B", grace: grace)
        var attachment = try #require(c.attachment(of: "A"))
        attachment.secret = PeerSecret(high: attachment.secret.high, low: attachment.secret.low &+ 1)
        if restarts {
            c.killMaster()
            c.restartMaster(keepingJournal: true)
        }
        #expect(turnedAway(c.knock(.attach(attachment))) == "it was taken for lost")
        c.seek()
        c.updateTopology("A", "B")
        #expect(c.answers == ["A": [.done], "B": [.done]])
    }

    @Test("a member of another run, of another group, and one that is not known are turned away")
    func strangers() throws {
        var c = Cluster(of: "A", "B", grace: grace)
        let attachment = try #require(c.attachment(of: "A"))
        var other = attachment
        other.run = RunID(high: 7, low: 7)
        #expect(turnedAway(c.knock(.attach(other))) == "this master serves another run")
        other = attachment
        other.group = GroupID(9)
        #expect(turnedAway(c.knock(.attach(other))) == "it was taken for lost")
        other = attachment
        other.peer = PeerID(77)
        #expect(turnedAway(c.knock(.attach(other))) == "it was taken for lost")
        // A later epoch is believed from nobody once the run is settled.
        other.view?.epoch = Epoch(1000)
        other.view?.members = [Member(id: PeerID(77), addresses: [], stripes: 1)]
        #expect(turnedAway(c.knock(.attach(other))) == "it was taken for lost")
        c.updateTopology("A", "B")
        #expect(c.answers == ["A": [.done], "B": [.done]])
    }

    @Test("a member that claims a view of which the master has not heard is turned away, for its own has ended")
    func epochToCome() throws {
        var c = Cluster(of: "A", "B", grace: grace)
        var attachment = try #require(c.attachment(of: "B"))
        attachment.view?.epoch = Epoch(1000)
        let answers = c.knock(.attach(attachment))
        guard case .turnedAway(let reason)? = answers.last else {
            Issue.record("\(answers)")
            return
        }
        #expect(reason.contains("not known here"))
        #expect(c.view("A") == ["A"])
    }

    @Test("ids and epochs that leave a master none to give are nobody's", arguments: [false, true])
    func lastNumbers(restarts: Bool) throws {
        var c = Cluster(of: "A", "B", grace: grace)
        let attachment = try #require(c.attachment(of: "A"))
        if restarts {
            c.killMaster()
            c.restartMaster(keepingJournal: false)
        }
        let lies: [(inout PCCLWire.Attachment) -> Void] = [
            { $0.peer = PeerID(.max) },
            {
                $0.peer = PeerID(.max)
                $0.view = nil
            },
            { $0.view?.members.append(Member(id: PeerID(.max), addresses: [], stripes: 1)) },
            { $0.view?.epoch = Epoch(.max) },
            { $0.view?.highestEpoch = Epoch(.max) },
        ]
        for lie in lies {
            var lying = attachment
            lie(&lying)
            #expect(turnedAway(c.knock(.attach(lying))) == "no master gave it that place")
        }
        c.seek()
        c.connect("C")
        c.updateTopology("A", "B")
        for name in ["A", "B", "C"] { #expect(c.answers[name] == [.done] && c.view(name) == ["A", "B", "C"]) }
    }

    @Test("who attaches over a connection that it has registered on, or twice, breaks the protocol")
    func twice() throws {
        var c = Cluster(of: "A", "B", grace: grace)
        let attachment = try #require(c.attachment(of: "B"))
        c.forge(.attach(attachment), from: "B")
        #expect(c.view("A") == ["A"])
        c.updateTopology("B")
        guard case .failed(.turnedAway(let reason))? = c.answers["B"]?.first else {
            Issue.record("B: \(c.answers)")
            return
        }
        #expect(reason.contains("over a connection in use"))
    }

    @Test("an answer to attach that nobody waits for is a breach of the master's")
    func unexpectedAnswer() {
        var c = Cluster(of: "A", grace: grace)
        let connection = c.nodes["A"]?.connection
        c.forge(.attached(world: WorldCounts(globalWorldSize: 1, groupCount: 1, largestGroupWorldSize: 1)), to: "A")
        #expect(c.nodes["A"]?.connection != connection, "it has broken off, and attached again")
        c.updateTopology("A")
        #expect(c.answers["A"] == [.done])
    }
}
