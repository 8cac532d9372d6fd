import PCCLBase
import PCCLWire
import Testing

@testable import PCCLMembership

@Suite("Transcripts: a control connection breaks")
struct BrokenConnectionTests {
    @Test("that is no loss: operations and calls go on")
    func noLoss() {
        var c = Cluster(of: "A", "B", grace: longGrace)
        let epoch = c.epoch("A")
        c.reduce("A")
        c.updateTopology("B")
        c.breakConnection("B")
        #expect(c.told("B").contains { if case .attached = $0 { true } else { false } })
        c.reduce("A", tag: 2)
        c.breakConnection("A")
        #expect(c.answers.isEmpty && c.inFlight("A") == 2, "B waits in its call, and A for B")
        #expect(c.view("A") == ["A", "B"] && c.epoch("A") == epoch && c.epoch("B") == epoch)

        var d = Cluster(of: "A", "B", grace: longGrace)
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
        var c = Cluster(of: "A", "B", "C", grace: longGrace)
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
        var c = Cluster(of: "A", "B", "C", grace: longGrace)
        c.updateTopology("A", "B")
        c.kill("C", resetsConnections: true)
        #expect(c.view("A") == ["A", "B"] && c.view("B") == ["A", "B"])
        #expect(c.answers["A"] == [.done] && c.answers["B"] == [.done])
    }

    @Test("a link that broke at rest and stands again is no sign of anything")
    func linkAtRest() {
        var c = Cluster(of: "A", "B", grace: longGrace)
        c.breakLink("A", "B")
        c.breakConnection("B")
        #expect(c.view("A") == ["A", "B"] && c.epoch("A") == 2)
    }

    @Test("what a member said of a link is forgotten when it attaches: it says again what still holds")
    func oldWordOnALink() {
        var c = Cluster(of: "A", "B", "C", grace: longGrace)
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
        var c = Cluster(of: "A", "B", grace: longGrace)
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
        var c = Cluster(of: "A", "B", grace: longGrace)
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
        var c = Cluster(of: "A", "B", grace: longGrace)
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
        var c = Cluster(of: "A", "B", grace: longGrace)
        c.kill("B")
        #expect(c.view("A") == ["A"])
    }

    @Test("a newcomer's connection breaks: it is registered anew, under a new id, and gets in")
    func newcomer() {
        var c = Cluster(of: "A", grace: longGrace)
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
        var c = Cluster(of: "A", "B", grace: longGrace)
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
        var c = Cluster(of: "A", "B", grace: longGrace)
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
        var c = Cluster(of: "A", "B", grace: longGrace)
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
        var c = Cluster(of: "A", "B", "C", "D", grace: longGrace)
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
        var c = Cluster(of: "A", "B", grace: longGrace)
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

@Suite("Transcripts: who attaches wrongly")
struct WrongAttachmentTests {
    private func turnedAway(_ answers: [ToPeer]) -> String? {
        guard answers.count == 1, case .turnedAway(let reason)? = answers.first else { return nil }
        return reason
    }

    @Test("a wrong secret is turned away, and the member is not disturbed", arguments: [false, true])
    func wrongSecret(restarts: Bool) throws {
        var c = Cluster(of: "A", "B", grace: longGrace)
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
        var c = Cluster(of: "A", "B", grace: longGrace)
        let attachment = try #require(c.attachment(of: "A"))
        var other = attachment
        other.run = RunID(high: 7, low: 7)
        #expect(turnedAway(c.knock(.attach(other))) == "this master serves another run")
        other = attachment
        other.hello.group = GroupID(9)
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
        var c = Cluster(of: "A", "B", grace: longGrace)
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

    @Test("views that cannot be, and numbers that leave a master none to give, are nobody's", arguments: [false, true])
    func impossible(restarts: Bool) throws {
        var c = Cluster(of: "A", "B", grace: longGrace)
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
            { $0.view?.members.append(Member(id: PeerID(1), addresses: [], stripes: 1)) },
            { $0.view?.arrangement.shares = [1] },
            { $0.view?.arrangement.sites = [0, 1, 2] },
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

    @Test("a view that is taken over has no members that are elsewhere in the run", arguments: [0, 1])
    func elsewhere(group: UInt32) throws {
        var c = Cluster(of: "A", "B", grace: longGrace)
        var attachment = try #require(c.attachment(of: "B"))
        c.killMaster()
        c.restartMaster(keepingJournal: false)
        let stranger = c.knock(
            .attach(
                PCCLWire.Attachment(
                    run: attachment.run, peer: PeerID(9), secret: PeerSecret(high: 1, low: 1),
                    hello: Hello(group: GroupID(group), listenPort: 1, addresses: [], stripes: 1), view: nil)))
        guard case .welcome(let id, _, _, _, _, _)? = stranger.first else {
            Issue.record("\(stranger)")
            return
        }
        attachment.view?.members.append(Member(id: id, addresses: [], stripes: 1))
        #expect(turnedAway(c.knock(.attach(attachment))) == "no master gave it that place")
    }

    @Test("who attaches over a connection that it has registered on, or twice, breaks the protocol")
    func twice() throws {
        var c = Cluster(of: "A", "B", grace: longGrace)
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
        var c = Cluster(of: "A", grace: longGrace)
        let connection = c.nodes["A"]?.connection
        c.forge(.attached(world: WorldCounts(globalWorldSize: 1, groupCount: 1, largestGroupWorldSize: 1)), to: "A")
        #expect(c.nodes["A"]?.connection != connection, "it has broken off, and attached again")
        c.updateTopology("A")
        #expect(c.answers["A"] == [.done])
    }
}
