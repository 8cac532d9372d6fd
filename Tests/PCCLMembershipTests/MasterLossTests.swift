import PCCLBase
import PCCLWire
import Testing

@testable import PCCLMembership

@Suite("Transcripts: the master is gone")
struct MasterLossTests {
    @Test("collectives of the view go on, and membership calls fail with the reason")
    func collectivesGoOn() {
        var c = Cluster(of: "A", "B")
        c.reduce("A")
        c.updateTopology("B")
        c.killMaster()
        guard case .failed(.masterLost)? = c.answers["B"]?.first else {
            Issue.record("B waits for a master that is gone: \(c.answers)")
            return
        }
        c.reduce("B")
        #expect(c.outcomes == ["A": [.success(worldSize: 2)], "B": [.success(worldSize: 2)]])
        c.arePeersPending("A")
        guard case .failed(.masterLost)? = c.answers["A"]?.first else {
            Issue.record("A: \(String(describing: c.answers["A"]))")
            return
        }
        // For as long as one likes: there is nobody to hear heartbeats from.
        c.pass(Cluster.timeouts.deadTime * 3)
        c.reduce("A", "B")
        #expect(c.outcomes["B"]?.count == 2)
        #expect(c.nodes["A"]?.view?.worldSize == 2)
    }

    @Test("then a member is lost too: nobody can say who is left, and every call says so")
    func thenAMember() {
        var c = Cluster(of: "A", "B", "C")
        c.killMaster()
        c.reduce("A")
        c.kill("C")
        guard case .masterLost(let why)? = c.outcomes["A"]?.first else {
            Issue.record("A: \(c.outcomes)")
            return
        }
        #expect(why.contains("nobody can say who is left"))
        #expect(c.nodes["A"]?.restored.count == 1)
        #expect(c.nodes["A"]?.view == nil && c.nodes["B"]?.view == nil)
        c.reduce("A", "B")
        #expect(c.outcomes["A"]?.count == 2)
        guard case .masterLost? = c.outcomes["B"]?.first else {
            Issue.record("B: \(c.outcomes)")
            return
        }
    }

    @Test("a link was down already when the master went: the same")
    func withALinkDown() {
        var c = Cluster(of: "A", "B")
        c.separate("A", "B")
        c.breakLink("A", "B")
        c.reduce("A")
        c.killMaster()
        guard case .masterLost? = c.outcomes["A"]?.first else {
            Issue.record("A: \(c.outcomes)")
            return
        }
    }

    @Test("the master goes between a flush and its verdict: no operation is taken for a success or a failure")
    func duringFlush() {
        var c = Cluster(of: "A", "B", "C")
        c.withholdResult("C")
        c.reduce("A", "B", "C")
        c.hold(from: "B", to: "master")
        c.kill("C")
        c.killMaster()
        c.releaseEverything()
        for name in ["A", "B"] {
            guard case .masterLost? = c.outcomes[name]?.first else {
                Issue.record("\(name): \(c.outcomes)")
                continue
            }
            #expect(c.nodes[name]?.machine.isMember == false)
        }
    }

    @Test(
        "the master goes while a newcomer is linked: a member that has not agreed yet stays, for no view can be without it"
    )
    func duringProposal() {
        var c = Cluster(of: "A", "B")
        c.separate("A", "C")
        c.separate("B", "C")
        c.connect("C")
        c.updateTopology("A", "B")
        c.killMaster()
        for name in ["A", "B"] {
            guard case .failed(.masterLost)? = c.answers[name]?.first else {
                Issue.record("\(name): \(c.answers)")
                continue
            }
        }
        c.reduce("A", "B")
        #expect(c.outcomes["A"] == [.success(worldSize: 2)])
    }

    @Test("the master goes after a member has agreed to a view: others may be in it already, so this one leaves")
    func afterProposal() {
        var c = Cluster(of: "A", "B")
        c.hold(from: "B", to: "master")
        c.connect("C")
        c.updateTopology("A")
        // B's vote arrives, its agreement does not.
        c.hold(from: "A", to: "master")
        c.release(from: "B", to: "master")
        c.updateTopology("B")
        c.killMaster()
        guard case .failed(.masterLost)? = c.answers["A"]?.first else {
            Issue.record("A: \(c.answers)")
            return
        }
        #expect(c.nodes["A"]?.machine.isMember == false)
    }

    @Test("a master from which nothing is heard for the dead time is lost, though its connection stands")
    func silent() {
        var c = Cluster(of: "A", "B")
        c.hold(from: "master", to: "A")
        c.updateTopology("A")
        c.pass(Cluster.timeouts.deadTime * 2 / 3)
        #expect(c.answers["A"] == nil)
        c.pass(Cluster.timeouts.deadTime)
        guard case .failed(.masterLost(let reason))? = c.answers["A"]?.first else {
            Issue.record("A: \(c.answers)")
            return
        }
        #expect(reason.contains("nothing was heard"))
    }

