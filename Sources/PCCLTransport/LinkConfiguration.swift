import PCCLBase
import PCCLRecorder

/// Figures of a link, with their reasons.
package struct LinkConfiguration: Sendable {
    /// Whether peers of one host read each other's memory instead of sending bytes through the kernel's network.
    package enum Sharing: Sendable {
        case never
        case ifPossible
        /// A link that cannot is an error.
        case always
    }

    package var sharing = Sharing.never
    /// What leaves the host is followed by checksums, where nothing else protects it: those of TCP let one damaged packet in
    /// some ten thousand pass.
    package var isSummed = false
    /// Told of stripes that break and come.
    package var recorder: Recorder?
    /// The kernel's name of a congestion control; nil leaves the system's.
    package var congestionControl: String?
    /// The number of stripes follows what the path is worth; otherwise it is kept at what the link began with.
    package var growsByItself = false

    /// 64 windows of the kernel's usual largest size hold 100 ms of 30 Gbit/s.
    package var largestStripeCount = 64

    /// Stripes are looked after that often while something is under way, and acknowledgements wait no longer. A tenth of
    /// the stall patience.
    package var watchPeriod = Interval.milliseconds(20)
    /// A stripe that delivers nothing for that long while others do stands still: the kernel's own shortest
    /// retransmission time is 200 ms, so one lost packet is not taken for a stall.
    package var stallPatience = Interval.milliseconds(300)
    package var wishPeriod = Interval.milliseconds(500)
    /// Acknowledged at once when so much has come; a sixteenth of a second of the slowest path worth caring about.
    package var acknowledgedBytes = 1 << 20

    package var measurePeriod = Interval.milliseconds(50)
    /// From here on a path is long: one connection's window may be too small for it.
    package var longRoundTrip = Interval.milliseconds(2)
    /// On a long path a piece is that much of one stripe's time, so that at the end no stripe keeps the others waiting.
    package var pieceSeconds = 0.01
    package var smallestPieceBytes = 16 << 10
    package var largestPieceBytes = 4 << 20
    /// Below that, sending the bytes is cheaper than a second system call to fetch them.
    package var smallestOfferBytes = 16 << 10
    /// Written at a time where both ends are on this host. The kernel copies into pages of 32 KiB, and takes one that was
    /// emptied meanwhile again, still in cache: larger writes cost up to half as much processor time again when measured.
    package var bytesPerLocalWrite = 32 << 10
    /// Read or written at a time where it is summed: while it is in the cache.
    package var summedBytesAtOnce = 256 << 10
    /// What may lie unsent in a stripe's socket: enough to keep it busy for a turn of the loop, little enough that the next
    /// piece goes to a faster one.
    package var unsentBytes = 256 << 10
    /// On a long path it is that much of one stripe's time: what waits in a slow one keeps others waiting for it.
    package var unsentSeconds = 0.02
    package var smallestUnsentBytes = 32 << 10

    package init() {}
}
