/// Finds sites: members that are near each other and far from the rest, where going by them is worth it.
///
/// The ways between two sites are taken to share what lies between them, as the ways out of a house share its connection:
/// together they have the sum of what was measured on each. Where each has a pipe of its own instead, the two-level
/// algorithm is as fast as the direct one, for the ways that it uses carry what they carried before, 2 S/P each.
package struct SiteSearch: Sendable {
    private let matrix: BandwidthMatrix
    /// A cut goes where the next way is so many times longer, or slower, than any that holds a site together.
    private static let separation: UInt64 = 4
    /// Below that, distances differ with the moment and the machine.
    private static let shortestNanoseconds: UInt64 = 100_000
    /// Of the clearest gaps that many are tried.
    private static let largestCandidates = 4

    /// `matrix` is completed here.
    package init(_ matrix: BandwidthMatrix) { self.matrix = matrix.completed }

    /// By rank, the number of its site; none where a division into sites would not pay, `secondsPerByte` being what the
    /// best other algorithm for large buffers needs.
    package func best(against secondsPerByte: Double) -> [UInt16] {
        var best: (sites: [UInt16], seconds: Double) = ([], secondsPerByte / ChunkShares.noise)
        for sites in candidates(distance: latency) + candidates(distance: slowness) {
            let seconds = self.secondsPerByte(sites)
            if seconds < best.seconds { best = (sites, seconds) }
        }
        return best.sites
    }

    /// Seconds for each byte of a buffer in the two-level algorithm, with an equal part of it owned by each site.
    ///
    /// For k sites a way between two carries the sums for the part of one, and the results of the part of the other: 2/k.
    /// A way between two members of a site of n carries a contribution to what passes through one of them, and the result
    /// of what passes through the other: 2/n.
    package func secondsPerByte(_ sites: [UInt16]) -> Double {
        var rates: [Pair: Double] = [:]
        var sizes: [UInt16: Int] = [:]
        for site in sites { sizes[site, default: 0] += 1 }
        var slowest = 0.0
        for from in sites.indices {
            for to in sites.indices where to != from {
                let rate = Double(matrix.bytesPerSecond(from: from, to: to) ?? 1)
                if sites[from] == sites[to] {
                    slowest = max(slowest, 2 / Double(sizes[sites[from]] ?? 1) / rate)
                } else {
                    rates[Pair(from: sites[from], to: sites[to]), default: 0] += rate
                }
            }
        }
        for rate in rates.values { slowest = max(slowest, 2 / Double(sizes.count) / rate) }
        return slowest
    }

    /// One way, between the two members of one site that are furthest apart.
    package func localNanoseconds(_ sites: [UInt16]) -> UInt64 {
        var longest: UInt64 = 0
        for from in sites.indices {
            for to in sites.indices where to != from && sites[from] == sites[to] {
                longest = max(longest, matrix.latencyNanoseconds(from: from, to: to) ?? 0)
            }
        }
        return longest
    }

    private struct Pair: Hashable {
        var from: UInt16
        var to: UInt16
    }

    private func latency(_ a: Int, _ b: Int) -> UInt64 {
        max(
            matrix.latencyNanoseconds(from: a, to: b) ?? 0, matrix.latencyNanoseconds(from: b, to: a) ?? 0,
            SiteSearch.shortestNanoseconds)
    }

    private func slowness(_ a: Int, _ b: Int) -> UInt64 {
        let slower = min(matrix.bytesPerSecond(from: a, to: b) ?? 1, matrix.bytesPerSecond(from: b, to: a) ?? 1)
        return (1 << 60) / max(slower, 1)
    }

    /// Divisions at the widest gaps between the edges of a minimum spanning tree, which are the distances at which groups
    /// of members grow together (single linkage).
    private func candidates(distance: (Int, Int) -> UInt64) -> [[UInt16]] {
        let edges = spanningTree(distance).sorted { $0.length < $1.length }
        let cuts = edges.indices.dropFirst().filter {
            edges[$0].length / SiteSearch.separation >= edges[$0 - 1].length
        }
        let widest = cuts.sorted {
            edges[$0].length / edges[$0 - 1].length > edges[$1].length / edges[$1 - 1].length
        }
        return widest.prefix(SiteSearch.largestCandidates).map { cut in
            var numbers = Array(0..<matrix.size)
            for edge in edges[..<cut] {
                let (kept, joined) = (numbers[edge.a], numbers[edge.b])
                for i in numbers.indices where numbers[i] == joined { numbers[i] = kept }
            }
            return numbered(numbers)
        }
    }

    /// In the order of their first members, from 0.
    private func numbered(_ numbers: [Int]) -> [UInt16] {
        var known: [Int: UInt16] = [:]
        return numbers.map { number in
            let site = known[number] ?? UInt16(known.count)
            known[number] = site
            return site
        }
    }

    /// Prim's, in the square of the size.
    private func spanningTree(_ distance: (Int, Int) -> UInt64) -> [(a: Int, b: Int, length: UInt64)] {
        var tree: [(a: Int, b: Int, length: UInt64)] = []
        var nearest = Array(repeating: (member: 0, length: UInt64.max), count: matrix.size)
        var outside = Set(1..<matrix.size)
        var added = 0
        while !outside.isEmpty {
            for member in outside {
                let length = distance(added, member)
                if length < nearest[member].length { nearest[member] = (added, length) }
            }
            // By number among equals: a set has no order of its own.
            guard
                let next = outside.min(by: { (nearest[$0].length, $0) < (nearest[$1].length, $1) })
            else { break }
            outside.remove(next)
            tree.append((nearest[next].member, next, nearest[next].length))
            added = next
        }
        return tree
    }
}
