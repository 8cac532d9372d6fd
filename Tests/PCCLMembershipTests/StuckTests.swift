import PCCLBase
import PCCLMembership
import PCCLWire
import Testing

/// An operation does not move: who is waited for is said, by whom, and until when.
@Suite("Transcripts: who is stuck")
struct StuckTests {
    private static let third = Cluster.timeouts.deadTime / 3

    private func member(
        _ peer: PeerID, received: UInt64 = 0, of expected: UInt64 = 0, owesInput: Bool = false, unsent: UInt64 = 0,
        silence: Interval? = .milliseconds(0)
    ) -> OperationProgress.Member {
        OperationProgress.Member(
            peer: peer, receivedBytes: received, expectedBytes: expected, owesInput: owesInput, unsentBytes: unsent,
            silence: silence)
    }

    private func lines(_ c: Cluster, of name: String) -> [String] {
        c.logs.filter { $0.hasPrefix("\(name): tag") }
    }

    private func told(_ c: Cluster, by name: String) -> [[StuckOperation]] {
        c.sentToMaster.compactMap { sent in
            guard sent.from == name, case .stuck(_, let operations) = sent.message else { return nil }
            return operations
        }
    }

    @Test(
        "a member that has not called is named within a third of the dead time, to the log, the master and the caller")
    func notCalled() throws {
        var c = Cluster(of: "A", "B", "C")
        c.reduce("A", "B")
        c.pass(StuckTests.third)
        let line = try #require(lines(c, of: "A").first)
        #expect(lines(c, of: "A").count == 1)
        #expect(line.contains("tag 1, all-reduce(") && line.contains("for peer 3: it has not called"), "\(line)")
        #expect(line.hasSuffix("2 of 3 have called, 0 are prepared: no verdict yet"), "\(line)")
        #expect(told(c, by: "A").map { $0.map { $0.culprits.map(\.peer) } } == [[[c.id("C")]]])
        #expect(c.waits["A"]?.values.first?.contains("for peer 3: it has not called") == true)
        let together = c.master.groups[0].stuckTogether(at: c.now)
        #expect(together.map(\.waiting) == [[c.id("A"), c.id("B")]])
        #expect(together.first?.operation.culprits.map(\.reason) == [.hasNotCalled])

        // Once in a dead time, and not at all when it has come.
        c.pass(Cluster.timeouts.deadTime / 2)
        #expect(lines(c, of: "A").count == 1)
        #expect(told(c, by: "A").count == 1, "what is still so is not said again")
        c.pass(Cluster.timeouts.deadTime)
        #expect(lines(c, of: "A").count == 2)
        c.reduce("C")
        c.pass(StuckTests.third)
        #expect(lines(c, of: "A").count == 2)
        #expect(told(c, by: "A").last == [])
        #expect(c.master.groups[0].stuck.isEmpty)
    }

    @Test("nothing is said of operations that end in time, however many there are")
    func nothingStuck() {
        var c = Cluster(of: "A", "B")
        for _ in 0..<20 {
            c.reduce("A")
            c.pass(Cluster.timeouts.stuckPatience / 2)
            c.reduce("B")
        }
        c.pass(Cluster.timeouts.deadTime)
        #expect(c.logs.filter { $0.contains("has waited") }.isEmpty)
        #expect(told(c, by: "A").isEmpty)
    }

