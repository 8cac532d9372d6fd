import PCCLBase
import PCCLWire

/// Decides, from what all members of a group bring to a synchronisation, what everybody is to hold afterwards, who has it
/// and who receives what.
///
/// A pure function: the same ballots give the same decision, whoever asks, so a master that is started anew comes to it
/// again.
package enum RevisionElection {
    package struct Ballot: Hashable, Sendable {
        package var peer: PeerID
        package var offer: StateOffer
        package init(peer: PeerID, offer: StateOffer) {
            self.peer = peer
            self.offer = offer
        }
    }

    package enum Fate: Hashable, Sendable {
        /// It holds the elected content, and gives it to others.
        case holds
        /// It receives the entries with these indices, in the order of names; none if only its revision is old.
        case receives([Int])
        /// Nobody has a content that could be everybody's, so this one has nothing to wait for.
        case goesWithout
        /// What it brings cannot be brought together with the others': it is not a member any more.
        case evicted(String)
    }

    package struct Decision: Hashable, Sendable {
        /// The ballot with what everybody is to hold.
        package var elected: Int?
        /// By ballot.
        package var fates: [Fate]
    }

    /// `ballots` in the order of ranks; `expected` is the revision that is due: one more than the last that was agreed on,
    /// nil before the first.
    package static func decide(_ ballots: [Ballot], expected: UInt64?) -> Decision {
        var evictions = [String?](repeating: nil, count: ballots.count)
        evictOtherFunctions(ballots, &evictions)
        evictMixedStrategies(ballots, &evictions)
        evictEarlyRevisions(ballots, expected, &evictions)
        let elected = elect(ballots, evictions, expected)
        let fates = ballots.indices.map { i in
            if let reason = evictions[i] { return Fate.evicted(reason) }
            guard let elected else { return .goesWithout }
            return fate(ballots[i], beside: ballots[elected].offer, of: ballots[elected].peer)
        }
        return Decision(elected: elected, fates: fates)
    }

    /// What members hash in different ways cannot be compared. They are configured alike, and in doubt as the oldest is.
    private static func evictOtherFunctions(_ ballots: [Ballot], _ evictions: inout [String?]) {
        guard let first = ballots.first else { return }
        for (i, ballot) in ballots.enumerated() where ballot.offer.function != first.offer.function {
            evictions[i] =
                "it hashes its shared state with \(ballot.offer.function), and \(first.peer) with \(first.offer.function): "
                + "see PCCL_STATE_HASH"
        }
    }

    /// Who would accept anybody's content cannot be brought together with who would not give up its own.
    private static func evictMixedStrategies(_ ballots: [Ballot], _ evictions: inout [String?]) {
        let kept = ballots.indices.filter { evictions[$0] == nil }
        guard let popular = kept.first(where: { ballots[$0].offer.strategy == .enforcePopular }).map({ ballots[$0] })
        else { return }
        for (i, ballot) in ballots.enumerated() where ballot.offer.strategy != .enforcePopular && evictions[i] == nil {
            evictions[i] =
                "its strategy is \(ballot.offer.strategy), and that of \(popular.peer) \(popular.offer.strategy): "
                + "these cannot be mixed"
        }
    }

    private static func evictEarlyRevisions(_ ballots: [Ballot], _ expected: UInt64?, _ evictions: inout [String?]) {
        guard let expected else { return }
        for (i, ballot) in ballots.enumerated() where ballot.offer.revision > expected && evictions[i] == nil {
            evictions[i] =
                "its shared state has revision \(ballot.offer.revision), where \(expected) is due: a revision is one "
                + "more than the last"
        }
    }

    /// The ballot with the most popular content of those that may be elected; of several the one of the lowest rank.
    private static func elect(_ ballots: [Ballot], _ evictions: [String?], _ expected: UInt64?) -> Int? {
        var votes: [Content: (first: Int, count: Int)] = [:]
        for (i, ballot) in ballots.enumerated() where evictions[i] == nil && mayBeElected(ballot.offer, expected) {
            votes[Content(ballot.offer), default: (i, 0)].count += 1
        }
        return votes.values.min { ($1.count, $0.first) < ($0.count, $1.first) }?.first
    }

    private static func mayBeElected(_ offer: StateOffer, _ expected: UInt64?) -> Bool {
        offer.strategy != .receiveOnly && !offer.entries.isEmpty && offer.revision == expected ?? offer.revision
            && offer.isWhole
    }

    /// What must be alike for two members to hold the same.
    private struct Content: Hashable {
        let revision: UInt64
        let entries: [StateEntry]

        init(_ offer: StateOffer) {
            revision = offer.revision
            entries = offer.entries.map { entry in
                guard entry.allowsInequality else { return entry }
                var entry = entry
                entry.hash = nil
                return entry
            }
        }
    }

    private static func fate(_ ballot: Ballot, beside elected: StateOffer, of peer: PeerID) -> Fate {
        let offer = ballot.offer
        if let difference = difference(offer.entries, elected.entries, peer) { return .evicted(difference) }
        let differing = elected.entries.indices.filter {
            !elected.entries[$0].allowsInequality && offer.entries[$0].hash != elected.entries[$0].hash
        }
        if differing.isEmpty, offer.revision == elected.revision { return .holds }
        if offer.strategy == .sendOnly {
            return .evicted(
                "it only sends, and what was elected is that of \(peer), with revision \(elected.revision)"
                    + (differing.first.map { " and another content of \"\(elected.entries[$0].name)\"" } ?? ""))
        }
        return .receives(differing)
    }

    /// Why two sets of entries are not of the same shape, with both sides named.
    private static func difference(_ own: [StateEntry], _ elected: [StateEntry], _ peer: PeerID) -> String? {
        let names = (Set(own.map(\.name)), Set(elected.map(\.name)))
        if let surplus = own.first(where: { !names.1.contains($0.name) }) {
            return "its shared state has an entry \"\(surplus.name)\" that \(peer) does not have"
        }
        if let lacking = elected.first(where: { !names.0.contains($0.name) }) {
            return "its shared state has no entry \"\(lacking.name)\", which \(peer) has"
        }
        // Both are in the same order.
        for (own, elected) in zip(own, elected) where shape(own) != shape(elected) {
            return "its entry \"\(own.name)\" is \(shape(own)), that of \(peer) \(shape(elected))"
        }
        return nil
    }

    private static func shape(_ entry: StateEntry) -> String {
        "\(entry.count) × \(entry.type)" + (entry.allowsInequality ? ", which may differ" : "")
    }
}
