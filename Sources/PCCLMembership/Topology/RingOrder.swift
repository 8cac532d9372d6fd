import PCCLBase

/// The order in which members are best put in a ring: the one whose slowest edge is fastest, and among those the one
/// that a segment goes around in the least time.
///
/// Both halves of a buffer travel the ring at once, in opposite directions, so an edge is as fast as the slower of its
/// two directions, and a ring is the same ring when it is turned or read backwards. All bytes but the own chunk pass
/// each edge, so for large buffers the slowest edge alone decides. What remains is the time to fill the pipe, which is
/// the tie-break: the sum, over the edges, of latency and the time that one segment takes on it.
///
/// Up to `largestExact` members the answer is exact: the slowest edge by bisection over the rates, where for each the
/// sets of members that a path can cover are enumerated; then the shortest turn over edges of that rate, by the dynamic
/// programme of Held and Karp (1962). Beyond, a local search from several seeded beginnings.
package struct RingOrder: Sendable {
    package struct Quality: Hashable, Comparable, Sendable {
        /// Of the slowest edge.
        package var bytesPerSecond: UInt64
        /// A segment's way around, both ways together.
        package var turnNanoseconds: UInt64

        /// Less is worse.
        package static func < (a: Quality, b: Quality) -> Bool {
            (a.bytesPerSecond, b.turnNanoseconds) < (b.bytesPerSecond, a.turnNanoseconds)
        }
    }

    /// What travels in one frame.
    private static let segmentBytes: UInt64 = 256 << 10
    package static let largestExact = 12

    package let size: Int
    /// Of pairs, row by row, symmetric.
    private let rates: [UInt64]
    private let costs: [UInt64]

    package init(_ matrix: BandwidthMatrix) {
        let full = matrix.completed
        let size = matrix.size
        self.size = size
        var rates = Array(repeating: UInt64(0), count: size * size)
        var costs = rates
        for a in 0..<size {
            for b in 0..<size where a != b {
                let out = full.bytesPerSecond(from: a, to: b) ?? 1
                let back = full.bytesPerSecond(from: b, to: a) ?? 1
                rates[a * size + b] = min(out, back)
                costs[a * size + b] =
                    (full.latencyNanoseconds(from: a, to: b) ?? 0) + (full.latencyNanoseconds(from: b, to: a) ?? 0)
                    + RingOrder.segmentBytes * 1_000_000_000 / out + RingOrder.segmentBytes * 1_000_000_000 / back
            }
        }
        self.rates = rates
        self.costs = costs
    }

    package func quality(of order: [Int]) -> Quality {
        var quality = Quality(bytesPerSecond: .max, turnNanoseconds: 0)
        for (i, a) in order.enumerated() {
            let b = order[i + 1 == order.count ? 0 : i + 1]
            quality.bytesPerSecond = min(quality.bytesPerSecond, rates[a * size + b])
            quality.turnNanoseconds += costs[a * size + b]
        }
        return quality
    }

    /// An order that is not worse than `current`, a permutation of 0..<size. Where nothing better is found it is
    /// `current` itself; otherwise the first member stays the first.
    package func best(from current: [Int], effort: Effort, random: inout RandomSource) -> [Int] {
        guard size > 3 else { return current }
        let found =
            size <= RingOrder.largestExact ? exact() : search(from: current, effort: effort, random: &random)
        return quality(of: found) > quality(of: current) ? turned(found, like: current) : current
    }

    /// The same ring, read from the first of `current` on, in the direction that has the lower neighbour first.
    private func turned(_ order: [Int], like current: [Int]) -> [Int] {
        let start = order.firstIndex(of: current[0]) ?? 0
        var turned = Array(order[start...] + order[..<start])
        if let next = turned.dropFirst().first, let last = turned.last, last < next { turned[1...].reverse() }
        return turned
    }

    // MARK: exact

    /// The best ring. Memory and time grow with 2^size.
    package func exact() -> [Int] {
        guard size > 3 else { return Array(0..<size) }
        let slowest = bestSlowest()
        return shortestTurn(overEdgesOf: slowest)
    }

    /// The greatest rate such that a ring exists whose edges all have it.
    private func bestSlowest() -> UInt64 {
        var levels = Array(Set(rates)).sorted()
        levels.removeAll { $0 == 0 }
        // A ring over edges of the lowest rate always exists.
        var low = 0
        var high = levels.count
        while high - low > 1 {
            let middle = (low + high) / 2
            if hasRing(overEdgesOf: levels[middle]) { low = middle } else { high = middle }
        }
        return levels[low]
    }

    /// Member `last` is where rings begin and end; a set of the others is a bit mask.
    private func hasRing(overEdgesOf rate: UInt64) -> Bool {
        let others = size - 1
        var neighbours = Array(repeating: UInt32(0), count: size)
        for a in 0..<size {
            for b in 0..<others where a != b && rates[a * size + b] >= rate { neighbours[a] |= 1 << UInt32(b) }
        }
        // By set of members: where a path from the beginning through all of them can end.
        var ends = Array(repeating: UInt32(0), count: 1 << others)
        for set in 1..<UInt32(1 << others) {
            var reached: UInt32 = 0
            var rest = set
            while rest != 0 {
                let bit = rest & (0 &- rest)
                rest ^= bit
                let member = bit.trailingZeroBitCount
                let before = set ^ bit
                let isReached =
                    before == 0 ? neighbours[others] & bit != 0 : ends[Int(before)] & neighbours[member] != 0
                if isReached { reached |= bit }
            }
            ends[Int(set)] = reached
        }
        return ends[(1 << others) - 1] & neighbours[others] != 0
    }

    private func shortestTurn(overEdgesOf rate: UInt64) -> [Int] {
        let others = size - 1
        let unreachable = UInt64.max
        var shortest = Array(repeating: unreachable, count: (1 << others) * others)
        var before = Array(repeating: UInt8(0), count: (1 << others) * others)
        for member in 0..<others where rates[others * size + member] >= rate {
            shortest[(1 << member) * others + member] = costs[others * size + member]
        }
        for set in 1..<(1 << others) {
            for end in 0..<others where set & (1 << end) != 0 {
                let cost = shortest[set * others + end]
                guard cost != unreachable else { continue }
                for next in 0..<others where set & (1 << next) == 0 && rates[end * size + next] >= rate {
                    let entry = (set | 1 << next) * others + next
                    let sum = cost + costs[end * size + next]
                    if sum < shortest[entry] {
                        shortest[entry] = sum
                        before[entry] = UInt8(end)
                    }
                }
            }
        }
        let all = (1 << others) - 1
        var best: (cost: UInt64, end: Int)?
        for end in 0..<others where rates[end * size + others] >= rate {
            let cost = shortest[all * others + end]
            guard cost != unreachable else { continue }
            let sum = cost + costs[end * size + others]
            if sum < best?.cost ?? unreachable { best = (sum, end) }
        }
        guard var end = best?.end else { return Array(0..<size) }
        var order = [others]
        var set = all
        while set != 0 {
            order.append(end)
            let previous = Int(before[set * others + end])
            set ^= 1 << end
            end = previous
        }
        return order
    }
}

