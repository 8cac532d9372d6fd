import PCCLBase
import PCCLMembership

/// Matrices to solve, from a seeded generator.
enum Matrices {
    /// Every direction of its own.
    static func random(_ size: Int, _ random: inout RandomSource) -> BandwidthMatrix {
        var matrix = BandwidthMatrix(size: size)
        for from in 0..<size {
            for to in 0..<size where from != to {
                matrix.note(
                    from: from, to: to, bytesPerSecond: 1_000_000 + UInt64(random.below(1_000)) * 1_000_000,
                    latencyNanoseconds: 10_000 + UInt64(random.below(100)) * 1_000_000)
            }
        }
        return matrix
    }

    /// Members live at a few sites: fast within, slow and far between, with much the same figures on each way; the order
    /// of ranks knows nothing of it, and a few figures are missing.
    static func clustered(_ size: Int, sites: Int, _ random: inout RandomSource) -> BandwidthMatrix {
        let site = (0..<size).map { _ in random.below(sites) }
        let between = (0..<sites * sites).map { _ in 5 + random.below(60) }
        var matrix = BandwidthMatrix(size: size)
        for from in 0..<size {
            for to in 0..<size where from != to && !random.oneIn(20) {
                let isNear = site[from] == site[to]
                let rate = isNear ? 1_000 : between[min(site[from], site[to]) * sites + max(site[from], site[to])]
                let noise = 95 + random.below(11)
                matrix.note(
                    from: from, to: to, bytesPerSecond: UInt64(rate * noise) * 10_000,
                    latencyNanoseconds: UInt64(isNear ? 100_000 : 40_000_000) + UInt64(random.below(50_000)))
            }
        }
        return matrix
    }

    static func any(_ size: Int, _ random: inout RandomSource) -> BandwidthMatrix {
        random.oneIn(2)
            ? Matrices.random(size, &random) : clustered(size, sites: 2 + random.below(3), &random)
    }
}
