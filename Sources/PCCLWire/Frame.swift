import PCCLBase

/// The 40 bytes before every payload between peers.
///
/// `launch` is the sender's launch number of the operation, except in `credit`, which speaks of the receiver's.
package struct FrameHeader: Hashable, Sendable {
    package enum Kind: UInt8, Sendable {
        /// The sender's caller has called. Payload: `Entry`.
        case enter = 1
        /// A piece of a chunk, for the receiver to reduce or to keep.
        case data = 2
        /// The receiver of this frame may send the named part of its operation up to `offset` bytes of the chunk.
        case credit = 3
        /// The sender holds the whole result.
        case prepared = 4
        /// The sender lives. Says nothing else.
        case idle = 5
        /// Of stripe `chunk`, the sender has taken in `offset` numbered frames. Says what need not be sent again.
        case acknowledge = 6
        /// Stands for a numbered frame that its sender does not want to send again.
        case void = 7
        /// As `data`, but `payloadBytes` bytes lie in the sender's memory, on the same host, for the receiver to fetch: only
        /// their address follows, in `addressBytes` bytes.
        case offer = 8
        /// The sender's memory may be fetched from by who shares its host. Payload: `LocalMemory`.
        case local = 9
        /// The sender can fetch from the receiver's memory, and wants offers.
        case fetching = 10
        /// Says nothing: its payload is there to see how fast it arrives, and is thrown away.
        case probe = 11
        /// The sender wants a part of a shared state. Payload: `StateRequest`; `tag` is the request's, and comes back.
        case stateRequest = 12
        /// What was asked for under this tag is not here.
        case stateLack = 13
        /// The sender has a window of device memory, and wants the receiver's. Payload: `WindowInvitation`.
        case window = 14
        /// How far the sender has come with an operation through windows. Payload: `WindowRounds`.
        case rounds = 15

        /// Numbered frames arrive once, whatever becomes of a stripe; the others are of use at once or never.
        package var isNumbered: Bool {
            switch self {
            case .enter, .data, .credit, .prepared, .void, .offer, .probe, .stateRequest, .stateLack, .window,
                .rounds:
                true
            case .idle, .acknowledge, .local, .fetching: false
            }
        }
    }
    /// In which part of a schedule a chunk travels.
    package enum Phase: UInt8, Sendable {
        case reduce = 0
        case gather = 1
        /// None: a piece of what was asked for with `stateRequest`. `tag` is the request's, `launch` the number of bytes that
        /// all pieces have together, and `offset` where among them this one begins. Fewer bytes than were asked for are a
        /// Zstandard frame of them.
        case state = 2
    }

    package static let byteCount = 40
    /// Where `kind` lies in it.
    package static let kindOffset = 4
    /// What follows the header of an `offer`.
    package static let addressBytes = 8

    package var payloadBytes: UInt32
    package var kind: Kind
    package var phase: Phase
    package var chunk: UInt16
    package var epoch: Epoch
    package var launch: LaunchNumber
    package var tag: Tag
    /// In bytes from the start of the chunk, counted in the units that travel (accumulators, where partial sums do).
    package var offset: UInt64
    /// Numbers the frames of a link in this direction, from 1, whichever stripe they take. 0 in those without a number.
    package var serial: UInt64

    package init(
        kind: Kind, phase: Phase = .reduce, chunk: UInt16 = 0, epoch: Epoch, launch: LaunchNumber, tag: Tag,
        offset: UInt64 = 0, payloadBytes: UInt32 = 0, serial: UInt64 = 0
    ) {
        self.serial = serial
        self.payloadBytes = payloadBytes
        self.kind = kind
        self.phase = phase
        self.chunk = chunk
        self.epoch = epoch
        self.launch = launch
        self.tag = tag
        self.offset = offset
    }

    /// Writes the header without taking memory; `to` has room for `byteCount` bytes.
    package func store(to: UnsafeMutableRawPointer) {
        to.storeBytes(of: payloadBytes.littleEndian, as: UInt32.self)
        to.storeBytes(of: kind.rawValue, toByteOffset: FrameHeader.kindOffset, as: UInt8.self)
        to.storeBytes(of: phase.rawValue, toByteOffset: 5, as: UInt8.self)
        to.storeBytes(of: chunk.littleEndian, toByteOffset: 6, as: UInt16.self)
        to.storeBytes(of: epoch.value.littleEndian, toByteOffset: 8, as: UInt32.self)
        to.storeBytes(of: launch.value.littleEndian, toByteOffset: 12, as: UInt32.self)
        to.storeBytes(of: tag.value.littleEndian, toByteOffset: 16, as: UInt64.self)
        to.storeBytes(of: offset.littleEndian, toByteOffset: 24, as: UInt64.self)
        to.storeBytes(of: serial.littleEndian, toByteOffset: 32, as: UInt64.self)
    }

    /// Reads a header of `byteCount` bytes that lie anywhere.
    package init(_ from: UnsafeRawPointer) throws(WireError) {
        payloadBytes = UInt32(littleEndian: from.loadUnaligned(as: UInt32.self))
        let kind = from.loadUnaligned(fromByteOffset: FrameHeader.kindOffset, as: UInt8.self)
        guard let kind = Kind(rawValue: kind) else { throw .unknownKind(kind) }
        let phase = from.loadUnaligned(fromByteOffset: 5, as: UInt8.self)
        guard let phase = Phase(rawValue: phase) else { throw .unknownValue(field: "phase", value: UInt64(phase)) }
        let limit = kind == .probe ? WireLimits.probePayloadBytes : WireLimits.framePayloadBytes
        guard payloadBytes <= limit else {
            throw .tooMany(field: "payload bytes", count: Int(payloadBytes), limit: limit)
        }
        self.kind = kind
        self.phase = phase
        chunk = UInt16(littleEndian: from.loadUnaligned(fromByteOffset: 6, as: UInt16.self))
        epoch = Epoch(UInt32(littleEndian: from.loadUnaligned(fromByteOffset: 8, as: UInt32.self)))
        launch = LaunchNumber(UInt32(littleEndian: from.loadUnaligned(fromByteOffset: 12, as: UInt32.self)))
        tag = Tag(UInt64(littleEndian: from.loadUnaligned(fromByteOffset: 16, as: UInt64.self)))
        offset = UInt64(littleEndian: from.loadUnaligned(fromByteOffset: 24, as: UInt64.self))
        serial = UInt64(littleEndian: from.loadUnaligned(fromByteOffset: 32, as: UInt64.self))
    }
}

