import Glibc
import PCCLBase
import PCCLCompute
import PCCLWire

/// One connection of a link.
final class Stripe {
    let number: UInt16
    private let channel: Channel
    private unowned let link: Link
    private let loop: EventLoop
    private var poll: Poll?
    /// Both ends have the same address.
    let isWithinHost: Bool

    // Reading: headers and small payloads come through `buffer`; a placed payload is read to its place, with the bytes
    // after it into the buffer in the same call.
    private let buffer: UnsafeMutableRawPointer
    private var bufferStart = 0
    private var bufferEnd = 0
    private var arriving: Arriving?
    private var receivedFrames: UInt64 = 0
    private var acknowledgedToPeer: UInt64 = 0
    /// Taken in and not acknowledged to the peer.
    private(set) var unacknowledgedBytes = 0

    // Writing: small frames first, then at most one segment.
    private var small: [UInt8] = []
    private var smallSent = 0
    private var segment: OutgoingSegment?
    /// Of the segment: its header, for an offer the address too, and their checksum.
    private let headerBytes: UnsafeMutableRawPointer
    private var headerCount = 0
    private var payloadCount = 0
    private var segmentSent = 0
    /// Of the payload up to `summedCount`; behind all of it goes `trailer`.
    private var sum = CRC32C()
    private var summedCount = 0
    private let trailer: UnsafeMutableRawPointer
    private var trailerCount = 0
    /// A copy of the segment's payload, once its owner wanted the memory back.
    private var orphan: UnsafeMutableRawPointer?
    private(set) var waitsForRoom = false

    // Written, wholly or in part, and not acknowledged by the peer; the oldest first.
    private var retained = FrameQueue()
    private var takenFrames: UInt64 = 0
    private var acknowledgedFrames: UInt64 = 0
    /// When the peer, or its kernel, last acknowledged something, or something went out while nothing was under way.
    private(set) var lastProgress: Instant
    /// At the peer's kernel, when it was last asked for.
    private var arrivedBytes: UInt64 = 0

    private struct Arriving {
        var header: FrameHeader
        var place: ArrivalPlace
        var filled = 0
        var sum = CRC32C()
        var missing: Int { Int(header.payloadBytes) - filled }
    }

    static let closedByPeer = "the connection was closed"
    private static let damaged = "a checksum is wrong: what arrived was damaged on its way"
    private static let sumBytes = 4
    private static let bufferBytes = 16 << 10
    private static let bytesBehindPayload = 1 << 10
    /// Moved per turn and direction before the loop's other sockets have theirs.
    private static let bytesPerTurn = 2 << 20

    private let isSummed: Bool
    private let bytesPerWrite: Int
    /// Into a place, with one call.
    private let bytesPerRead: Int
    private var pace: Double?
    private var unsentLimit: Int
    private static let worthwhilePaceChange = 0.05

    init(_ loop: EventLoop, _ channel: Channel, _ link: Link, number: UInt16) {
        self.number = number
        self.loop = loop
        isWithinHost = channel.socket.isWithinHost
        unsentLimit = link.configuration.unsentBytes
        isSummed = link.isSummed
        bytesPerRead = isSummed ? link.configuration.summedBytesAtOnce : .max
        bytesPerWrite = isWithinHost ? link.configuration.bytesPerLocalWrite : bytesPerRead
        self.channel = channel
        self.link = link
        lastProgress = loop.now
        buffer = .allocate(byteCount: Stripe.bufferBytes, alignment: 64)
        headerBytes = .allocate(
            byteCount: FrameHeader.byteCount + FrameHeader.addressBytes + Stripe.sumBytes, alignment: 8)
        trailer = .allocate(byteCount: Stripe.sumBytes, alignment: 8)
    }

    deinit {
        buffer.deallocate()
        headerBytes.deallocate()
        trailer.deallocate()
        orphan?.deallocate()
        arriving?.place.free()
    }

    var descriptor: CInt { channel.descriptor }
    var remoteHost: SocketAddress.Host? { channel.socket.remoteAddress?.host }

