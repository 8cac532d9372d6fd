import PCCLBase

/// How an all-reduce goes on in a smaller view, or after a repair: the direct algorithm on what is left, and the parts that
/// are kept on their way to who lacks them.
///
/// What is left lies here and there. Each rank owns an equal share of its elements, of which every piece is a chunk of its
/// own; each kept part is a chunk too. For a part that few hold, these share the sending.
package struct ResumedSchedule: Sendable {
    package let layout: ChunkLayout
    private let worldSize: Int
    /// By chunk, for those that are reduced.
    private let owners: [Int]
    private let kept: [KeptPart]

    package init(_ resumption: Resumption, elementCount: Int, worldSize: Int) {
        self.worldSize = worldSize
        kept = resumption.kept
        var owners: [Int] = []
        var ranges: [Range<Int>] = []
        let rest = resumption.rest(elementCount: elementCount)
        let shares = ChunkLayout(elementCount: rest.reduce(0) { $0 + $1.count }, chunkCount: worldSize)
        var owner = 0
        /// Of the share, what is not dealt out yet.
        var left = shares.elements(ofChunk: 0).count
        for range in rest {
            var start = range.lowerBound
            while start < range.upperBound {
                while left == 0 {
                    owner += 1
                    left = shares.elements(ofChunk: owner).count
                }
                let end = min(start + left, range.upperBound)
                ranges.append(start..<end)
                owners.append(owner)
                left -= end - start
                start = end
            }
        }
        self.owners = owners
        layout = ChunkLayout(elementCount: elementCount, ranges: ranges + kept.map(\.part.elements))
    }

    /// The ranks whose contributions make up a chunk that is reduced, in the order they are folded: as ever.
    package var foldOrder: [Int] { Array(0..<worldSize) }
    package func isKept(chunk: Int) -> Bool { chunk >= owners.count }

    package func steps(rank: Int) -> [Step] {
        let others = (1..<worldSize).map { (rank + $0) % worldSize }
        let operands: [Step.Operand] = (0..<worldSize).map { $0 == rank ? .own : .input(from: $0) }
        var steps: [Step] = []
        for (chunk, owner) in owners.enumerated() {
            if owner == rank {
                steps.append(.fold(chunk: chunk, operands: operands, into: .result))
                steps += others.map { .sendResult(chunk: chunk, to: $0) }
            } else {
                steps += [.sendInput(chunk: chunk, to: owner), .receiveResult(chunk: chunk, from: owner)]
            }
        }
        for (index, kept) in kept.enumerated() {
            let chunk = owners.count + index
            func source(_ rank: Int) -> Int { kept.holders[rank % kept.holders.count] }
            if kept.holders.contains(rank) {
                let takers = others.filter { !kept.holders.contains($0) && source($0) == rank }
                steps += takers.map { .sendResult(chunk: chunk, to: $0) }
            } else {
                steps.append(.receiveResult(chunk: chunk, from: source(rank)))
            }
        }
        return steps
    }

    /// What this rank has from the start, by chunk.
    package func held(by rank: Int) -> [Bool] {
        owners.map { _ in false } + kept.map { $0.holders.contains(rank) }
    }
}
