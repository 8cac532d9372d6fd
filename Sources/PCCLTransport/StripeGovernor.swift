import PCCLBase

/// How many stripes a link should have, from what it delivers. A value without a clock: it is handed samples.
///
/// One TCP connection over a long path is held down by its window, by each lost packet, or by a policer per flow. More of
/// them help as long as the sum still rises. So: while all stripes are busy, measure the rate over a few round trips, add
/// stripes, let them get going, measure again, the best of a few windows; if the sum did not rise, go back and stay there
/// for a while. Where packets queue before the path it is full, and nothing is tried at all.
///
/// It also says how fast each stripe may send at most. Congestion controls that model the path (BBR) each take the best
/// they ever saw for their share; of many, that sum overfills the queue before the path, and what is lost there holds a
/// stripe up for a round trip or more.
package struct StripeGovernor: Sendable {
    package struct Sample: Sendable {
        package var now: Instant
        /// Delivered in all, by the stripes there are.
        package var deliveredBytes: UInt64
        package var roundTrip: Interval
        /// The shortest that was seen: that of the path without queues, and without the scheduler of a busy machine.
        package var leastRoundTrip: Interval
        /// There is more to send than the stripes take.
        package var isSaturated: Bool
        package var count: Int
        package init(
            now: Instant, deliveredBytes: UInt64, roundTrip: Interval, leastRoundTrip: Interval,
            isSaturated: Bool, count: Int
        ) {
            self.now = now
            self.deliveredBytes = deliveredBytes
            self.roundTrip = roundTrip
            self.leastRoundTrip = leastRoundTrip
            self.isSaturated = isSaturated
            self.count = count
        }
    }

    /// Of the last full window.
    package private(set) var bytesPerSecond: Double?
    /// Of the best window, which is slowly forgotten.
    private var bestBytesPerSecond = 0.0
    private var gain: Double?

    private var wanted: Int
    private let limit: Int
    private var window: (start: Instant, bytes: UInt64)?
    private var settledAt = Instant(nanoseconds: 0)
    /// What the stripes delivered before some were added.
    private var before: (count: Int, rate: Double)?
    /// The best rate of the present number, over how many windows: a single one may be disturbed.
    private var trial: (best: Double, windows: Int) = (0, 0)
    private var patientUntil = Instant(nanoseconds: 0)

    /// Below it one connection fills a local network.
    private static let shortRoundTrip = Interval.milliseconds(2)
    private static let shortestWindow = Interval.milliseconds(100)
    private static let roundTripsPerWindow: UInt64 = 2
    /// For slow start to reach what the path gives.
    private static let roundTripsToSettle: UInt64 = 4
    private static let windowsPerTrial = 3
    private static let growth = 4
    /// From one, where a round trip takes that long: a lost packet holds a stripe up for at least as long, and should not
    /// hold up much of the link.
    private static let farGrowth = 8
    private static let farRoundTrip = Interval.milliseconds(50)
    /// A round trip that much longer than the shortest says that packets queue.
    private static let queuedRoundTrip = 1.25
    /// How much more than its share of the best rate a stripe may send, once packets were seen to queue. It must be well
    /// above 1, since the kernel waits longer between packets than it has to; it falls while they queue and rises while
    /// they do not, and far above 1 it is no limit any more.
    private static let gains = (first: 1.4, least: 1.3, most: 4.0, fall: 0.95, rise: 1.05)
    private static let memory = 0.99
    /// A rise below that is noise.
    private static let worthwhileRise = 1.1
    private static let patience = Interval.seconds(20)

    /// `limit` 0: the count stays as it is.
    package init(count: Int, limit: Int) {
        wanted = count
        self.limit = limit
    }

    /// The number of stripes that the link should have now.
    package mutating func take(_ sample: Sample) -> Int {
        guard let open = window, sample.isSaturated, sample.deliveredBytes >= open.bytes, sample.now >= settledAt else {
            window = sample.isSaturated && sample.now >= settledAt ? (sample.now, sample.deliveredBytes) : nil
            return limit == 0 ? sample.count : wanted
        }
        let length = max(StripeGovernor.shortestWindow, sample.roundTrip * StripeGovernor.roundTripsPerWindow)
        guard sample.now - open.start >= length else { return limit == 0 ? sample.count : wanted }
        let rate = Double(sample.deliveredBytes - open.bytes) / (sample.now - open.start).seconds
        bytesPerSecond = rate
        bestBytesPerSecond = max(rate, bestBytesPerSecond * StripeGovernor.memory)
        setGain(StripeGovernor.isQueueing(sample.roundTrip, least: sample.leastRoundTrip))
        window = (sample.now, sample.deliveredBytes)
        guard limit > 0 else { return sample.count }
        decide(sample, rate)
        return wanted
    }

    /// What one of `count` stripes may send in a second; nil for as much as it likes.
    package func pace(count: Int) -> Double? {
        count > 1 ? gain.map { bestBytesPerSecond * $0 / Double(count) } : nil
    }

    private mutating func setGain(_ isQueueing: Bool) {
        let gains = StripeGovernor.gains
        if isQueueing {
            gain = gain.map { max($0 * gains.fall, gains.least) } ?? gains.first
        } else {
            gain = gain.map { $0 * gains.rise }.flatMap { $0 > gains.most ? nil : $0 }
        }
    }

    private mutating func decide(_ sample: Sample, _ rate: Double) {
        guard sample.leastRoundTrip >= StripeGovernor.shortRoundTrip, sample.now >= patientUntil else { return }
        trial.best = max(trial.best, rate)
        trial.windows += 1
        // One stripe over a long way is almost never enough; while it starts, its rate says little.
        guard sample.count == 1 || trial.windows >= StripeGovernor.windowsPerTrial else { return }
        let best = trial.best
        trial = (0, 0)
        if let before, sample.count > before.count, best < before.rate * StripeGovernor.worthwhileRise {
            wanted = before.count
            self.before = nil
            patientUntil = sample.now + StripeGovernor.patience
        } else if sample.count < limit, sample.count >= wanted,
            sample.count == 1
                || (gain == nil && !StripeGovernor.isQueueing(sample.roundTrip, least: sample.leastRoundTrip))
        {
            before = (sample.count, best)
            let isFirst = sample.count == 1 && sample.leastRoundTrip >= StripeGovernor.farRoundTrip
            wanted = min(sample.count * (isFirst ? StripeGovernor.farGrowth : StripeGovernor.growth), limit)
        } else {
            return
        }
        settledAt = sample.now + sample.roundTrip * StripeGovernor.roundTripsToSettle
        window = nil
    }

    static func isQueueing(_ roundTrip: Interval, least: Interval) -> Bool {
        least >= shortRoundTrip && roundTrip.seconds > least.seconds * queuedRoundTrip
    }
}