    func start() {
        poll = Poll(loop, descriptor: channel.descriptor) { [unowned self] ready in
            withExtendedLifetime((link, self)) {
                if ready.contains(.read) { read() }
                if ready.contains(.write), poll != nil { write() }
            }
        }
        guard poll != nil else { return link.fail("a stripe cannot be watched") }
        poll?.watch(.read)
        readLaterIfBuffered()
    }

    func close() {
        guard poll != nil else { return }
        poll?.close()
        poll = nil
        // The peer must learn of it now, not when the last reference goes.
        shutdown(channel.descriptor, CInt(SHUT_RDWR))
    }

    func fail(_ reason: String) {
        guard poll != nil else { return }
        link.stripeFailed(self, reason)
    }

    func abandon(_ owner: LaunchNumber) {
        if case .lent(_, owner, _)? = arriving?.place { arriving?.place = .nowhere }
        retained.release(owner)
        guard let outgoing = segment, outgoing.owner == owner, orphan == nil, payloadCount > 0 else { return }
        let copy = UnsafeMutableRawPointer.allocate(byteCount: payloadCount, alignment: 64)
        copy.copyMemory(from: outgoing.payload, byteCount: payloadCount)
        orphan = copy
        segment?.payload = UnsafeRawPointer(copy)
    }

    /// What the kernel knows of the connection. What it says has arrived is progress, too: a frame may take many round
    /// trips while a connection starts.
    func takeFigures() -> TCPFigures? {
        guard let figures = channel.socket.tcpFigures else { return nil }
        if figures.acknowledgedBytes > arrivedBytes {
            arrivedBytes = figures.acknowledgedBytes
            lastProgress = loop.now
        }
        return figures
    }

    /// What may lie in the socket and not be sent yet.
    func limit(unsentBytes: Int) {
        guard abs(unsentBytes - unsentLimit) * 4 > unsentLimit else { return }
        unsentLimit = unsentBytes
        channel.socket.limit(unsentBytes: unsentBytes)
    }

    /// However much its congestion control would allow.
    func limit(bytesPerSecond rate: Double?) {
        if let rate, let pace, abs(rate - pace) < pace * Stripe.worthwhilePaceChange { return }
        guard rate != pace else { return }
        pace = rate
        channel.socket.limit(bytesPerSecond: rate.map { UInt64($0) } ?? .max)
    }

    // MARK: what is under way

    var hasRetained: Bool { !retained.isEmpty }
    var isArriving: Bool { arriving != nil }
    var owesAcknowledgement: Bool { receivedFrames > acknowledgedToPeer }

    /// What was said of it may have been lost with another stripe.
    func repeatAcknowledgement() { acknowledgedToPeer = 0 }

    func takeAcknowledgement() -> UInt64 {
        acknowledgedToPeer = receivedFrames
        unacknowledgedBytes = 0
        return receivedFrames
    }

    /// All that the peer may not have, for other stripes to send. For a stripe that is given up.
    func takeRetained() -> [RetainedFrames] {
        defer { retained = FrameQueue() }
        return retained.all
    }

    /// The peer has taken in so many numbered frames of this stripe. False if it cannot have.
    func acknowledged(upTo count: UInt64) -> Bool {
        // Of a batch that is half written the peer may have the first frames already; of a segment it cannot.
        guard count <= takenFrames - (segment == nil ? 0 : 1) else { return false }
        guard count > acknowledgedFrames else { return true }
        acknowledgedFrames = count
        let now = loop.now
        lastProgress = now
        for frames in retained.remove(upTo: count) { link.noteAcknowledged(frames, at: now) }
        return true
    }

    /// What was arriving when the stripe broke, if it had a place: the same frame may be arriving elsewhere, and have it.
    func severArrival() -> (serial: UInt64, place: ArrivalPlace)? {
        guard let current = arriving, current.header.kind.isNumbered else { return nil }
        arriving = nil
        if case .nowhere = current.place { return nil }
        return (current.header.serial, current.place)
    }

