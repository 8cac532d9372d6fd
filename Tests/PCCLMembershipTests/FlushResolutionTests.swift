import PCCLBase
@testable import PCCLMembership
import PCCLWire
import Testing

/// Reports are written as in a notebook: peer 1 in launch 10 of tag 5, knowing that peer 2 entered under its launch 20.
private func report(_ peer: UInt64, _ operations: OperationReport...) -> FlushResolution.Report {
    FlushResolution.Report(peer: PeerID(peer), operations: operations)
}

private func moving(_ launch: UInt32, tag: UInt64 = 5, knows: [UInt64: UInt32]) -> OperationReport {
    operation(launch, tag, .inProgress, knows)
}

private func prepared(_ launch: UInt32, tag: UInt64 = 5, knows: [UInt64: UInt32]) -> OperationReport {
    operation(launch, tag, .prepared, knows)
}

private func operation(
    _ launch: UInt32, _ tag: UInt64, _ state: OperationReport.State, _ knows: [UInt64: UInt32]
) -> OperationReport {
    OperationReport(
        tag: Tag(tag), launch: LaunchNumber(launch), state: state,
        known: knows.sorted { $0.key < $1.key }.map {
            KnownLaunch(peer: PeerID($0.key), launch: LaunchNumber($0.value))
        })
}

private func outcomes(
    _ reports: [FlushResolution.Report], _ cause: FlushResolution.Cause = .loss
) -> [[OperationVerdict.Outcome]] {
    FlushResolution.verdicts(for: reports, cause: cause).map { $0.map(\.outcome) }
}

/// So many calls of tag 5 have failed at the peer.
private func failing(_ peer: UInt64, _ count: UInt32, _ operations: OperationReport...) -> FlushResolution.Report {
    FlushResolution.Report(
        peer: PeerID(peer), operations: operations, failed: [FailedCalls(tag: Tag(5), count: count)])
}

/// How many calls of tag 5 each of them is yet to make and fail.
private func missed(_ reports: [FlushResolution.Report], _ cause: FlushResolution.Cause = .loss) -> [UInt32] {
    let verdicts = FlushResolution.verdicts(for: reports, cause: cause)
    return FlushResolution.missed(for: reports, verdicts: verdicts).map { calls in
        #expect(calls.allSatisfy { $0.tag == Tag(5) && $0.count > 0 })
        return calls.first?.count ?? 0
    }
}

@Suite("The verdict on operations in flight")
struct FlushResolutionTests {
    // In all of these peer 9 was a member too and is lost, unless it says otherwise.

    @Test("all survivors hold the result: commit, whatever brought the flush about")
    func allPrepared() {
        let reports = [
            report(1, prepared(10, knows: [2: 20, 9: 90])), report(2, prepared(20, knows: [1: 10, 9: 90])),
        ]
        for cause in [FlushResolution.Cause.loss, .repair, .misuse] {
            #expect(outcomes(reports, cause) == [[.commit], [.commit]])
        }
    }

    @Test("a survivor has not entered: restart")
    func oneMissing() {
        let reports = [report(1, moving(10, knows: [9: 90])), report(2)]
        #expect(outcomes(reports) == [[.restart], []])
        #expect(outcomes(reports, .repair) == [[.restart], []])
    }

    @Test("all survivors entered and one does not hold the result: abort after a loss, restart after a repair")
    func oneUnfinished() {
        let reports = [
            report(1, prepared(10, knows: [2: 20, 9: 90])), report(2, moving(20, knows: [1: 10, 9: 90])),
        ]
        #expect(outcomes(reports) == [[.abort], [.abort]])
        #expect(outcomes(reports, .repair) == [[.restart], [.restart]])
    }

