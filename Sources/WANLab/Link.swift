import PCCLBase

/// One link in one direction. A packet waits until those before it are on the wire, takes its own time on the wire, may be
/// lost there, and arrives after the delay. Nothing happens inside a link as time passes: the instant of arrival follows
/// when a packet enters. So a change of figures is for packets that enter after it.
package struct Link {
    package struct Counts: Equatable, Sendable {
        package var packets: UInt64 = 0
        package var bytes: UInt64 = 0
        package var lost: UInt64 = 0
        package var dropped: UInt64 = 0
    }

    struct Traveller {
        var arrival: Instant
        var slot: Slot
    }

    package var figures: LinkFigures { didSet { prepare() } }
    package private(set) var counts = Counts()
    /// What has entered and not arrived, by arrival.
    var travellers = Ring<Traveller>()

    private var random: RandomSource
    private var busyUntil = Instant(nanoseconds: 0)
    /// What a nanosecond is too coarse for, in bits times 10^9, so that a rate is met exactly over many packets.
    private var remainder: UInt64 = 0
    private var lastArrival = Instant(nanoseconds: 0)
    private var isInBurst = false
    private var queueNanoseconds: UInt64 = 0
    private var lossBelow: UInt64 = 0
    private var burstBeginsBelow: UInt64 = 0
    private var burstEndsBelow: UInt64 = 0

    package init(_ figures: LinkFigures = LinkFigures(), seed: UInt64) {
        self.figures = figures
        random = RandomSource(seed: seed)
        prepare()
    }

    private mutating func prepare() {
        queueNanoseconds = figures.longestWaitNanoseconds
        lossBelow = Self.threshold(figures.loss)
        // Gilbert's model: all is lost in a burst, nothing between. The shares follow from the mean loss and length.
        let isBursty = figures.burstPackets > 1 && figures.loss < 1
        burstEndsBelow = isBursty ? Self.threshold(1 / figures.burstPackets) : 0
        burstBeginsBelow =
            isBursty ? Self.threshold(min(1, figures.loss / (figures.burstPackets * (1 - figures.loss)))) : 0
        if !isBursty { isInBurst = false }
    }

    private static func threshold(_ share: Double) -> UInt64 { UInt64(share * 0x1p53) }

    /// Whether the packet may skip the link; not while others are in it, whom it would overtake.
    var isOpen: Bool { figures.isNeutral && travellers.isEmpty }

    /// How many of the packet's segments find room in the queue; they are on the wire when `wireFree` says. One is let in
    /// whenever nothing waits, however small the queue.
    mutating func admit(_ packet: Packet, at now: Instant) -> Int {
        guard let rate = figures.bitsPerSecond else { return packet.segmentCount }
        if busyUntil < now {
            busyUntil = now
            remainder = 0
        }
        var admitted = 0
        while admitted < packet.segmentCount {
            let bytes = packet.wireBytes(ofSegment: admitted)
            let time = UInt64(bytes) * 8_000_000_000 / rate
            let wait = (busyUntil - now).nanoseconds
            guard wait == 0 || wait + time <= queueNanoseconds else { break }
            occupy(bytes: bytes, rate: rate)
            admitted += 1
        }
        counts.dropped += UInt64(packet.segmentCount - admitted)
        return admitted
    }

    private mutating func occupy(bytes: Int, rate: UInt64) {
        let work = UInt64(bytes) * 8_000_000_000 + remainder
        busyUntil.nanoseconds += work / rate
        remainder = work % rate
    }

    /// Whether the next segment is lost. To be asked once for each, in order.
    mutating func losesNext() -> Bool {
        let isLost: Bool
        if burstEndsBelow > 0 {
            isInBurst = draw(below: isInBurst ? burstEndsBelow : burstBeginsBelow) ? !isInBurst : isInBurst
            isLost = isInBurst
        } else {
            isLost = lossBelow > 0 && draw(below: lossBelow)
        }
        if isLost { counts.lost += 1 }
        return isLost
    }

    private mutating func draw(below threshold: UInt64) -> Bool { random.next() >> 11 < threshold }

    /// Sends an admitted packet on its way.
    mutating func send(_ slot: Slot, _ packet: Packet, at now: Instant) {
        counts.packets += UInt64(packet.segmentCount)
        counts.bytes += UInt64(packet.wireBytes)
        var arrival = (figures.bitsPerSecond == nil ? now : busyUntil) + figures.delay
        if figures.jitter.nanoseconds > 0 {
            arrival.nanoseconds += random.next() % (figures.jitter.nanoseconds + 1)
        }
        if figures.mayReorder {
            travellers.insert(Traveller(arrival: arrival, slot: slot)) { arrival < $0.arrival }
        } else {
            arrival = max(arrival, lastArrival)
            travellers.append(Traveller(arrival: arrival, slot: slot))
        }
        lastArrival = max(arrival, lastArrival)
    }
}
