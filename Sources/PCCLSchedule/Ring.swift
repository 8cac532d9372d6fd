/// The ring of Patarasuk and Yuan (2009), for one half of the buffer. Upwards: chunk c starts at rank c+1, gathers one
/// contribution per hop until it is whole at rank c, and then goes around once more as a result; contributions are
/// folded in the order c+1, c+2, …, c. Downwards it is the mirror image, with chunks P to 2P-1.
/// 2 S (P-1)/P bytes sent per rank for both halves together, half of them each way; 2 (P-1) one-way delays.
struct Ring {
    enum Way: CaseIterable {
        case up
        case down
    }

    private let way: Way
    private let rank: Int
    private let worldSize: Int
    private let next: Int
    private let previous: Int

    init(_ way: Way, rank: Int, worldSize: Int) {
        self.way = way
        self.rank = rank
        self.worldSize = worldSize
        let above = (rank + 1) % worldSize
        let below = (rank + worldSize - 1) % worldSize
        (next, previous) = way == .up ? (above, below) : (below, above)
    }

    /// The number of a chunk by the rank where it becomes whole.
    private func owned(by rank: Int) -> Int { way == .up ? rank : worldSize + rank }

    /// The chunk that is at this rank that many hops after its start.
    private func chunk(_ hops: Int) -> Int {
        owned(by: (way == .up ? rank + 2 * worldSize - 1 - hops : rank + 1 + hops) % worldSize)
    }

    /// Until the chunk of its number is whole at each rank.
    var scatter: [Step] {
        var steps: [Step] = [.sendInput(chunk: chunk(0), to: next)]
        for hops in 1..<worldSize {
            let arriving: Step.Operand = hops == 1 ? .input(from: previous) : .partial(from: previous)
            let isLast = hops == worldSize - 1
            steps.append(
                .fold(chunk: chunk(hops), operands: [arriving, .own], into: isLast ? .result : .partial(to: next)))
        }
        return steps
    }

    /// From there to all others.
    var gather: [Step] {
        var steps: [Step] = [.sendResult(chunk: owned(by: rank), to: next)]
        for hops in 0..<worldSize - 1 {
            let arriving = chunk(hops)
            steps.append(.receiveResult(chunk: arriving, from: previous))
            if arriving != owned(by: next) { steps.append(.sendResult(chunk: arriving, to: next)) }
        }
        return steps
    }
}