    @Test(
        "a call that has failed is not what the next call of others goes on with, though it was taken for its partner",
        arguments: [FlushResolution.Cause.loss, .repair], [true, false])
    func pairedWithTheNextCall(cause: FlushResolution.Cause, isPrepared: Bool) {
        // Peers 1 and 2 have failed a call that peer 3 is still in, and are in the next. Peer 3 never heard of the first call
        // of peer 2, and takes the second for it. What it holds is made of both.
        let known: [UInt64: UInt32] = [1: 10, 2: 21]
        var stale = isPrepared ? prepared(30, knows: known) : moving(30, knows: known)
        var (first, second) = (moving(11, knows: [2: 21]), moving(21, knows: [1: 11]))
        stale.final = [ResultPart(elements: 0..<1, worldSize: 3)]
        (stale.elementCount, first.elementCount, second.elementCount) = (4, 4, 4)
        (stale.onLoss, first.onLoss, second.onLoss) = (.resume, .resume, .resume)
        let reports = [failing(1, 1, first), failing(2, 1, second), report(3, stale)]
        #expect(outcomes(reports, cause) == [[.restart], [.restart], [.mismatch]])
        #expect(missed(reports, cause) == [0, 0, 0])
    }

    @Test("a survivor that no longer reports an operation all others hold has committed it: commit")
    func committedElsewhere() {
        let reports = [report(1), report(2, prepared(20, knows: [1: 10, 9: 90]))]
        #expect(outcomes(reports) == [[], [.commit]])
    }

    @Test("one-sided knowledge joins two reports")
    func halfKnown() {
        // Peer 2's entry was lost with a connection: only it knows that both are in the same call.
        let reports = [report(1, moving(10, knows: [:])), report(2, moving(20, knows: [1: 10, 9: 90]))]
        #expect(outcomes(reports) == [[.abort], [.abort]])
    }

    @Test("knowledge joins through a third")
    func transitive() {
        let reports = [
            report(1, moving(10, knows: [:])), report(2, moving(20, knows: [1: 10, 3: 30])),
            report(3, moving(30, knows: [:])),
        ]
        #expect(outcomes(reports) == [[.abort], [.abort], [.abort]])
        // Peers that know nothing of each other may be in different calls of the tag: begin again and see.
        let strangers = [report(1, moving(10, knows: [9: 90])), report(2, moving(20, knows: [9: 91]))]
        #expect(outcomes(strangers) == [[.restart], [.restart]])
    }

    @Test("the lost member's launch joins those who heard it")
    func throughTheLost() {
        let reports = [report(1, moving(10, knows: [9: 90])), report(2, moving(20, knows: [9: 90]))]
        #expect(outcomes(reports) == [[.abort], [.abort]])
    }

    @Test("two operations of one tag are told apart: the earlier commits, the later begins again")
    func twoOfOneTag() {
        // Peer 1 committed launch 10 and called again; the others have not heard its last prepared.
        let reports = [
            report(1, moving(11, knows: [:])),
            report(2, prepared(20, knows: [1: 10, 3: 30, 9: 90])),
            report(3, prepared(30, knows: [1: 10, 2: 20, 9: 90])),
        ]
        #expect(outcomes(reports) == [[.restart], [.commit], [.commit]])
    }

    @Test("operations of different tags have their own verdicts, in the order of the report")
    func manyTags() {
        let reports = [
            report(
                1, moving(10, tag: 1, knows: [2: 21]), prepared(11, tag: 2, knows: [2: 22, 9: 90]),
                moving(12, tag: 3, knows: [9: 91])),
            report(2, moving(21, tag: 1, knows: [1: 10]), prepared(22, tag: 2, knows: [1: 11, 9: 90])),
        ]
        #expect(outcomes(reports) == [[.abort, .commit, .restart], [.abort, .commit]])
        let verdicts = FlushResolution.verdicts(for: reports, cause: .loss)
        #expect(verdicts[0].map(\.tag) == [Tag(1), Tag(2), Tag(3)])
        #expect(verdicts[0].map(\.launch) == [10, 11, 12].map { LaunchNumber($0) })
    }

    @Test("members wait for each other in different calls: what somebody has not entered is misuse, the rest goes on")
    func misuse() {
        let reports = [
            report(1, moving(10, tag: 1, knows: [2: 20]), moving(11, tag: 2, knows: [2: 21, 3: 31])),
            report(2, moving(20, tag: 1, knows: [1: 10]), moving(21, tag: 2, knows: [1: 11, 3: 31])),
            report(3, moving(31, tag: 2, knows: [1: 11, 2: 21])),
        ]
        #expect(outcomes(reports, .misuse) == [[.misuse, .restart], [.misuse, .restart], [.restart]])
    }

