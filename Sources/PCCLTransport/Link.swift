import Glibc
import PCCLBase
import PCCLWire

/// A piece of a chunk on its way out. Its payload stays where it is until `sent` or `Link.abandon`.
package struct OutgoingSegment {
    package var header: FrameHeader
    package var payload: UnsafeRawPointer
    /// The launch, at this peer, of the operation that the memory belongs to.
    package var owner: LaunchNumber
    /// Comes back in `sent`.
    package var token: Int
    /// It lies in memory of the caller's, of which nothing is known.
    package var isLent: Bool

    package init(header: FrameHeader, payload: UnsafeRawPointer, owner: LaunchNumber, token: Int, isLent: Bool = false)
    {
        self.header = header
        self.payload = payload
        self.owner = owner
        self.token = token
        self.isLent = isLent
    }
}

/// Where the payload of an arriving frame is to go.
package enum Placement {
    /// Straight to its place. The memory stays lent until `received` or `Link.abandon(owner)`.
    case into(UnsafeMutableRawPointer, owner: LaunchNumber, token: Int)
    /// Into memory of the link's, handed over as a whole.
    case copy
    case discard
    /// An honest peer would not send this: the link is broken off.
    case violation(String)
}

/// What a link tells and asks. All calls come on the loop's thread, none from inside a call to the link.
package protocol LinkDelegate: AnyObject {
    /// Asked once for each numbered frame, however often its bytes come.
    func link(_ link: Link, placementFor header: FrameHeader) -> Placement
    func link(_ link: Link, received header: FrameHeader, token: Int)
    func link(_ link: Link, received header: FrameHeader, payload: [UInt8])
    /// A stripe has room for a payload of at most `limit` bytes. Nil when there is nothing to send now: `Link.kick` when
    /// there is.
    func nextSegment(for link: Link, limit: Int) -> OutgoingSegment?
    /// What is to be sent to this peer and has not been, whether it could go now or not.
    func bytesLeft(for link: Link) -> Int
    /// The peer has it; may be said more than once of the same segment.
    func link(_ link: Link, sent segment: OutgoingSegment)
}