    @Test("who has called and is not heard is named, with what it has brought, and not those who wait for it")
    func silent() throws {
        var c = Cluster(of: "A", "B", "C")
        for name in ["A", "B", "C"] { c.withholdResult(name) }
        c.reduce("A", "B", "C")
        let patience = Cluster.timeouts.stuckPatience
        c.progress["A"] = [
            member(c.id("B"), received: 100, of: 16_000_000),
            member(c.id("C"), received: 12_400_000, of: 16_000_000, owesInput: true, silence: patience),
        ]
        c.pass(patience, Cluster.timeouts.stuckPeriod)
        let line = try #require(lines(c, of: "A").first)
        #expect(line.contains("for peer 3: it has called, and brought 12.4 of 16.0 MB; its last byte came 1.3 s ago"))
        #expect(line.hasSuffix("3 of 3 have called, 0 are prepared: no verdict yet"), "\(line)")
        // However long it takes: what the second peer lacks, it lacks of the third.
        c.pass(StuckTests.third, Cluster.timeouts.deadTime)
        #expect(lines(c, of: "A").count == 2)
        for line in lines(c, of: "A") { #expect(!line.contains("peer 2"), "\(line)") }
    }

    @Test("as long as bytes come, and are taken, nobody is named; when they stop, the one whose own are missing is")
    func moving() throws {
        var c = Cluster(of: "A", "B", "C")
        for name in ["A", "B", "C"] { c.withholdResult(name) }
        c.reduce("A", "B", "C")
        for step in 0..<40 {
            c.progress["A"] = [
                member(c.id("B"), received: UInt64(step), of: 100, owesInput: true),
                member(c.id("C"), unsent: UInt64(100 - step)),
            ]
            c.pass(Cluster.timeouts.stuckPeriod)
        }
        #expect(lines(c, of: "A").isEmpty)
        c.pass(StuckTests.third)
        let line = try #require(lines(c, of: "A").first)
        #expect(line.contains("for peer 2: it has called, and brought 39 of 100 B"), "\(line)")
        #expect(line.contains("for peer 3: it has called, and does not take what is sent to it"), "\(line)")
        c.progress["A"] = [
            member(c.id("B"), received: 40, of: 100), member(c.id("C"), received: 1, of: 5, owesInput: true),
        ]
        c.pass(StuckTests.third, Cluster.timeouts.deadTime)
        #expect(lines(c, of: "A").last?.contains("for peer 3: it has called, and brought 1 of 5 B") == true)
        #expect(lines(c, of: "A").last?.contains("peer 2") == false)
    }

    @Test("a member that does not say that it holds the result is named; one without a link, too")
    func notPrepared() throws {
        var c = Cluster(of: "A", "B")
        c.withholdResult("B")
        c.reduce("A", "B")
        c.progress["A"] = [member(c.id("B"), silence: nil)]
        c.pass(StuckTests.third, .milliseconds(200))
        let line = try #require(lines(c, of: "A").first)
        #expect(
            line.contains("for peer 2: it does not say that it holds the result; there is no link to it"), "\(line)")
        #expect(line.hasSuffix("2 of 2 have called, 1 is prepared: no verdict yet"), "\(line)")
        c.finishResult("B")
        #expect(c.outcomes["A"] == [.success(worldSize: 2)])
    }

    @Test("the master takes a member that waits itself for no culprit, if it knows who is")
    func roots() throws {
        var c = Cluster(of: "A", "B", "C")
        for name in ["A", "B", "C"] { c.withholdResult(name) }
        c.reduce("A", "B", "C")
        c.progress["A"] = [member(c.id("B"), of: 5), member(c.id("C"))]
        c.progress["B"] = [member(c.id("A"), of: 5), member(c.id("C"), of: 5, owesInput: true)]
        c.progress["C"] = [member(c.id("A")), member(c.id("B"))]
        c.pass(StuckTests.third, StuckTests.third)
        #expect(told(c, by: "A").last?.first?.culprits.map(\.peer) == [c.id("B")])
        let together = try #require(c.master.groups[0].stuckTogether(at: c.now).first)
        #expect(together.waiting == [c.id("A"), c.id("B")])
        #expect(together.operation.culprits.map(\.peer) == [c.id("C")])
        #expect(together.text.hasPrefix("peers 1 and 2: tag 1, all-reduce("), "\(together.text)")
        // What it was told ages.
        let before = together.operation.culprits[0].milliseconds
        c.now = c.now + .milliseconds(250)
        #expect(
            c.master.groups[0].stuckTogether(at: c.now).first?.operation.culprits.first?.milliseconds == before + 250)
    }

    @Test("a report of another epoch is no news, and a loss ends all of an epoch")
    func epochs() {
        var c = Cluster(of: "A", "B", "C")
        c.reduce("A", "B")
        c.pass(StuckTests.third)
        #expect(c.master.groups[0].stuck.count == 2)
        c.forge(.stuck(epoch: Epoch(c.epoch("A") - 1), operations: []), from: "A")
        #expect(c.master.groups[0].stuck.count == 2)
        c.kill("C")
        #expect(c.view("A") == ["A", "B"])
        #expect(c.master.groups[0].stuck.isEmpty)
        // The callers of what a loss has ended are told what was waited for.
        #expect(c.waits["A"]?.values.first?.contains("for peer 3: it has not called") == true)
    }

    @Test("of many operations that wait, the log has eight, and the number of the others; the master is told of 32")
    func many() {
        var c = Cluster(of: "A", "B")
        for tag in 1...40 { c.reduce("A", tag: UInt64(tag)) }
        c.pass(StuckTests.third)
        #expect(lines(c, of: "A").count == 8)
        #expect(c.logs.contains("A: 32 more operations wait as well"))
        #expect(told(c, by: "A").map(\.count) == [32])
    }
}
