import PCCLBase
import Testing

@testable import pccl

@Suite("What members say of operations is held against each other")
struct ChaosLedgerTests {
    private func report(
        _ outcome: ChaosReport.Outcome, round: Int = 1, attempt: Int = 0, lineage: UInt64 = 1
    ) -> ChaosReport.OperationReport {
        ChaosReport.OperationReport(
            name: .init(lineage: lineage, round: round, index: 0, attempt: attempt), outcome: outcome, began: 1,
            ended: 2)
    }

    private let success = ChaosReport.Outcome.success(Slots(rawValue: 3), digest: 77)

    @Test("who says the same agrees, and an operation counts once")
    func agreement() {
        var ledger = ChaosLedger()
        for peer in 1...3 { #expect(ledger.record(report(success), of: peer) == nil) }
        for peer in 1...3 { #expect(ledger.record(report(.memberLost, round: 2), of: peer) == nil) }
        for peer in 1...3 { #expect(ledger.record(report(success, round: 2, attempt: 1), of: peer) == nil) }
        #expect(ledger.counts == .init(operations: 2, aborts: 1, retries: 1, comparisons: 6))
    }

    @Test("a success of one and a loss of another disagree, in either order, and both are named")
    func outcomes() {
        var ledger = ChaosLedger()
        #expect(ledger.record(report(success), of: 4) == nil)
        let text = ledger.record(report(.memberLost), of: 5)
        #expect(text?.contains("peer 4") == true && text?.contains("peer 5") == true)
        #expect(ledger.record(report(.memberLost, round: 2), of: 4) == nil)
        #expect(ledger.record(report(success, round: 2), of: 5) != nil)
    }

    @Test("two results with other bits disagree")
    func digests() {
        var ledger = ChaosLedger()
        #expect(ledger.record(report(success), of: 1) == nil)
        #expect(ledger.record(report(.success(Slots(rawValue: 3), digest: 78)), of: 2) != nil)
    }

    @Test("attempts, rounds and lineages are things of their own, and nobody disagrees with whoever is alone")
    func names() {
        var ledger = ChaosLedger()
        #expect(ledger.record(report(success), of: 1) == nil)
        #expect(ledger.record(report(.memberLost, attempt: 1), of: 2) == nil)
        #expect(ledger.record(report(.memberLost, round: 2), of: 2) == nil)
        #expect(ledger.record(report(.memberLost, lineage: 2), of: 2) == nil)
        #expect(ledger.record(report(.alone), of: 2) == nil)
    }

    @Test("only the latest operations are remembered")
    func capacity() {
        var ledger = ChaosLedger(capacity: 10)
        for round in 0..<100 { #expect(ledger.record(report(success, round: round), of: 1) == nil) }
        #expect(ledger.record(report(.memberLost, round: 95), of: 2) != nil)
        #expect(ledger.record(report(.memberLost, round: 5), of: 2) == nil)
    }
}

@Suite("How long members went without an operation")
struct StallBookTests {
    private func at(_ milliseconds: UInt64) -> Instant { Instant(nanoseconds: milliseconds * 1_000_000) }

    /// Two peers that complete an operation every ten milliseconds until then.
    private func book(until milliseconds: UInt64) -> StallBook {
        var book = StallBook(deadTime: .seconds(1))
        for time in stride(from: 0, through: milliseconds, by: 10) {
            for peer in 1...2 { book.completed(peer, at: at(time)) }
        }
        return book
    }

    @Test("what passes in calm is the usual")
    func usual() {
        #expect(book(until: 100).usual == .milliseconds(10))
    }

    @Test("a gap after a fault is the fault's, and leaves the usual as it was")
    func stall() {
        var book = book(until: 100)
        book.injected(.kill(slot: 3), at: at(105))
        book.completed(1, at: at(180))
        book.completed(2, at: at(190))
        let episode = book.calmed()
        #expect(episode?.longest == .milliseconds(90))
        #expect(episode?.peer == 2)
        #expect(episode?.isTooLong == false)
        #expect(book.longest == [.kill: .milliseconds(90)])
        #expect(book.usual == .milliseconds(10))
        #expect(book.calmed() == nil)
    }

    @Test("the promise after a kill is 150 ms, after a stop one and a half dead times, beyond the usual")
    func promises() {
        for (fault, longest) in [(Fault.kill(slot: 3), 160), (.stop(slot: 3, .seconds(2)), 1510)] as [(Fault, UInt64)] {
            for excess in [0, 1] as [UInt64] {
                var book = book(until: 100)
                book.injected(fault, at: at(100))
                book.completed(1, at: at(100 + longest + excess))
                #expect(book.calmed()?.isTooLong == (excess > 0))
            }
        }
    }

    @Test("two faults may take as long as both; of two kinds, the stall is neither's")
    func compound() {
        var book = book(until: 100)
        book.injected(.kill(slot: 3), at: at(100))
        book.injected(.stop(slot: 4, .seconds(2)), at: at(110))
        book.completed(1, at: at(1700))
        let episode = book.calmed()
        #expect(episode?.limit == .milliseconds(10 + 150 + 1500))
        #expect(episode?.isTooLong == false)
        #expect(book.longest == [:])
        #expect(book.faults == [.kill: 1, .stop: 1])
    }

    @Test("a fault without a promise takes what it takes, and whatever comes with it")
    func noPromise() {
        var book = book(until: 100)
        book.injected(.kill(slot: 3), at: at(100))
        book.injected(.join(slot: 4), at: at(110))
        book.completed(1, at: at(9000))
        #expect(book.calmed()?.isTooLong == false)
    }

    @Test("a peer that was interrupted is no survivor: its next operation only begins a count")
    func interrupted() {
        var book = book(until: 100)
        book.injected(.stop(slot: 1, .seconds(1)), at: at(100))
        book.interrupted(1)
        book.completed(1, at: at(5000))
        book.completed(2, at: at(120))
        #expect(book.calmed()?.longest == .milliseconds(20))
        book.completed(1, at: at(5020))
        #expect(book.usual == .milliseconds(20))
    }
}

@Suite("The lines of a chaos peer")
struct ChaosReportTests {
    private static let name = ChaosReport.OperationName(lineage: 3, round: 14, index: 2, attempt: 1)

    @Test(
        "what a peer writes its parent reads",
        arguments: [
            ChaosReport.entering(.updating, round: 7, at: 12),
            .operation(.init(name: name, outcome: .success(Slots(rawValue: 5), digest: .max), began: 9, ended: 10)),
            .operation(.init(name: name, outcome: .memberLost, resumptions: 2, began: 9, ended: 10)),
            .operation(.init(name: name, outcome: .alone, began: 9, ended: 10)),
            .expelled(reason: "declared lost: nothing was heard", at: 5),
            .violation(.input, text: "a sum=1 of two"),
        ])
    func thereAndBack(report: ChaosReport) {
        #expect(ChaosReport(line: report.line) == report)
    }

    @Test(
        "nothing else is a report",
        arguments: [
            "", "operation", "operation outcome=success", "entering phase=sleeping round=1 at=2", "expelled at=1",
        ])
    func noReport(line: String) {
        #expect(ChaosReport(line: line) == nil)
    }
}
