import PCCLBase
import PCCLMembership
import PCCLWire
import Testing

/// Ballots are written as in a notebook: peer 1 brings revision 3 of two tensors, the first with content 7.
private func ballot(
    _ peer: UInt64, _ revision: UInt64, _ strategy: SharedStateStrategy = .enforcePopular,
    _ contents: [UInt64] = [1, 2],
    types: [DataType] = [.float32, .float16], counts: [UInt64] = [10, 20], names: [String] = ["bias", "weights"],
    free: Set<String> = []
) -> RevisionElection.Ballot {
    let entries = contents.indices.map { i in
        StateEntry(
            name: names[i], type: types[i], count: counts[i], allowsInequality: free.contains(names[i]),
            hash: ContentHash(high: 0, low: contents[i]))
    }
    return .init(peer: PeerID(peer), offer: StateOffer(revision: revision, strategy: strategy, entries: entries))
}

/// One letter for each ballot: h holds, r receives, w goes without, e evicted.
private func outcome(_ ballots: [RevisionElection.Ballot], expected: UInt64? = nil) -> String {
    RevisionElection.decide(ballots, expected: expected).fates.map { fate in
        switch fate {
        case .holds: "h"
        case .receives: "r"
        case .goesWithout: "w"
        case .evicted: "e"
        }
    }.joined()
}

private func reason(_ ballots: [RevisionElection.Ballot], _ index: Int, expected: UInt64? = nil) -> String? {
    guard case .evicted(let text) = RevisionElection.decide(ballots, expected: expected).fates[index] else {
        return nil
    }
    return text
}

