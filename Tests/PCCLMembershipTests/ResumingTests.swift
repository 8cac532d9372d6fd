import PCCLBase
import PCCLWire
import Testing

@testable import PCCLMembership

/// The operation has 64 elements.
@Suite("Transcripts: an operation goes on after a loss")
struct ResumingTests {
    /// A, B and C have entered, nobody holds the result, and C is about to die.
    private func interrupted(onLoss: LossPolicy) -> Cluster {
        var c = Cluster(of: "A", "B", "C")
        for name in ["A", "B", "C"] { c.withholdResult(name) }
        c.reduce("A", "B", "C", onLoss: onLoss)
        return c
    }

    private func kept(_ c: Cluster, _ name: String) -> [KeptPart]? {
        c.nodes[name]?.running.values.first?.resumption?.kept
    }

    private func part(_ elements: Range<Int>, of worldSize: Int) -> ResultPart {
        ResultPart(elements: elements, worldSize: worldSize)
    }

    @Test("what is final at a survivor is kept, the rest is made by who is left, and callers learn which is which")
    func resume() {
        var c = interrupted(onLoss: .resume)
        c.hasFinal("A", 0..<20, worldSize: 3)
        c.hasFinal("B", 10..<30, worldSize: 3)
        c.kill("C")
        #expect(c.outcomes.isEmpty && c.view("A") == ["A", "B"])
        let parts = [
            KeptPart(part(0..<10, of: 3), holders: [0]), KeptPart(part(10..<20, of: 3), holders: [0, 1]),
            KeptPart(part(20..<30, of: 3), holders: [1]),
        ]
        #expect(kept(c, "A") == parts && kept(c, "B") == parts)
        #expect(c.nodes["A"]?.restored == [], "its input is as the engine needs it")
        c.finishResult("A")
        c.finishResult("B")
        let success = OperationOutcome.success(worldSize: 2, parts: [part(0..<30, of: 3), part(30..<64, of: 2)])
        #expect(c.outcomes == ["A": [success], "B": [success]])
        c.reduce("A", "B")
        #expect(c.outcomes["A"]?.last == .success(worldSize: 2), "the next call is an operation like any")
    }

    @Test(
        "nothing is final anywhere: it begins again, and is of one view", arguments: [LossPolicy.resume, .resumeWhole])
    func nothingFinal(onLoss: LossPolicy) {
        var c = interrupted(onLoss: onLoss)
        c.kill("C")
        #expect(c.outcomes.isEmpty && kept(c, "A") == nil && c.nodes["A"]?.restored.count == 1)
        c.finishResult("A")
        c.finishResult("B")
        #expect(c.outcomes == ["A": [.success(worldSize: 2)], "B": [.success(worldSize: 2)]])
    }

    @Test("of one view: what the lost member was part of is made again")
    func wholeAgain() {
        var c = interrupted(onLoss: .resumeWhole)
        c.hasFinal("A", 0..<63, worldSize: 3)
        c.kill("C")
        #expect(kept(c, "A") == nil && c.nodes["A"]?.restored.count == 1)
        c.finishResult("A")
        c.finishResult("B")
        #expect(c.outcomes == ["A": [.success(worldSize: 2)], "B": [.success(worldSize: 2)]])
    }

    @Test("of one view: if the survivors have all of it between them, it is complete, with the lost member's part")
    func wholeBetweenThem() {
        var c = interrupted(onLoss: .resumeWhole)
        c.hasFinal("A", 0..<40, worldSize: 3)
        c.hasFinal("B", 30..<64, worldSize: 3)
        c.kill("C")
        #expect(kept(c, "B")?.map(\.holders) == [[0], [0, 1], [1]])
        c.finishResult("A")
        c.finishResult("B")
        #expect(c.outcomes == ["A": [.success(worldSize: 3)], "B": [.success(worldSize: 3)]])
    }

    @Test(
        "a survivor is prepared: it has all of it, and the other gets it from there",
        arguments: [LossPolicy.resume, .resumeWhole])
    func prepared(onLoss: LossPolicy) {
        var c = interrupted(onLoss: onLoss)
        c.finishResult("A")
        c.kill("C")
        #expect(kept(c, "B") == [KeptPart(part(0..<64, of: 3), holders: [0])])
        c.finishResult("B")
        #expect(c.outcomes == ["A": [.success(worldSize: 3)], "B": [.success(worldSize: 3)]])
    }

    @Test(
        "a survivor is prepared, and what it has lies where it cannot be given: it begins again",
        arguments: [LossPolicy.resume, .resumeWhole])
    func preparedOnADevice(onLoss: LossPolicy) {
        var c = interrupted(onLoss: onLoss)
        c.withholdsResults("A")
        c.finishResult("A")
        c.kill("C")
        #expect(kept(c, "A") == nil && kept(c, "B") == nil)
        #expect(c.nodes["A"]?.restored.count == 1 && c.nodes["B"]?.restored.count == 1)
        c.finishResult("A")
        c.finishResult("B")
        #expect(c.outcomes == ["A": [.success(worldSize: 2)], "B": [.success(worldSize: 2)]])
    }