    /// Another stripe brings the same frame, from its beginning: the place it is to take over, if it is here.
    func giveUpArrival(of serial: UInt64) -> ArrivalPlace? {
        guard let current = arriving, current.header.serial == serial, current.header.kind.isNumbered else {
            return nil
        }
        arriving?.place = .nowhere
        if case .nowhere = current.place { return nil }
        return current.place
    }

    // MARK: reading

    private func read() {
        var budget = Stripe.bytesPerTurn
        while budget > 0, poll != nil {
            let (transfer, wanted) = readOnce()
            switch transfer {
            case .bytes(let count):
                link.lastReceived = loop.now
                budget -= count
                guard digest(&budget) else { return }
                if count < wanted { return }  // The socket is empty: another call would only say so.
            case .again: return
            case .ended: return fail(Stripe.closedByPeer)
            case .failed(let reason): return fail(reason)
            }
        }
        readLaterIfBuffered()
    }

    /// What TLS has taken out of the socket, the socket does not tell of.
    private func readLaterIfBuffered() {
        guard channel.hasBuffered else { return }
        loop.inNextTurn { [weak self] in
            guard let self, poll != nil else { return }
            withExtendedLifetime((link, self)) { read() }
        }
    }

    /// One system call. Bytes of a placed payload are accounted for here; the rest lies in the buffer.
    private func readOnce() -> (transfer: Channel.Transfer, wanted: Int) {
        if bufferStart == bufferEnd {
            bufferStart = 0
            bufferEnd = 0
        } else if bufferEnd == Stripe.bufferBytes {
            buffer.copyMemory(from: buffer + bufferStart, byteCount: bufferEnd - bufferStart)
            bufferEnd -= bufferStart
            bufferStart = 0
        }
        var vectors = (iovec(), iovec())
        var payloadRoom = 0
        var room = Stripe.bufferBytes
        switch arriving?.place {
        case .lent(let memory, _, _)?, .own(let memory)?:
            payloadRoom = min(arriving?.missing ?? 0, bytesPerRead)
            vectors.0 = iovec(iov_base: memory + (arriving?.filled ?? 0), iov_len: payloadRoom)
            // Behind a payload only the next headers are wanted: what else comes through the buffer is copied once more.
            if payloadRoom == arriving?.missing {
                room = payloadRoom > 0 ? Stripe.bytesBehindPayload : room
            } else {
                room = 0
            }
        // What is thrown away comes through the buffer, too.
        case .nowhere?, nil: break
        }
        room = min(room, Stripe.bufferBytes - bufferEnd)
        vectors.1 = iovec(iov_base: buffer + bufferEnd, iov_len: room)
        let transfer = channel.read(into: vectors)
        if case .bytes(let count) = transfer {
            let placed = min(count, payloadRoom)
            if isSummed, placed > 0 {
                arriving?.sum.add(UnsafeRawBufferPointer(start: vectors.0.iov_base, count: placed))
            }
            arriving?.filled += placed
            bufferEnd += count - placed
        }
        return (transfer, payloadRoom + room)
    }

