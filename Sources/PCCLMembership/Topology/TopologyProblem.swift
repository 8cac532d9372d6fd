import PCCLBase
import PCCLWire

/// What an optimise call asks, once every member has told its figures: the best order and shares for them.
package struct TopologyProblem: Hashable, Sendable {
    /// As they are now, in rank order.
    package var members: [PeerID]
    /// By rank: what that member knows of its ways to the others.
    package var figures: [[LinkFigure]]
    /// An order that a longer search has found since the last call.
    package var suggestion: [PeerID]?

    package init(members: [PeerID], figures: [[LinkFigure]], suggestion: [PeerID]? = nil) {
        self.members = members
        self.figures = figures
        self.suggestion = suggestion
    }

    package var matrix: BandwidthMatrix {
        var matrix = BandwidthMatrix(size: members.count)
        let ranks = Dictionary(members.enumerated().map { ($1, $0) }) { first, _ in first }
        for (from, known) in figures.enumerated() {
            for figure in known {
                guard let to = ranks[figure.peer] else { continue }
                matrix.note(
                    from: from, to: to, bytesPerSecond: figure.bytesPerSecond,
                    latencyNanoseconds: figure.latencyNanoseconds)
            }
        }
        return matrix
    }

    /// Whether the quick answer may leave something to find.
    package var isLarge: Bool { members.count > RingOrder.largestExact }
}

package struct TopologySolution: Hashable, Sendable {
    /// In the new order of ranks.
    package var members: [PeerID]
    package var arrangement: Arrangement

    package init(members: [PeerID], arrangement: Arrangement) {
        self.members = members
        self.arrangement = arrangement
    }
}

extension TopologyProblem {
    /// Shares are worth their programme where direct is likely; it grows with the fifth power or so of the size.
    private static let largestShared = CostModel.largestDirectWorldSize

    /// The order changes only for a gain beyond the noise of measurement, and is never worse than the present one.
    package func solved(effort: RingOrder.Effort, seed: UInt64) -> TopologySolution {
        let matrix = matrix
        let order = matrix.hasRates || matrix.hasLatencies ? bestOrder(matrix, effort, seed) : Array(members.indices)
        let ordered = matrix.reordered(order)
        let shares =
            matrix.hasRates && members.count <= TopologyProblem.largestShared
            ? ChunkShares(ordered).rounded() : []
        var figures = TopologyProblem.figures(ordered, shares)
        let sites = matrix.hasRates ? TopologyProblem.sites(ordered, &figures) : []
        return TopologySolution(
            members: order.map { members[$0] },
            arrangement: Arrangement(shares: shares, sites: sites, figures: figures))
    }

    /// What a longer search finds, to be suggested at the next call. Returns soon after it is cancelled.
    package func improvedOrder(seed: UInt64, isCancelled: () -> Bool) -> [PeerID] {
        var random = RandomSource(seed: seed)
        let order = RingOrder(matrix).search(
            from: Array(members.indices), effort: .thorough, random: &random, isCancelled: isCancelled)
        return order.map { members[$0] }
    }

    private func bestOrder(_ matrix: BandwidthMatrix, _ effort: RingOrder.Effort, _ seed: UInt64) -> [Int] {
        let ring = RingOrder(matrix)
        var random = RandomSource(seed: seed)
        let current = Array(members.indices)
        var start = current
        if let suggestion, suggestion.count == members.count {
            let suggested = suggestion.compactMap { members.firstIndex(of: $0) }
            if Set(suggested).count == members.count, ring.quality(of: suggested) > ring.quality(of: current) {
                start = suggested
            }
        }
        let found = ring.best(from: start, effort: effort, random: &random)
        let (new, old) = (ring.quality(of: found), ring.quality(of: current))
        let isFaster = Double(new.bytesPerSecond) > ChunkShares.noise * Double(old.bytesPerSecond)
        let isShorter =
            new.bytesPerSecond >= old.bytesPerSecond
            && ChunkShares.noise * Double(new.turnNanoseconds) < Double(old.turnNanoseconds)
        return isFaster || isShorter ? found : current
    }

    /// What each algorithm makes of these links, rounded.
    static func figures(_ matrix: BandwidthMatrix, _ shares: [UInt16]) -> SharedFigures? {
        guard matrix.hasRates || matrix.hasLatencies else { return nil }
        let size = matrix.size
        let full = matrix.completed
        var slowestPair = UInt64.max
        var longest: UInt64 = 0
        for from in 0..<size {
            for to in 0..<size where to != from {
                slowestPair = min(slowestPair, full.bytesPerSecond(from: from, to: to) ?? 1)
                longest = max(longest, full.latencyNanoseconds(from: from, to: to) ?? 0)
            }
        }
        var figures = SharedFigures(
            latencyNanoseconds: CostModel.nominalLatencyNanoseconds,
            hopNanoseconds: CostModel.nominalLatencyNanoseconds,
            oneShotBytesPerSecond: 0, directBytesPerSecond: 0, ringBytesPerSecond: 0)
        if matrix.hasLatencies {
            let hops = (0..<size).map { full.latencyNanoseconds(from: $0, to: ($0 + 1) % size) ?? 0 }
            figures.latencyNanoseconds = rounded(longest)
            figures.hopNanoseconds = rounded(hops.reduce(0, +) / UInt64(size))
        }
        if matrix.hasRates {
            let ring = RingOrder(matrix).quality(of: Array(0..<size)).bytesPerSecond
            figures.oneShotBytesPerSecond = rounded(slowestPair)
            figures.directBytesPerSecond = rounded(UInt64(1 / ChunkShares(matrix).secondsPerByte(shares)))
            // Each way of each edge carries all of one half but a chunk, twice.
            figures.ringBytesPerSecond = rounded(ring / UInt64(size - 1) * UInt64(size))
        }
        return figures
    }

    /// Sites that are worth going by, and what going by them is expected to give.
    private static func sites(_ matrix: BandwidthMatrix, _ figures: inout SharedFigures?) -> [UInt16] {
        guard let others = figures, matrix.size > 2 else { return [] }
        let search = SiteSearch(matrix)
        let fastest = max(others.directBytesPerSecond, others.ringBytesPerSecond, 1)
        let sites = search.best(against: 1 / Double(fastest))
        if !sites.isEmpty {
            figures?.localNanoseconds = rounded(search.localNanoseconds(sites))
            figures?.twoLevelBytesPerSecond = rounded(UInt64(1 / search.secondsPerByte(sites)))
        }
        return sites
    }

    /// To three significant bits, at least 1.
    static func rounded(_ value: UInt64) -> UInt64 {
        let bits = UInt64.bitWidth - value.leadingZeroBitCount
        guard bits > 3 else { return max(value, 1) }
        let shift = UInt64(bits - 3)
        return ((value + (1 << (shift - 1))) >> shift) << shift
    }
}
