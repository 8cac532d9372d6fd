import PCCLBase
import PCCLTransport
import PCCLWire

extension Execution {
    /// The next segment for a rank, or a part of one that has at most `limit` bytes; nil when nothing is ready or allowed.
    /// `eagerBytesLeft` is what may yet be sent over this link, for all operations, to a peer that has not entered.
    ///
    /// Over a short way results leave first: they are in cache, and what leaves the pipe makes room in it. Over a long way
    /// contributions do (`isFarAway`): the last of them has a whole round trip before it until its result is back, and
    /// results can fill the link meanwhile.
    func nextSegment(
        to rank: Int, limit: Int, isFarAway: Bool, eagerBytesLeft: Int, configuration: EngineConfiguration
    ) -> (header: FrameHeader, payload: UnsafeRawPointer, piece: StagedPiece?, isEager: Bool)? {
        let peer = peers[rank]
        // Streams lie with results before inputs.
        let count = outgoing[rank].count
        for n in 0..<count {
            let i = isFarAway ? count - 1 - n : n
            guard outgoing[rank][i].hasReady else { continue }
            let elements = outgoing[rank][i].next(limit: limit)
            let bytes = elements.count * outgoing[rank][i].unitBytes
            if peer.hasEntered {
                switch outgoing[rank][i].source {
                case .result: break
                case .input, .partial:
                    let allowed = max(outgoing[rank][i].creditBytes, peer.windowBytes)
                    guard outgoing[rank][i].startedBytes + bytes <= allowed else { continue }
                }
            } else {
                let allowed = configuration.eagerBytes(isFarAway: isFarAway, worldSize: place.worldSize)
                guard outgoing[rank][i].source != .result, peer.eagerBytes + bytes <= allowed, bytes <= eagerBytesLeft
                else { continue }
                peers[rank].eagerBytes += bytes
            }
            let (piece, offsetInPiece) = outgoing[rank][i].take(elements)
            let stream = outgoing[rank][i]
            let offset = offset(chunk: stream.chunk, elements: elements)
            let payload: UnsafeRawPointer =
                switch stream.source {
                case .input: buffers.send + offset
                case .result: UnsafeRawPointer(buffers.receive + offset)
                case .partial: UnsafeRawPointer(piece?.base ?? buffers.receive) + offsetInPiece
                }
            if stream.isDone { outgoing[rank].remove(at: i) }
            traffic.sentBytes += UInt64(bytes)
            let header = FrameHeader(
                kind: .data, phase: stream.phase, chunk: UInt16(stream.chunk), epoch: place.epoch, launch: launch,
                tag: tag, offset: UInt64(elements.lowerBound * stream.unitBytes), payloadBytes: UInt32(bytes))
            return (header, payload, piece, !peer.hasEntered)
        }
        return nil
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
