/// How much of a buffer each rank is to reduce in the direct algorithm, where links are unequal.
///
/// For a buffer of size 1 and shares w (sum 1), rank i sends its contributions, 1 - wᵢ, and its result to each of the
/// others, (P-1) wᵢ; it receives as much. The way from i to j carries a contribution to chunk j and the result of
/// chunk i: wᵢ + wⱼ. The time is that of the slowest:
///
///     T = max( max over i of (1 + (P-2) wᵢ) / limitᵢ ,  max over i, j of (wᵢ + wⱼ) / rateᵢⱼ )
///
/// With θ = 1/T and z = θ w this is a linear programme: maximise θ = Σ z where Σ z + (P-2) zᵢ ≤ limitᵢ and
/// zᵢ + zⱼ ≤ rateᵢⱼ. It tells the least T, but usually leaves many w; of those that come within a hundredth of it the one
/// with the smallest largest share is taken, so that nobody does more than is of use.
package struct ChunkShares: Sendable {
    package let size: Int
    /// By rank: what it can send, or receive if that is less, to all others together. Nil: no limit beside those of its
    /// links.
    package let limits: [Double?]
    /// Of pairs, row by row: the slower direction.
    private let rates: [Double]

    /// Shares are whole numbers with this sum.
    package static let total = 1 << 12
    /// Measurements of the same rate differ by that much from day to day; unequal shares must gain more.
    package static let noise = 1.15
    private static let slack = 1.01

    package init(_ matrix: BandwidthMatrix, bytesPerSecondOfMember: [UInt64?]? = nil) {
        size = matrix.size
        let full = matrix.completed
        var rates = Array(repeating: 0.0, count: size * size)
        for a in 0..<size {
            for b in 0..<size where a != b {
                rates[a * size + b] = Double(
                    min(full.bytesPerSecond(from: a, to: b) ?? 1, full.bytesPerSecond(from: b, to: a) ?? 1))
            }
        }
        self.rates = rates
        limits = bytesPerSecondOfMember?.map { $0.map { Double(max($0, 1)) } } ?? Array(repeating: nil, count: size)
    }

    /// Seconds for each byte of a buffer with these shares, which need not be whole numbers.
    package func secondsPerByte(_ shares: [Double]) -> Double {
        let sum = shares.reduce(0, +)
        var slowest = 0.0
        for i in 0..<size {
            if let limit = limits[i] {
                slowest = max(slowest, (1 + Double(size - 2) * shares[i] / sum) / limit)
            }
            for j in 0..<i { slowest = max(slowest, (shares[i] + shares[j]) / sum / rates[i * size + j]) }
        }
        return slowest
    }

    package func secondsPerByte(_ shares: [UInt16]) -> Double {
        secondsPerByte(shares.isEmpty ? Array(repeating: 1, count: size) : shares.map(Double.init))
    }

    /// Whole numbers with the sum `total`, the same for all; or none, when equal shares are as good within the noise of
    /// measurement.
    package func rounded() -> [UInt16] {
        guard size > 2 else { return [] }
        let equal = secondsPerByte([UInt16]())
        guard equal > ChunkShares.noise * secondsPerByte(fastest()) else { return [] }
        let shares = ChunkShares.round(balanced())
        return equal > ChunkShares.noise * secondsPerByte(shares) ? shares : []
    }

    /// To the grid, by largest remainder.
    static func round(_ shares: [Double]) -> [UInt16] {
        let scaled = shares.map { $0 * Double(total) / shares.reduce(0, +) }
        var whole = scaled.map { UInt16($0.rounded(.down)) }
        let missing = max(total - whole.reduce(0) { $0 + Int($1) }, 0)
        let byRemainder = scaled.indices.sorted { a, b in
            let (x, y) = (scaled[a] - scaled[a].rounded(.down), scaled[b] - scaled[b].rounded(.down))
            return x == y ? a < b : x > y
        }
        for i in byRemainder.prefix(missing) { whole[i] += 1 }
        return whole
    }

    /// Shares of least time, whichever the programme ends at; their sum is 1.
    package func fastest() -> [Double] {
        let scale = rates.max() ?? 1
        var programme = PackingProgramme(variableCount: size)
        for i in 0..<size {
            if let limit = limits[i] {
                var row = Array(repeating: 1.0, count: size)
                row[i] = Double(size - 1)
                programme.add(row, atMost: limit / scale)
            }
            for j in 0..<i { programme.add(pair(i, j), atMost: rates[i * size + j] / scale) }
        }
        return normalised(programme.solve() ?? [])
    }

    /// Within a hundredth of the least time, with the smallest largest share.
    package func balanced() -> [Double] {
        let fastest = fastest()
        let seconds = secondsPerByte(fastest) * ChunkShares.slack
        var best = fastest
        var low = 1 / Double(size)
        var high = fastest.max() ?? 1
        // Each step halves what remains; the grid sees no more than the twelve bits of `total`.
        for _ in 0..<16 {
            let largest = (low + high) / 2
            if let shares = shares(within: seconds, largest: largest) {
                best = shares
                high = largest
            } else {
                low = largest
            }
        }
        return best
    }

    /// Shares none of which is above `largest`, nil if there are none within that time.
    private func shares(within seconds: Double, largest: Double) -> [Double]? {
        let caps = (0..<size).map { i in
            guard let limit = limits[i] else { return largest }
            return min(largest, max(seconds * limit - 1, 0) / Double(size - 2))
        }
        var programme = PackingProgramme(variableCount: size)
        for i in 0..<size {
            var row = Array(repeating: 0.0, count: size)
            row[i] = 1
            programme.add(row, atMost: caps[i])
            for j in 0..<i where seconds * rates[i * size + j] < caps[i] + caps[j] {
                programme.add(pair(i, j), atMost: seconds * rates[i * size + j])
            }
        }
        guard let shares = programme.solve(), shares.reduce(0, +) >= 1 - 1e-9 else { return nil }
        return normalised(shares)
    }

    private func pair(_ i: Int, _ j: Int) -> [Double] {
        var row = Array(repeating: 0.0, count: size)
        row[i] = 1
        row[j] = 1
        return row
    }

    private func normalised(_ shares: [Double]) -> [Double] {
        let sum = shares.reduce(0, +)
        guard sum > 0 else { return Array(repeating: 1 / Double(size), count: size) }
        return shares.map { $0 / sum }
    }
}