    /// Takes apart what lies in the buffer. False when the stripe or the link broke.
    private func digest(_ budget: inout Int) -> Bool {
        while true {
            if arriving != nil {
                takePayloadFromBuffer()
                guard let current = arriving, current.missing == 0 else { return true }
                if isSummed, current.header.payloadBytes > 0 {
                    guard bufferEnd - bufferStart >= Stripe.sumBytes else { return true }
                    guard takeSum() == current.sum.value else {
                        failDamaged()
                        return false
                    }
                }
                arriving = nil
                complete(current.header, current.place)
                if poll == nil { return false }
            }
            guard bufferEnd - bufferStart >= FrameHeader.byteCount else { return true }
            if isSummed {
                guard let isWhole = isHeaderWhole else { return true }
                guard isWhole else {
                    failDamaged()
                    return false
                }
            }
            let header: FrameHeader
            do {
                header = try FrameHeader(buffer + bufferStart)
            } catch {
                link.fail("it sent what is no frame: \(error)")
                return false
            }
            var address: UInt64 = 0
            if header.kind == .offer {
                let whole = FrameHeader.byteCount + FrameHeader.addressBytes
                guard bufferEnd - bufferStart >= whole else { return true }
                address = UInt64(
                    littleEndian: (buffer + bufferStart).loadUnaligned(
                        fromByteOffset: FrameHeader.byteCount, as: UInt64.self))
                bufferStart += FrameHeader.addressBytes
            }
            bufferStart += FrameHeader.byteCount + (isSummed ? Stripe.sumBytes : 0)
            switch link.arrival(of: header, on: self) {
            case .place(let place):
                guard header.kind == .offer else {
                    arriving = Arriving(header: header, place: place)
                    continue
                }
                budget -= Int(header.payloadBytes)
                guard fetch(header, address, place) else { return false }
            case .violation(let reason):
                link.fail("it broke the protocol: \(reason)")
                return false
            }
        }
    }

    /// Whether the header that lies in the buffer, and the address behind it, are as they were sent; nil while their checksum
    /// is not there. Nothing of it may be believed before: it says where a payload goes.
    private var isHeaderWhole: Bool? {
        let kind = (buffer + bufferStart).load(fromByteOffset: FrameHeader.kindOffset, as: UInt8.self)
        let count = FrameHeader.byteCount + (kind == FrameHeader.Kind.offer.rawValue ? FrameHeader.addressBytes : 0)
        guard bufferEnd - bufferStart >= count + Stripe.sumBytes else { return nil }
        let sum = (buffer + bufferStart).loadUnaligned(fromByteOffset: count, as: UInt32.self)
        return CRC32C(UnsafeRawBufferPointer(start: buffer + bufferStart, count: count)).value
            == UInt32(littleEndian: sum)
    }

    private func failDamaged() {
        Log.write(.warning, "\(link.peer): \(Stripe.damaged)")
        fail(Stripe.damaged)
    }

    private func takeSum() -> UInt32 {
        defer { bufferStart += Stripe.sumBytes }
        return UInt32(littleEndian: (buffer + bufferStart).loadUnaligned(as: UInt32.self))
    }

    /// Fetches what was offered. False when the stripe or the link broke.
    private func fetch(_ header: FrameHeader, _ address: UInt64, _ place: ArrivalPlace) -> Bool {
        let target: UnsafeMutableRawPointer
        switch place {
        case .lent(let memory, _, _), .own(let memory): target = memory
        case .nowhere:
            complete(header, place)
            return poll != nil
        }
        switch link.fetch(address, into: target, byteCount: Int(header.payloadBytes)) {
        case .done:
            complete(header, place)
        case .gone:
            Log.write(.debug, "\(link.peer) took back what it had offered")
            place.free()
            complete(header, .nowhere)
        case .closed:
            place.free()
            link.fail(Stripe.closedByPeer)
        case .violation(let reason):
            place.free()
            link.fail("it broke the protocol: \(reason)")
        }
        return poll != nil
    }

    private func complete(_ header: FrameHeader, _ place: ArrivalPlace) {
        if header.kind.isNumbered {
            receivedFrames += 1
            unacknowledgedBytes += Int(header.payloadBytes)
            link.noteArrival(on: self)
        }
        link.deliver(header, place)
    }

