import PCCLBase
import PCCLCompute
import PCCLTransport
import PCCLWire

/// Gives others what the lent tensors hold, as they ask for it.
///
/// A chunk goes out from where it lies: it is not copied, and its memory stays the caller's.
final class StateServer {
    private struct Body {
        var request: Tag
        var entry: Int
        var payload: UnsafeRawPointer
        var byteCount: Int
        var sentBytes = 0
        /// Where the payload lies, if that is our staging.
        var piece: StagedPiece?
    }

    /// What a peer may have asked for and not been given: more than any window of requests.
    private static let requestLimit = 4096

    private let memory: StateMemory
    /// In whose name memory is lent to links.
    let owner: LaunchNumber
    private let pool: StagingPool
    private var bodies: [PeerID: [Body]] = [:]
    /// Staging on its way out, by token.
    private var departures: [Int: StagedPiece] = [:]
    private(set) var sentBytes: UInt64 = 0

    init(_ memory: StateMemory, owner: LaunchNumber, pool: StagingPool) {
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
            guard tensor.chunks.indices.contains(chunk) else { return false }
            let bytes = UnsafeRawBufferPointer(tensor.bytes(ofChunk: chunk))
            guard let base = bytes.baseAddress, bytes.count > 0 else { return false }
            bodies[peer, default: []].append(
                Body(request: tag, entry: request.entry, payload: base, byteCount: bytes.count))
        case .hashes:
            let bytes = StateRequest.bytes(ofHashes: tensor.chunks)
            guard let piece = StagedPiece(pool, byteCount: bytes.count) else { return false }
            bytes.withUnsafeBytes { piece.base.copyMemory(from: $0.baseAddress ?? UnsafeRawPointer(piece.base), byteCount: $0.count) }
            bodies[peer, default: []].append(
                Body(
                    request: tag, entry: request.entry, payload: UnsafeRawPointer(piece.base), byteCount: bytes.count,
                    piece: piece))
        }
        return true
    }

    /// The entry is about to be overwritten.
    func withdraw(_ entry: Int) {
        for peer in bodies.keys { bodies[peer]?.removeAll { $0.entry == entry && $0.piece == nil } }
    }

    func forget(_ peer: PeerID) { bodies[peer] = nil }

    /// Requests are answered in their order: what is complete at the other end is of use there.
    func nextSegment(for peer: PeerID, limit: Int, token: () -> Int) -> OutgoingSegment? {
        guard var body = bodies[peer]?.first else { return nil }
        let count = min(limit, body.byteCount - body.sentBytes)
        let header = FrameHeader(
            kind: .data, phase: .state, epoch: .none, launch: LaunchNumber(UInt32(clamping: body.byteCount)), tag: body.request,
            offset: UInt64(body.sentBytes), payloadBytes: UInt32(count))
        let payload = body.payload + body.sentBytes
        body.sentBytes += count
        sentBytes += UInt64(count)
        if body.sentBytes == body.byteCount { bodies[peer]?.removeFirst() } else { bodies[peer]?[0] = body }
        var number = 0
        if let piece = body.piece {
            number = token()
            departures[number] = piece
        }
        return OutgoingSegment(header: header, payload: payload, owner: owner, token: number)
    }

    func bytesLeft(for peer: PeerID) -> Int {
        bodies[peer]?.reduce(0) { $0 + $1.byteCount - $1.sentBytes } ?? 0
    }

    func sent(_ token: Int) { departures[token] = nil }
}
