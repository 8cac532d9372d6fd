import PCCLBase

/// Sends short probes over links of which no rate is known, one after the other.
///
/// One at a time, so that a probe has this peer's own line for itself; in an order that keeps peers which probe at the same
/// time out of each other's way, which is the caller's part. With so many members it takes about as many times longer, and
/// there is a limit: what is left then has no rate until the next time, when the others are not probed again.
///
/// Bound to its loop.
package final class LinkProber {
    private let loop: EventLoop
    private let link: (PeerID) -> Link?
    private var timer: LoopTimer?
    private var waiting: ArraySlice<PeerID> = []
    private var running: Running?
    private var begin = Instant(nanoseconds: 0)
    private var done: (() -> Void)?

    private struct Running {
        var link: Link
        var probe: Probe
        var start: Instant
        var bytesBefore: UInt64
        /// All is found; what is under way would wait in the same queue as the next probe, and before it.
        var isDraining = false
    }

    /// A start of ten packets that doubles has sent 25 MB when it has filled 1 Gbit/s over 100 ms, and a short way that is
    /// slow enough to need a tenth of a second carries as many in it (see `Link.figure`).
    private static let bytesPerLink = 32 << 20
    /// Over long ways probes begin at multiples of this. Of members that begin together, but have lines of which one fills
    /// earlier than the other, two would soon send to the same third, and what is lost then in its queue makes a start stop
    /// early: without rounds some links were taken for a fraction of themselves. A probe over 40 ms fits into one, a probe
    /// over 100 ms into two.
    private static let round = Interval.milliseconds(800)
    /// For which a caller may wait for nothing but probes: 63 links in a round each, or 31 in two, and some spare.
    private static let patience = Interval.seconds(60)
    /// Some samples in the shortest times that `Probe` looks at.
    private static let period = Interval.milliseconds(5)

    package init(_ loop: EventLoop, link: @escaping (PeerID) -> Link?) {
        self.loop = loop
        self.link = link
        timer = LoopTimer(loop) { [weak self] in self?.look() }
    }

    /// Probes the links to these peers in this order, but for those that have a rate or are not there. `done` is called
    /// when all have been, which may be at once; not if `stop` comes before.
    package func probe(_ peers: [PeerID], done: @escaping () -> Void) {
        stop()
        waiting = peers[...]
        self.done = done
        begin = loop.now
        next()
    }

    package func stop() {
        running?.link.endProbe()
        running = nil
        waiting = []
        done = nil
        timer?.cancel()
    }

    package func close() {
        stop()
        timer?.close()
        timer = nil
    }

    private func next() {
        let wasFar = running?.link.isFar ?? false
        running = nil
        waiting = waiting.drop { !needsProbe($0) }
        let past = loop.now - begin
        guard !waiting.isEmpty, past < LinkProber.patience else {
            let done = self.done
            stop()
            done?()
            return
        }
        guard wasFar else { return start() }
        timer?.fire(at: begin + LinkProber.round * (past.nanoseconds / LinkProber.round.nanoseconds + 1))
    }

    private func needsProbe(_ peer: PeerID) -> Bool { link(peer).map { $0.figure.bytesPerSecond == nil } ?? false }

    private func start() {
        let now = loop.now
        guard let peer = waiting.popFirst(), let link = link(peer) else { return next() }
        running = Running(link: link, probe: Probe(at: now), start: now, bytesBefore: link.probeBytes)
        link.probe(byteCount: LinkProber.bytesPerLink)
        timer?.fire(at: now + LinkProber.period)
    }

    private func look() {
        guard var current = running else { return start() }
        let link = current.link
        // A link that broke, and may have been made again, is left out: it will be probed the next time.
        guard self.link(link.peer) === link else { return next() }
        let sample = Probe.Sample(now: loop.now, deliveredBytes: link.deliveredBytes, figure: link.figure)
        if !current.isDraining, current.probe.take(sample) {
            conclude(current)
            current.isDraining = true
        }
        if current.isDraining, !link.hasUnacknowledged || current.probe.standsStill(sample) { return next() }
        running = current
        timer?.fire(at: sample.now + LinkProber.period)
    }

    private func conclude(_ current: Running) {
        let link = current.link
        link.endProbe()
        if let rate = current.probe.bytesPerSecond { link.probed = (rate, Int(Link.telling)) }
        let rate = link.figure.bytesPerSecond.map { "\($0) bytes/s" } ?? "no rate"
        Log.write(
            .debug,
            "\(link.peer): \(rate) after a probe of \(link.probeBytes - current.bytesBefore) bytes in "
                + "\((loop.now - current.start).milliseconds) ms")
    }
}