/// All of the path to one peer: one or more stripes, and whatever waits to be sent over them.
///
/// Segments are pulled: whichever stripe has room takes the next one, so a slow stripe carries less and holds nobody up.
/// Frames may overtake each other.
///
/// Every frame that matters is numbered, and kept until the peer has said that it came. A stripe that breaks is forgotten:
/// what it had not delivered goes out again over the others, and what arrives twice counts once. A stripe that stands still
/// while others move is closed, and then is one that broke. The link breaks when its last stripe does.
package final class Link {
    package let peer: PeerID
    let loop: EventLoop
    let configuration: LinkConfiguration
    private weak var delegate: (any LinkDelegate)?
    private var stripes: [Stripe] = []
    private var isKicked = false
    private var timer: LoopTimer?
    private let deadTime: Interval
    private let idlePeriod: Interval
    private var lastTick: Instant
    package private(set) var isOpen = true
    /// Called once, when the link breaks by itself.
    var onBroken: ((Link, String) -> Void)?
    /// How fast all of it may send at most; asked whenever it was measured.
    var onMeasured: ((Link, WayOut.Report) -> Double?)?
    /// One more stripe would help: called on the loop's thread, at the end of a turn.
    var onWantsStripe: ((Link) -> Void)?
    /// Further stripes that are being dialled.
    private var pendingStripes = 0
    /// The number that the next further stripe dialled here will have; see `ownNumbers`.
    private var nextStripeNumber: UInt16
    private let isMaker: Bool
    /// Each side has numbers of its own, so that both may add stripes at once.
    private let ownNumbers: ClosedRange<UInt16>
    /// The stripe that takes ordered frames, until it breaks.
    private var primary: UInt16 = 0

    // Outgoing frames, encoded, not yet taken by a stripe.
    private var small: FrameBatch
    /// Those that keep their order: only the primary stripe takes them.
    private var ordered: FrameBatch
    /// Segments that must go out again, before any new one.
    private var again: [OutgoingSegment] = []
    private var nextSerial: UInt64 = 1
    /// Acknowledgements are due even if nothing else is to be said.
    private var mustAcknowledge = false

    // Incoming numbered frames.
    private var window = SerialWindow()
    /// Frames that were half there when their stripe broke, by serial: what is sent again takes their place. A frame may be
    /// arriving on several stripes, but its place is here or at one of them, and nowhere at the others.
    private var severed: [UInt64: ArrivalPlace] = [:]

    var lastSent: Instant
    package internal(set) var lastReceived: Instant

    // Watching over stripes.
    private var watch: LoopTimer?
    private var isWatching = false
    private var governor: StripeGovernor
    private var nextMeasurement: Instant
    /// Of acknowledgements, smoothed.
    private var acknowledgementDelay = Interval.milliseconds(0)
    private var lastWish: Instant?
    private var lastWatch: Instant
    package private(set) var roundTrip = Interval.milliseconds(0)
    /// The shortest that was seen: on a busy machine connections within it take milliseconds, too.
    private var leastRoundTrip = Interval.milliseconds(0)
    private var pieceLimit: Int
    private var unsentLimit: Int

    /// What may still be sent of a probe.
    var probeBytesLeft = 0
    /// What was sent of probes, in all.
    package internal(set) var probeBytes: UInt64 = 0
    /// What the last probe found over a long way, until operations have sent so much that they tell more.
    var probed: (bytesPerSecond: UInt64, bytesLeft: Int)?

    /// The memory of the peer, if it is on this host and lets us.
    private var memory: PeerMemory?
    private var proof: MemoryProof?
    /// Each header and each payload is followed by its CRC-32C.
    let isSummed: Bool
    /// Whether the peer is on this host.
    package var isWithinHost: Bool { stripes.first?.isWithinHost ?? false }
    /// Whether peers of this host may share memory.
    package var mayShare: Bool { configuration.sharing != .never }
    /// The peer fetches from our memory: it wants addresses, not bytes.
    package private(set) var peerFetches = false
    /// Whether memory that was lent can be read by others, by who lent it and what for.
    private var sharable: [Lent: Bool] = [:]
    private struct Lent: Hashable {
        var owner: LaunchNumber
        var phase: FrameHeader.Phase
    }

    /// Stripes lie in `channels` in the order of their numbers, connected and greeted; `timeouts` are the run's.
    /// `isMaker`: this side dialled.
    package init(
        _ loop: EventLoop, peer: PeerID, channels: [Channel], isMaker: Bool = true, timeouts: Timeouts,
        configuration: LinkConfiguration = LinkConfiguration(), delegate: any LinkDelegate
    ) {
        self.loop = loop
        self.peer = peer
        self.delegate = delegate
        self.configuration = configuration
        deadTime = timeouts.deadTime
        idlePeriod = timeouts.heartbeatPeriod
        lastSent = loop.now
        lastReceived = loop.now
        lastTick = loop.now
        lastWatch = loop.now
        nextMeasurement = loop.now
        pieceLimit = configuration.largestPieceBytes
        unsentLimit = configuration.unsentBytes
        // What does not leave the host passes no wire.
        let isSummed = configuration.isSummed && !(channels.first?.socket.isWithinHost ?? false)
        self.isSummed = isSummed
        (small, ordered) = (FrameBatch(isSummed: isSummed), FrameBatch(isSummed: isSummed))
        governor = StripeGovernor(
            count: channels.count, limit: configuration.growsByItself ? configuration.largestStripeCount : 0)
        self.isMaker = isMaker
        ownNumbers = isMaker ? UInt16(channels.count)...0x7fff : 0x8000...0xffff
        nextStripeNumber = ownNumbers.lowerBound
        for (number, channel) in channels.enumerated() { stripes.append(stripe(UInt16(number), channel)) }
    }

    private func stripe(_ number: UInt16, _ channel: Channel) -> Stripe {
        channel.socket.tune(deadTime: deadTime, configuration)
        return Stripe(loop, channel, self, number: number)
    }

    package func start() {
        for stripe in stripes { stripe.start() }
        guard isOpen else { return }
        let timer = LoopTimer(loop) { [weak self] in self?.tick() }
        self.timer = timer
        timer.fire(at: loop.now + idlePeriod)
        watch = LoopTimer(loop) { [weak self] in self?.lookAfterStripes() }
        offerMemory()
    }

    package var stripeCount: Int { stripes.count }
    /// Something was sent of which the peer has not said that it came.
    var hasUnacknowledged: Bool { stripes.contains { $0.hasRetained } }
    /// A round trip takes longer than the work that is done meanwhile.
    package var isLong: Bool { leastRoundTrip >= configuration.longRoundTrip }
    package var descriptors: [CInt] { stripes.map(\.descriptor) }
    var stripeFigures: [TCPFigures] { stripes.compactMap { $0.takeFigures() } }
    /// Where the peer was reached, or came from.
    var remoteHost: SocketAddress.Host? {
        // Each asked once: a stripe that ends meanwhile has another answer, which a lazy compactMap does not survive.
        for stripe in stripes {
            if let host = stripe.remoteHost { return host }
        }
        return nil
    }

    var mayGrow: Bool { isOpen && stripes.count + pendingStripes < WireLimits.stripesPerLink }

    /// A further stripe begins to be dialled: its number, which no living stripe of this link has.
    func beginStripe() -> UInt16 {
        pendingStripes += 1
        repeat {
            nextStripeNumber = nextStripeNumber == ownNumbers.upperBound ? ownNumbers.lowerBound : nextStripeNumber + 1
        } while stripes.contains { $0.number == nextStripeNumber }
        return nextStripeNumber
    }

    /// It was made, or was not.
    func endStripe() { pendingStripes -= 1 }

    /// A further stripe, connected and greeted, begins to carry.
    func add(number: UInt16, _ channel: Channel) {
        let added = stripe(number, channel)
        guard isOpen, !stripes.contains(where: { $0.number == number }) else { return added.close() }
        stripes.append(added)
        configuration.recorder?.record(.stripeAdded, peer: peer, value: UInt64(stripes.count))
        added.start()
        kick()
    }

    /// Queues a frame without payload, or with a small one. Frames sent in order arrive in order among themselves; all
    /// others may overtake each other and them.
    package func send(_ header: FrameHeader, payload: [UInt8] = [], inOrder: Bool = false) {
        guard isOpen else { return }
        var header = header
        if header.kind.isNumbered { header.serial = takeSerial() }
        if inOrder { ordered.append(header, payload) } else { small.append(header, payload) }
        kick()
    }

    private func takeSerial() -> UInt64 {
        defer { nextSerial += 1 }
        return nextSerial
    }

    /// There is something to send.
    package func kick() {
        guard isOpen, !isKicked else { return }
        isKicked = true
        loop.atEndOfTurn { [self] in
            isKicked = false
            for stripe in stripes where isOpen { stripe.writeIfIdle() }
        }
    }

    /// The memory of this launch is wanted back, now: what is under way from it is copied, what is under way to it is
    /// thrown away as it arrives.
    package func abandon(_ owner: LaunchNumber) {
        sharable = sharable.filter { $0.key.owner != owner }
        for stripe in stripes { stripe.abandon(owner) }
        for (serial, place) in severed {
            if case .lent(_, owner, _) = place { severed[serial] = nil }
        }
        for segment in again where segment.owner == owner { sendVoid(segment.header.serial) }
        again.removeAll { $0.owner == owner }
    }

    /// Closes without a word to the owner. What was lent is its owner's again when this returns: nobody believes any more what
    /// they read there.
    package func close() {
        guard isOpen else { return }
        isOpen = false
        proof?.takeBack()
        timer?.close()
        watch?.close()
        for stripe in stripes { stripe.close() }
        for place in severed.values { place.free() }
        severed = [:]
    }

    /// The peer has sent what no honest one sends.
    package func breakOff(_ reason: String) { fail("it broke the protocol: \(reason)") }

    func fail(_ reason: String) {
        guard isOpen else { return }
        close()
        // Not from inside whatever call of the delegate's brought this about.
        loop.atEndOfTurn { [self] in onBroken?(self, reason) }
    }

    private func tick() {
        let now = loop.now
        // A process that was itself stopped has old news only: it must read what lies in its sockets before it judges.
        let wasAway = (now - lastTick).nanoseconds > idlePeriod.nanoseconds * 2
        lastTick = now
        if wasAway { lastReceived = now }
        if (now - lastReceived) >= deadTime { return fail("nothing was heard for \(deadTime.seconds) s") }
        if (now - lastSent) >= idlePeriod {
            send(FrameHeader(kind: .idle, epoch: .none, launch: LaunchNumber(0), tag: Tag(0)))
        }
        timer?.fire(at: now + idlePeriod)
    }
}