    @Test("an operation is misuse if it waits for a member in a join point; if that was only not heard it begins again")
    func misuseOfThoseWhoWait() {
        // Peer 3 is in a join point and has not called tag 1. Peer 2's entry to tag 2 was heard by nobody.
        let reports = [
            report(1, moving(10, tag: 1, knows: [2: 20]), moving(11, tag: 2, knows: [3: 31])),
            report(2, moving(20, tag: 1, knows: [1: 10]), moving(21, tag: 2, knows: [:])),
            report(3, moving(31, tag: 2, knows: [1: 11])),
        ]
        let waiting = FlushResolution.Waiting(joining: SortedPeers([PeerID(3)]), asking: SortedPeers())
        let verdicts = FlushResolution.verdicts(for: reports, cause: .misuse, waiting: waiting)
        let found: [[OperationVerdict.Outcome]] = verdicts.map { $0.map(\.outcome) }
        #expect(found == [[.misuse, .restart], [.misuse, .restart], [.restart]])
    }

    @Test("one survivor alone: what it holds is a success, the rest is decided by its being all that is left")
    func alone() {
        #expect(outcomes([report(1, prepared(10, knows: [9: 90]))]) == [[.commit]])
        #expect(outcomes([report(1, moving(10, knows: [9: 90]))]) == [[.abort]])
        #expect(outcomes([report(1)]) == [[]])
        #expect(outcomes([]) == [])
    }

    /// Peer 1 told its caller of a mismatch with peer 3 and is through with the call; peer 2, that entered with it, had not
    /// heard peer 3 yet. Were peer 2 to begin again, nobody would come.
    @Test(
        "a call that has failed at one survivor fails at all",
        arguments: [FlushResolution.Cause.loss, .repair, .misuse])
    func failedElsewhere(cause: FlushResolution.Cause) {
        let reports = [failing(1, 1), report(2, moving(20, knows: [1: 10])), failing(3, 1)]
        #expect(outcomes(reports, cause) == [[], [.mismatch], []])
        #expect(missed(reports, cause) == [0, 0, 0])
        // The same if peer 2 has not heard of anybody, or has not called.
        let deaf = [failing(1, 1), report(2, moving(20, knows: [:])), failing(3, 1)]
        #expect(outcomes(deaf, cause) == [[], [.mismatch], []])
        #expect(missed(deaf, cause) == [0, 0, 0])
        #expect(missed([failing(1, 1), report(2), failing(3, 1)], cause) == [0, 1, 0])
    }

    @Test("who is behind by several failed calls fails the one that it is in, and misses the rest")
    func severalFailed() {
        let reports = [
            failing(1, 3, moving(13, knows: [:])), failing(2, 1, moving(20, knows: [:])), failing(3, 0), failing(4, 3),
        ]
        #expect(outcomes(reports) == [[.restart], [.mismatch], [], []])
        #expect(missed(reports) == [0, 1, 3, 0])
    }

    @Test("who is prepared for a call before the failed one commits that and misses the other")
    func preparedBeforeFailed() {
        let reports = [failing(1, 1), report(2, prepared(20, knows: [1: 10])), failing(3, 1)]
        #expect(outcomes(reports) == [[], [.restart], []], "peer 3's part is unknown: no honest members report this")
        let committed = [failing(1, 1), report(2, prepared(20, knows: [1: 10, 3: 30])), failing(3, 1)]
        #expect(outcomes(committed) == [[], [.commit], []])
        #expect(missed(committed) == [0, 1, 0])
    }

    @Test("failed calls of one tag say nothing of another, and counts of any size do no harm")
    func failedTags() {
        let reports = [
            failing(1, .max, moving(11, tag: 6, knows: [2: 21])), report(2, moving(21, tag: 6, knows: [1: 11])),
        ]
        #expect(outcomes(reports, .repair) == [[.restart], [.restart]])
        #expect(missed(reports, .repair) == [0, .max])
    }
}

