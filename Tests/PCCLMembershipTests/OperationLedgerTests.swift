import PCCLBase
@testable import PCCLMembership
import PCCLWire
import Testing

@Suite("The ledger of operations in flight")
struct OperationLedgerTests {
    private let one = PeerID(1)
    private let two = PeerID(2)
    private let tag = Tag(7)
    private var others: [PeerID] { [one, two] }
    private let sum = OperationDescriptor(count: 4, type: .float32, operation: .sum, algorithm: .direct)
    private let product = OperationDescriptor(count: 4, type: .float32, operation: .product, algorithm: .direct)

    private func call(
        _ launch: UInt32, tag: Tag? = nil, descriptor: OperationDescriptor? = nil
    ) -> OperationLedger.Operation {
        OperationLedger.Operation(
            id: OperationID(UInt64(launch)), tag: tag ?? self.tag, launch: LaunchNumber(launch),
            descriptor: descriptor ?? sum, since: Instant(nanoseconds: 0),
            nextStallCheck: Instant(nanoseconds: UInt64(launch)))
    }

    @Test("an operation is prepared once all have entered and its result is whole, in either order")
    func prepares() {
        for wholeFirst in [true, false] {
            var ledger = OperationLedger()
            #expect(ledger.launch(call(1), members: others) == nil)
            if wholeFirst { ledger.noteWhole(tag, LaunchNumber(1)) }
            let first = ledger.enter(one, tag, LaunchNumber(10), sum)
            #expect(first == .bound(LaunchNumber(1)))
            let tooEarly = ledger.becomesPrepared(tag, members: others)
            #expect(!tooEarly)
            _ = ledger.enter(two, tag, LaunchNumber(20), sum)
            if !wholeFirst {
                let stillMoving = ledger.becomesPrepared(tag, members: others)
                #expect(!stillMoving)
                ledger.noteWhole(tag, LaunchNumber(1))
            }
            let now = ledger.becomesPrepared(tag, members: others)
            let again = ledger.becomesPrepared(tag, members: others)
            #expect(now && !again)
        }
    }

    @Test("it is committed once it is prepared here and at all others, in any order")
    func commits() {
        var ledger = OperationLedger()
        _ = ledger.launch(call(1), members: others)
        _ = ledger.enter(one, tag, LaunchNumber(10), sum)
        _ = ledger.enter(two, tag, LaunchNumber(20), sum)
        ledger.notePrepared(one, tag, LaunchNumber(10))
        ledger.notePrepared(two, tag, LaunchNumber(20))
        #expect(!ledger.isCommitted(tag, members: others))
        ledger.noteWhole(tag, LaunchNumber(1))
        _ = ledger.becomesPrepared(tag, members: others)
        #expect(ledger.isCommitted(tag, members: others))
        #expect(ledger.remove(tag)?.launch == LaunchNumber(1))
        #expect(ledger.isEmpty)
    }

    @Test("prepared counts only for the launch that is the member's part of the operation")
    func strayPrepared() {
        var ledger = OperationLedger()
        ledger.notePrepared(one, tag, LaunchNumber(10))
        _ = ledger.launch(call(1), members: others)
        _ = ledger.enter(one, tag, LaunchNumber(10), sum)
        ledger.notePrepared(one, tag, LaunchNumber(9))
        ledger.notePrepared(two, tag, LaunchNumber(10))
        ledger.notePrepared(one, Tag(8), LaunchNumber(10))
        #expect(ledger[tag]?.preparedPeers.isEmpty == true)
        ledger.notePrepared(one, tag, LaunchNumber(10))
        ledger.notePrepared(one, tag, LaunchNumber(10))
        #expect(ledger[tag]?.preparedPeers == SortedPeers([one]))
    }

    @Test("prepared may overtake the entry, on another stripe: it counts once the entry has come")
    func overtaken() {
        var ledger = OperationLedger()
        _ = ledger.launch(call(1), members: others)
        ledger.notePrepared(one, tag, LaunchNumber(10))
        #expect(ledger[tag]?.preparedPeers.isEmpty == true)
        #expect(ledger[tag]?.hasEntered(one) == false)
        _ = ledger.enter(one, tag, LaunchNumber(10), sum)
        #expect(ledger[tag]?.preparedPeers == SortedPeers([one]))
        // The word was for that launch alone.
        ledger.remove(tag)
        _ = ledger.launch(call(2), members: others)
        _ = ledger.enter(one, tag, LaunchNumber(11), sum)
        #expect(ledger[tag]?.preparedPeers.isEmpty == true)
    }