// MARK: - stripes that break, stall or are too few

extension Link {
    /// A stripe broke by itself. What it had not delivered goes out again over the others.
    func stripeFailed(_ stripe: Stripe, _ reason: String) {
        guard isOpen, let index = stripes.firstIndex(where: { $0 === stripe }) else { return }
        guard stripes.count > 1 else { return fail(reason) }
        stripes.remove(at: index)
        configuration.recorder?.record(.stripeBroken, peer: peer, value: UInt64(stripes.count))
        // Either side closes those that it no longer needs.
        Log.write(
            reason == Stripe.closedByPeer ? .debug : .info,
            "\(peer): one of \(stripes.count + 1) connections ended: \(reason)")
        if let (serial, place) = stripe.severArrival() { severed[serial] = place }
        // An honest peer sends again what was cut off, and has never more cut off than it had stripes.
        guard severed.count <= WireLimits.stripesPerLink else {
            return fail("it breaks connections and sends nothing again")
        }
        sendAgain(stripe.takeRetained())
        stripe.close()
        for other in stripes { other.repeatAcknowledgement() }
        keepWatching()
        if !configuration.growsByItself { wishForStripe() }
    }

    private func sendAgain(_ retained: [RetainedFrames]) {
        var batches = (ordered: FrameBatch(isSummed: isSummed), small: FrameBatch(isSummed: isSummed))
        for frames in retained {
            switch frames.content {
            case .batch(let bytes, true): batches.ordered.append(bytes, count: frames.count)
            case .batch(let bytes, false): batches.small.append(bytes, count: frames.count)
            // Nobody waits for it.
            case .segment(let segment) where segment.header.kind == .probe: sendVoid(segment.header.serial)
            case .segment(let segment): again.append(segment)
            case .released(let serial): sendVoid(serial)
            }
        }
        // Before what waits already: entries must arrive in the order in which they were made.
        batches.ordered.append(ordered.bytes, count: ordered.count)
        ordered = batches.ordered
        small.append(batches.small.bytes, count: batches.small.count)
        kick()
    }

