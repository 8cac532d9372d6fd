import PCCLBase
import PCCLCompute
import PCCLSchedule

/// What an operation does with a codec.
///
/// A contribution, or a sum, is coded segment by segment as it is about to leave; what arrives is added to float32
/// accumulators. Who makes a result codes it, and takes what the others will decode; codes that are passed on are those that
/// came. In one-shot every member makes every result, from the same codes, its own included. What nobody else gets, as in a
/// reduce-scatter, is not coded.
extension Execution {
    var isResultCoded: Bool {
        descriptor.collective == .allReduce && descriptor.algorithm != .oneShot
    }

    /// Codes the segment of an input that leaves next. False when there is no memory.
    func code(_ stream: inout OutgoingStream) -> Bool {
        guard let coder, let (segment, elements) = stream.uncoded else { return true }
        if let codes = coded.take(DeviceSegment(chunk: stream.chunk, segment: segment)) {
            stream.code(as: codes)
            return true
        }
        guard let piece = stagingPiece(byteCount: coder.layout.byteCount(elements.count)) else {
            lacksMemory = true
            return false
        }
        coder.encode(
            buffers.send + offset(chunk: stream.chunk, elements: elements), into: piece.base, count: elements.count,
            seed: seed(chunk: stream.chunk, segment: segment), losses(chunk: stream.chunk, elements))
        stream.code(as: piece)
        return true
    }

    /// Where a coded result is to land: staging for its whole segment, and the place of its elements in it.
    func landing(_ arrival: Arrival) -> (piece: StagedPiece, base: UnsafeMutableRawPointer)? {
        guard let gather = gathers[arrival.chunk] else { return nil }
        let offset = gather.layout.byteCount(arrival.elements.lowerBound - arrival.whole.lowerBound)
        if let piece = gather.arriving[arrival.segment] { return (piece, piece.base + offset) }
        guard let piece = stagingPiece(byteCount: gather.layout.byteCount(arrival.whole.count)) else { return nil }
        gathers[arrival.chunk]?.arriving[arrival.segment] = piece
        return (piece, piece.base + offset)
    }

    /// A result segment is complete: if it is coded, into the receive buffer with it. Its codes, to be passed on.
    func decodeResult(_ arrival: Arrival) throws(Refusal) -> StagedPiece? {
        guard let coder, let piece = gathers[arrival.chunk]?.arriving.removeValue(forKey: arrival.segment) else {
            return nil
        }
        guard lent.coding == nil else {
            coded.decodes.append((DeviceSegment(chunk: arrival.chunk, segment: arrival.segment), piece))
            return piece
        }
        coder.decode(piece.base, into: try place(of: arrival), count: arrival.whole.count)
        return piece
    }

    /// As `advance`, of contributions that travel as codes.
    func advanceCoded(
        _ coder: Coder, _ segment: inout Fold.Segment, _ operands: [Step.Operand], _ target: Step.FoldTarget,
        _ arrival: Arrival, _ progress: inout FoldProgress
    ) throws(Refusal) -> Bool {
        guard lent.coding == nil else { return try advanceOnDevice(coder, &segment, operands, target, arrival) }
        let count = arrival.whole.count
        let seed = seed(chunk: arrival.chunk, segment: arrival.segment)
        let losses = losses(chunk: arrival.chunk, arrival.whole)
        /// Its own codes, where all members must reduce the same.
        var ownCodes: StagedPiece?
        func contribution(_ index: Int) throws(Refusal) -> Coder.Contribution? {
            guard operands[index] == .own else {
                return segment.arrived[index].map { .codes(UnsafeRawPointer($0.base)) }
            }
            let own = buffers.send + offset(chunk: arrival.chunk, elements: arrival.whole)
            guard descriptor.collective == .allReduce, descriptor.algorithm == .oneShot else {
                return .elements(own, losses)
            }
            let piece = try staged(coder.layout.byteCount(count))
            coder.encode(own, into: piece.base, count: count, seed: seed, losses)
            ownCodes = piece
            return .codes(UnsafeRawPointer(piece.base))
        }
        func isThere(_ index: Int) -> Bool {
            if operands[index] == .own { return hasInput(arrival.chunk, arrival.segment) }
            return segment.arrived[index] != nil
        }

        var codes: StagedPiece?
        if segment.next == 0 {
            guard isThere(0), isThere(1), let first = try contribution(0),
                let second = try contribution(1)
            else { return false }
            if operands.count == 2, target == .result, isResultCoded {
                let piece = try staged(coder.layout.byteCount(count))
                coder.whole(first, second, into: piece.base, try place(of: arrival), count: count, seed: seed, losses)
                codes = piece
            } else {
                let sums = try staged(count * coder.wideBytes)
                coder.load(first, into: sums.base, count: count)
                coder.more(second, into: sums.base, count: count)
                segment.accumulator = sums
            }
            segment.next = 2
            release(0, &segment, operands, arrival, &progress)
            release(1, &segment, operands, arrival, &progress)
        }
        while segment.next < operands.count {
            guard isThere(segment.next), let next = try contribution(segment.next),
                let sums = segment.accumulator
            else { return false }
            coder.more(next, into: sums.base, count: count)
            release(segment.next, &segment, operands, arrival, &progress)
            segment.next += 1
        }
        if let sums = segment.accumulator {
            switch target {
            case .result where !isResultCoded:
                coder.finish(sums.base, into: try place(of: arrival), count: count)
                // What was kept of this rank's own contribution is in the result.
                if descriptor.collective == .reduceScatter { losses?.settle(count * coder.wideBytes) }
            case .result:
                let piece = try staged(coder.layout.byteCount(count))
                coder.finish(sums.base, into: piece.base, try place(of: arrival), count: count, seed: seed, losses)
                codes = piece
            case .partial:
                let piece = try staged(coder.layout.byteCount(count))
                coder.encode(sums: sums.base, into: piece.base, count: count, seed: seed, losses)
                codes = piece
            }
        }
        withExtendedLifetime(ownCodes) {}
        finishFold(target, arrival, piece: codes, &progress)
        return true
    }

    /// Where a result segment belongs, which is written to next.
    private func place(of arrival: Arrival) throws(Refusal) -> UnsafeMutableRawPointer {
        let offset = offset(chunk: arrival.chunk, elements: arrival.whole)
        guard saveOriginal(offset: offset, count: arrival.whole.count * reducer.elementBytes) else { throw .noMemory }
        return buffers.receive + offset
    }

    private func losses(chunk: Int, _ elements: Range<Int>) -> Coder.Losses? {
        buffers.feedback.map {
            Coder.Losses($0, element: chunks.elements(ofChunk: chunk).lowerBound + elements.lowerBound)
        }
    }

    func staged(_ byteCount: Int) throws(Refusal) -> StagedPiece {
        guard let piece = stagingPiece(byteCount: byteCount) else { throw .noMemory }
        return piece
    }

    /// What random rounding depends on: another number for each member, operation and segment, and the same for a segment
    /// that is coded for several.
    private func seed(chunk: Int, segment: Int) -> UInt64 {
        let own = UInt64(place.members[place.rank].value)
        let name = tag.value ^ UInt64(place.epoch.value) << 32 ^ UInt64(launch.value)
        let position = UInt64(chunk) << 40 ^ UInt64(segment)
        return [own, name, position].reduce(0) { (seed, part) in
            let product = (seed ^ part).multipliedFullWidth(by: 0x9e37_79b9_7f4a_7c15)
            return product.high ^ product.low
        }
    }
}
