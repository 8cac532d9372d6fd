/// How far a member has come with the rounds of a `WindowPlan`: so many it has filled, folded and taken. Members tell each
/// other, and each knows from that what it may do.
package struct WindowCounters: Hashable, Sendable {
    package var filled: Int
    package var folded: Int
    package var taken: Int
    package init(filled: Int = 0, folded: Int = 0, taken: Int = 0) {
        self.filled = filled
        self.folded = folded
        self.taken = taken
    }

    /// What is told may come in any order.
    mutating func advance(to other: WindowCounters) {
        filled = max(filled, other.filled)
        folded = max(folded, other.folded)
        taken = max(taken, other.taken)
    }
}

/// One member's way through a `WindowPlan`. Says what can be begun, and is told what has ended, here and elsewhere.
///
/// Nothing is written where somebody may still read, nor read before it is written:
///
///     fill r    when everybody has taken round r - halves
///     fold r    when everybody has filled round r
///     take r    when everybody has folded round r or, where nothing is folded, has filled it
///
/// What is begun of one kind ends in its order; the kinds go on side by side.
package struct WindowProgress: Sendable {
    package enum Step: Hashable, Sendable {
        case fill(Int)
        case fold(Int)
        case take(Int)
    }

    private let plan: WindowPlan
    private let rank: Int
    private var begun = WindowCounters()
    /// By rank, this member's own among them. Where a member has nothing to do of a kind it has done all of it.
    private var known: [WindowCounters]

    package init(_ plan: WindowPlan, rank: Int, worldSize: Int) {
        self.plan = plan
        self.rank = rank
        let rounds = plan.roundCount
        known = (0..<worldSize).map {
            WindowCounters(
                filled: plan.fills($0) ? 0 : rounds, folded: plan.folds ? 0 : rounds,
                taken: plan.takes($0) ? 0 : rounds)
        }
        begun = known[rank]
    }

    /// To be told to the others.
    package var own: WindowCounters { known[rank] }
    package var isWhole: Bool { own == WindowCounters.all(plan.roundCount) }
    /// Whether something was begun that has not ended.
    package var isWorking: Bool { begun != own }

    /// What can be begun now, each once.
    package mutating func next() -> Step? {
        let filled = known.map(\.filled).min() ?? 0
        let folded = known.map(\.folded).min() ?? 0
        let taken = known.map(\.taken).min() ?? 0
        if begun.taken < min(plan.folds ? folded : filled, plan.roundCount) {
            begun.taken += 1
            return .take(begun.taken - 1)
        }
        if begun.folded < min(filled, plan.roundCount) {
            begun.folded += 1
            return .fold(begun.folded - 1)
        }
        if begun.filled < min(taken + plan.halves, plan.roundCount) {
            begun.filled += 1
            return .fill(begun.filled - 1)
        }
        return nil
    }

    package mutating func ended(_ step: Step) {
        switch step {
        case .fill(let round): known[rank].filled = round + 1
        case .fold(let round): known[rank].folded = round + 1
        case .take(let round): known[rank].taken = round + 1
        }
    }

    package mutating func heard(_ counters: WindowCounters, from other: Int) {
        guard other != rank, known.indices.contains(other) else { return }
        known[other].advance(to: counters)
    }
}

extension WindowCounters {
    fileprivate static func all(_ rounds: Int) -> WindowCounters {
        WindowCounters(filled: rounds, folded: rounds, taken: rounds)
    }
}
