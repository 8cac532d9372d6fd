import PCCLBase
import PCCLWire

/// Which algorithm gets a buffer of some size around soonest.
///
/// A pure function of what all members of an epoch share, in whole numbers, so all of them choose the same:
///
///     time = steps × (latency + overhead) + frames × cost of a frame + size / rate of the algorithm
///
/// Where sums travel on their way, the size is the mean of that of the elements and that of the accumulators.
package enum CostModel {
    /// What a step costs beside the latency of the wire: the event loops of both ends.
    static let stepNanoseconds: UInt64 = 20_000
    /// What a frame costs its sender and its receiver.
    static let frameNanoseconds: UInt64 = 3_000
    /// Taken while nothing is measured: a local network.
    static let nominalLatencyNanoseconds: UInt64 = 20_000
    static let nominalBytesPerSecond: UInt64 = 1_000_000_000
    /// One-shot is for what a member may be sent before it has called (256 KiB an operation): more would wait for its
    /// entry, and a rank holds a contribution of everybody's at once.
    package static let largestOneShotBytes: UInt64 = 64 << 10
    /// Up to this many ranks, sending everything straight to its owner is taken without measurement. Beyond it the ring
    /// sends few large pieces to two neighbours.
    package static let largestDirectWorldSize = 32

    package static func algorithm(
        byteCount: UInt64, partialByteCount: UInt64, worldSize: Int, arrangement: Arrangement
    ) -> Algorithm {
        let figures = arrangement.figures
        var candidates: [Algorithm] = []
        if worldSize <= largestDirectWorldSize || figures?.directBytesPerSecond ?? 0 > 0 { candidates.append(.direct) }
        if byteCount <= largestOneShotBytes { candidates.append(.oneShot) }
        if worldSize > largestDirectWorldSize || figures?.ringBytesPerSecond ?? 0 > 0 { candidates.append(.ring) }
        if !arrangement.sites.isEmpty, figures?.twoLevelBytesPerSecond ?? 0 > 0 { candidates.append(.twoLevel) }
        var best = (algorithm: Algorithm.direct, time: UInt64.max)
        for candidate in candidates {
            let time = nanoseconds(
                candidate, byteCount: byteCount, partialByteCount: partialByteCount, worldSize: worldSize,
                figures: figures)
            if time < best.time { best = (candidate, time) }
        }
        return best.algorithm
    }

    /// Saturates where the answer is beyond all time.
    package static func nanoseconds(
        _ algorithm: Algorithm, byteCount: UInt64, partialByteCount: UInt64, worldSize: Int, figures: SharedFigures?
    ) -> UInt64 {
        let others = UInt64(max(worldSize - 1, 1))
        let figures = figures ?? nominal(worldSize: worldSize)
        let rates = figures.directBytesPerSecond > 0 ? figures : nominal(worldSize: worldSize)
        let halfOfEach = byteCount / 2 + partialByteCount / 2
        let (steps, latency, frames, rate, size): (UInt64, UInt64, UInt64, UInt64, UInt64) =
            switch algorithm {
            case .oneShot: (1, figures.latencyNanoseconds, others, rates.oneShotBytesPerSecond, byteCount)
            case .direct: (2, figures.latencyNanoseconds, 2 * others, rates.directBytesPerSecond, byteCount)
            case .ring: (2 * others, figures.hopNanoseconds, 4 * others, rates.ringBytesPerSecond, halfOfEach)
            case .twoLevel:
                // Each step between sites has one within a site beside it.
                (
                    2, figures.latencyNanoseconds &+ figures.localNanoseconds &+ stepNanoseconds, 4 * others,
                    rates.twoLevelBytesPerSecond, halfOfEach
                )
            }
        let waiting = saturating(steps, latency &+ stepNanoseconds)
        let moving = size.multipliedFullWidth(by: 1_000_000_000)
        let divisor = max(rate, 1)
        let transfer = moving.high < divisor ? divisor.dividingFullWidth(moving).quotient : .max
        let (sum, overflows) = waiting.addingReportingOverflow(frames * frameNanoseconds)
        let (total, overflowsToo) = sum.addingReportingOverflow(transfer)
        return overflows || overflowsToo ? .max : total
    }

    private static func saturating(_ a: UInt64, _ b: UInt64) -> UInt64 {
        let (product, overflows) = a.multipliedReportingOverflow(by: b)
        return overflows ? .max : product
    }

    static func nominal(worldSize: Int) -> SharedFigures {
        let size = UInt64(max(worldSize, 2))
        let both = nominalBytesPerSecond * size / (2 * (size - 1))
        return SharedFigures(
            latencyNanoseconds: nominalLatencyNanoseconds, hopNanoseconds: nominalLatencyNanoseconds,
            oneShotBytesPerSecond: nominalBytesPerSecond / (size - 1), directBytesPerSecond: both,
            ringBytesPerSecond: both)
    }
}