    @Test("a master that cannot be reached, or goes before it answers, fails the connect")
    func neverThere() {
        var c = Cluster()
        c.killMaster()
        c.connect("A")
        #expect(c.answers["A"] == [.failed(.masterUnreachable("refused"))])

        var d = Cluster()
        d.hold(from: "A", to: "master")
        d.connect("A")
        d.killMaster()
        #expect(d.answers["A"] == [.failed(.masterUnreachable("reset"))])

        var newcomer = Cluster(of: "A")
        newcomer.connect("B")
        newcomer.killMaster()
        #expect(newcomer.answers["B"] == [.failed(.masterUnreachable("reset"))])
    }

    @Test("one of several masters goes before it answers: another is asked, while members would wait for it")
    func registersElsewhere() {
        var configuration = PeerMachine.Configuration(
            group: GroupID(0), listenPort: 1, addresses: [], stripes: 1,
            timeouts: Timeouts(deadTime: .seconds(5), masterGrace: .seconds(30)))
        configuration.hasSeveralMasters = true
        var peer = PeerMachine(configuration)
        var now = Instant(nanoseconds: 1_000_000_000)
        func handle(_ event: PeerMachine.Event) -> (dials: Int, abandons: Int, answers: [CallAnswer]) {
            var effects: [PeerMachine.Effect] = []
            peer.handle(event, at: now, effects: &effects)
            var seen = (dials: 0, abandons: 0, answers: [CallAnswer]())
            for effect in effects {
                switch effect {
                case .dialMaster: seen.dials += 1
                case .abandonMaster: seen.abandons += 1
                case .answer(_, let answer): seen.answers.append(answer)
                default: break
                }
            }
            return seen
        }
        let end = now + .seconds(30)
        #expect(handle(.call(CallID(1), .connect)).dials == 1)
        var rounds = 0
        while true {
            _ = handle(.masterConnected)
            let seen = handle(.masterClosed("reset"))
            guard seen.answers.isEmpty else {
                #expect(seen.answers == [.failed(.masterUnreachable("reset"))])
                break
            }
            #expect(seen.dials == 0 && seen.abandons == 1)
            now = now + .milliseconds(100)
            #expect(handle(.tick).dials == 0)
            now = now + .milliseconds(100)
            #expect(handle(.tick).dials == 1)
            rounds += 1
        }
        #expect(rounds > 100 && now < end)
    }

    @Test("a peer that has lost everything may connect to a new master as a newcomer")
    func newMaster() {
        var c = Cluster(of: "A", "B")
        c.killMaster()
        c.kill("B")
        #expect(c.nodes["A"]?.machine.isMember == false)
        c.connect("A")
        guard case .failed(.masterUnreachable)? = c.answers["A"]?.last else {
            Issue.record("A: \(c.answers)")
            return
        }
    }
}

@Suite("Transcripts: a master that is told nonsense")
struct MasterStrayTests {
    /// Sends each twice, in a settled run, and expects that nothing happens to anybody.
    @Test("late and repeated messages change nothing")
    func lateMessages() {
        var c = Cluster(of: "A", "B", "C")
        c.updateTopology("A")
        let epoch = Epoch(c.epoch("A"))
        let old = Epoch(epoch.value - 1)
        c.forgetAnswers()
        let messages: [ToMaster] = [
            .heartbeat, .linked(epoch: epoch), .linked(epoch: old), .linked(epoch: epoch.next),
            .cannotReach(epoch: old, peers: [c.id("A")]), .cannotReach(epoch: epoch, peers: [PeerID(77)]),
            .brokenLink(epoch: old, peer: c.id("A"), gaveUp: true),
            .brokenLink(epoch: epoch.next, peer: c.id("A"), gaveUp: false),
            .brokenLink(epoch: epoch, peer: PeerID(77), gaveUp: true),
            .brokenLink(epoch: epoch, peer: c.id("B"), gaveUp: true),
            .flushReport(epoch: epoch, operations: []), .flushReport(epoch: epoch.next, operations: []),
            .stalled(epoch: old, tag: Tag(1), missing: [c.id("A")]),
            .stalled(epoch: epoch, tag: Tag(1), missing: [c.id("C"), PeerID(77)]),
        ]
        for message in messages {
            c.forge(message, from: "B")
            c.forge(message, from: "B")
            c.pass(Cluster.timeouts.unreachableGrace * 2)
        }
        #expect(c.view("A") == ["A", "B", "C"] && c.epoch("C") == epoch.value)
        #expect(c.sentByMaster.allSatisfy { $0.message == .heartbeat }, "\(c.sentByMaster)")
        c.updateTopology("B", "C")
        #expect(c.answers["A"] == [.done])
    }

