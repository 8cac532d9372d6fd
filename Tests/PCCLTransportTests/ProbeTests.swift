import PCCLBase
import Testing

@testable import PCCLTransport

/// A path as a probe sees it: what it says at each moment since the start of the probe.
private struct ProbedPath {
    var roundTrip: Interval
    var rate: (Interval) -> UInt64?
    var delivered: (Interval) -> UInt64 = { $0.nanoseconds }

    /// How long the probe of it takes.
    func probed() -> Interval {
        let start = Instant(nanoseconds: 1_000_000_000)
        var probe = Probe(at: start)
        var now = start
        while now - start < .seconds(100) {
            now = now + .milliseconds(5)
            let sample = Probe.Sample(
                now: now, deliveredBytes: delivered(now - start),
                figure: LinkFigure(
                    peer: PeerID(1), bytesPerSecond: rate(now - start), latencyNanoseconds: roundTrip.nanoseconds / 2))
            if probe.take(sample) { break }
        }
        return now - start
    }

    /// Doubles with each round trip up to a rate, and is not told before a mebibyte has arrived.
    static func slowStart(roundTrip: Interval, upTo full: Double) -> ProbedPath {
        func rate(_ time: Interval) -> Double {
            let turns = time.nanoseconds / roundTrip.nanoseconds
            return min(14_480 * Double(1 << min(turns, 40)) / roundTrip.seconds, full)
        }
        func delivered(_ time: Interval) -> UInt64 {
            (0..<time.nanoseconds / roundTrip.nanoseconds).reduce(0) {
                $0 + UInt64(rate(roundTrip * $1) * roundTrip.seconds)
            }
        }
        return ProbedPath(
            roundTrip: roundTrip, rate: { delivered($0) >= 1 << 20 ? UInt64(rate($0)) : nil }, delivered: delivered)
    }
}

@Suite("When a probe is over")
struct ProbeTests {
    @Test("over a short way with the first rate")
    func shortWay() {
        let path = ProbedPath(roundTrip: .milliseconds(0), rate: { $0 < .milliseconds(100) ? nil : 5_000_000 })
        #expect(path.probed() == .milliseconds(100))
    }

    static let longWays: [(milliseconds: UInt64, bytesPerSecond: Double)] = [
        (2, 100e6), (20, 125e6), (40, 62.5e6), (40, 12.5e6), (100, 62.5e6), (100, 125e6), (300, 125e6),
    ]

    @Test("over a long one when the rate has reached what the path carries, and soon after it", arguments: longWays)
    func longWay(way: (milliseconds: UInt64, bytesPerSecond: Double)) {
        let roundTrip = Interval.milliseconds(way.milliseconds)
        let path = ProbedPath.slowStart(roundTrip: roundTrip, upTo: way.bytesPerSecond)
        let end = path.probed()
        #expect(path.rate(end) == UInt64(way.bytesPerSecond))
        #expect(end <= max(roundTrip * 16, .milliseconds(200)))
    }

    @Test("a slow link gets the time that it needs for a rate, and no more")
    func slowLinks() {
        let slow = ProbedPath.slowStart(roundTrip: .milliseconds(40), upTo: 600_000)
        #expect(slow.rate(slow.probed()) == 600_000)
        #expect(ProbedPath.slowStart(roundTrip: .milliseconds(40), upTo: 100_000).probed() == .seconds(2))
    }

    @Test("a peer that takes in nothing, or nothing any more, is not waited for")
    func standstill() {
        let still = ProbedPath(roundTrip: .milliseconds(20), rate: { _ in nil }, delivered: { _ in 0 })
        #expect(still.probed() == .milliseconds(300))
        let far = ProbedPath(roundTrip: .milliseconds(200), rate: { _ in nil }, delivered: { _ in 0 })
        #expect(far.probed() == .milliseconds(800))
        let hung = ProbedPath(
            roundTrip: .milliseconds(20), rate: { _ in nil }, delivered: { min($0, .milliseconds(400)).nanoseconds })
        #expect(hung.probed() == .milliseconds(700))
    }
}