    private func takePayloadFromBuffer() {
        guard let current = arriving else { return }
        let count = min(current.missing, bufferEnd - bufferStart)
        guard count > 0 else { return }
        let part = UnsafeRawBufferPointer(start: buffer + bufferStart, count: count)
        switch current.place {
        case .lent(let memory, _, _), .own(let memory):
            if isSummed {
                arriving?.sum.add(part, copyingTo: memory + current.filled)
            } else {
                (memory + current.filled).copyMemory(from: buffer + bufferStart, byteCount: count)
            }
        case .nowhere:
            if isSummed { arriving?.sum.add(part) }
        }
        bufferStart += count
        arriving?.filled += count
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
            let (transfer, wanted) = writeOnce()
            if case .bytes(let count) = transfer {
                link.lastSent = loop.now
                budget -= count
                account(count)
                if count < wanted { break }
            } else if case .failed(let reason) = transfer {
                return fail(reason)
            } else {
                break
            }
        }
        waitsForRoom = true
        poll?.watch([.read, .write])
    }

    private func takeWork() {
        let work = link.takeWork(for: self)
        small = work.bytes
        smallSent = 0
        if !work.retained.isEmpty {
            if retained.isEmpty { lastProgress = loop.now }
            for frames in work.retained {
                retained.append(frames)
                takenFrames += UInt64(frames.count)
            }
            link.keepWatching()
        }
        guard var next = work.segment else { return }
        segmentSent = 0
        payloadCount = Int(next.header.payloadBytes)
        headerCount = FrameHeader.byteCount
        if link.offers(next) {
            next.header.kind = .offer
            let address = UInt64(UInt(bitPattern: next.payload))
            headerBytes.storeBytes(of: address.littleEndian, toByteOffset: FrameHeader.byteCount, as: UInt64.self)
            headerCount += FrameHeader.addressBytes
            payloadCount = 0
        }
        next.header.store(to: headerBytes)
        (sum, summedCount, trailerCount) = (CRC32C(), 0, 0)
        if isSummed {
            let header = UnsafeRawBufferPointer(start: headerBytes, count: headerCount)
            headerBytes.storeBytes(
                of: CRC32C(header).value.littleEndian, toByteOffset: headerCount, as: UInt32.self)
            headerCount += Stripe.sumBytes
            trailerCount = payloadCount > 0 ? Stripe.sumBytes : 0
        }
        segment = next
    }

    /// The payload up to there, once, just before it is written.
    private func addToSum(_ payload: UnsafeRawPointer, upTo end: Int) {
        guard isSummed, end > summedCount else { return }
        sum.add(UnsafeRawBufferPointer(start: payload + summedCount, count: end - summedCount))
        summedCount = end
        trailer.storeBytes(of: sum.value.littleEndian, as: UInt32.self)
    }

    private func writeOnce() -> (transfer: Channel.Transfer, wanted: Int) {
        small.withUnsafeMutableBytes { small in
            var vectors = (iovec(), iovec(), iovec(), iovec())
            var wanted = small.count - smallSent
            if wanted > 0 { vectors.0 = iovec(iov_base: small.baseAddress.map { $0 + smallSent }, iov_len: wanted) }
            if let segment {
                let headerLeft = max(headerCount - segmentSent, 0)
                let payloadSent = min(max(segmentSent - headerCount, 0), payloadCount)
                let payloadLeft = min(payloadCount - payloadSent, bytesPerWrite)
                vectors.1 = iovec(iov_base: headerBytes + (headerCount - headerLeft), iov_len: headerLeft)
                if payloadLeft > 0 {
                    addToSum(segment.payload, upTo: payloadSent + payloadLeft)
                    vectors.2 = iovec(
                        iov_base: UnsafeMutableRawPointer(mutating: segment.payload + payloadSent),
                        iov_len: payloadLeft)
                }
                wanted += headerLeft + payloadLeft
                if trailerCount > 0, payloadSent + payloadLeft == payloadCount {
                    let trailerSent = max(segmentSent - headerCount - payloadCount, 0)
                    vectors.3 = iovec(iov_base: trailer + trailerSent, iov_len: trailerCount - trailerSent)
                    wanted += trailerCount - trailerSent
                }
            }
            return (channel.write(vectors), wanted)
        }
    }

    private func account(_ count: Int) {
        let ofSmall = min(count, small.count - smallSent)
        smallSent += ofSmall
        if smallSent == small.count {
            small = []
            smallSent = 0
        }
        guard segment != nil else { return }
        segmentSent += count - ofSmall
        guard segmentSent == headerCount + payloadCount + trailerCount else { return }
        segment = nil
        orphan?.deallocate()
        orphan = nil
    }
}