    @Test("a newcomer's votes and reports are none of the members' business")
    func newcomerSpeaks() {
        var c = Cluster(of: "A", "B")
        c.connect("C")
        let epoch = Epoch(c.epoch("A"))
        for message in [
            ToMaster.voteJoin, .votePending, .brokenLink(epoch: epoch, peer: c.id("A"), gaveUp: true),
            .flushReport(epoch: epoch.next, operations: []),
            .stalled(epoch: epoch, tag: Tag(1), missing: [c.id("A")]),
        ] {
            c.forge(message, from: "C")
        }
        c.pass(Cluster.timeouts.unreachableGrace * 2)
        #expect(c.view("A") == ["A", "B"] && c.epoch("A") == epoch.value)
        c.updateTopology("A")
        #expect(c.answers["A"] == nil)
        c.updateTopology("B")
        #expect(c.view("C") == ["A", "B", "C"])
    }

    @Test("a report that comes twice is one report, and one of an earlier flush none")
    func doubleReports() {
        var c = Cluster(of: "A", "B", "C")
        c.withholdResult("A")
        c.withholdResult("C")
        c.reduce("A", "B", "C")
        c.hold(from: "A", to: "master")
        c.kill("C")
        guard case .flushing(let flush) = c.phase else {
            Issue.record("\(c.phase)")
            return
        }
        c.forge(.flushReport(epoch: flush.epoch, operations: []), from: "B")
        c.forge(.flushReport(epoch: Epoch(flush.epoch.value - 1), operations: []), from: "B")
        guard case .flushing(let still) = c.phase else {
            Issue.record("it went on without A")
            return
        }
        #expect(still.reports.count == 1 && still.reports[0].operations.count == 1)
        c.releaseEverything()
        #expect(c.outcomes == ["A": [.memberLost], "B": [.memberLost]])
    }

    @Test("hello twice, bytes that are no message, and no hello at first end in a word and a closed connection")
    func violations() {
        var c = Cluster(of: "A", "B")
        c.forge(.hello(Hello(group: GroupID(0), listenPort: 1, addresses: [], stripes: 1)), from: "B")
        #expect(c.view("A") == ["A"])
        #expect(c.nodes["B"]?.machine.isMember == false)

        var master = MasterMachine(run: Cluster.run, timeouts: Cluster.timeouts, now: Instant(nanoseconds: 0))
        var effects: [MasterMachine.Effect] = []
        let connection = MasterMachine.ConnectionID(1)
        let start = Instant(nanoseconds: 0)
        master.handle(.connected(connection, from: .v4(1), secret: secret), at: start, effects: &effects)
        effects = []
        master.handle(.received(connection, .voteJoin), at: start, effects: &effects)
        #expect(describe(effects) == ["send 1 turnedAway", "close 1"])
        effects = []
        // The connection is forgotten: nothing more is said to it.
        master.handle(.received(connection, .voteJoin), at: start, effects: &effects)
        master.handle(.closed(connection, reason: "late"), at: start, effects: &effects)
        master.handle(.violated(connection, reason: "late"), at: start, effects: &effects)
        #expect(describe(effects) == [])
    }

    @Test("a connection that says nothing is closed after the time a connection may take to be made")
    func silentStranger() {
        var master = MasterMachine(run: Cluster.run, timeouts: Cluster.timeouts, now: Instant(nanoseconds: 0))
        var effects: [MasterMachine.Effect] = []
        let start = Instant(nanoseconds: 0)
        master.handle(
            .connected(MasterMachine.ConnectionID(1), from: .v4(1), secret: secret), at: start, effects: &effects)
        effects = []
        master.handle(.tick, at: start + Cluster.timeouts.dialPatience / 2, effects: &effects)
        #expect(describe(effects) == [])
        master.handle(.tick, at: start + Cluster.timeouts.dialPatience, effects: &effects)
        #expect(describe(effects) == ["close 1"])
    }