    @Test("a result of another launch is not this operation's")
    func strayWhole() {
        var ledger = OperationLedger()
        _ = ledger.launch(call(2), members: [])
        ledger.noteWhole(tag, LaunchNumber(1))
        #expect(ledger[tag]?.isWhole == false)
        ledger.noteWhole(Tag(8), LaunchNumber(2))
        #expect(ledger[tag]?.isWhole == false)
    }

    @Test("entries that came before our own call are taken up by it")
    func early() {
        var ledger = OperationLedger()
        let pairing = ledger.enter(one, tag, LaunchNumber(10), sum)
        #expect(pairing == .early)
        #expect(ledger.launch(call(1), members: others) == nil)
        #expect(ledger[tag]?.entered == [KnownLaunch(peer: one, launch: LaunchNumber(10))])
    }

    @Test("a member that is one call ahead is paired with our next call, not with this one")
    func oneAhead() {
        var ledger = OperationLedger()
        _ = ledger.launch(call(1), members: others)
        _ = ledger.enter(one, tag, LaunchNumber(10), sum)
        let next = ledger.enter(one, tag, LaunchNumber(11), product)
        #expect(next == .early)
        #expect(ledger[tag]?.entered.count == 1)
        ledger.remove(tag)
        #expect(ledger.launch(call(2, descriptor: product), members: others) == nil)
        #expect(ledger[tag]?.entered == [KnownLaunch(peer: one, launch: LaunchNumber(11))])
    }

    @Test("descriptors that differ are found, whoever comes last")
    func mismatch() {
        var late = OperationLedger()
        _ = late.enter(one, tag, LaunchNumber(10), sum)
        _ = late.enter(two, tag, LaunchNumber(20), product)
        let atLaunch = late.launch(call(1), members: others)
        #expect(atLaunch == OperationLedger.Mismatch(peer: two, theirs: product, mine: sum))
        // Both entries were taken up: nothing of this call is left for the next.
        #expect(late[tag]?.entered.count == 2)

        var prompt = OperationLedger()
        _ = prompt.launch(call(1), members: others)
        let atEntry = prompt.enter(one, tag, LaunchNumber(10), product)
        #expect(atEntry == .mismatch(OperationLedger.Mismatch(peer: one, theirs: product, mine: sum)))
    }

    @Test("after a failed call the entries still owed to it are swallowed, and the next call is clean")
    func owed() {
        var ledger = OperationLedger()
        _ = ledger.launch(call(1), members: others)
        _ = ledger.enter(one, tag, LaunchNumber(10), product)
        ledger.fail(tag, members: others)
        #expect(ledger.isEmpty)
        // Our second call comes before peer 2 made its first.
        #expect(ledger.launch(call(2), members: others) == nil)
        let oldEntry = ledger.enter(two, tag, LaunchNumber(20), sum)
        #expect(oldEntry == .swallowed)
        let newEntry = ledger.enter(two, tag, LaunchNumber(21), sum)
        #expect(newEntry == .bound(LaunchNumber(2)))
        let ofOne = ledger.enter(one, tag, LaunchNumber(11), sum)
        #expect(ofOne == .bound(LaunchNumber(2)), "peer 1 had entered the failed call and owes nothing")
    }

    @Test("a peer may owe entries to several failed calls")
    func owedTwice() {
        var ledger = OperationLedger()
        for launch in [1, 2] as [UInt32] {
            _ = ledger.launch(call(launch), members: others)
            _ = ledger.enter(one, tag, LaunchNumber(9 + launch), product)
            ledger.fail(tag, members: others)
        }
        let entries = (20...22).map { ledger.enter(two, tag, LaunchNumber($0), sum) }
        #expect(entries == [.swallowed, .swallowed, .early])
        let otherTag = ledger.enter(two, Tag(8), LaunchNumber(23), sum)
        #expect(otherTag == .early)
    }

    @Test("failed calls are counted by tag, until the epoch ends")
    func failedCalls() {
        var ledger = OperationLedger()
        for (launch, tag) in [(1, 9), (2, 7), (3, 9)] as [(UInt32, UInt64)] {
            _ = ledger.launch(call(launch, tag: Tag(tag)), members: others)
            _ = ledger.enter(one, Tag(tag), LaunchNumber(9 + launch), product)
            ledger.fail(Tag(tag), members: others)
        }
        #expect(ledger.failedCalls == [FailedCalls(tag: tag, count: 1), FailedCalls(tag: Tag(9), count: 2)])
        ledger.reset(missing: [])
        #expect(ledger.failedCalls == [])
    }

