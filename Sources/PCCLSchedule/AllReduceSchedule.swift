import PCCLBase

/// The all-reduce algorithms, each as a pure function from (rank, world size) to steps.
package enum AllReduceSchedule {
    /// Into how many chunks an algorithm divides a buffer. They fit into the 16 bits that a frame has for them.
    package static func chunkCount(_ algorithm: Algorithm, worldSize: Int) -> Int {
        switch algorithm {
        case .direct, .twoLevel: worldSize
        case .ring: 2 * worldSize
        case .oneShot: 1
        }
    }

    /// Where the chunks lie. `shares`, by rank, are those of the direct algorithm, `sites` those of the two-level one;
    /// around a ring each edge carries all chunks but one, so unequal ones would gain nothing.
    package static func layout(
        _ algorithm: Algorithm, elementCount: Int, worldSize: Int, shares: [UInt16], sites: [UInt16]
    ) -> ChunkLayout {
        if algorithm == .direct, shares.count == worldSize, shares.contains(where: { $0 > 0 }) {
            return ChunkLayout(elementCount: elementCount, weights: shares)
        }
        if algorithm == .twoLevel, sites.count == worldSize {
            return ChunkLayout(elementCount: elementCount, weights: Sites(sites, worldSize: worldSize).weights)
        }
        return ChunkLayout(
            elementCount: elementCount, chunkCount: chunkCount(algorithm, worldSize: worldSize))
    }

    /// The ranks whose contributions make up a chunk, in the order they are folded. Those of a list are folded together
    /// before they are folded into the rest.
    package static func foldOrder(_ algorithm: Algorithm, chunk: Int, worldSize: Int, sites: [UInt16]) -> [[Int]] {
        switch algorithm {
        case .direct, .oneShot: return (0..<worldSize).map { [$0] }
        case .ring where chunk < worldSize: return (1...worldSize).map { [(chunk + $0) % worldSize] }
        case .ring: return (1...worldSize).map { [(chunk + worldSize - $0) % worldSize] }
        case .twoLevel:
            let sites = Sites(sites, worldSize: worldSize)
            let sums = gateways(toward: chunk, sites).map { gateway in
                sites.ranks[sites.ofRank[gateway]].filter { $0 != gateway } + [gateway]
            }
            return sums + (sites.ranks[sites.ofRank[chunk]].filter { $0 != chunk } + [chunk]).map { [$0] }
        }
    }

    /// The steps of one rank. `worldSize` is 2 or more; `sites`, by rank, are read by the two-level algorithm.
    package static func steps(_ algorithm: Algorithm, rank: Int, worldSize: Int, sites: [UInt16]) -> [Step] {
        switch algorithm {
        case .direct: direct(rank: rank, worldSize: worldSize)
        case .ring:
            Ring.Way.allCases.flatMap { way in
                let ring = Ring(way, rank: rank, worldSize: worldSize)
                return ring.scatter + ring.gather
            }
        case .oneShot: oneShot(rank: rank, worldSize: worldSize)
        case .twoLevel: twoLevel(rank: rank, Sites(sites, worldSize: worldSize))
        }
    }

    /// All other ranks, beginning with the successor, so that at any moment each is served by another rank.
    private static func others(_ rank: Int, _ worldSize: Int) -> [Int] {
        (1..<worldSize).map { (rank + $0) % worldSize }
    }

    private static func operands(_ rank: Int, _ worldSize: Int) -> [Step.Operand] {
        (0..<worldSize).map { $0 == rank ? .own : .input(from: $0) }
    }

    /// Every rank owns the chunk of its number: contributions go straight to the owner, results straight back.
    /// 2 S (P-1)/P bytes sent per rank, two one-way delays whatever P is.
    private static func direct(rank: Int, worldSize: Int) -> [Step] {
        directScatter(rank: rank, worldSize: worldSize) + directGather(rank: rank, worldSize: worldSize)
    }

    static func directScatter(rank: Int, worldSize: Int) -> [Step] {
        others(rank, worldSize).map { .sendInput(chunk: $0, to: $0) }
            + [.fold(chunk: rank, operands: operands(rank, worldSize), into: .result)]
    }

    static func directGather(rank: Int, worldSize: Int) -> [Step] {
        let others = others(rank, worldSize)
        return others.map { .sendResult(chunk: rank, to: $0) } + others.map { .receiveResult(chunk: $0, from: $0) }
    }

    /// Everybody sends everything to everybody, and folds all of it in rank order, as the owners of the direct algorithm
    /// do: the same bits on all ranks although no result travels. S (P-1) bytes sent per rank, one one-way delay.
    private static func oneShot(rank: Int, worldSize: Int) -> [Step] {
        others(rank, worldSize).map { .sendInput(chunk: 0, to: $0) }
            + [.fold(chunk: 0, operands: operands(rank, worldSize), into: .result)]
    }

    /// Of each other site, the rank that sends that site's sum of a chunk to its owner: first those of several members,
    /// whose sums are accumulators, then lonely ones, which send their input.
    private static func gateways(toward owner: Int, _ sites: Sites) -> [Int] {
        let others = sites.ranks.indices.filter { $0 != sites.ofRank[owner] }
        let several = others.filter { sites.ranks[$0].count > 1 }
        let lonely = others.filter { sites.ranks[$0].count == 1 }
        return (several + lonely).map { sites.gateway(of: $0, owner: owner) }
    }

    /// Every rank owns the chunk of its number, and each other site has a gateway for it: members send their contributions
    /// to their gateway, gateways their sums to the owner, and the result goes back the same way. Between two sites each
    /// byte goes once as a part of a sum, or once as a result, whatever the number of members: for k sites of equal size
    /// 2 S (k-1)/k out of each, where the direct algorithm sends as much from every member. Two one-way delays between
    /// sites and two within.
    private static func twoLevel(rank: Int, _ sites: Sites) -> [Step] {
        let mine = sites.ofRank[rank]
        let neighbours = sites.ranks[mine].filter { $0 != rank }
        let owners = sites.ofRank.indices
        /// To whom this rank's contribution to a chunk goes, and from whom the result comes.
        func gateway(_ owner: Int) -> Int { sites.gateway(of: mine, owner: owner) }
        let forwarded = owners.filter { sites.ofRank[$0] != mine && gateway($0) == rank }
        let gateways = gateways(toward: rank, sites)

        var steps: [Step] = owners.filter { gateway($0) != rank }.map { .sendInput(chunk: $0, to: gateway($0)) }
        for chunk in forwarded {
            steps.append(
                neighbours.isEmpty
                    ? .sendInput(chunk: chunk, to: chunk)
                    : .fold(
                        chunk: chunk, operands: neighbours.map { .input(from: $0) } + [.own], into: .partial(to: chunk))
            )
        }
        let sums: [Step.Operand] = gateways.map {
            sites.ranks[sites.ofRank[$0]].count > 1 ? .partial(from: $0) : .input(from: $0)
        }
        steps.append(
            .fold(chunk: rank, operands: sums + neighbours.map { .input(from: $0) } + [.own], into: .result))
        steps += (gateways + neighbours).map { .sendResult(chunk: rank, to: $0) }
        for chunk in owners where chunk != rank {
            steps.append(.receiveResult(chunk: chunk, from: gateway(chunk) == rank ? chunk : gateway(chunk)))
        }
        for chunk in forwarded { steps += neighbours.map { .sendResult(chunk: chunk, to: $0) } }
        return steps
    }
}
