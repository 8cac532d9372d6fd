import PCCLBase
import Testing

@testable import PCCLTransport

/// A path as a probe sees it: what it says at each moment since the start of the probe.
private struct ProbedPath {
    var roundTrip: Interval
    var delivered: (Interval) -> UInt64
    /// What the link says by itself.
    var figure: (Interval) -> UInt64? = { _ in nil }

    /// What a probe of it finds, and when.
    func probed() -> (after: Interval, bytesPerSecond: UInt64?) {
        let start = Instant(nanoseconds: 1_000_000_000)
        var probe = Probe(at: start)
        var now = start
        while now - start < .seconds(100) {
            now = now + .milliseconds(5)
            let sample = Probe.Sample(
                now: now, deliveredBytes: delivered(now - start),
                figure: LinkFigure(
                    peer: PeerID(1), bytesPerSecond: figure(now - start),
                    latencyNanoseconds: roundTrip.nanoseconds / 2))
            if probe.take(sample) { break }
        }
        return (now - start, probe.bytesPerSecond)
    }

    /// Doubles with each round trip up to a rate.
    static func slowStart(milliseconds: UInt64, upTo full: Double) -> ProbedPath {
        let roundTrip = Interval.milliseconds(milliseconds)
        return ProbedPath(roundTrip: roundTrip) { time in
            var (left, bytes, rate) = (time.seconds, 0.0, 14_480 / roundTrip.seconds)
            while left > 0 {
                bytes += min(rate, full) * min(left, roundTrip.seconds)
                left -= roundTrip.seconds
                rate = min(rate * 2, full)
            }
            return UInt64(bytes)
        }
    }
}

@Suite("When a probe is over")
struct ProbeTests {
    @Test("over a short way with the first rate that the link has by itself")
    func shortWay() {
        let path = ProbedPath(
            roundTrip: .milliseconds(0), delivered: { $0.nanoseconds },
            figure: { $0 < .milliseconds(100) ? nil : 5_000_000 })
        #expect(path.probed().after == .milliseconds(100))
    }

    static let longWays: [(milliseconds: UInt64, bytesPerSecond: Double)] = [
        (2, 100e6), (20, 125e6), (40, 62.5e6), (40, 12.5e6), (100, 62.5e6), (100, 125e6), (300, 125e6),
    ]

    @Test("over a long one soon after the rate has reached what the path carries", arguments: longWays)
    func longWay(way: (milliseconds: UInt64, bytesPerSecond: Double)) {
        let found = ProbedPath.slowStart(milliseconds: way.milliseconds, upTo: way.bytesPerSecond).probed()
        let ratio = Double(found.bytesPerSecond ?? 0) / way.bytesPerSecond
        #expect((0.9...1.01).contains(ratio), "\(ratio)")
        #expect(found.after <= .milliseconds(max(way.milliseconds * 17, 150)))
    }

    @Test("what comes in heaps is no faster than the path")
    func heaps() {
        let even = ProbedPath.slowStart(milliseconds: 40, upTo: 12.5e6)
        var path = even
        // Each third round trip nothing is heard of for its first half, and then of all at once.
        path.delivered = { time in
            let phase = time.nanoseconds % 120_000_000
            return even.delivered(phase < 20_000_000 ? Interval(nanoseconds: time.nanoseconds - phase) : time)
        }
        let ratio = Double(path.probed().bytesPerSecond ?? 0) / 12.5e6
        #expect((0.85...1.15).contains(ratio), "\(ratio)")
    }

    @Test("a slow link gets the time that it needs for a rate, and no more")
    func slowLinks() {
        let slow = ProbedPath.slowStart(milliseconds: 40, upTo: 600_000).probed()
        #expect((590_000...610_000).contains(slow.bytesPerSecond ?? 0))
        let slower = ProbedPath.slowStart(milliseconds: 40, upTo: 100_000).probed()
        #expect(slower.after == .seconds(2) && slower.bytesPerSecond == nil)
    }

    @Test("a peer that takes in nothing, or nothing any more, is not waited for")
    func standstill() {
        #expect(ProbedPath(roundTrip: .milliseconds(20)) { _ in 0 }.probed().after == .milliseconds(300))
        #expect(ProbedPath(roundTrip: .milliseconds(200)) { _ in 0 }.probed().after == .milliseconds(800))
        let hung = ProbedPath(roundTrip: .milliseconds(20)) { min($0, .milliseconds(400)).nanoseconds / 1000 }
        #expect(hung.probed().after == .milliseconds(700) && hung.probed().bytesPerSecond == nil)
    }
}
