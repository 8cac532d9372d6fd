import PCCLBase
import PCCLTransport
import Testing

/// A path on which `count` stripes deliver what `rate` says, sampled as a link does.
private struct Path {
    var governor: StripeGovernor
    var count = 1
    var now = Instant(nanoseconds: 1_000_000_000)
    var delivered = 0.0
    var roundTrip: Interval
    let leastRoundTrip: Interval
    let rate: (Int) -> Double

    init(limit: Int = 64, roundTrip: Interval, leastRoundTrip: Interval? = nil, rate: @escaping (Int) -> Double) {
        governor = StripeGovernor(count: 1, limit: limit)
        self.roundTrip = roundTrip
        self.leastRoundTrip = leastRoundTrip ?? roundTrip
        self.rate = rate
    }

    /// Returns the largest number of stripes that there was.
    mutating func run(seconds: Double, isSaturated: Bool = true) -> Int {
        var largest = count
        let step = max(Interval.milliseconds(50), roundTrip)
        for _ in 0..<Int(seconds / step.seconds) {
            now = now + step
            delivered += rate(count) * step.seconds
            count = governor.take(
                StripeGovernor.Sample(
                    now: now, deliveredBytes: UInt64(delivered), roundTrip: roundTrip,
                    leastRoundTrip: leastRoundTrip, isSaturated: isSaturated, count: count))
            largest = max(largest, count)
        }
        return largest
    }
}

@Suite("How many stripes a link should have")
struct StripeGovernorTests {
    @Test("where each stripe is held down by its window there are more, until the path is full")
    func longPath() {
        // 2 MB/s each, 62.5 MB/s in all: a transatlantic link with some loss.
        var path = Path(roundTrip: .milliseconds(100)) { min(Double($0) * 2e6, 62.5e6) }
        _ = path.run(seconds: 6)
        #expect(path.count >= 32)
        #expect(path.governor.bytesPerSecond ?? 0 > 60e6)
    }

    @Test("where one stripe fills the path a few are tried once, and given back")
    func fullPath() {
        var path = Path(roundTrip: .milliseconds(20)) { _ in 100e6 }
        #expect(path.run(seconds: 15) == 4)
        #expect(path.count == 1)
    }

    @Test("a far path begins with some at once; where packets queue no more are tried")
    func queueingPath() {
        var path = Path(roundTrip: .milliseconds(100)) { min(Double($0) * 20e6, 60e6) }
        _ = path.run(seconds: 0.4)
        #expect(path.count == 8)
        path.roundTrip = .milliseconds(160)
        #expect(path.run(seconds: 30) == 8)
    }

    @Test("once packets queued, each stripe is held to its share of the best rate and somewhat more")
    func pace() {
        var path = Path(limit: 0, roundTrip: .milliseconds(100)) { _ in 60e6 }
        path.count = 8
        _ = path.run(seconds: 3)
        #expect(path.governor.pace(count: 8) == nil)
        path.roundTrip = .milliseconds(160)
        _ = path.run(seconds: 0.5)
        let pace = path.governor.pace(count: 8) ?? 0
        #expect((60e6 / 8 * 1.3...60e6 / 8 * 1.5).contains(pace), "\(pace)")
        #expect(path.governor.pace(count: 4) == pace * 2)
        #expect(path.governor.pace(count: 1) == nil)
        // However long they queue it does not throttle the path.
        _ = path.run(seconds: 20)
        #expect(path.governor.pace(count: 8) ?? 0 >= 60e6 / 8 * 1.29)
        // While none queue there is no need for it.
        path.roundTrip = .milliseconds(100)
        _ = path.run(seconds: 10)
        #expect(path.governor.pace(count: 8) == nil)
    }

    @Test("a local network keeps its one stripe")
    func shortPath() {
        var path = Path(roundTrip: .milliseconds(1)) { Double($0) * 1e8 }
        #expect(path.run(seconds: 10) == 1)
    }

    @Test("so does a connection within a busy machine, where a round trip takes longer now and then")
    func busyMachine() {
        var path = Path(roundTrip: .milliseconds(20), leastRoundTrip: .milliseconds(1)) { Double($0) * 1e8 }
        #expect(path.run(seconds: 10) == 1)
        #expect(path.governor.pace(count: 2) == nil)
    }

    @Test("who sends less than the path takes learns nothing, and changes nothing")
    func idlePath() {
        var path = Path(roundTrip: .milliseconds(100)) { Double($0) * 2e6 }
        #expect(path.run(seconds: 10, isSaturated: false) == 1)
        #expect(path.governor.bytesPerSecond == nil)
    }

    @Test("a count that the caller set stays, and the rate is known all the same")
    func fixed() {
        var path = Path(limit: 0, roundTrip: .milliseconds(100)) { Double($0) * 2e6 }
        path.count = 3
        #expect(path.run(seconds: 10) == 3)
        #expect(path.governor.bytesPerSecond == 6e6)
    }

    @Test("when stripes went away the sum falls, and the next window begins anew")
    func fallenSum() {
        var governor = StripeGovernor(count: 4, limit: 0)
        func sample(_ milliseconds: UInt64, _ bytes: UInt64) -> StripeGovernor.Sample {
            StripeGovernor.Sample(
                now: Instant(nanoseconds: milliseconds * 1_000_000), deliveredBytes: bytes,
                roundTrip: .milliseconds(10), leastRoundTrip: .milliseconds(10), isSaturated: true, count: 4)
        }
        for (time, bytes) in [(1000, 5_000_000), (1200, 1_000_000), (1400, 3_000_000)] as [(UInt64, UInt64)] {
            _ = governor.take(sample(time, bytes))
        }
        #expect(governor.bytesPerSecond == 1e7)
    }
}