/// The payload of an `enter` frame: what the sender's caller asked for, and how many bytes of each chunk that the sender
/// reduces it can hold before it has granted more.
package struct Entry: Hashable, Sendable {
    package static let byteCount = 31
    package var descriptor: OperationDescriptor
    package var windowBytes: UInt32
    /// The sender's part of its window of device memory that this operation may go through, by its offset, if it has all
    /// members' windows. It does go there if all members say so.
    package var region: UInt64?

    package init(descriptor: OperationDescriptor, windowBytes: UInt32, region: UInt64? = nil) {
        self.descriptor = descriptor
        self.windowBytes = windowBytes
        self.region = region
    }

    private static let noRegion = UInt64.max

    package var bytes: [UInt8] {
        var w = ByteWriter()
        w.write(descriptor)
        w.write(windowBytes)
        w.write(region ?? Entry.noRegion)
        return w.bytes
    }

    package init(_ bytes: [UInt8]) throws(WireError) {
        var r = ByteReader(bytes)
        descriptor = try r.readDescriptor()
        windowBytes = try r.read()
        let offset: UInt64 = try r.read()
        region = offset == Entry.noRegion ? nil : offset
        try r.finish()
    }
}

/// The payload of a `local` frame: where a peer of the same host finds a number that proves that it reads the memory of the
/// right process.
package struct LocalMemory: Hashable, Sendable {
    package static let byteCount = 28
    package var process: UInt32
    package var address: UInt64
    package var proof: (high: UInt64, low: UInt64) {
        get { (proofHigh, proofLow) }
        set { (proofHigh, proofLow) = newValue }
    }
    private var proofHigh: UInt64
    private var proofLow: UInt64

    package init(process: UInt32, address: UInt64, proof: (high: UInt64, low: UInt64)) {
        self.process = process
        self.address = address
        (proofHigh, proofLow) = proof
    }

    package var bytes: [UInt8] {
        var w = ByteWriter()
        w.write(process)
        w.write(address)
        w.write(proofHigh)
        w.write(proofLow)
        return w.bytes
    }

    package init(_ bytes: [UInt8]) throws(WireError) {
        var r = ByteReader(bytes)
        process = try r.read()
        address = try r.read()
        proofHigh = try r.read()
        proofLow = try r.read()
        try r.finish()
    }
}
