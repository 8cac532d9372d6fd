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
    private var deadline = Instant(nanoseconds: 0)
    private var done: (() -> Void)?

    private struct Running {
        var link: Link
        var probe: Probe
        var start: Instant
        var bytesBefore: UInt64
    }

    /// A start of ten packets that doubles has sent 25 MB when it has filled 1 Gbit/s over 100 ms, and a short way that is
    /// slow enough to need a tenth of a second carries as many in it (see `Link.figure`).
    private static let bytesPerLink = 32 << 20
    /// Also the time for which a caller may wait for nothing but probes: 31 links over 100 ms, twelve round trips each.
    private static let patience = Interval.seconds(40)
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
        deadline = loop.now + LinkProber.patience
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
        let now = loop.now
        while now < deadline, let peer = waiting.popFirst() {
            guard let link = link(peer), link.figure.bytesPerSecond == nil else { continue }
            running = Running(link: link, probe: Probe(at: now), start: now, bytesBefore: link.probeBytes)
            link.probe(byteCount: LinkProber.bytesPerLink)
            timer?.fire(at: now + LinkProber.period)
            return
        }
        let done = self.done
        stop()
        done?()
    }

    private func look() {
        guard let (link, figure) = running.map({ ($0.link, $0.link.figure) }) else { return }
        let sample = Probe.Sample(now: loop.now, deliveredBytes: link.deliveredBytes, figure: figure)
        // A link that broke, and may have been made again, is left out: it will be probed the next time.
        guard self.link(link.peer) === link, running?.probe.take(sample) == false else { return end() }
        timer?.fire(at: sample.now + LinkProber.period)
    }

    private func end() {
        if let running {
            let link = running.link
            link.endProbe()
            let rate = link.figure.bytesPerSecond.map { "\($0) bytes/s" } ?? "no rate"
            Log.write(
                .debug,
                "\(link.peer): \(rate) after a probe of \(link.probeBytes - running.bytesBefore) bytes in "
                    + "\((loop.now - running.start).milliseconds) ms")
        }
        running = nil
        next()
    }
}