// MARK: - local search

extension RingOrder {
    /// How long to search where an exact answer is out of reach.
    package struct Effort: Hashable, Sendable {
        /// Besides the present order and the greedy one.
        package var randomStarts: Int
        /// Random double-bridge changes after each start, each followed by a descent.
        package var kicksPerStart: Int
        /// Moves looked at, over all starts: what bounds the time of the largest groups. A core looks at some tens of
        /// millions a second.
        package var moves: Int
        package init(randomStarts: Int, kicksPerStart: Int, moves: Int = .max) {
            self.randomStarts = randomStarts
            self.kicksPerStart = kicksPerStart
            self.moves = moves
        }
        /// While members wait.
        package static let quick = Effort(randomStarts: 0, kicksPerStart: 4, moves: 30_000_000)
        /// While nobody does.
        package static let thorough = Effort(randomStarts: 8, kicksPerStart: 40, moves: 1_000_000_000)
    }

    /// Never worse than `current`. Returns with what it has when it is cancelled, which it asks before each descent.
    package func search(
        from current: [Int], effort: Effort, random: inout RandomSource, isCancelled: () -> Bool = { false }
    ) -> [Int] {
        var best = current
        var bestQuality = quality(of: current)
        var movesLeft = effort.moves
        for start in 0..<2 + effort.randomStarts where movesLeft > 0 && !isCancelled() {
            var order =
                switch start {
                case 0: current
                case 1: greedy(from: random.below(size))
                default: current.shuffled(using: &random)
                }
            descend(&order, &movesLeft)
            var reached = quality(of: order)
            for _ in 0..<effort.kicksPerStart where movesLeft > 0 && !isCancelled() {
                var other = kicked(order, random: &random)
                descend(&other, &movesLeft)
                let quality = quality(of: other)
                if quality >= reached { (order, reached) = (other, quality) }
            }
            if reached > bestQuality { (best, bestQuality) = (order, reached) }
        }
        return best
    }