    private func sendVoid(_ serial: UInt64) {
        small.append(
            FrameHeader(kind: .void, epoch: .none, launch: LaunchNumber(0), tag: Tag(0), serial: serial), [])
        kick()
    }

    private func isPrimary(_ stripe: Stripe) -> Bool {
        if !stripes.contains(where: { $0.number == primary }) { primary = stripes.first?.number ?? primary }
        return stripe.number == primary
    }

    /// Something is under way, or an acknowledgement is owed: look again soon.
    func keepWatching() {
        guard !isWatching, let watch else { return }
        isWatching = true
        watch.fire(at: loop.now + configuration.watchPeriod)
    }

    private func lookAfterStripes() {
        isWatching = false
        guard isOpen else { return }
        let now = loop.now
        if stripes.contains(where: { $0.owesAcknowledgement }) {
            mustAcknowledge = true
            kick()
        }
        if now >= nextMeasurement { measure(now) }
        // This process was stopped, or starved: what it has not read yet may be just what it is about to miss.
        if now - lastWatch < configuration.watchPeriod * 5 { hedge(now) }
        lastWatch = now
        if stripes.contains(where: { $0.hasRetained || $0.owesAcknowledgement }) { keepWatching() }
    }

    /// Gives up a stripe that has delivered nothing for longer than can be put down to chance, while others did.
    private func hedge(_ now: Instant) {
        let patience = max(configuration.stallPatience, acknowledgementDelay * 4)
        for stripe in stripes where stripe.hasRetained && now - stripe.lastProgress >= patience {
            _ = stripe.takeFigures()
            if now - stripe.lastProgress < patience { continue }
            // If none moves the peer is busy, or the whole path is interrupted: no stripe is to blame.
            let isAlone = !stripes.contains { other in
                other !== stripe && (!other.hasRetained || now - other.lastProgress < patience)
            }
            // Each end has a view of its own of which one stands still. If both gave up one of two at the same moment, none
            // would be left; so only one end may, and the other needs a third.
            if !isAlone, stripes.count > 2 || isMaker {
                return stripe.fail("it delivered nothing for \(patience.milliseconds) ms")
            }
            if !isAlone || stripes.count == 1 { wishForStripe() }
        }
    }

