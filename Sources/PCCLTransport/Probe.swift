import PCCLBase

/// When a probe of a link has said enough. A value without a clock: it is handed samples.
///
/// Over a short way the first rate is enough. Over a long one a connection starts slowly: it doubles what it sends with each
/// round trip, and until it has reached what the path carries its rate says how old it is. So there a probe goes on until
/// the rate has stopped rising, by the rule with which BBR leaves its own start.
struct Probe {
    struct Sample {
        var now: Instant
        /// What the other end's kernel has taken in.
        var deliveredBytes: UInt64
        var figure: LinkFigure
    }

    private let start: Instant
    private var progress: (at: Instant, bytes: UInt64)
    /// The last rate that was well above the one before it.
    private var risen: (at: Instant, bytesPerSecond: UInt64)

    /// A rise below that is noise, ...
    private static let worthwhileRise = 1.25
    /// ... and so many round trips without one mean that the path is full.
    private static let roundTripsWithoutRise: UInt64 = 3
    /// Of a few milliseconds, several would be over before the scheduler has let everybody run.
    private static let shortestWithoutRise = Interval.milliseconds(30)
    /// Nobody reads at the other end. One lost packet stops a connection for the 200 ms after which a kernel sends it again.
    private static let stallPatience = Interval.milliseconds(300)
    private static let roundTripsOfStall: UInt64 = 4
    /// In two seconds what makes a rate telling, a mebibyte, passes through 4 Mbit/s.
    private static let patience = Interval.seconds(2)
    /// What a longer way has instead: a start of ten packets has filled 1 Gbit/s over 300 ms after 12, and three more show
    /// it.
    private static let roundTrips: UInt64 = 16

    init(at now: Instant) {
        start = now
        progress = (now, 0)
        risen = (now, 0)
    }

    /// True when the probe is over.
    mutating func take(_ sample: Sample) -> Bool {
        let (now, figure) = (sample.now, sample.figure)
        let roundTrip = Interval(nanoseconds: (figure.latencyNanoseconds ?? 0) * 2)
        if sample.deliveredBytes != progress.bytes { progress = (now, sample.deliveredBytes) }
        if now - progress.at >= max(Probe.stallPatience, roundTrip * Probe.roundTripsOfStall) { return true }
        if now - start >= max(Probe.patience, roundTrip * Probe.roundTrips) { return true }
        guard let rate = figure.bytesPerSecond else { return false }
        if roundTrip.nanoseconds < Link.shortRoundTripNanoseconds { return true }
        if Double(rate) >= Double(risen.bytesPerSecond) * Probe.worthwhileRise { risen = (now, rate) }
        return now - risen.at >= max(Probe.shortestWithoutRise, roundTrip * Probe.roundTripsWithoutRise)
    }
}
