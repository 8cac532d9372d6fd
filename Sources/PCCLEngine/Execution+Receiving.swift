import PCCLBase
import PCCLCompute
import PCCLSchedule
import PCCLWire

/// What an arriving frame means to an operation, once checked: lengths and offsets come from a remote.
struct Arrival {
    enum Destination {
        case fold(operand: Int)
        case gather
    }
    var chunk: Int
    var segment: Int
    /// What has come: all of the segment, or a part of it. Counted from the start of the chunk.
    var elements: Range<Int>
    /// All of the segment.
    var whole: Range<Int>
    var destination: Destination
    var byteCount: Int
}

/// What became newly possible after a segment arrived.
struct FoldProgress {
    /// Ranks to which something became ready.
    var wakes: [Int] = []
    /// Credit that is due: (rank, chunk, bytes of the stream that may be sent).
    var grants: [(rank: Int, chunk: Int, bytes: Int)] = []
}

extension Execution {
    enum Refusal: Error {
        case violation(String)
        case noMemory
    }

    /// The same for a frame that has been checked and marked as received.
    func located(_ header: FrameHeader, from rank: Int) -> Arrival? {
        try? arrival(header, from: rank, isMarked: true)
    }

    /// Checks a data frame from a rank against the schedule.
    func arrival(_ header: FrameHeader, from rank: Int, isMarked: Bool = false) throws(Refusal) -> Arrival {
        let chunk = Int(header.chunk)
        guard chunk < folds.count else { throw .violation("chunk \(chunk) of \(folds.count)") }
        let layout: SegmentLayout
        let blocks: BlockLayout
        let destination: Arrival.Destination
        let claimed: [Int]
        switch header.phase {
        case .reduce:
            guard let fold = folds[chunk], let operand = fold.operandIndex(fromRank: rank) else {
                throw .violation("a contribution to chunk \(chunk) that is not expected from there")
            }
            layout = fold.segments
            blocks = fold.streams[operand].layout
            claimed = fold.streams[operand].claimed
            destination = .fold(operand: operand)
        case .gather:
            guard let gather = gathers[chunk], gather.from == rank else {
                throw .violation("a result of chunk \(chunk) that is not expected from there")
            }
            layout = gather.segments
            blocks = gather.layout
            claimed = gather.claimed
            destination = .gather
        case .state: throw .violation("a piece of a shared state for an operation")
        }
        let stride = UInt64(blocks.byteCount(elementsPerSegment))
        let segment = Int(clamping: header.offset / stride)
        guard header.offset % UInt64(blocks.blockBytes) == 0, segment < layout.segmentCount else {
            throw .violation("a segment at offset \(header.offset) of chunk \(chunk)")
        }
        let whole = layout.elements(ofSegment: segment)
        let start = Int(header.offset) / blocks.blockBytes * blocks.blockElements
        let bytes = Int(header.payloadBytes)
        guard start < whole.upperBound, bytes > 0,
            let count = blocks.elements(inBytes: bytes, limit: whole.upperBound - start)
        else {
            let most = blocks.byteCount(max(whole.upperBound - start, 0))
            throw .violation("a segment of \(bytes) bytes where \(most) belong")
        }
        guard isMarked || claimed[segment] + count <= whole.count else {
            throw .violation("a segment that came before")
        }
        return Arrival(
            chunk: chunk, segment: segment, elements: start..<start + count, whole: whole, destination: destination,
            byteCount: bytes)
    }

    func markReceived(_ arrival: Arrival) {
        traffic.receivedBytes += UInt64(arrival.byteCount)
        switch arrival.destination {
        case .fold(let operand):
            folds[arrival.chunk]?.streams[operand].claimed[arrival.segment] += arrival.elements.count
        case .gather: gathers[arrival.chunk]?.claimed[arrival.segment] += arrival.elements.count
        }
    }

    /// Where a contribution is to land: staging for its whole segment, and the place of its elements in it.
    func landing(_ arrival: Arrival, operand: Int) -> (piece: StagedPiece, base: UnsafeMutableRawPointer)? {
        guard let layout = folds[arrival.chunk]?.streams[operand].layout,
            let operands = folds[arrival.chunk]?.operands.count
        else { return nil }
        let offset = layout.byteCount(arrival.elements.lowerBound - arrival.whole.lowerBound)
        if let piece = folds[arrival.chunk]?.active[arrival.segment]?.arriving[operand] {
            return (piece, piece.base + offset)
        }
        guard let piece = stagingPiece(byteCount: layout.byteCount(arrival.whole.count)) else { return nil }
        folds[arrival.chunk]?.active[arrival.segment, default: Fold.Segment(operands: operands)].arriving[operand] =
            piece
        return (piece, piece.base + offset)
    }

