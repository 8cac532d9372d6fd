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

    package init(header: FrameHeader, payload: UnsafeRawPointer, owner: LaunchNumber, token: Int) {
        self.header = header
        self.payload = payload
        self.owner = owner
        self.token = token
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
    func link(_ link: Link, placementFor header: FrameHeader) -> Placement
    func link(_ link: Link, received header: FrameHeader, token: Int)
    func link(_ link: Link, received header: FrameHeader, payload: [UInt8])
    /// A stripe has room. Nil when there is nothing to send now: `Link.kick` when there is.
    func nextSegment(for link: Link) -> OutgoingSegment?
    func link(_ link: Link, sent segment: OutgoingSegment)
}

/// All of the path to one peer: one or more stripes, and whatever waits to be sent over them.
///
/// Segments are pulled: whichever stripe has room takes the next one, so a slow stripe carries less and holds nobody up.
/// Frames may overtake each other.
package final class Link {
    package let peer: PeerID
    private let loop: EventLoop
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

    /// Small frames, encoded, not yet taken by a stripe.
    fileprivate var smallFrames: [UInt8] = []
    /// Small frames that keep their order: only the first stripe takes them.
    fileprivate var orderedFrames: [UInt8] = []
    fileprivate var lastSent: Instant
    fileprivate var lastReceived: Instant

    /// `sockets` are connected and greeted, in any order; `timeouts` are the run's.
    package init(
        _ loop: EventLoop, peer: PeerID, descriptors: [CInt], timeouts: Timeouts, delegate: any LinkDelegate
    ) {
        self.loop = loop
        self.peer = peer
        self.delegate = delegate
        deadTime = timeouts.deadTime
        idlePeriod = timeouts.heartbeatPeriod
        lastSent = loop.now
        lastReceived = loop.now
        lastTick = loop.now
        for descriptor in descriptors {
            let socket = Socket(owning: descriptor)
            socket.tune(deadTime: timeouts.deadTime)
            stripes.append(Stripe(loop, socket, self, isFirst: stripes.isEmpty))
        }
    }

    package func start() {
        for stripe in stripes { stripe.start() }
        let timer = LoopTimer(loop) { [weak self] in self?.tick() }
        self.timer = timer
        timer.fire(at: loop.now + idlePeriod)
    }

    package var stripeCount: Int { stripes.count }

    /// Queues a frame without payload, or with a small one. Frames sent in order arrive in order among themselves; all
    /// others may overtake each other and them.
    package func send(_ header: FrameHeader, payload: [UInt8] = [], inOrder: Bool = false) {
        guard isOpen else { return }
        withUnsafeTemporaryAllocation(byteCount: FrameHeader.byteCount, alignment: 8) { buffer in
            guard let base = buffer.baseAddress else { return }
            header.store(to: base)
            if inOrder { orderedFrames.append(contentsOf: buffer) } else { smallFrames.append(contentsOf: buffer) }
        }
        if inOrder { orderedFrames += payload } else { smallFrames += payload }
        kick()
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
        for stripe in stripes { stripe.abandon(owner) }
    }

    /// Closes without a word to the owner.
    package func close() {
        guard isOpen else { return }
        isOpen = false
        timer?.close()
        for stripe in stripes { stripe.close() }
    }

    fileprivate func fail(_ reason: String) {
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

    // MARK: towards the stripes

    fileprivate func placement(for header: FrameHeader) -> Placement {
        delegate?.link(self, placementFor: header) ?? .discard
    }
    fileprivate func received(_ header: FrameHeader, token: Int) {
        delegate?.link(self, received: header, token: token)
    }
    fileprivate func received(_ header: FrameHeader, payload: [UInt8]) {
        if header.kind != .idle { delegate?.link(self, received: header, payload: payload) }
    }
    fileprivate func nextSegment() -> OutgoingSegment? { delegate?.nextSegment(for: self) }
    fileprivate func sent(_ segment: OutgoingSegment) { delegate?.link(self, sent: segment) }
}

/// One connection of a link.
private final class Stripe {
    private let socket: Socket
    private unowned let link: Link
    private let loop: EventLoop
    private let isFirst: Bool
    private var poll: Poll?

    // Reading: headers and small payloads come through `buffer`; a placed payload is read to its place, with the bytes
    // after it into the buffer in the same call.
    private let buffer: UnsafeMutableRawPointer
    private var bufferStart = 0
    private var bufferEnd = 0
    private var arriving: Arriving?

    // Writing: small frames first, then at most one segment.
    private var small: [UInt8] = []
    private var smallSent = 0
    private var segment: OutgoingSegment?
    private let headerBytes: UnsafeMutableRawPointer
    private var segmentSent = 0
    /// A copy of the segment's payload, once its owner wanted the memory back.
    private var orphan: UnsafeMutableRawPointer?
    private var waitsForRoom = false

    private struct Arriving {
        enum Place {
            case lent(UnsafeMutableRawPointer, owner: LaunchNumber, token: Int)
            case own(UnsafeMutableRawPointer)
            case nowhere
        }
        var header: FrameHeader
        var place: Place
        var filled = 0
        var missing: Int { Int(header.payloadBytes) - filled }
    }

    private static let bufferBytes = 64 << 10
    /// Moved per turn and direction before the loop's other sockets have theirs.
    private static let bytesPerTurn = 2 << 20

    init(_ loop: EventLoop, _ socket: consuming Socket, _ link: Link, isFirst: Bool) {
        self.isFirst = isFirst
        self.loop = loop
        self.socket = socket
        self.link = link
        buffer = .allocate(byteCount: Stripe.bufferBytes, alignment: 64)
        headerBytes = .allocate(byteCount: FrameHeader.byteCount, alignment: 8)
    }

    deinit {
        buffer.deallocate()
        headerBytes.deallocate()
        orphan?.deallocate()
        if case .own(let memory)? = arriving?.place { memory.deallocate() }
    }

    func start() {
        poll = Poll(loop, descriptor: socket.descriptor) { [unowned self] ready in
            withExtendedLifetime(link) {
                if ready.contains(.read) { read() }
                if ready.contains(.write), poll != nil { write() }
            }
        }
        guard poll != nil else { return link.fail("a stripe cannot be watched") }
        poll?.watch(.read)
    }

    func close() {
        guard poll != nil else { return }
        poll?.close()
        poll = nil
        // The peer must learn of it now, not when the last reference goes.
        shutdown(socket.descriptor, CInt(SHUT_RDWR))
    }

    func abandon(_ owner: LaunchNumber) {
        if case .lent(_, owner, _)? = arriving?.place { arriving?.place = .nowhere }
        guard let outgoing = segment, outgoing.owner == owner, orphan == nil else { return }
        if segmentSent == 0 && smallSent == 0 && small.isEmpty {
            segment = nil
            return
        }
        let count = Int(outgoing.header.payloadBytes)
        let copy = UnsafeMutableRawPointer.allocate(byteCount: max(count, 1), alignment: 64)
        copy.copyMemory(from: outgoing.payload, byteCount: count)
        orphan = copy
        segment?.payload = UnsafeRawPointer(copy)
    }

    // MARK: reading

    private func read() {
        var budget = Stripe.bytesPerTurn
        while budget > 0, poll != nil {
            let (count, wanted) = readOnce()
            if count > 0 {
                link.lastReceived = loop.now
                budget -= count
                guard digest(newInBuffer: count) else { return }
                if count < wanted { return }  // The socket is empty: another call would only say so.
            } else if count == 0 {
                return link.fail("the connection was closed")
            } else if errno == EAGAIN || errno == EWOULDBLOCK {
                return
            } else if errno != EINTR {
                return link.fail(SystemError(doing: "reading").description)
            }
        }
    }

    /// One system call. Bytes of a placed payload are accounted for here; the rest lies in the buffer.
    private func readOnce() -> (count: Int, wanted: Int) {
        if bufferStart == bufferEnd {
            bufferStart = 0
            bufferEnd = 0
        } else if bufferEnd == Stripe.bufferBytes {
            buffer.copyMemory(from: buffer + bufferStart, byteCount: bufferEnd - bufferStart)
            bufferEnd -= bufferStart
            bufferStart = 0
        }
        let room = Stripe.bufferBytes - bufferEnd
        var vectors = (iovec(), iovec(iov_base: buffer + bufferEnd, iov_len: room))
        var payloadRoom = 0
        switch arriving?.place {
        case .lent(let memory, _, _)?, .own(let memory)?:
            payloadRoom = arriving?.missing ?? 0
            vectors.0 = iovec(iov_base: memory + (arriving?.filled ?? 0), iov_len: payloadRoom)
        case .nowhere?, nil: break
        }
        let count = withUnsafePointer(to: &vectors) {
            $0.withMemoryRebound(to: iovec.self, capacity: 2) { readv(socket.descriptor, $0, 2) }
        }
        if count > 0 {
            let placed = min(count, payloadRoom)
            arriving?.filled += placed
            bufferEnd += count - placed
        }
        return (count, payloadRoom + room)
    }

    /// Takes apart what lies in the buffer. False when the link broke.
    private func digest(newInBuffer: Int) -> Bool {
        while true {
            if arriving != nil {
                takePayloadFromBuffer()
                guard let current = arriving, current.missing == 0 else { return true }
                arriving = nil
                deliver(current)
                if poll == nil { return false }
            }
            guard bufferEnd - bufferStart >= FrameHeader.byteCount else { return true }
            let header: FrameHeader
            do {
                header = try FrameHeader(buffer + bufferStart)
            } catch {
                link.fail("it sent what is no frame: \(error)")
                return false
            }
            bufferStart += FrameHeader.byteCount
            switch link.placement(for: header) {
            case .into(let memory, let owner, let token):
                arriving = Arriving(header: header, place: .lent(memory, owner: owner, token: token))
            case .copy:
                let memory = UnsafeMutableRawPointer.allocate(
                    byteCount: max(Int(header.payloadBytes), 1), alignment: 16)
                arriving = Arriving(header: header, place: .own(memory))
            case .discard:
                arriving = Arriving(header: header, place: .nowhere)
            case .violation(let reason):
                link.fail("it broke the protocol: \(reason)")
                return false
            }
        }
    }

    private func takePayloadFromBuffer() {
        guard let current = arriving else { return }
        let count = min(current.missing, bufferEnd - bufferStart)
        guard count > 0 else { return }
        switch current.place {
        case .lent(let memory, _, _), .own(let memory):
            (memory + current.filled).copyMemory(from: buffer + bufferStart, byteCount: count)
        case .nowhere: break
        }
        bufferStart += count
        arriving?.filled += count
    }

    private func deliver(_ frame: Arriving) {
        switch frame.place {
        case .lent(_, _, let token):
            link.received(frame.header, token: token)
        case .own(let memory):
            let payload = [UInt8](UnsafeRawBufferPointer(start: memory, count: Int(frame.header.payloadBytes)))
            memory.deallocate()
            link.received(frame.header, payload: payload)
        case .nowhere: break
        }
    }

    // MARK: writing

    func writeIfIdle() { if !waitsForRoom, poll != nil { write() } }

    private func write() {
        var budget = Stripe.bytesPerTurn
        while budget > 0 {
            guard poll != nil else { return }
            if segment == nil, smallSent == small.count { takeWork() }
            if segment == nil, smallSent == small.count {
                waitsForRoom = false
                poll?.watch(.read)
                return
            }
            let (count, wanted) = writeOnce()
            if count >= 0 {
                link.lastSent = loop.now
                budget -= count
                account(count)
                if count < wanted { break }
            } else if errno == EAGAIN || errno == EWOULDBLOCK {
                break
            } else if errno != EINTR {
                return link.fail(SystemError(doing: "writing").description)
            }
        }
        waitsForRoom = true
        poll?.watch([.read, .write])
    }

    private func takeWork() {
        small = link.smallFrames
        smallSent = 0
        link.smallFrames = []
        if isFirst {
            small = link.orderedFrames + small
            link.orderedFrames = []
        }
        guard let next = link.nextSegment() else { return }
        segment = next
        segmentSent = 0
        next.header.store(to: headerBytes)
    }

    private func writeOnce() -> (count: Int, wanted: Int) {
        small.withUnsafeMutableBytes { small in
            var vectors = (iovec(), iovec(), iovec())
            var wanted = small.count - smallSent
            if wanted > 0 { vectors.0 = iovec(iov_base: small.baseAddress.map { $0 + smallSent }, iov_len: wanted) }
            if let segment {
                let headerLeft = max(FrameHeader.byteCount - segmentSent, 0)
                let payloadSent = max(segmentSent - FrameHeader.byteCount, 0)
                let payloadLeft = Int(segment.header.payloadBytes) - payloadSent
                vectors.1 = iovec(
                    iov_base: headerBytes + (FrameHeader.byteCount - headerLeft), iov_len: headerLeft)
                vectors.2 = iovec(
                    iov_base: UnsafeMutableRawPointer(mutating: segment.payload + payloadSent), iov_len: payloadLeft)
                wanted += headerLeft + payloadLeft
            }
            let count = withUnsafeMutablePointer(to: &vectors) {
                $0.withMemoryRebound(to: iovec.self, capacity: 3) { vectors in
                    var message = msghdr()
                    message.msg_iov = vectors
                    message.msg_iovlen = 3
                    return sendmsg(socket.descriptor, &message, CInt(MSG_NOSIGNAL))
                }
            }
            return (count, wanted)
        }
    }

    private func account(_ count: Int) {
        let ofSmall = min(count, small.count - smallSent)
        smallSent += ofSmall
        if smallSent == small.count {
            small = []
            smallSent = 0
        }
        guard let current = segment else { return }
        segmentSent += count - ofSmall
        guard segmentSent == FrameHeader.byteCount + Int(current.header.payloadBytes) else { return }
        segment = nil
        if let orphan {
            orphan.deallocate()
            self.orphan = nil
        } else {
            link.sent(current)
        }
    }
}
