import PCCLBase
import PCCLMembership
import PCCLSimulator
import PCCLWire
import Testing

/// What the simulator found, each as the smallest conversation that shows it.
@Suite("Bugs that the simulator found")
struct FoundBugsTests {
    /// The journal had the answer of a synchronisation that only a member who left had heard, and not what was agreed on.
    @Test("an answer that is given again after a restart is of the revision that it was of")
    func revisionOfAnAnswerGivenAgain() {
        if case .failed(let failure) = Simulation.run(seed: 7_506_441_435_915_314_592) { Issue.record("\(failure)") }
    }

    private let run = RunID(high: 1, low: 2)
    private let now = Instant(nanoseconds: 0)
    private let world = WorldCounts(globalWorldSize: 0, groupCount: 1, largestGroupWorldSize: 0)
    private let sum = OperationDescriptor(count: 4, type: .float32, operation: .sum, algorithm: .direct)
    private let tag = Tag(5)

    private func members(_ ids: [UInt64]) -> [Member] {
        ids.map { Member(id: PeerID($0), addresses: [.loopback(port: UInt16($0))], stripes: 1) }
    }

    /// Peer 1, admitted in this epoch with all its links.
    private func peer(of ids: [UInt64], epoch: UInt32) -> PeerMachine {
        var machine = PeerMachine(
            PeerMachine.Configuration(
                group: GroupID(0), listenPort: 1, addresses: [], stripes: 1, timeouts: .standard))
        _ = feed(&machine, .call(CallID(1), .connect), .masterConnected)
        _ = feed(
            &machine,
            .fromMaster(
                .welcome(
                    peer: PeerID(1), run: run, secret: PeerSecret(high: 1, low: 2), deadTimeMilliseconds: 5000,
                    masterGraceMilliseconds: 0)))
        if ids.count > 1 { _ = feed(&machine, .fromMaster(.propose(epoch: Epoch(epoch), members: members(ids)))) }
        for id in ids where id != 1 { _ = feed(&machine, .linkUp(PeerID(id))) }
        _ = feed(&machine, .fromMaster(.view(epoch: Epoch(epoch), members: members(ids), world: world)))
        return machine
    }

    private func feed(_ machine: inout PeerMachine, _ events: PeerMachine.Event...) -> [PeerMachine.Effect] {
        var effects: [PeerMachine.Effect] = []
        for event in events { machine.handle(event, at: now, effects: &effects) }
        return effects
    }

    private func messages(_ effects: [PeerMachine.Effect]) -> [ToMaster] {
        effects.compactMap { if case .sendToMaster(let message) = $0 { message } else { nil } }
    }
    private func outcomes(_ effects: [PeerMachine.Effect]) -> [OperationOutcome] {
        effects.compactMap { if case .complete(_, let outcome) = $0 { outcome } else { nil } }
    }
    private func answers(_ effects: [PeerMachine.Effect]) -> [CallAnswer] {
        effects.compactMap { if case .answer(_, let answer) = $0 { answer } else { nil } }
    }

    // All members were prepared, and one of them waited for ever: on the other stripe the word had come first.
    @Test("the word that a member is prepared may overtake its entry")
    func preparedOvertakesEntry() {
        var machine = peer(of: [1, 2], epoch: 3)
        _ = feed(&machine, .launch(OperationID(1), tag, sum))
        let effects = feed(
            &machine, .prepared(PeerID(2), Epoch(3), tag, LaunchNumber(9)),
            .entered(PeerID(2), Epoch(3), tag, LaunchNumber(9), sum), .resultWhole(tag, LaunchNumber(1)))
        #expect(outcomes(effects) == [.success(worldSize: 2)])
    }

    // The flush dropped the newcomer's link, of which no event tells; the next proposal was answered as if it stood.
    @Test("a newcomer whose link was dropped by a flush is linked anew before the member says so")
    func droppedLinkIsForgotten() {
        var machine = peer(of: [1, 2], epoch: 3)
        _ = feed(&machine, .call(CallID(2), .updateTopology))
        _ = feed(&machine, .fromMaster(.propose(epoch: Epoch(4), members: members([1, 2, 7]))), .linkUp(PeerID(7)))
        _ = feed(&machine, .fromMaster(.flush(epoch: Epoch(5))))
        _ = feed(
            &machine,
            .fromMaster(.verdict(epoch: Epoch(5), members: members([1, 2]), world: world, operations: [])))
        let proposed = feed(&machine, .fromMaster(.propose(epoch: Epoch(6), members: members([1, 2, 7]))))
        #expect(messages(proposed).isEmpty)
        #expect(messages(feed(&machine, .linkUp(PeerID(7)))) == [.linked(epoch: Epoch(6))])
    }