    /// A result segment, or a part of one, lies in the receive buffer or, if it is coded, in staging.
    func finishGather(_ arrival: Arrival) throws(Refusal) -> FoldProgress {
        var progress = FoldProgress()
        gathers[arrival.chunk]?.landed[arrival.segment] += arrival.elements.count
        guard gathers[arrival.chunk]?.landed[arrival.segment] == arrival.whole.count else { return progress }
        let piece = try decodeResult(arrival)
        // A device that decodes says when it has.
        if lent.coding == nil { missingSegments -= 1 }
        noteFinal(DeviceSegment(chunk: arrival.chunk, segment: arrival.segment))
        returnResults()
        offerResult(arrival.chunk, arrival.segment, piece, &progress)
        return progress
    }

    /// A contribution, or a part of one, has landed. Folds whatever the order of operands now allows.
    func finishContribution(_ arrival: Arrival, operand: Int) throws(Refusal) -> FoldProgress {
        var progress = FoldProgress()
        guard let operands = folds[arrival.chunk]?.operands, let target = folds[arrival.chunk]?.target,
            // Taken out while it is worked on, so that its arrays are changed in place.
            var segment = folds[arrival.chunk]?.active.removeValue(forKey: arrival.segment)
        else { return progress }
        segment.landed[operand] += arrival.elements.count
        var isDone = false
        if segment.landed[operand] == arrival.whole.count {
            segment.arrived[operand] = segment.arriving[operand]
            segment.arriving[operand] = nil
            isDone = try advance(&segment, operands, target, arrival, &progress)
        }
        if !isDone { folds[arrival.chunk]?.active[arrival.segment] = segment }
        returnResults()
        return progress
    }

    /// This rank's own contribution to a segment is there: folds whatever has waited for it.
    func foldOwn(_ own: DeviceSegment, _ progress: inout FoldProgress) throws(Refusal) {
        guard let fold = folds[own.chunk], let operand = fold.operands.firstIndex(of: .own),
            var segment = folds[own.chunk]?.active.removeValue(forKey: own.segment)
        else { return }
        let whole = fold.segments.elements(ofSegment: own.segment)
        let arrival = Arrival(
            chunk: own.chunk, segment: own.segment, elements: whole, whole: whole, destination: .fold(operand: operand),
            byteCount: 0)
        let isDone = try advance(&segment, fold.operands, fold.target, arrival, &progress)
        if !isDone { folds[own.chunk]?.active[own.segment] = segment }
    }

    /// Folds as many operands as have arrived, strictly in order. True when the segment is done.
    private func advance(
        _ segment: inout Fold.Segment, _ operands: [Step.Operand], _ target: Step.FoldTarget, _ arrival: Arrival,
        _ progress: inout FoldProgress
    ) throws(Refusal) -> Bool {
        if let coder {
            return try advanceCoded(coder, &segment, operands, target, arrival, &progress)
        }
        let count = arrival.whole.count
        let offset = offset(chunk: arrival.chunk, elements: arrival.whole)
        let own = buffers.send + offset
        func contribution(_ index: Int) -> UnsafeRawPointer? {
            if operands[index] == .own { return hasInput(arrival.chunk, arrival.segment) ? own : nil }
            return segment.arrived[index].map { UnsafeRawPointer($0.base) }
        }
        /// Before the last operand of a result: the place it is written to.
        func result() throws(Refusal) -> UnsafeMutableRawPointer {
            guard saveOriginal(offset: offset, count: count * reducer.elementBytes) else { throw .noMemory }
            return buffers.receive + offset
        }

        if segment.next == 0 {
            guard let first = contribution(0), let second = contribution(1) else { return false }
            let isAll = operands.count == 2
            switch (operands[0], target) {
            case (.partial, .result) where isAll:
                reducer.end(first, second, into: try result(), count: count)
            case (.partial, _):
                // The sum so far came into our staging: it goes on from there.
                if let piece = segment.arrived[0] {
                    join(second, operands[1], to: piece, count: count)
                    segment.accumulator = piece
                }
            case (_, .result) where isAll:
                reducer.whole(first, second, into: try result(), count: count)
            default:
                guard let accumulator = stagingPiece(byteCount: count * reducer.accumulatorBytes) else {
                    throw .noMemory
                }
                reducer.start(first, second, into: accumulator.base, count: count)
                segment.accumulator = accumulator
            }
            segment.next = 2
            release(0, &segment, operands, arrival, &progress)
            release(1, &segment, operands, arrival, &progress)
        }
        while segment.next < operands.count {
            guard let next = contribution(segment.next), let accumulator = segment.accumulator else { return false }
            if segment.next == operands.count - 1, target == .result {
                reducer.end(accumulator.base, next, into: try result(), count: count)
            } else {
                join(next, operands[segment.next], to: accumulator, count: count)
            }
            release(segment.next, &segment, operands, arrival, &progress)
            segment.next += 1
        }
        finishFold(target, arrival, piece: target == .result ? nil : segment.accumulator, &progress)
        return true
    }