    private func wishForStripe() {
        let now = loop.now
        if let lastWish, now - lastWish < configuration.wishPeriod { return }
        guard pendingStripes == 0 else { return }
        lastWish = now
        loop.atEndOfTurn { [self] in if isOpen { onWantsStripe?(self) } }
    }

    private func measure(_ now: Instant) {
        var acknowledged: UInt64 = 0
        var smoothed: [UInt64] = []
        var shortest = UInt64.max
        for stripe in stripes {
            guard let figures = stripe.takeFigures() else { continue }
            acknowledged += figures.acknowledgedBytes
            smoothed.append(figures.roundTripNanoseconds)
            if figures.leastRoundTripNanoseconds > 0 { shortest = min(shortest, figures.leastRoundTripNanoseconds) }
        }
        guard !smoothed.isEmpty else { return }
        smoothed.sort()
        roundTrip = Interval(nanoseconds: smoothed[smoothed.count / 2])
        leastRoundTrip = min(Interval(nanoseconds: shortest), roundTrip)
        nextMeasurement = now + max(configuration.measurePeriod, roundTrip)
        let isSaturated = stripes.allSatisfy(\.waitsForRoom)
        let sample = StripeGovernor.Sample(
            now: now, deliveredBytes: acknowledged, roundTrip: roundTrip,
            leastRoundTrip: leastRoundTrip, isSaturated: isSaturated, count: stripes.count)
        let wanted = governor.take(sample)
        pace(acknowledged, now)
        if isLong, let rate = governor.bytesPerSecond {
            // The last pieces of a transfer should be over at about the same time on all stripes.
            let perStripe = rate / Double(stripes.count)
            let bytes = Int(perStripe * configuration.pieceSeconds)
            pieceLimit = min(max(bytes, configuration.smallestPieceBytes), configuration.largestPieceBytes)
            let unsent = Int(perStripe * configuration.unsentSeconds)
            unsentLimit = min(max(unsent, configuration.smallestUnsentBytes), configuration.unsentBytes)
        } else {
            pieceLimit = configuration.largestPieceBytes
            unsentLimit = configuration.unsentBytes
        }
        for stripe in stripes { stripe.limit(unsentBytes: unsentLimit) }
        if wanted > stripes.count + pendingStripes {
            let missing = wanted - stripes.count - pendingStripes
            loop.atEndOfTurn { [self] in for _ in 0..<missing where isOpen { onWantsStripe?(self) } }
        } else if wanted < stripes.count {
            retire(stripes.count - wanted)
        }
    }

    /// Over a long way each stripe may send its share of what the link may, by its own lights and by those of all links.
    private func pace(_ delivered: UInt64, _ now: Instant) {
        var paces: [Double] = []
        if let own = governor.pace(count: stripes.count) { paces.append(own) }
        if isLong, let onMeasured {
            let report = WayOut.Report(
                now: now, deliveredBytes: delivered, bytesLeft: delegate?.bytesLeft(for: self) ?? 0,
                isQueueing: StripeGovernor.isQueueing(roundTrip, least: leastRoundTrip))
            if let shared = onMeasured(self, report) { paces.append(shared / Double(stripes.count)) }
        }
        for stripe in stripes { stripe.limit(bytesPerSecond: paces.min()) }
    }

    /// Lets go of stripes that were added from here and carry nothing just now. Those that the peer added are its own: it
    /// may need them in its direction.
    private func retire(_ count: Int) {
        let idle = stripes.filter {
            $0.number != primary && ownNumbers.contains($0.number) && !$0.hasRetained && !$0.isArriving
        }.suffix(count)
        for stripe in idle {
            stripes.removeAll { $0 === stripe }
            stripe.close()
        }
    }
}

// MARK: - towards the stripes