    /// From each member to the one left over the fastest edge, of equal ones the shortest.
    private func greedy(from start: Int) -> [Int] {
        var left = Array(0..<size)
        left.remove(at: start)
        var order = [start]
        while !left.isEmpty {
            let row = order[order.count - 1] * size
            var best = 0
            for i in left.indices.dropFirst() {
                let (new, old) = (row + left[i], row + left[best])
                if (rates[new], costs[old]) > (rates[old], costs[new]) { best = i }
            }
            order.append(left.remove(at: best))
        }
        return order
    }

    /// The double bridge of Martin, Otto and Felten (1991): A B C D becomes A C B D, which no single descent undoes.
    private func kicked(_ order: [Int], random: inout RandomSource) -> [Int] {
        let cuts = [1 + random.below(size - 1), 1 + random.below(size - 1), 1 + random.below(size - 1)].sorted()
        return Array(
            order[..<cuts[0]] + order[cuts[1]..<cuts[2]] + order[cuts[0]..<cuts[1]] + order[cuts[2]...])
    }

    /// First the slow edges are driven out, then the turn is shortened over edges that are no slower than the slowest.
    private func descend(_ order: inout [Int], _ movesLeft: inout Int) {
        // A move is taken if the slowest of its new edges is faster than the slowest of the old: the number of edges of
        // that rate falls, and none slower is made, so this ends.
        improve(&order, &movesLeft) { old, new in
            min(new.0.rate, new.1.rate, new.2.rate) > min(old.0.rate, old.1.rate, old.2.rate)
        }
        let slowest = quality(of: order).bytesPerSecond
        improve(&order, &movesLeft) { old, new in
            min(new.0.rate, new.1.rate, new.2.rate) >= slowest
                && new.0.cost + new.1.cost + new.2.cost < old.0.cost + old.1.cost + old.2.cost
        }
    }

    private typealias Edge = (rate: UInt64, cost: UInt64)
    private typealias Edges = (Edge, Edge, Edge)

    private func edge(_ a: Int, _ b: Int) -> Edge { (rates[a * size + b], costs[a * size + b]) }
    /// Where a move changes two edges only.
    private static var noEdge: (rate: UInt64, cost: UInt64) { (.max, 0) }

    /// Two kinds of moves until none is better: a stretch is reversed (2-opt), or one of up to three members is put
    /// elsewhere, either way round (or-opt).
    private func improve(_ order: inout [Int], _ movesLeft: inout Int, _ isBetter: (Edges, Edges) -> Bool) {
        let count = size
        var hasChanged = true
        while hasChanged {
            hasChanged = false
            for i in 0..<count - 1 where movesLeft > 0 {
                movesLeft -= count - i
                for j in i + 1..<count {
                    if i == 0 && j == count - 1 { continue }
                    let (a, b) = (order[i == 0 ? count - 1 : i - 1], order[i])
                    let (c, d) = (order[j], order[j + 1 == count ? 0 : j + 1])
                    if isBetter(
                        (edge(a, b), edge(c, d), RingOrder.noEdge), (edge(a, c), edge(b, d), RingOrder.noEdge))
                    {
                        order[i...j].reverse()
                        hasChanged = true
                    }
                }
            }
            for length in 1...3 where count > length + 2 {
                for _ in 0..<count where movesLeft > 0 {
                    movesLeft -= 2 * count
                    // The stretch is at the front, so that no index wraps.
                    if moveFront(length, &order, isBetter) { hasChanged = true }
                    order.append(order.removeFirst())
                }
            }
        }
    }

    private func moveFront(_ length: Int, _ order: inout [Int], _ isBetter: (Edges, Edges) -> Bool) -> Bool {
        let count = size
        let (first, last) = (order[0], order[length - 1])
        let (before, after) = (order[count - 1], order[length])
        let gap = edge(before, after)
        for k in length..<count - 1 {
            let (left, right) = (order[k], order[k + 1])
            let old = (edge(before, first), edge(last, after), edge(left, right))
            let isStraight = isBetter(old, (gap, edge(left, first), edge(last, right)))
            guard isStraight || isBetter(old, (gap, edge(left, last), edge(first, right))) else { continue }
            let moved = isStraight ? Array(order[..<length]) : order[..<length].reversed()
            order = Array(order[length...k]) + moved + Array(order[(k + 1)...])
            return true
        }
        return false
    }
}