    // Data of the call that did not fit was bound to the operation, and taken for pieces outside of the buffer.
    @Test("what members with another descriptor sent early is ignored, not bound")
    func mismatchIsNotBound() {
        var machine = peer(of: [1, 2], epoch: 3)
        var other = sum
        other.count = 5
        _ = feed(&machine, .entered(PeerID(2), Epoch(3), tag, LaunchNumber(9), other))
        let effects = feed(&machine, .launch(OperationID(1), tag, sum))
        let ignored = effects.contains { if case .ignore(PeerID(2), LaunchNumber(9)) = $0 { true } else { false } }
        #expect(ignored)
        #expect(!effects.contains { if case .bind = $0 { true } else { false } })
        guard case .mismatch? = outcomes(effects).first else {
            Issue.record("\(outcomes(effects))")
            return
        }
    }

    // The view had reached the others: they went on in an epoch that this peer never learnt of, and waited for it there.
    @Test("a member that has agreed to a view when the master goes cannot know the epoch, and leaves the run")
    func masterGoneAfterLinked() {
        var agreed = peer(of: [1, 2], epoch: 3)
        _ = feed(&agreed, .call(CallID(2), .updateTopology))
        _ = feed(&agreed, .fromMaster(.propose(epoch: Epoch(4), members: members([1, 2, 7]))))
        var undecided = agreed
        #expect(messages(feed(&agreed, .linkUp(PeerID(7)))) == [.linked(epoch: Epoch(4))])
        _ = feed(&agreed, .masterClosed("killed"))
        #expect(!agreed.isMember)

        // Without its answer the master cannot have adopted the view: here the old one goes on.
        let effects = feed(&undecided, .masterClosed("killed"))
        #expect(undecided.isMember)
        guard case .failed(.masterLost)? = answers(effects).first else {
            Issue.record("\(answers(effects))")
            return
        }
    }

    // Bytes were lost with the old link and nobody was left to order a repair: the operation waited for ever.
    @Test("a link that broke under an operation and the master gone end the operation, even if the link is there again")
    func masterGoneBeforeRepair() {
        var machine = peer(of: [1, 2], epoch: 3)
        let effects = feed(
            &machine, .launch(OperationID(1), tag, sum), .linkDown(PeerID(2), "reset"), .linkUp(PeerID(2)),
            .masterClosed("killed"))
        guard case .masterLost? = outcomes(effects).first else {
            Issue.record("\(outcomes(effects))")
            return
        }

        var idle = peer(of: [1, 2], epoch: 3)
        _ = feed(&idle, .linkDown(PeerID(2), "reset"), .linkUp(PeerID(2)), .masterClosed("killed"))
        #expect(idle.isMember, "nothing was under way, so nothing is lost")
    }

    // Each failed attempt to make the link brought a repair, and each repair a new term for the link: for ever.
    @Test("a link that cannot be made is given up a dial patience after it broke, however many epochs pass")
    func unreachableMemberIsGivenUp() {
        var machine = peer(of: [1, 2, 3], epoch: 3)
        let broke = feed(&machine, .launch(OperationID(1), tag, sum), .linkDown(PeerID(2), "reset"))
        #expect(messages(broke) == [.brokenLink(epoch: Epoch(3), peer: PeerID(2), gaveUp: false)])

        // The repair goes by, half of the patience later.
        func later(_ parts: UInt64, _ events: PeerMachine.Event...) -> [PeerMachine.Effect] {
            var effects: [PeerMachine.Effect] = []
            let instant = now + Timeouts.standard.dialPatience / 2 * parts
            for event in events { machine.handle(event, at: instant, effects: &effects) }
            return effects
        }
        let flushed = later(1, .fromMaster(.flush(epoch: Epoch(4))), .final([:], Epoch(4)))
        guard case .flushReport(_, let operations, _)? = messages(flushed).first else {
            Issue.record("no report: \(messages(flushed))")
            return
        }
        let verdicts = operations.map { OperationVerdict(tag: $0.tag, launch: $0.launch, outcome: .restart) }
        _ = later(
            1,
            .fromMaster(.verdict(epoch: Epoch(4), members: members([1, 2, 3]), world: world, operations: verdicts)))
        #expect(messages(later(1, .linkDown(PeerID(2), "no answer"))).isEmpty, "it was down already")
        let reports = messages(later(2, .tick))
        #expect(reports.contains(.brokenLink(epoch: Epoch(4), peer: PeerID(2), gaveUp: true)), "\(reports)")
    }

