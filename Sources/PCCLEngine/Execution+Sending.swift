import PCCLBase
import PCCLTransport
import PCCLWire

/// A segment, or a part of one, that leaves.
struct Departing {
    var header: FrameHeader
    var payload: UnsafeRawPointer
    /// Where the payload lies, if that is staging: to be held until it has left.
    var piece: StagedPiece?
    /// Of a sum, whose leaving makes room for more of what it was made of.
    var pacedElements: Int
    var isEager: Bool
}

extension Execution {
    /// The next segment for a rank, or a part of one that has at most `limit` bytes; nil when nothing is ready or allowed.
    /// `eagerBytesLeft` is what may yet be sent over this link, for all operations, to a peer that has not entered.
    ///
    /// Over a short way results leave first: they are in cache, and what leaves the pipe makes room in it. Over a long way
    /// contributions do (`isFarAway`): the last of them has a whole round trip before it until its result is back, and
    /// results can fill the link meanwhile.
    func nextSegment(
        to rank: Int, limit: Int, isFarAway: Bool, eagerBytesLeft: Int, configuration: EngineConfiguration
    ) -> Departing? {
        let peer = peers[rank]
        // Streams lie with results before inputs.
        let count = outgoing[rank].count
        for n in 0..<count {
            let i = isFarAway ? count - 1 - n : n
            guard outgoing[rank][i].hasReady, hasNext(outgoing[rank][i]) else { continue }
            let elements = outgoing[rank][i].next(limit: limit)
            let bytes = outgoing[rank][i].layout.byteCount(elements.count)
            if peer.hasEntered {
                switch outgoing[rank][i].source {
                case .result: break
                case .input, .partial:
                    let allowed = max(outgoing[rank][i].creditBytes, peer.windowBytes)
                    guard outgoing[rank][i].startedBytes + bytes <= allowed else { continue }
                }
            } else {
                let allowed = configuration.eagerBytes(isFarAway: isFarAway, worldSize: place.worldSize)
                guard outgoing[rank][i].isContribution, peer.eagerBytes + bytes <= allowed, bytes <= eagerBytesLeft
                else { continue }
                peers[rank].eagerBytes += bytes
            }
            guard code(&outgoing[rank][i]) else { return nil }
            let (piece, offsetInPiece) = outgoing[rank][i].take(elements)
            if lent.coding != nil, outgoing[rank][i].source == .input { coded.leave(bytes) }
            let stream = outgoing[rank][i]
            let offset = offset(chunk: stream.chunk, elements: elements)
            let payload: UnsafeRawPointer =
                if let piece {
                    UnsafeRawPointer(piece.base) + offsetInPiece
                } else {
                    stream.source == .input ? buffers.send + offset : UnsafeRawPointer(buffers.receive + offset)
                }
            if stream.isDone { outgoing[rank].remove(at: i) }
            traffic.sentBytes += UInt64(bytes)
            let header = FrameHeader(
                kind: .data, phase: stream.phase, chunk: UInt16(stream.chunk), epoch: place.epoch, launch: launch,
                tag: tag, offset: UInt64(stream.layout.byteCount(elements.lowerBound)), payloadBytes: UInt32(bytes))
            return Departing(
                header: header, payload: payload, piece: piece,
                pacedElements: stream.source == .partial ? elements.count : 0, isEager: !peer.hasEntered)
        }
        return nil
    }

    /// Of an input that comes from a device: whether its next segment is there.
    private func hasNext(_ stream: OutgoingStream) -> Bool {
        stream.source != .input || hasInput(stream.chunk, stream.nextInOrder)
    }

    /// The receiver allows more of a stream.
    func grant(_ bytes: UInt64, chunk: Int, to rank: Int) {
        for i in outgoing[rank].indices
        where outgoing[rank][i].chunk == chunk && outgoing[rank][i].source != .result {
            outgoing[rank][i].creditBytes = max(outgoing[rank][i].creditBytes, Int(clamping: bytes))
        }
    }

    var hasSentAll: [Bool] { outgoing.map(\.isEmpty) }
}