@Suite("The verdict, whatever was in flight")
struct FlushResolutionPropertyTests {
    /// A run of one tag: the members call again and again; entries and prepared travel in order and are delivered at
    /// random; then one member is lost. Checks what a verdict must never do.
    @Test("no verdict contradicts what a member has already told its caller", arguments: 0..<400)
    func neverContradicts(seed: Int) {
        var random = RandomSource(seed: UInt64(seed))
        let ids = (1...UInt64(2 + random.below(3))).map { PeerID($0) }
        var ledgers = [OperationLedger](repeating: OperationLedger(), count: ids.count)
        var calls = [UInt32](repeating: 0, count: ids.count)
        var committed = calls
        enum Frame {
            case enter(LaunchNumber)
            case prepared(LaunchNumber)
        }
        var channels = [[[Frame]]](
            repeating: [[Frame]](repeating: [], count: ids.count), count: ids.count)
        let tag = Tag(1)
        let descriptor = OperationDescriptor(count: 1, type: .uint8, operation: .sum, algorithm: .direct)
        func others(_ i: Int) -> [PeerID] { ids.enumerated().filter { $0.offset != i }.map(\.element) }
        // Launch numbers of different members never agree by chance.
        func number(_ i: Int, _ call: UInt32) -> LaunchNumber { LaunchNumber(UInt32(i + 1) * 1000 + call) }

        func progress(_ i: Int) {
            guard let operation = ledgers[i][tag] else { return }
            if ledgers[i].becomesPrepared(tag, members: others(i)) {
                for j in ids.indices where j != i { channels[i][j].append(.prepared(operation.launch)) }
            }
            if ledgers[i].isCommitted(tag, members: others(i)) {
                ledgers[i].remove(tag)
                committed[i] = calls[i]
            }
        }
        for _ in 0..<random.below(120) {
            let i = random.below(ids.count)
            let j = random.below(ids.count)
            switch random.below(4) {
            case 0 where !ledgers[i].contains(tag):
                calls[i] += 1
                let operation = OperationLedger.Operation(
                    id: OperationID(UInt64(calls[i])), tag: tag, launch: number(i, calls[i]), descriptor: descriptor,
                    since: Instant(nanoseconds: 0), nextStallCheck: Instant(nanoseconds: 0))
                let mismatch = ledgers[i].launch(operation, members: others(i))
                #expect(mismatch == nil)
                for k in ids.indices where k != i { channels[i][k].append(.enter(operation.launch)) }
                progress(i)
            case 1 where ledgers[i].contains(tag):
                // The whole result needs everybody's contribution.
                if let operation = ledgers[i][tag], others(i).allSatisfy(operation.hasEntered) {
                    ledgers[i].noteWhole(tag, operation.launch)
                    progress(i)
                }
            default:
                guard i != j, !channels[i][j].isEmpty else { continue }
                switch channels[i][j].removeFirst() {
                case .enter(let launch): _ = ledgers[j].enter(ids[i], tag, launch, descriptor)
                case .prepared(let launch): ledgers[j].notePrepared(ids[i], tag, launch)
                }
                progress(j)
            }
        }

        let lost = random.below(ids.count)
        let survivors = ids.indices.filter { $0 != lost }
        let reports = survivors.map {
            FlushResolution.Report(peer: ids[$0], operations: ledgers[$0].reports(final: [:], worldSize: 3))
        }
        let verdicts = FlushResolution.verdicts(for: reports, cause: .loss)
        var byCall: [UInt32: Set<OperationVerdict.Outcome>] = [:]
        for (i, verdict) in zip(survivors, verdicts) {
            for operation in verdict {
                #expect(operation.launch == number(i, calls[i]))
                byCall[calls[i], default: []].insert(operation.outcome)
            }
        }
        for (call, outcomes) in byCall {
            #expect(outcomes.count == 1, "call \(call) has several outcomes: \(outcomes)")
            for i in survivors where committed[i] >= call {
                #expect(outcomes == [.commit], "peer \(i) has returned success from call \(call)")
            }
            if outcomes == [.commit] {
                for i in survivors where committed[i] < call {
                    #expect(ledgers[i][tag]?.isWhole == true, "peer \(i) is to return what it does not hold")
                }
            }
            if outcomes == [.abort] { for i in survivors { #expect(calls[i] >= call) } }
        }
    }
}