extension Link {
    /// What a stripe is to write next: bytes of small frames, and their parts to be kept until they have arrived.
    func takeWork(for stripe: Stripe) -> (bytes: [UInt8], retained: [RetainedFrames], segment: OutgoingSegment?) {
        let now = loop.now
        var bytes: [UInt8] = []
        var retained: [RetainedFrames] = []
        func take(_ batch: inout FrameBatch, inOrder: Bool) {
            guard !batch.bytes.isEmpty else { return }
            bytes += batch.bytes
            if batch.count > 0 {
                retained.append(
                    RetainedFrames(content: .batch(batch.bytes, inOrder: inOrder), count: batch.count, takenAt: now))
            }
            batch = FrameBatch(isSummed: isSummed)
        }
        if isPrimary(stripe) { take(&ordered, inOrder: true) }
        take(&small, inOrder: false)
        var segment: OutgoingSegment?
        if !again.isEmpty {
            segment = again.removeFirst()
        } else if var next = delegate?.nextSegment(
            for: self, limit: peerFetches ? configuration.largestPieceBytes : pieceLimit)
        {
            supersedeProbe(Int(next.header.payloadBytes))
            next.header.serial = takeSerial()
            segment = next
        } else if probeBytesLeft > 0 {
            segment = takeProbe(serial: takeSerial(), limit: pieceLimit)
        }
        if let segment {
            retained.append(RetainedFrames(content: .segment(segment), count: 1, takenAt: now))
        }
        if mustAcknowledge || segment != nil || !bytes.isEmpty {
            mustAcknowledge = false
            bytes = acknowledgements() + bytes
        }
        return (bytes, retained, segment)
    }

    private func acknowledgements() -> [UInt8] {
        var batch = FrameBatch(isSummed: isSummed)
        for stripe in stripes where stripe.owesAcknowledgement {
            batch.append(
                FrameHeader(
                    kind: .acknowledge, chunk: stripe.number, epoch: .none, launch: LaunchNumber(0), tag: Tag(0),
                    offset: stripe.takeAcknowledgement()), [])
        }
        return batch.bytes
    }

    /// A numbered frame is complete on one of the stripes.
    func noteArrival(on stripe: Stripe) {
        if stripe.unacknowledgedBytes >= configuration.acknowledgedBytes {
            mustAcknowledge = true
            kick()
        }
        keepWatching()
    }

    func noteAcknowledged(_ frames: RetainedFrames, at now: Instant) {
        let delay = now - frames.takenAt
        acknowledgementDelay =
            acknowledgementDelay.nanoseconds == 0
            ? delay : Interval(nanoseconds: (acknowledgementDelay.nanoseconds * 7 + delay.nanoseconds) / 8)
        if case .segment(let segment) = frames.content, segment.header.kind != .probe {
            delegate?.link(self, sent: segment)
        }
    }

    enum Arrival {
        case place(ArrivalPlace)
        case violation(String)
    }

    /// Where the payload of a frame goes, of which the header has come.
    func arrival(of header: FrameHeader, on stripe: Stripe) -> Arrival {
        guard header.kind.isNumbered else {
            let limit = header.kind == .local ? LocalMemory.byteCount : 0
            guard header.payloadBytes == UInt32(limit) else {
                return .violation("a frame of kind \(header.kind) with \(header.payloadBytes) bytes of payload")
            }
            return .place(.own(.allocate(byteCount: max(limit, 1), alignment: 16)))
        }
        switch window.claim(header.serial) {
        case .outside: return .violation("a frame with the number \(header.serial)")
        case .again:
            if let place = severed.removeValue(forKey: header.serial) {
                if header.kind != .void { return .place(place) }
                place.free()
            }
            // Still arriving elsewhere, and overtaken: from here on its bytes come twice, and count here.
            if header.kind != .void {
                for other in stripes where other !== stripe {
                    if let place = other.giveUpArrival(of: header.serial) { return .place(place) }
                }
            }
            return .place(.nowhere)
        case .fresh: break
        }
        if header.kind == .void {
            return header.payloadBytes == 0 ? .place(.nowhere) : .violation("a void frame with a payload")
        }
        if header.kind == .probe { return .place(.nowhere) }
        var asked = header
        if header.kind == .offer { asked.kind = .data }
        switch delegate?.link(self, placementFor: asked) ?? .discard {
        case .into(let memory, let owner, let token): return .place(.lent(memory, owner: owner, token: token))
        case .copy: return .place(.own(.allocate(byteCount: max(Int(header.payloadBytes), 1), alignment: 16)))
        case .discard: return .place(.nowhere)
        case .violation(let reason): return .violation(reason)
        }
    }