    @Test(
        "a peer is known where it says, and, first or last, at the address it came from; and a wish for too many connections is cut"
    )
    func registration() {
        var master = MasterMachine(run: Cluster.run, timeouts: Cluster.timeouts, now: Instant(nanoseconds: 0))
        var effects: [MasterMachine.Effect] = []
        let start = Instant(nanoseconds: 0)
        let own = SocketAddress(.v4(0x0a00_0001), port: 7)
        let seen = SocketAddress(.v4(0x0a00_0002), port: 7)
        master.handle(
            .connected(MasterMachine.ConnectionID(1), from: seen.host, secret: secret), at: start, effects: &effects)
        let hello = ToMaster.hello(Hello(group: GroupID(0), listenPort: 7, addresses: [own, seen], stripes: .max))
        master.handle(.received(MasterMachine.ConnectionID(1), hello), at: start, effects: &effects)
        #expect(master.peers.map(\.member.addresses) == [[own, seen]])
        #expect(master.peers.map(\.member.stripes) == [UInt16(WireLimits.stripesPerLink)])
        // An unspecified address stands for the one it came from.
        let anywhere = SocketAddress(.v6(high: 0, low: 0), port: 9)
        let second = ToMaster.hello(Hello(group: GroupID(0), listenPort: 7, addresses: [anywhere, own], stripes: 1))
        master.handle(
            .connected(MasterMachine.ConnectionID(2), from: seen.host, secret: secret), at: start, effects: &effects)
        master.handle(.received(MasterMachine.ConnectionID(2), second), at: start, effects: &effects)
        #expect(master.peers[1].member.addresses == [SocketAddress(seen.host, port: 9), own, seen])
    }

    private func describe(_ effects: [MasterMachine.Effect]) -> [String] {
        effects.compactMap { effect in
            switch effect {
            case .send(let connection, .turnedAway): "send \(connection.value) turnedAway"
            case .send(let connection, let message): "send \(connection.value) \(message)"
            case .close(let connection): "close \(connection.value)"
            case .persist, .solve, .improve, .wake, .log: nil
            }
        }
    }
}

@Suite("Transcripts: a peer that is told nonsense")
struct PeerStrayTests {
    static let world = WorldCounts(globalWorldSize: 2, groupCount: 1, largestGroupWorldSize: 2)

    @Test("answers to calls that nobody waits in are ignored")
    func lateAnswers() {
        var c = Cluster(of: "A", "B")
        for message in [
            ToPeer.joinUnchanged(world: Self.world), .pendingAnswer(arePending: true), .callRefused(reason: "late"),
            .world(Self.world), .heartbeat,
        ] {
            c.forge(message, to: "A")
        }
        #expect(c.answers.isEmpty)
        c.reduce("A", "B")
        #expect(c.outcomes["A"] == [.success(worldSize: 2)])
    }

    /// The peer closes that connection. So the master takes it for lost, and the others do with it; had it been silent only,
    /// collectives would go on, but a master that contradicts itself must not arbitrate.
    @Test(
        "a peer leaves a master that breaks the protocol, and its next calls say why",
        arguments: [
            ToPeer.welcome(
                peer: PeerID(5), run: Cluster.run, secret: secret, deadTimeMilliseconds: 1, masterGraceMilliseconds: 0),
            .view(epoch: Epoch(100), members: [], world: world),
            .view(epoch: Epoch(0), members: [Member(id: PeerID(1), addresses: [], stripes: 1)], world: world),
            .verdict(epoch: Epoch(100), members: [], world: world, operations: []),
        ])
    func violations(message: ToPeer) {
        var c = Cluster(of: "A", "B")
        c.hold(from: "A", to: "master")
        c.forge(message, to: "A")
        c.arePeersPending("A")
        guard case .failed(.masterLost(let reason))? = c.answers["A"]?.first else {
            Issue.record("A: \(c.answers)")
            return
        }
        #expect(reason.contains("broke the protocol"))
        c.release(from: "A", to: "master")
        #expect(c.view("B") == ["B"] && c.view("A") == [])
        c.reduce("A")
        guard case .masterLost(let why)? = c.outcomes["A"]?.first else {
            Issue.record("A: \(c.outcomes)")
            return
        }
        #expect(why.contains("broke the protocol"))
    }

    @Test("a verdict on other operations than were reported is not believed")
    func wrongVerdict() {
        var c = Cluster(of: "A", "B", "C")
        c.withholdResult("A")
        c.reduce("A", "B", "C")
        c.hold(from: "B", to: "master")
        c.kill("C")
        guard case .flushing(let flush) = c.phase else {
            Issue.record("\(c.phase)")
            return
        }
        let members = [Member(id: c.id("A"), addresses: [], stripes: 1)]
        c.forge(
            .verdict(
                epoch: flush.epoch, members: members, world: Self.world,
                operations: [OperationVerdict(tag: Tag(1), launch: LaunchNumber(99), outcome: .commit)]),
            to: "A")
        guard case .masterLost? = c.outcomes["A"]?.first else {
            Issue.record("A: \(c.outcomes)")
            return
        }
        #expect(c.nodes["A"]?.restored.count == 1)
    }
}

private let secret = PeerSecret(high: 1, low: 2)
