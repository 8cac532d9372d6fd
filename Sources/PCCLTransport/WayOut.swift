import PCCLBase

/// What the long links of a peer share: the line of its house. A value without a clock: links tell it what they deliver.
///
/// An operation is as slow as its slowest link. Where all links pass one line, which of them gets how much of it is chance,
/// and congestion controls keep what they got: seen were 65, 24 and 11 Mbit/s of a line of 100. When the first link is
/// done, the others take seconds to grow into what it leaves. So while packets queue on all of them, each may send its part
/// of the line's best rate by what it still has to send, and some more: they end together. At the beginning of an operation
/// no link begins with what it had to itself at the end of the last.
package struct WayOut: Sendable {
    package struct Report: Sendable {
        package var now: Instant
        /// Delivered so far.
        package var deliveredBytes: UInt64
        /// Waiting to be sent.
        package var bytesLeft: Int
        package var isQueueing: Bool
        package init(now: Instant, deliveredBytes: UInt64, bytesLeft: Int, isQueueing: Bool) {
            self.now = now
            self.deliveredBytes = deliveredBytes
            self.bytesLeft = bytesLeft
            self.isQueueing = isQueueing
        }
    }

    private struct Way {
        var last: Report
        /// Nil until it was busy for a while.
        var bytesPerSecond: Double?
        var isBusy: Bool { last.bytesLeft > 0 }
    }

    private var ways: [PeerID: Way] = [:]
    /// Of all links together; slowly forgotten.
    private var best = 0.0
    private var gain: Double?

    /// A link that has said nothing for that long is idle.
    private static let freshness = Interval.seconds(1)
    /// Rates are smoothed over about three reports.
    private static let smoothing = 0.33
    private static let memory = 0.99
    /// As much more than their parts all together may send while packets queue, so that a line that has become faster is
    /// found to be; without queues it rises until it is no limit any more.
    private static let gains = (first: 1.2, least: 1.05, most: 4.0, fall: 0.95, rise: 1.03)
    /// Of an equal part: a link that is nearly done need not wait for the others.
    private static let leastPart = 0.25

    package init() {}

    /// What this link may send in a second; nil for as much as it likes.
    package mutating func take(_ report: Report, of peer: PeerID) -> Double? {
        for (other, way) in ways where report.now - way.last.now > WayOut.freshness { ways[other]?.last.bytesLeft = 0 }
        measure(report, of: peer)
        let busy = ways.values.filter(\.isBusy)
        let count = Double(max(busy.count, 1))
        let rates = busy.compactMap(\.bytesPerSecond)
        if busy.count > 1, rates.count == busy.count {
            let sum = rates.reduce(0, +)
            best = max(sum, best * (1 - (1 - WayOut.memory) / count))
            setGain(areQueueing: busy.allSatisfy(\.last.isQueueing), count)
        }
        guard let gain, ways.count > 1 else { return nil }
        // Idle links get an equal part, to begin the next operation with.
        let isIdle = report.bytesLeft == 0
        if !isIdle, busy.count < 2 { return nil }
        let total = busy.reduce(0.0) { $0 + Double($1.last.bytesLeft) }
        let equal = 1 / Double(isIdle ? ways.count : busy.count)
        let part = isIdle ? equal : max(Double(report.bytesLeft) / total, equal * WayOut.leastPart)
        return best * gain * part
    }

    package mutating func forget(_ peer: PeerID) { ways[peer] = nil }

    private mutating func measure(_ report: Report, of peer: PeerID) {
        guard let known = ways[peer] else {
            ways[peer] = Way(last: report)
            return
        }
        var way = known
        let seconds = (report.now - known.last.now).seconds
        // With a stripe that is closed its bytes go.
        if known.isBusy, seconds > 0, report.deliveredBytes >= known.last.deliveredBytes {
            let rate = Double(report.deliveredBytes - known.last.deliveredBytes) / seconds
            way.bytesPerSecond = known.bytesPerSecond.map { $0 + (rate - $0) * WayOut.smoothing } ?? rate
        } else {
            way.bytesPerSecond = nil
        }
        way.last = report
        ways[peer] = way
    }

    private mutating func setGain(areQueueing: Bool, _ count: Double) {
        let gains = WayOut.gains
        // Each of `count` reports a step: together one.
        if areQueueing {
            gain = gain.map { max($0 * (1 - (1 - gains.fall) / count), gains.least) } ?? gains.first
        } else {
            gain = gain.map { $0 * (1 + (gains.rise - 1) / count) }.flatMap { $0 > gains.most ? nil : $0 }
        }
    }
}