    @Test("missed calls are used up one by one; a verdict adds to them, and a join point forgets them")
    func missedCalls() {
        var ledger = OperationLedger()
        ledger.reset(missing: [FailedCalls(tag: tag, count: 1), FailedCalls(tag: Tag(8), count: 0)])
        ledger.reset(missing: [FailedCalls(tag: tag, count: 1)])
        let taken = (0..<3).map { _ in ledger.takeMissed(tag) }
        #expect(taken == [true, true, false])
        let ofOtherTag = ledger.takeMissed(Tag(8))
        #expect(!ofOtherTag)
        ledger.reset(missing: [FailedCalls(tag: tag, count: 1)])
        ledger.reset()
        let afterJoinPoint = ledger.takeMissed(tag)
        #expect(!afterJoinPoint)
    }

    @Test("a join point forgets everything")
    func reset() {
        var ledger = OperationLedger()
        _ = ledger.launch(call(1), members: others)
        _ = ledger.enter(one, tag, LaunchNumber(10), product)
        ledger.fail(tag, members: others)
        _ = ledger.enter(one, tag, LaunchNumber(11), sum)
        _ = ledger.launch(call(2, tag: Tag(8)), members: others)
        ledger.reset()
        #expect(ledger.isEmpty && ledger.reports(final: [:], worldSize: 3).isEmpty && ledger.failedCalls.isEmpty)
        #expect(ledger.earliestStallCheck == nil)
        _ = ledger.launch(call(3), members: others)
        #expect(ledger[tag]?.entered == [])
        let entry = ledger.enter(two, tag, LaunchNumber(20), sum)
        #expect(entry == .bound(LaunchNumber(3)))
    }

    @Test("reports name every operation in the order of launches, with all that is known")
    func reports() {
        var ledger = OperationLedger()
        for launch in [3, 1, 2] as [UInt32] {
            _ = ledger.launch(call(launch, tag: Tag(100 - UInt64(launch))), members: others)
        }
        _ = ledger.enter(two, Tag(98), LaunchNumber(20), sum)
        _ = ledger.enter(one, Tag(98), LaunchNumber(10), sum)
        ledger.noteWhole(Tag(98), LaunchNumber(2))
        // Whole is not prepared: nobody was told yet.
        #expect(ledger.reports(final: [:], worldSize: 3).map(\.state) == [.inProgress, .inProgress, .inProgress])
        _ = ledger.becomesPrepared(Tag(98), members: others)
        let count = Int(sum.count)
        let expected = [
            OperationReport(
                tag: Tag(99), launch: LaunchNumber(1), state: .inProgress, known: [], elementCount: count,
                final: [ResultPart(elements: 3..<5, worldSize: 3)]),
            OperationReport(
                tag: Tag(98), launch: LaunchNumber(2), state: .prepared,
                known: [
                    KnownLaunch(peer: two, launch: LaunchNumber(20)), KnownLaunch(peer: one, launch: LaunchNumber(10)),
                ], elementCount: count, final: [ResultPart(elements: 0..<count, worldSize: 3)]),
            OperationReport(
                tag: Tag(97), launch: LaunchNumber(3), state: .inProgress, known: [], elementCount: count),
        ]
        // The engine tells of the first alone; what is prepared is final anyway.
        let final = [LaunchNumber(1): [ResultPart(elements: 3..<5, worldSize: 3)]]
        #expect(ledger.reports(final: final, worldSize: 3) == expected)
    }

    @Test("the earliest stall check is the next thing to wake for")
    func stallChecks() {
        var ledger = OperationLedger()
        #expect(ledger.earliestStallCheck == nil)
        _ = ledger.launch(call(5, tag: Tag(1)), members: [])
        _ = ledger.launch(call(6, tag: Tag(2)), members: [])
        #expect(ledger.earliestStallCheck == Instant(nanoseconds: 5))
        ledger.postponeStallCheck(Tag(1), to: Instant(nanoseconds: 50))
        #expect(ledger.earliestStallCheck == Instant(nanoseconds: 6))
    }
}