    /// All operands of a segment are folded: its result, or its sum, goes where it is to go.
    func finishFold(
        _ target: Step.FoldTarget, _ arrival: Arrival, piece: StagedPiece?, _ progress: inout FoldProgress
    ) {
        switch target {
        case .result:
            missingSegments -= 1
            folds[arrival.chunk]?.isDone[arrival.segment] = true
            noteFinal(DeviceSegment(chunk: arrival.chunk, segment: arrival.segment))
            notePaced(chunk: arrival.chunk, elements: arrival.whole.count, &progress)
            offerResult(arrival.chunk, arrival.segment, piece, &progress)
        case .partial(let to):
            for i in outgoing[to].indices
            where outgoing[to][i].chunk == arrival.chunk && outgoing[to][i].source == .partial {
                outgoing[to][i].offer(arrival.segment, piece)
            }
            progress.wakes.append(to)
        }
    }

    private func join(
        _ contribution: UnsafeRawPointer, _ operand: Step.Operand, to accumulator: StagedPiece, count: Int
    ) {
        switch operand {
        case .own, .input: reducer.more(contribution, into: accumulator.base, count: count)
        case .partial: reducer.merge(contribution, into: accumulator.base, count: count)
        }
    }

    func release(
        _ operand: Int, _ segment: inout Fold.Segment, _ operands: [Step.Operand], _ arrival: Arrival,
        _ progress: inout FoldProgress
    ) {
        guard segment.arrived[operand] != nil else { return }
        segment.arrived[operand] = nil
        guard operand != Fold.pacing(operands) else { return }
        noteFreed(chunk: arrival.chunk, operand: operand, elements: arrival.whole.count, &progress)
    }

    /// A segment has left, as a result or as a sum that was sent: the sender that paces the fold may go on.
    func notePaced(chunk: Int, elements: Int, _ progress: inout FoldProgress) {
        guard let operands = folds[chunk]?.operands else { return }
        noteFreed(chunk: chunk, operand: Fold.pacing(operands), elements: elements, &progress)
    }

    /// Staging of a stream became free: its sender may go on, told whenever half a window has come together.
    private func noteFreed(chunk: Int, operand: Int, elements: Int, _ progress: inout FoldProgress) {
        guard var stream = folds[chunk]?.streams[operand], let from = folds[chunk]?.operands[operand] else { return }
        stream.freedBytes += stream.layout.byteCount(elements)
        let allowed = stream.freedBytes + windowBytes
        if stream.grantedBytes < stream.totalBytes, allowed - stream.grantedBytes >= windowBytes / 2 {
            stream.grantedBytes = allowed
            switch from {
            case .own: break
            case .input(let rank), .partial(let rank): progress.grants.append((rank, chunk, allowed))
            }
        }
        folds[chunk]?.streams[operand].freedBytes = stream.freedBytes
        folds[chunk]?.streams[operand].grantedBytes = stream.grantedBytes
    }

    private func offerResult(_ chunk: Int, _ segment: Int, _ piece: StagedPiece?, _ progress: inout FoldProgress) {
        for rank in outgoing.indices {
            for i in outgoing[rank].indices
            where outgoing[rank][i].chunk == chunk && outgoing[rank][i].source == .result {
                outgoing[rank][i].offer(segment, piece)
                progress.wakes.append(rank)
            }
        }
    }
}