    @Test("one of the callers wants to be told: all are")
    func onePolicyForAll() {
        var c = Cluster(of: "A", "B", "C")
        for name in ["A", "B", "C"] { c.withholdResult(name) }
        c.reduce("A", onLoss: .resume)
        c.reduce("B", onLoss: .abort)
        c.reduce("C", onLoss: .resume)
        c.hasFinal("A", 0..<20, worldSize: 3)
        c.kill("C")
        #expect(c.outcomes == ["A": [.memberLost], "B": [.memberLost]])
        #expect(c.nodes["A"]?.restored.count == 1)
    }

    @Test("one of the callers wants one view: all get that")
    func oneViewForAll() {
        var c = Cluster(of: "A", "B", "C")
        for name in ["A", "B", "C"] { c.withholdResult(name) }
        c.reduce("A", "C", onLoss: .resume)
        c.reduce("B", onLoss: .resumeWhole)
        c.hasFinal("A", 0..<20, worldSize: 3)
        c.kill("C")
        #expect(kept(c, "A") == nil && c.inFlight("A") == 1)
    }

    @Test("nobody else is left: there is nothing to go on with")
    func alone() {
        var c = Cluster(of: "A", "B")
        c.withholdResult("A")
        c.reduce("A", "B", onLoss: .resume)
        c.hasFinal("A", 0..<20, worldSize: 2)
        c.kill("B")
        #expect(c.outcomes["A"] == [.memberLost] && c.nodes["A"]?.restored.count == 1)
    }

    @Test("a further loss: what only that member had is made again, whether members have heard of each other or not")
    func secondLoss() {
        var c = Cluster(of: "A", "B", "C", "D")
        for name in ["A", "B", "C", "D"] { c.withholdResult(name) }
        c.reduce("A", "B", "C", "D", onLoss: .resume)
        c.hasFinal("A", 0..<8, worldSize: 4)
        c.hasFinal("C", 8..<16, worldSize: 4)
        // In the next epoch, nobody hears of anybody.
        for (from, to) in [("A", "B"), ("B", "A"), ("A", "C"), ("C", "A"), ("B", "C"), ("C", "B")] {
            c.hold(from: from, to: to)
        }
        c.kill("D")
        #expect(kept(c, "B")?.map(\.holders) == [[0], [2]])
        c.hasFinal("A", 0..<8, worldSize: 4)
        c.hasFinal("B", 20..<30, worldSize: 3)
        c.kill("C")
        #expect(
            kept(c, "A") == [KeptPart(part(0..<8, of: 4), holders: [0]), KeptPart(part(20..<30, of: 3), holders: [1])])
        c.releaseEverything()
        c.finishResult("A")
        c.finishResult("B")
        let parts = [part(0..<8, of: 4), part(8..<20, of: 2), part(20..<30, of: 3), part(30..<64, of: 2)]
        #expect(c.outcomes["A"] == [.success(worldSize: 2, parts: parts)] && c.outcomes["A"] == c.outcomes["B"])
    }

    @Test("a survivor has committed what was resumed: the loss of another makes it a success everywhere")
    func commitAfterResume() {
        var c = interrupted(onLoss: .resume)
        c.hasFinal("A", 0..<20, worldSize: 3)
        c.kill("C")
        c.hold(from: "B", to: "A")
        c.finishResult("A")
        c.finishResult("B")
        let success = OperationOutcome.success(worldSize: 2, parts: [part(0..<20, of: 3), part(20..<64, of: 2)])
        #expect(c.outcomes == ["B": [success]])
        c.kill("B")
        #expect(c.outcomes == ["A": [success], "B": [success]])
    }

    @Test(
        "after a repair it goes on too, whatever the callers want, for nobody is missing",
        arguments: LossPolicy.allCases)
    func repair(onLoss: LossPolicy) {
        var c = interrupted(onLoss: onLoss)
        c.hasFinal("A", 0..<20, worldSize: 3)
        c.breakLink("A", "B")
        c.pass(Cluster.timeouts.repairGrace, Cluster.timeouts.repairGrace)
        #expect(kept(c, "C") == [KeptPart(part(0..<20, of: 3), holders: [0])])
        for name in ["A", "B", "C"] { c.finishResult(name) }
        #expect(c.outcomes["C"] == [.success(worldSize: 3)] && c.outcomes["A"] == c.outcomes["C"])
    }

    @Test("a verdict that cannot be is a breach of the master's", arguments: [0..<65, 60..<64])
    func impossible(elements: Range<Int>) {
        var c = interrupted(onLoss: .resume)
        let launch = c.nodes["A"]?.running.keys.first ?? LaunchNumber(0)
        let members = c.nodes["A"]?.machine.members ?? []
        let kept = [KeptPart(part(elements, of: 3), holders: [0])]
        c.forge(.flush(epoch: Epoch(99)), to: "A")
        c.forge(
            .verdict(
                epoch: Epoch(99), members: members,
                world: WorldCounts(globalWorldSize: 3, groupCount: 1, largestGroupWorldSize: 3),
                operations: [
                    OperationVerdict(
                        tag: Tag(1), launch: launch, outcome: .resume, resumption: Resumption(number: 1, kept: kept))
                ]),
            to: "A")
        let isPossible = elements.upperBound <= 64
        #expect(c.logs.contains { $0.contains("cannot go on") } != isPossible, "\(c.logs)")
        #expect((self.kept(c, "A") == kept) == isPossible)
    }
}

extension PeerMachine {
    fileprivate var members: [Member] { if case .member(let m) = phase { m.members } else { [] } }
}
