import PCCLBase

/// What a probe of a link finds, and when it has found enough. A value without a clock: it is handed samples.
///
/// Over a short way it waits for the first figure that the link has by itself. Over a long one a connection starts slowly:
/// it doubles what it sends with each round trip, and until it has reached what the path carries its rate says how old it
/// is. So there a probe goes on until the rate has stopped rising, by the rule with which BBR leaves its own start.
///
/// The rate is what arrives in two round trips, and of those since it has stopped rising the median: acknowledgements that
/// queue on the way back, and come in a heap, make some half as fast again as the line. What the kernel calls the latest
/// rate of a connection is, of several, that of different moments.
struct Probe {
    struct Sample {
        var now: Instant
        /// What the other end's kernel has taken in.
        var deliveredBytes: UInt64
        var figure: LinkFigure
    }

    private let start: Instant
    private var bytesAtStart: UInt64?
    private var lastSample: Instant
    private var progress: (at: Instant, bytes: UInt64)
    /// Samples of the last two round trips, and one before them.
    private var window: [(at: Instant, bytes: UInt64)] = []
    /// The last rate that was well above the one before it.
    private var risen: (at: Instant, bytesPerSecond: UInt64)
    /// Those since then, once so much has arrived that they tell something.
    private var rates: [UInt64] = []

    private static let roundTripsPerWindow: UInt64 = 2
    /// In a shorter time the scheduler lets only some run.
    private static let shortestWindow = Interval.milliseconds(30)
    /// A rise below that is noise, ...
    private static let worthwhileRise = 1.25
    /// ... and so many round trips without one mean that the path is full.
    private static let roundTripsWithoutRise: UInt64 = 3
    /// Nobody reads at the other end. One lost packet stops a connection for the 200 ms after which a kernel sends it again.
    private static let stallPatience = Interval.milliseconds(300)
    private static let roundTripsOfStall: UInt64 = 4
    private static let away = Interval.milliseconds(100)
    /// In two seconds what makes a rate telling, a mebibyte, passes through 4 Mbit/s.
    private static let patience = Interval.seconds(2)
    /// What a longer way has instead: a start of ten packets has filled 1 Gbit/s over 300 ms after 12 round trips, and five
    /// more show it.
    private static let roundTrips: UInt64 = 20

    init(at now: Instant) {
        start = now
        lastSample = now
        progress = (now, 0)
        risen = (now, 0)
    }

    /// True when the probe has found what it can.
    mutating func take(_ sample: Sample) -> Bool {
        let roundTrip = Interval(nanoseconds: (sample.figure.latencyNanoseconds ?? 0) * 2)
        if standsStill(sample) { return true }
        if sample.now - start >= max(Probe.patience, roundTrip * Probe.roundTrips) { return true }
        if roundTrip.nanoseconds < Link.shortRoundTripNanoseconds { return sample.figure.bytesPerSecond != nil }
        measure(sample, over: max(roundTrip * Probe.roundTripsPerWindow, Probe.shortestWindow))
        return !rates.isEmpty
            && sample.now - risen.at >= max(roundTrip * Probe.roundTripsWithoutRise, Probe.shortestWindow)
    }

    /// Over a long way: what was found.
    var bytesPerSecond: UInt64? { rates.isEmpty ? nil : rates.sorted()[rates.count / 2] }

    /// Whether nothing arrives any more.
    mutating func standsStill(_ sample: Sample) -> Bool {
        let roundTrip = Interval(nanoseconds: (sample.figure.latencyNanoseconds ?? 0) * 2)
        // Samples that lie far apart were taken by a process that was stopped, or starved: its news is old.
        let wasAway = sample.now - lastSample >= Probe.away
        lastSample = sample.now
        if wasAway || sample.deliveredBytes != progress.bytes { progress = (sample.now, sample.deliveredBytes) }
        return sample.now - progress.at >= max(Probe.stallPatience, roundTrip * Probe.roundTripsOfStall)
    }

    private mutating func measure(_ sample: Sample, over length: Interval) {
        let (now, bytes) = (sample.now, sample.deliveredBytes)
        let atStart = bytesAtStart ?? bytes
        bytesAtStart = atStart
        // With a stripe that is closed its bytes go.
        if let last = window.last, bytes < last.bytes { window = [] }
        window.append((now, bytes))
        while window.count > 1, now - window[1].at >= length { window.removeFirst() }
        guard let first = window.first, now - first.at >= length else { return }
        let rate = UInt64(Double(bytes - first.bytes) / (now - first.at).seconds)
        if Double(rate) >= Double(risen.bytesPerSecond) * Probe.worthwhileRise {
            risen = (now, rate)
            rates = []
        }
        if bytes >= atStart + Link.telling { rates.append(rate) }
    }
}
