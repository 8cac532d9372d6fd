import PCCLBase

extension Link {
    /// Less than this was never more than a burst: the rate that the kernel remembers says how fast heartbeats are.
    static let telling: UInt64 = 1 << 20
    /// Below this round trip, a process or two on the way decide how fast a link is, and no single sample is worth much.
    static let shortRoundTripNanoseconds: UInt64 = 1_000_000
    /// An average over less than this is chance too, ...
    private static let tellingBusyMicroseconds: UInt64 = 100_000
    /// ... unless it is above all that counts: no chance lets so many bytes through a slow network.
    private static let tellingFast: UInt64 = 8 << 20
    /// Over a short way, what is faster than two gigabits is as fast as its two processes get to run: all such links count
    /// as equal. So do those that do without a way.
    private static let fastestShortBytesPerSecond: UInt64 = 256_000_000

    /// What the transfers so far say of the way to this peer; a link is as fast as its stripes together.
    ///
    /// The kernel knows the latest rate at which what was sent also arrived, while the sender had something to send. Over
    /// a round trip or more that is the rate of the network. On a short way it is the length of a few turns of the
    /// scheduler, and differs tenfold from one moment to the next: there it is all bytes divided by the time in which some
    /// were under way, up to a limit. (On a long way that would count heartbeats as slow transfers.)
    package var figure: LinkFigure {
        var figure = LinkFigure(peer: peer)
        var (latest, average, sent, busy): (UInt64, UInt64, UInt64, UInt64) = (0, 0, 0, 0)
        var roundTrip = UInt64.max
        for figures in stripeFigures {
            latest += figures.deliveryBytesPerSecond
            if figures.busyMicroseconds > 0 {
                average += figures.acknowledgedBytes * 1_000_000 / figures.busyMicroseconds
            }
            sent += figures.acknowledgedBytes
            busy = max(busy, figures.busyMicroseconds)
            if figures.leastRoundTripNanoseconds > 0 {
                roundTrip = min(roundTrip, figures.leastRoundTripNanoseconds)
            }
        }
        if roundTrip < .max { figure.latencyNanoseconds = roundTrip / 2 }
        if peerFetches {
            figure.bytesPerSecond = Link.fastestShortBytesPerSecond
            return figure
        }
        if let probed {
            figure.bytesPerSecond = probed.bytesPerSecond
            return figure
        }
        let isShort = roundTrip < Link.shortRoundTripNanoseconds
        let rate = isShort ? min(average, Link.fastestShortBytesPerSecond) : latest
        let isFast = sent >= Link.tellingFast && average >= Link.fastestShortBytesPerSecond
        let isTelling = sent >= Link.telling && (!isShort || busy >= Link.tellingBusyMicroseconds || isFast)
        if isTelling, rate > 0 { figure.bytesPerSecond = rate }
        return figure
    }
}