    /// A frame is complete, with its payload in its place.
    func deliver(_ header: FrameHeader, _ place: ArrivalPlace) {
        var header = header
        if header.kind == .offer { header.kind = .data }
        switch place {
        case .lent(_, _, let token): delegate?.link(self, received: header, token: token)
        case .own(let memory):
            let payload = [UInt8](UnsafeRawBufferPointer(start: memory, count: Int(header.payloadBytes)))
            memory.deallocate()
            if header.kind.isNumbered {
                delegate?.link(self, received: header, payload: payload)
            } else {
                takeOwn(header, payload)
            }
        case .nowhere: break
        }
    }

    /// Frames that are of the link alone.
    private func takeOwn(_ header: FrameHeader, _ payload: [UInt8]) {
        switch header.kind {
        case .acknowledge:
            guard let stripe = stripes.first(where: { $0.number == header.chunk }) else { return }
            if !stripe.acknowledged(upTo: header.offset) { fail("it broke the protocol: it took in what was not sent") }
        case .local: tryMemory(payload)
        case .fetching:
            guard configuration.sharing != .never else { return }
            peerFetches = true
        case .enter, .data, .credit, .prepared, .void, .offer, .probe, .idle, .stateRequest, .stateLack, .window,
            .rounds:
            break
        }
    }
}

// MARK: - peers of the same host

extension Link {
    private func offerMemory() {
        guard configuration.sharing != .never, let stripe = stripes.first else { return }
        guard stripe.isWithinHost else {
            if configuration.sharing == .always { fail("PCCL_TRANSPORT=shm, but the peer is on another host") }
            return
        }
        let proof = MemoryProof()
        self.proof = proof
        let local = proof.description
        send(
            FrameHeader(
                kind: .local, epoch: .none, launch: LaunchNumber(0), tag: Tag(0),
                payloadBytes: UInt32(local.bytes.count)),
            payload: local.bytes)
    }

    private func tryMemory(_ payload: [UInt8]) {
        // A remote that names a process of this host is not believed: it would have us read what is none of its business.
        guard mayShare, isWithinHost,
            let description = try? LocalMemory(payload)
        else { return }
        switch PeerMemory.open(description) {
        case .success(let memory):
            self.memory = memory
            send(FrameHeader(kind: .fetching, epoch: .none, launch: LaunchNumber(0), tag: Tag(0)))
        case .failure(let error):
            if configuration.sharing == .always {
                return fail("PCCL_TRANSPORT=shm, but the memory of the peer cannot be read: \(error)")
            }
            Log.write(.debug, "\(peer): its memory cannot be read, so bytes go over TCP: \(error)")
        }
    }

    /// Whether the peer is told where this lies, and fetches it. Memory that a driver has mapped (pinned by CUDA, for example)
    /// can be read by its process, and not by others.
    func offers(_ segment: OutgoingSegment) -> Bool {
        guard peerFetches, segment.header.kind == .data,
            Int(segment.header.payloadBytes) >= configuration.smallestOfferBytes
        else { return false }
        guard segment.isLent else { return true }
        let lent = Lent(owner: segment.owner, phase: segment.header.phase)
        // Buffers of an operation are of one kind each; tensors of a shared state may differ.
        if lent.phase != .state, let isSharable = sharable[lent] { return isSharable }
        let isSharable = PeerMemory.canBeRead(segment.payload, byteCount: Int(segment.header.payloadBytes))
        if !isSharable {
            Log.write(.debug, "\(peer): memory that was lent cannot be read by others, so its bytes go over TCP")
        }
        sharable[lent] = isSharable
        return isSharable
    }

    enum Fetch {
        case done
        /// It cannot be read: the peer took the memory back. What was to come is of no use any more.
        case gone
        /// The peer has closed the link, or has ended: it may be anything.
        case closed
        case violation(String)
    }

    func fetch(_ address: UInt64, into target: UnsafeMutableRawPointer, byteCount: Int) -> Fetch {
        guard let memory else { return .violation("an offer to who cannot fetch") }
        let isRead = memory.read(address, into: target, byteCount: byteCount)
        return !memory.stood ? .closed : isRead ? .done : .gone
    }
}