    // The old view in a new epoch reached one member and not the other before the master died.
    @Test("a join point whose newcomers are all gone leaves the epoch as it is")
    func emptyJoinPointKeepsEpoch() {
        var master = MasterMachine(run: run, timeouts: .standard, now: now)
        func handle(_ event: MasterMachine.Event) -> [MasterMachine.Effect] {
            var effects: [MasterMachine.Effect] = []
            master.handle(event, at: now, effects: &effects)
            return effects
        }
        func connect(_ id: UInt64) {
            _ = handle(.connected(.init(id), from: .v4(1), secret: PeerSecret(high: 1, low: id)))
            _ = handle(.received(.init(id), .hello(Hello(group: GroupID(0), listenPort: 1, addresses: [], stripes: 1))))
        }
        connect(1)
        connect(2)
        _ = handle(.received(.init(1), .voteJoin))
        let proposed = master.groups[0].highestEpoch
        for id in 1...2 as ClosedRange<UInt64> { _ = handle(.received(.init(id), .linked(epoch: proposed))) }
        #expect(master.groups[0].members == [PeerID(1), PeerID(2)])
        let epoch = master.groups[0].epoch

        connect(3)
        for id in 1...2 as ClosedRange<UInt64> { _ = handle(.received(.init(id), .voteJoin)) }
        let effects = handle(.closed(.init(3), reason: "killed"))
        let told = effects.compactMap { effect -> UInt64? in
            if case .send(let connection, .joinUnchanged) = effect { connection.value } else { nil }
        }
        #expect(told == [1, 2])
        #expect(master.groups[0].epoch == epoch)
        #expect(master.brokenInvariant() == nil)
    }

    @Test("after such a join point a member drops its link to the newcomer")
    func emptyJoinPointDropsLinks() {
        var machine = peer(of: [1, 2], epoch: 3)
        _ = feed(&machine, .call(CallID(2), .updateTopology))
        _ = feed(&machine, .fromMaster(.propose(epoch: Epoch(4), members: members([1, 2, 7]))))
        let effects = feed(&machine, .fromMaster(.joinUnchanged(world: world)))
        #expect(answers(effects) == [.done])
        let wanted = effects.compactMap { if case .wantLinks(_, let members) = $0 { members.map(\.id) } else { nil } }
        #expect(wanted == [[PeerID(1), PeerID(2)]])
    }

    private func report(_ peer: UInt64, _ tags: UInt64...) -> FlushResolution.Report {
        FlushResolution.Report(
            peer: PeerID(peer),
            operations: tags.map {
                OperationReport(
                    tag: Tag($0), launch: LaunchNumber(UInt32(peer * 10 + $0)), state: .inProgress, known: [])
            })
    }
    private func outcomes(_ reports: [FlushResolution.Report], asking: UInt64...) -> [OperationVerdict.Outcome] {
        let waiting = FlushResolution.Waiting(joining: SortedPeers(), asking: SortedPeers(asking.map { PeerID($0) }))
        return FlushResolution.verdicts(for: reports, cause: .misuse, waiting: waiting).flatMap { $0.map(\.outcome) }
    }

    // Right programs were refused: their entries had not been heard, or they had not come to that call yet.
    @Test("who asks while operations run is refused only when nobody can go on")
    func askingIsNoMisuse() {
        #expect(outcomes([report(1, 5), report(2, 5)], asking: 2) == [.restart, .restart], "a link stalls")
        #expect(outcomes([report(1, 5), report(2), report(3)], asking: 2) == [.restart], "peer 3 may yet come")
        #expect(outcomes([report(1, 5), report(2)], asking: 1, 2) == [.restart], "everybody asks, so all are answered")
        #expect(outcomes([report(1, 5), report(2)], asking: 2) == [.misuse])
    }
}
