import PCCLBase
import PCCLCompute
import PCCLTransport
import PCCLWire

/// Gives others what the lent tensors hold, as they ask for it.
///
/// A chunk goes out from where it lies, or compressed where that pays: see `CompressionChoice`.
final class StateServer {
    private struct Body {
        var request: Tag
        var entry: Int
        /// Nil: it is fetched from a device when its turn comes.
        var payload: UnsafeRawPointer?
        /// Of the entry, if the payload is one.
        var chunk: Int?
        var byteCount: Int
        var sentBytes = 0
        /// Where the payload lies, if that is our staging.
        var piece: StagedPiece?
        /// Of an entry, as it is, and not begun: it may be compressed yet.
        var isRaw = false
        var isCompressed = false
    }

    /// What a peer may have asked for and not been given: more than any window of requests.
    private static let requestLimit = 4096

    private let memory: StateMemory
    /// In whose name memory is lent to links.
    let owner: LaunchNumber
    private let loop: EventLoop
    private let pool: StagingPool
    private let zstd = Zstd()
    private let compression: StateConfiguration.Compression
    private var choices: [PeerID: CompressionChoice] = [:]
    /// By entry: the hashes of its chunks, the same for all who ask.
    private var hashLists: [Int: StagedPiece] = [:]
    private var bodies: [PeerID: [Body]] = [:]
    private struct Departure {
        var piece: StagedPiece
        /// What travels is the entry's own bytes, so that the time they take says what compressing them would save.
        var isPlain: Bool
    }
    /// Staging on its way out, by token.
    private var departures: [Int: Departure] = [:]
    private(set) var sentBytes: UInt64 = 0

    init(
        _ loop: EventLoop, _ memory: StateMemory, owner: LaunchNumber, pool: StagingPool,
        compression: StateConfiguration.Compression
    ) {
        self.compression = compression
        self.loop = loop
        self.memory = memory
        self.owner = owner
        self.pool = pool
    }

    /// False if it is not here.
    func take(_ request: StateRequest, _ tag: Tag, from peer: PeerID) -> Bool {
        guard memory.tensors.indices.contains(request.entry), memory.tensors[request.entry].hash == request.hash,
            bodies[peer]?.count ?? 0 < StateServer.requestLimit
        else { return false }
        let tensor = memory.tensors[request.entry]
        switch request.part {
        case .chunk(let chunk):
            guard tensor.chunks.indices.contains(chunk), tensor.byteCount > 0 else { return false }
            let range = tensor.range(ofChunk: chunk)
            var payload: UnsafeRawPointer?
            if case .host(let base) = tensor.place { payload = base.map { UnsafeRawPointer($0) + range.lowerBound } }
            bodies[peer, default: []].append(
                Body(
                    request: tag, entry: request.entry, payload: payload, chunk: chunk, byteCount: range.count,
                    isRaw: true))
        case .hashes:
            guard let piece = hashList(request.entry) else { return false }
            bodies[peer, default: []].append(
                Body(
                    request: tag, entry: request.entry, payload: UnsafeRawPointer(piece.base),
                    byteCount: tensor.chunks.count * ContentHash.byteCount, piece: piece))
        }
        return true
    }

    private func hashList(_ entry: Int) -> StagedPiece? {
        if let list = hashLists[entry] { return list }
        let bytes = StateRequest.bytes(ofHashes: memory.tensors[entry].chunks)
        guard let piece = StagedPiece(pool, byteCount: bytes.count) else { return nil }
        bytes.withUnsafeBytes {
            if let from = $0.baseAddress { piece.base.copyMemory(from: from, byteCount: $0.count) }
        }
        hashLists[entry] = piece
        return piece
    }

    /// The entry is about to be overwritten.
    func withdraw(_ entry: Int) {
        hashLists[entry] = nil
        for peer in bodies.keys { bodies[peer]?.removeAll { $0.entry == entry } }
    }

    func forget(_ peer: PeerID) { bodies[peer] = nil }

    /// Requests are answered in their order: what is complete at the other end is of use there.
    func nextSegment(for link: Link, limit: Int, token: () -> Int) -> OutgoingSegment? {
        let peer = link.peer
        guard var body = bodies[peer]?.first else { return nil }
        while body.payload == nil, !fetch(&body) {
            // Who waits for it asks another one.
            withdraw(body.entry)
            guard let next = bodies[peer]?.first else { return nil }
            body = next
        }
        if body.isRaw, !link.peerFetches { compress(&body, for: peer) }
        body.isRaw = false
        let count = min(limit, body.byteCount - body.sentBytes)
        let header = FrameHeader(
            kind: .data, phase: .state, epoch: .none, launch: LaunchNumber(UInt32(clamping: body.byteCount)),
            tag: body.request,
            offset: UInt64(body.sentBytes), payloadBytes: UInt32(count))
        guard let payload = body.payload.map({ $0 + body.sentBytes }) else { return nil }
        body.sentBytes += count
        sentBytes += UInt64(count)
        if body.sentBytes == body.byteCount { bodies[peer]?.removeFirst() } else { bodies[peer]?[0] = body }
        var number = 0
        if let piece = body.piece {
            number = token()
            departures[number] = Departure(piece: piece, isPlain: body.chunk != nil && !body.isCompressed)
        }
        return OutgoingSegment(
            header: header, payload: payload, owner: owner, token: number, isLent: body.piece == nil)
    }

    func bytesLeft(for peer: PeerID) -> Int {
        bodies[peer]?.reduce(0) { $0 + $1.byteCount - $1.sentBytes } ?? 0
    }

    func sent(_ segment: OutgoingSegment, to peer: PeerID) {
        guard departures.removeValue(forKey: segment.token)?.isPlain ?? true else { return }
        choices[peer, default: CompressionChoice()].noteDelivered(Int(segment.header.payloadBytes), at: loop.now)
    }

    private func fetch(_ body: inout Body) -> Bool {
        guard case .device(let tensor) = memory.tensors[body.entry].place, let chunk = body.chunk,
            let piece = StagedPiece(pool, byteCount: body.byteCount),
            memory.read(chunk, of: tensor, body.entry, into: piece.base)
        else { return false }
        body.piece = piece
        body.payload = UnsafeRawPointer(piece.base)
        return true
    }

    private func compress(_ body: inout Body, for peer: PeerID) {
        let room = Int(Double(body.byteCount) * CompressionChoice.worthwhile)
        let isToTry =
            switch compression {
            case .never: false
            case .whereItPays: choices[peer]?.isToTry(body.entry) ?? false
            case .always: true
            }
        guard room > 0, isToTry, let piece = StagedPiece(pool, byteCount: room)
        else { return }
        let start = EventLoop.now
        let size = zstd.compress(
            UnsafeRawBufferPointer(start: body.payload, count: body.byteCount),
            into: UnsafeMutableRawBufferPointer(start: piece.base, count: room))
        choices[peer]?.noteTried(
            body.entry, bytes: body.byteCount, nanoseconds: (EventLoop.now - start).nanoseconds,
            isWorthwhile: size != nil)
        guard let size else { return }
        body.piece = piece
        body.payload = UnsafeRawPointer(piece.base)
        body.byteCount = size
        body.isCompressed = true
    }
}
