import PCCLBase

/// What one rank does in a collective, from its beginning: how the elements are divided into chunks, the steps on them, and
/// the chunks that it has from the start.
///
/// An all-gather is the second half of an all-reduce, and a reduce-scatter the first one. In a broadcast of many bytes the
/// root deals out a chunk to each of the others, and these pass it on to all others while it comes: S bytes out of the root,
/// and less out of everybody else.
package struct CollectiveSchedule: Sendable {
    package let layout: ChunkLayout
    package let steps: [Step]
    /// By chunk; empty when it is none.
    package let held: [Bool]

    /// `shares` and `sites`, by rank, are those of an arrangement. Of the collectives whose blocks are by rank the element
    /// count is a multiple of the world size.
    package init(
        _ collective: Collective, _ algorithm: Algorithm, elementCount: Int, rank: Int, worldSize: Int,
        shares: [UInt16] = [], sites: [UInt16] = []
    ) {
        layout = CollectiveSchedule.layout(
            collective, algorithm, elementCount: elementCount, worldSize: worldSize, shares: shares, sites: sites)
        steps = CollectiveSchedule.steps(collective, algorithm, rank: rank, worldSize: worldSize, sites: sites)
        held = CollectiveSchedule.held(collective, algorithm, rank: rank, worldSize: worldSize)
    }

    package static func layout(
        _ collective: Collective, _ algorithm: Algorithm, elementCount: Int, worldSize: Int, shares: [UInt16],
        sites: [UInt16]
    ) -> ChunkLayout {
        switch (collective, algorithm) {
        case (.allReduce, _):
            return AllReduceSchedule.layout(
                algorithm, elementCount: elementCount, worldSize: worldSize, shares: shares, sites: sites)
        case (.allGather, .ring), (.reduceScatter, .ring):
            // Half of each rank's block goes either way.
            let blocks = ChunkLayout(elementCount: elementCount, chunkCount: worldSize)
            let ranges = (0..<worldSize).map { blocks.elements(ofChunk: $0) }
            let middles = ranges.map { $0.lowerBound + $0.count / 2 }
            return ChunkLayout(
                elementCount: elementCount,
                ranges: zip(ranges, middles).map { $0.lowerBound..<$1 }
                    + zip(ranges, middles).map { $1..<$0.upperBound })
        case (.allGather, _), (.reduceScatter, _):
            return ChunkLayout(elementCount: elementCount, chunkCount: worldSize)
        case (.broadcast, .oneShot), (.barrier, _): return ChunkLayout(elementCount: elementCount, chunkCount: 1)
        case (.broadcast, _): return ChunkLayout(elementCount: elementCount, chunkCount: worldSize - 1)
        }
    }

    package static func steps(
        _ collective: Collective, _ algorithm: Algorithm, rank: Int, worldSize: Int, sites: [UInt16]
    ) -> [Step] {
        switch collective {
        case .allReduce:
            AllReduceSchedule.steps(algorithm, rank: rank, worldSize: worldSize, sites: sites)
        case .allGather where algorithm == .ring:
            Ring.Way.allCases.flatMap { Ring($0, rank: rank, worldSize: worldSize).gather }
        case .allGather: AllReduceSchedule.directGather(rank: rank, worldSize: worldSize)
        case .reduceScatter where algorithm == .ring:
            Ring.Way.allCases.flatMap { Ring($0, rank: rank, worldSize: worldSize).scatter }
        case .reduceScatter: AllReduceSchedule.directScatter(rank: rank, worldSize: worldSize)
        case .broadcast(let root): broadcast(algorithm, rank: rank, root: Int(root), worldSize: worldSize)
        // The outcome alone is waited for, and there is one when all have entered.
        case .barrier: []
        }
    }

    package static func held(_ collective: Collective, _ algorithm: Algorithm, rank: Int, worldSize: Int) -> [Bool] {
        switch collective {
        case .allReduce, .reduceScatter, .barrier: []
        case .allGather:
            (0..<(algorithm == .ring ? 2 : 1) * worldSize).map { $0 % worldSize == rank }
        case .broadcast(let root):
            Array(repeating: rank == Int(root), count: algorithm == .oneShot ? 1 : worldSize - 1)
        }
    }

    private static func broadcast(_ algorithm: Algorithm, rank: Int, root: Int, worldSize: Int) -> [Step] {
        let others = (1..<worldSize).map { (root + $0) % worldSize }
        if algorithm == .oneShot {
            return rank == root
                ? others.map { .sendResult(chunk: 0, to: $0) } : [.receiveResult(chunk: 0, from: root)]
        }
        guard rank != root else { return others.enumerated().map { .sendResult(chunk: $0, to: $1) } }
        return others.enumerated().flatMap { (chunk, relay) -> [Step] in
            guard relay == rank else { return [.receiveResult(chunk: chunk, from: relay)] }
            return [.receiveResult(chunk: chunk, from: root)]
                + others.filter { $0 != rank }.map { .sendResult(chunk: chunk, to: $0) }
        }
    }
}