@Suite("What is elected when shared states are synchronised")
struct RevisionElectionTests {
    @Test("the most popular content wins; of several the one of the lowest rank")
    func popular() {
        let (a, b) = ([UInt64(1), 2], [UInt64(1), 3])
        #expect(
            outcome([
                ballot(1, 0, .enforcePopular, a), ballot(2, 0, .enforcePopular, b), ballot(3, 0, .enforcePopular, b),
            ]) == "rhh")
        #expect(outcome([ballot(1, 0, .enforcePopular, a), ballot(2, 0, .enforcePopular, b)]) == "hr")
        #expect(outcome([ballot(2, 0, .enforcePopular, b), ballot(1, 0, .enforcePopular, a)]) == "hr")
        #expect(outcome([ballot(1, 0, .enforcePopular, a)]) == "h")
    }

    @Test("who receives, receives what differs and nothing else")
    func keys() {
        let ballots = [
            ballot(1, 4), ballot(2, 4), ballot(3, 4, .enforcePopular, [1, 9]), ballot(4, 3),
            ballot(5, 4, .enforcePopular, [8, 9]),
        ]
        let decision = RevisionElection.decide(ballots, expected: 4)
        #expect(decision.elected == 0)
        #expect(decision.fates == [.holds, .holds, .receives([1]), .receives([]), .receives([0, 1])])
    }

    @Test("the first revision may be any; afterwards it is the one that is due, and no later one")
    func revisions() {
        #expect(outcome([ballot(1, 77), ballot(2, 77)]) == "hh")
        #expect(outcome([ballot(1, 5), ballot(2, 5), ballot(3, 4)], expected: 5) == "hhr")
        #expect(outcome([ballot(1, 5), ballot(2, 6)], expected: 5) == "he")
        #expect(reason([ballot(1, 5), ballot(2, 6)], 1, expected: 5)?.contains("revision 6, where 5 is due") == true)
        // However many are behind, the one that is where all should be gives.
        #expect(outcome([ballot(1, 4), ballot(2, 4), ballot(3, 5)], expected: 5) == "rrh")
        // Nobody has what is due.
        #expect(outcome([ballot(1, 4), ballot(2, 3)], expected: 5) == "ww")
        #expect(outcome([ballot(1, 4), ballot(2, 6)], expected: 5) == "we")
    }

    @Test("who only receives is never elected, and where all do there is nothing to be had")
    func receivers() {
        #expect(outcome([ballot(1, 0, .receiveOnly, [9, 9]), ballot(2, 0, .sendOnly)]) == "rh")
        #expect(outcome([ballot(1, 0, .receiveOnly), ballot(2, 0, .receiveOnly)]) == "ww")
        #expect(outcome([ballot(1, 0, .receiveOnly), ballot(2, 0, .sendOnly)]) == "hh")
        #expect(
            outcome([ballot(1, 0, .receiveOnly, [9, 9]), ballot(2, 0, .receiveOnly, [9, 9]), ballot(3, 0, .sendOnly)])
                == "rrh")
    }

    @Test("who only sends must hold what is elected")
    func senders() {
        let ballots = [ballot(1, 0, .sendOnly), ballot(2, 0, .sendOnly, [1, 9]), ballot(3, 0, .receiveOnly, [0, 0])]
        #expect(outcome(ballots) == "her")
        #expect(reason(ballots, 1)?.contains("another content of \"weights\"") == true)
    }

    @Test("who accepts anything cannot be mixed with who does not: those are evicted")
    func mixed() {
        #expect(outcome([ballot(1, 0, .sendOnly), ballot(2, 0), ballot(3, 0, .receiveOnly)]) == "ehe")
        #expect(outcome([ballot(1, 0, .sendOnly), ballot(2, 9)], expected: 4) == "ee")
    }

    @Test("sets of entries that are not of one shape are told apart, with both sides named")
    func shapes() {
        let right = ballot(1, 0)
        let wrong: [(RevisionElection.Ballot, String)] = [
            (
                ballot(2, 0, .enforcePopular, [1, 2], names: ["bias", "wait"]),
                "an entry \"wait\" that peer 1 does not have"
            ),
            (ballot(2, 0, .enforcePopular, [1], names: ["bias"]), "no entry \"weights\", which peer 1 has"),
            (
                ballot(2, 0, .enforcePopular, [1, 2], types: [.float32, .float32]),
                "\"weights\" is 20 × float32, that of peer 1 20 × float16"
            ),
            (
                ballot(2, 0, .enforcePopular, [1, 2], counts: [11, 20]),
                "\"bias\" is 11 × float32, that of peer 1 10 × float32"
            ),
            (
                ballot(2, 0, .enforcePopular, [1, 2], free: ["bias"]),
                "\"bias\" is 10 × float32, which may differ, that of peer 1 10 × float32"
            ),
            (ballot(2, 0, .enforcePopular, [], names: []), "no entry \"bias\""),
        ]
        for (other, text) in wrong {
            #expect(reason([right, other], 1)?.contains(text) == true, "\(reason([right, other], 1) ?? "nothing")")
        }
        #expect(outcome([ballot(1, 0, .enforcePopular, [], names: [])]) == "w")
    }

    @Test("what may differ is not looked at, and not sent on its own account")
    func free() {
        let ballots = [ballot(1, 0, free: ["bias"]), ballot(2, 0, .enforcePopular, [9, 2], free: ["bias"])]
        #expect(outcome(ballots) == "hh")
        let others = ballots + [ballot(3, 0, .enforcePopular, [8, 8], free: ["bias"])]
        #expect(RevisionElection.decide(others, expected: nil).fates.last == .receives([1]))
    }

    @Test(
        "whatever is brought: one fate each, somebody holds, and all who stay have the elected shape",
        arguments: 0..<200)
    func random(seed: UInt64) {
        var source = RandomSource(seed: seed)
        let ballots = (0..<1 + source.below(6)).map { i in
            ballot(
                UInt64(i + 1), UInt64(source.below(3)), SharedStateStrategy.allCases[source.below(3)],
                [UInt64(source.below(2)), UInt64(source.below(2))], counts: [10, source.below(8) == 0 ? 21 : 20])
        }
        let expected: UInt64? = source.below(2) == 0 ? nil : UInt64(source.below(3))
        let decision = RevisionElection.decide(ballots, expected: expected)
        #expect(decision.fates.count == ballots.count)
        #expect(RevisionElection.decide(ballots, expected: expected) == decision)
        guard let elected = decision.elected.map({ ballots[$0].offer }) else {
            for (ballot, fate) in zip(ballots, decision.fates) {
                if case .evicted = fate { continue }
                #expect(fate == .goesWithout)
                #expect(
                    ballot.offer.strategy == .receiveOnly || ballot.offer.revision != expected ?? ballot.offer.revision)
            }
            return
        }
        if let expected { #expect(elected.revision == expected) }
        for (ballot, fate) in zip(ballots, decision.fates) {
            switch fate {
            case .holds: #expect(ballot.offer.holds(elected))
            case .receives(let keys):
                #expect(ballot.offer.strategy != .sendOnly)
                for (i, entry) in elected.entries.enumerated() {
                    #expect(ballot.offer.entries[i].count == entry.count)
                    #expect(keys.contains(i) == (ballot.offer.entries[i].hash != entry.hash))
                }
            case .goesWithout: Issue.record("somebody has it")
            case .evicted: break
            }
        }
    }

    @Test("who hashes in another way than the oldest is evicted")
    func functions() {
        var other = ballot(2, 0)
        other.offer.function = .sha256
        #expect(outcome([ballot(1, 0), other, ballot(3, 0)]) == "heh")
        #expect(outcome([other, ballot(1, 0), ballot(3, 0)]) == "hee")
        #expect(reason([ballot(1, 0), other], 1)?.contains("with sha256, and peer 1 with xxh3") == true)
        // Its strategy is of no interest then.
        #expect(outcome([ballot(1, 0, .sendOnly), other]) == "he")
    }

    @Test("what was being received when its source was lost is nobody's content, whoever had it before")
    func torn() {
        var torn = ballot(1, 0)
        torn.offer.entries[1].hash = nil
        #expect(outcome([torn, ballot(2, 0, .enforcePopular, [1, 9])]) == "rh")
        #expect(RevisionElection.decide([torn, ballot(2, 0)], expected: nil).fates[0] == .receives([1]))
        #expect(outcome([torn, torn]) == "ww")
        // What may differ has no say in it.
        torn.offer.entries[1].allowsInequality = true
        #expect(outcome([torn, ballot(2, 0, free: ["weights"])]) == "hh")
    }
}
