/// What was measured between the members of a view, by rank: the rate and the one-way latency from each to each.
/// Directed, for ways out and back differ; entries may be absent, for not every pair has talked.
package struct BandwidthMatrix: Hashable, Sendable {
    package let size: Int
    /// Row by row; 0 where nothing is known, which no measurement gives.
    private var rates: [UInt64]
    private var latencies: [UInt64]

    /// Larger figures than these are no measurements. The bounds keep every sum below from overflowing.
    private static let largestRate: UInt64 = 1 << 50
    private static let largestLatency: UInt64 = 1 << 40

    package init(size: Int) {
        self.size = size
        rates = Array(repeating: 0, count: size * size)
        latencies = rates
    }

    /// Nil leaves that figure as it is.
    package mutating func note(
        from: Int, to: Int, bytesPerSecond: UInt64? = nil, latencyNanoseconds: UInt64? = nil
    ) {
        guard from != to else { return }
        if let rate = bytesPerSecond { rates[from * size + to] = min(rate, BandwidthMatrix.largestRate) }
        if let latency = latencyNanoseconds {
            latencies[from * size + to] = min(max(latency, 1), BandwidthMatrix.largestLatency)
        }
    }

    package func bytesPerSecond(from: Int, to: Int) -> UInt64? {
        let rate = rates[from * size + to]
        return rate == 0 ? nil : rate
    }

    package func latencyNanoseconds(from: Int, to: Int) -> UInt64? {
        let latency = latencies[from * size + to]
        return latency == 0 ? nil : latency
    }

    package var hasRates: Bool { rates.contains { $0 > 0 } }
    package var hasLatencies: Bool { latencies.contains { $0 > 0 } }

    /// Every entry filled: where one direction is absent the other stands for it, and where both are, the median of what
    /// is known does, since nothing says that the pair is better or worse than others. Where nothing at all is known all
    /// pairs are alike.
    package var completed: BandwidthMatrix {
        var full = self
        full.rates = BandwidthMatrix.complete(
            rates, size: size, otherwise: CostModel.nominalBytesPerSecond)
        full.latencies = BandwidthMatrix.complete(
            latencies, size: size, otherwise: CostModel.nominalLatencyNanoseconds)
        return full
    }

    private static func complete(_ known: [UInt64], size: Int, otherwise: UInt64) -> [UInt64] {
        let sorted = known.filter { $0 > 0 }.sorted()
        let median = sorted.isEmpty ? otherwise : sorted[sorted.count / 2]
        var full = known
        for from in 0..<size {
            for to in 0..<size where from != to && known[from * size + to] == 0 {
                let back = known[to * size + from]
                full[from * size + to] = back > 0 ? back : median
            }
        }
        return full
    }

    /// The same figures with the members in another order: `order[k]` is the old index of the new rank k.
    package func reordered(_ order: [Int]) -> BandwidthMatrix {
        var new = BandwidthMatrix(size: order.count)
        for (i, from) in order.enumerated() {
            for (j, to) in order.enumerated() {
                new.rates[i * order.count + j] = rates[from * size + to]
                new.latencies[i * order.count + j] = latencies[from * size + to]
            }
        }
        return new
    }
}
