import PCCLBase

/// How a collective goes on in a smaller view, or after a repair: the direct algorithm on what is left, and the parts that
/// are kept on their way to who lacks them.
///
/// What is left lies here and there. Of an all-reduce each rank owns an equal share of its elements, of which every piece is
/// a chunk of its own; of others, what is its own in any case. Each kept part is a chunk too. For a part that few hold,
/// these share the sending.
package struct ResumedSchedule: Sendable {
    package let layout: ChunkLayout
    private let worldSize: Int
    private let isReduction: Bool
    /// By chunk, for those that are not kept.
    private let owners: [Int]
    private let kept: [KeptPart]

    package init(
        _ resumption: Resumption, of collective: Collective = .allReduce, elementCount: Int, worldSize: Int
    ) {
        self.worldSize = worldSize
        isReduction = collective.isReduction
        kept = resumption.kept
        let rest = resumption.rest(elementCount: elementCount)
        let pieces =
            switch collective {
            case .allReduce, .reduceScatter, .barrier: ResumedSchedule.shared(rest, worldSize)
            case .allGather: ResumedSchedule.byBlock(rest, elementCount: elementCount, worldSize)
            case .broadcast(let root): rest.map { (elements: $0, owner: Int(root)) }
            }
        owners = pieces.map(\.owner)
        layout = ChunkLayout(elementCount: elementCount, ranges: pieces.map(\.elements) + kept.map(\.part.elements))
    }

    private static func shared(_ rest: [Range<Int>], _ worldSize: Int) -> [(elements: Range<Int>, owner: Int)] {
        var pieces: [(Range<Int>, Int)] = []
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
                pieces.append((start..<end, owner))
                left -= end - start
                start = end
            }
        }
        return pieces
    }

    private static func byBlock(
        _ rest: [Range<Int>], elementCount: Int, _ worldSize: Int
    ) -> [(elements: Range<Int>, owner: Int)] {
        let blocks = ChunkLayout(elementCount: elementCount, chunkCount: worldSize)
        return rest.flatMap { range in
            (0..<worldSize).map { (range.clamped(to: blocks.elements(ofChunk: $0)), $0) }.filter { !$0.0.isEmpty }
        }
    }

    /// The ranks whose contributions make up a chunk that is reduced, in the order they are folded: as ever.
    package var foldOrder: [Int] { Array(0..<worldSize) }
    package func isKept(chunk: Int) -> Bool { chunk >= owners.count }

    package func steps(rank: Int) -> [Step] {
        let others = (1..<worldSize).map { (rank + $0) % worldSize }
        let operands: [Step.Operand] = (0..<worldSize).map { $0 == rank ? .own : .input(from: $0) }
        var steps: [Step] = []
        for (chunk, owner) in owners.enumerated() {
            if owner == rank, !isReduction {
                steps += others.map { .sendResult(chunk: chunk, to: $0) }
            } else if owner == rank {
                steps.append(.fold(chunk: chunk, operands: operands, into: .result))
                steps += others.map { .sendResult(chunk: chunk, to: $0) }
            } else {
                if isReduction { steps.append(.sendInput(chunk: chunk, to: owner)) }
                steps.append(.receiveResult(chunk: chunk, from: owner))
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
        owners.map { !isReduction && $0 == rank } + kept.map { $0.holders.contains(rank) }
    }
}
