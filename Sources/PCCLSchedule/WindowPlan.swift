import PCCLBase

/// How a collective goes through memory that all members can read, a *region* of each, in rounds: everybody fills its region
/// with what others need, folds the part that it is to reduce out of all regions, and takes the results from the regions
/// where they are.
///
/// Sums are folded in rank order, as in the direct algorithm. All members have the same rounds. A region has a half for each
/// of the rounds that may be under way at once, and in each half room for an input, which is the member's contribution, and
/// for an output, which is its part of the result.
///
/// Offsets and counts are bytes unless they say otherwise.
package struct WindowPlan: Hashable, Sendable {
    package struct Copy: Hashable, Sendable {
        package var from: Int
        package var to: Int
        package var count: Int
    }
    package struct Fold: Hashable, Sendable {
        /// Of the contributions, in the region of each member.
        package var input: Int
        /// In the own region.
        package var output: Int
        package var elementCount: Int
    }
    package struct Take: Hashable, Sendable {
        package var rank: Int
        /// From that member's region into the buffer for the result.
        package var copy: Copy
    }

    private let collective: Collective
    private let elementBytes: Int
    private let worldSize: Int
    private let rank: Int
    private let isInPlace: Bool
    /// What is gone through in rounds: the buffer, or each of its blocks.
    private let total: Int
    private let elementsPerRound: Int
    /// The room for each in a half of a region, the same at all members.
    private let inputBytes: Int
    private let outputBytes: Int

    /// Places in regions are multiples of it: what a device reads and writes at once, several times over.
    package static let grain = 256
    private static let mostHalves = 2

    package let roundCount: Int
    /// Rounds that may be under way at once.
    package let halves: Int
    package var regionBytes: Int { halves * (inputBytes + outputBytes) }

    /// `count`: as in `OperationDescriptor`. At most about `roundBytes` of a buffer are gone through in a round. Nil where
    /// there is nothing to go through.
    package init?(
        _ collective: Collective, count: Int, elementBytes: Int, rank: Int, worldSize: Int, isInPlace: Bool,
        roundBytes: Int
    ) {
        self.collective = collective
        self.elementBytes = elementBytes
        self.rank = rank
        self.worldSize = worldSize
        self.isInPlace = isInPlace
        let isOfBlocks = collective == .reduceScatter || collective == .allGather
        total = isOfBlocks ? count / worldSize : count
        guard total > 0, collective != .barrier else { return nil }
        let roundShare = collective == .reduceScatter ? roundBytes / worldSize : roundBytes
        elementsPerRound = min(total, max(roundShare / elementBytes, 1))
        roundCount = (total + elementsPerRound - 1) / elementsPerRound
        halves = min(roundCount, WindowPlan.mostHalves)
        let round = WindowPlan.aligned(elementsPerRound * elementBytes)
        switch collective {
        case .allReduce:
            (inputBytes, outputBytes) = (round, WindowPlan.aligned(round / worldSize + WindowPlan.grain))
        case .reduceScatter: (inputBytes, outputBytes) = (worldSize * round, round)
        case .allGather, .broadcast, .barrier: (inputBytes, outputBytes) = (round, 0)
        }
    }

    private static func aligned(_ bytes: Int) -> Int { (bytes + grain - 1) / grain * grain }

    // MARK: who does what

    package var folds: Bool { collective.isReduction }
    package func fills(_ rank: Int) -> Bool {
        if case .broadcast(let root) = collective { rank == Int(root) } else { true }
    }
    package func takes(_ rank: Int) -> Bool {
        if case .broadcast(let root) = collective { rank != Int(root) } else { true }
    }

    // MARK: rounds

    private func elements(_ round: Int) -> Range<Int> {
        let start = round * elementsPerRound
        return start..<min(start + elementsPerRound, total)
    }
    private func input(_ round: Int) -> Int { round % halves * (inputBytes + outputBytes) }
    private func output(_ round: Int) -> Int { input(round) + inputBytes }

    /// The part of a round that a member reduces, in elements of the round.
    private func slice(of rank: Int, _ round: Int) -> Range<Int> {
        let count = elements(round).count
        let grainElements = max(WindowPlan.grain / elementBytes, 1)
        let share = (count + worldSize - 1) / worldSize
        let each = (share + grainElements - 1) / grainElements * grainElements
        return min(rank * each, count)..<min((rank + 1) * each, count)
    }

    private func place(ofBlock block: Int, _ elements: Range<Int>) -> Int {
        (block * total + elements.lowerBound) * elementBytes
    }

    /// From the buffer that is sent into the own region.
    package func fill(_ round: Int) -> [Copy] {
        let elements = elements(round)
        let bytes = elements.count * elementBytes
        switch collective {
        case .reduceScatter:
            let room = inputBytes / worldSize
            return (0..<worldSize).map {
                Copy(from: place(ofBlock: $0, elements), to: input(round) + $0 * room, count: bytes)
            }
        case .allReduce, .allGather, .broadcast, .barrier:
            guard fills(rank) else { return [] }
            return [Copy(from: elements.lowerBound * elementBytes, to: input(round), count: bytes)]
        }
    }

    /// Nil where this member has nothing to fold.
    package func fold(_ round: Int) -> Fold? {
        switch collective {
        case .allReduce:
            let slice = slice(of: rank, round)
            guard !slice.isEmpty else { return nil }
            return Fold(
                input: input(round) + slice.lowerBound * elementBytes, output: output(round),
                elementCount: slice.count)
        case .reduceScatter:
            return Fold(
                input: input(round) + rank * (inputBytes / worldSize), output: output(round),
                elementCount: elements(round).count)
        case .allGather, .broadcast, .barrier: return nil
        }
    }

    /// Out of the regions, the own one included.
    package func take(_ round: Int) -> [Take] {
        let elements = elements(round)
        let bytes = elements.count * elementBytes
        switch collective {
        case .allReduce:
            return (0..<worldSize).compactMap { other in
                let slice = slice(of: other, round)
                guard !slice.isEmpty else { return nil }
                let to = (elements.lowerBound + slice.lowerBound) * elementBytes
                return Take(
                    rank: other, copy: Copy(from: output(round), to: to, count: slice.count * elementBytes))
            }
        case .reduceScatter:
            let to = elements.lowerBound * elementBytes
            return [Take(rank: rank, copy: Copy(from: output(round), to: to, count: bytes))]
        case .allGather:
            return (0..<worldSize).filter { $0 != rank || !isInPlace }.map {
                Take(rank: $0, copy: Copy(from: input(round), to: place(ofBlock: $0, elements), count: bytes))
            }
        case .broadcast(let root):
            guard takes(rank) else { return [] }
            let to = elements.lowerBound * elementBytes
            return [Take(rank: Int(root), copy: Copy(from: input(round), to: to, count: bytes))]
        case .barrier: return []
        }
    }
}
