import PCCLBase
import PCCLCompute
import PCCLSchedule

/// One segment of a chunk.
struct DeviceSegment: Hashable, Sendable {
    var chunk: Int
    var segment: Int
}

/// What an operation does with buffers of a device that are copied in pieces: it asks for what it sends in the order in which it
/// needs it, waits for no piece but where that is to leave or to be folded, and gives results back as they become final.
///
///     device ──pieces──▶ send ──▶ network, fold ──▶ receive ──pieces──▶ device
///
/// So the copies go on while other pieces are on the network. What is resumed has all of its input first.
extension Execution {
    /// All that this rank's steps need of the input: of each chunk the first segment, then of each the second one, as they are
    /// sent and folded side by side.
    func orderOfInput(_ steps: [Step]) -> [DeviceSegment] {
        var needed: [Int] = []
        for step in steps {
            switch step {
            case .sendInput(let chunk, _): needed.append(chunk)
            // A device that codes folds what it has.
            case .fold(let chunk, let operands, _) where operands.contains(.own) && lent.coding == nil:
                needed.append(chunk)
            case .fold, .sendResult, .receiveResult: break
            }
        }
        needed += (0..<chunks.chunkCount).filter(isHeld)
        var seen: Set<Int> = []
        let inOrder = needed.filter { seen.insert($0).inserted }.map { (chunk: $0, count: segments($0).segmentCount) }
        let most = inOrder.map(\.count).max() ?? 0
        return (0..<most).flatMap { segment in
            inOrder.filter { segment < $0.count }.map { DeviceSegment(chunk: $0.chunk, segment: segment) }
        }
    }

    func hasInput(_ chunk: Int, _ segment: Int) -> Bool { input?[chunk][segment] ?? true }

    /// Has the input copied, in the order in which it is needed. `end` is called on another thread, for each piece.
    func askForInput(then end: @escaping @Sendable ([DeviceSegment], Result<Void, DeviceError>) -> Void) {
        isInputAskedFor = true
        for (segments, parts) in piecesOfInput { lent.device?.fetch(parts) { end(segments, $0) } }
    }

    /// The same segments in pieces that are worth their end, each with the parts of what is sent, in bytes from its start.
    private var piecesOfInput: [(segments: [DeviceSegment], parts: [Range<Int>])] {
        var pieces: [(segments: [DeviceSegment], parts: [Range<Int>])] = []
        var bytes = devicePieceBytes
        for segment in inputOrder {
            if bytes >= devicePieceBytes {
                pieces.append(([], []))
                bytes = 0
            }
            let part = sentPart(segment)
            pieces[pieces.count - 1].segments.append(segment)
            pieces[pieces.count - 1].parts.append(part)
            bytes += part.count
        }
        return pieces
    }

    func elements(_ segment: DeviceSegment) -> Range<Int> {
        segments(segment.chunk).elements(ofSegment: segment.segment)
    }

    private func sentPart(_ segment: DeviceSegment) -> Range<Int> {
        let elements = elements(segment)
        let start = buffers.send + offset(chunk: segment.chunk, elements: elements) - lent.send
        return start..<start + elements.count * reducer.elementBytes
    }

    func resultAddress(_ segment: DeviceSegment) -> UInt {
        UInt(bitPattern: buffers.receive + offset(chunk: segment.chunk, elements: elements(segment)))
    }

    private func receivedPart(_ segment: DeviceSegment) -> Range<Int> {
        let elements = elements(segment)
        let start = buffers.receive + offset(chunk: segment.chunk, elements: elements) - lent.receive
        return start..<start + elements.count * reducer.elementBytes
    }

    /// A segment of the input is there: what waited for it goes on.
    func takeInput(_ segment: DeviceSegment) throws(Refusal) -> FoldProgress {
        var progress = FoldProgress()
        guard !hasInput(segment.chunk, segment.segment) else { return progress }
        input?[segment.chunk][segment.segment] = true
        for rank in outgoing.indices {
            for i in outgoing[rank].indices where outgoing[rank][i].chunk == segment.chunk {
                switch outgoing[rank][i].source {
                case .input: break
                case .result where isHeld(segment.chunk): outgoing[rank][i].offer(segment.segment, nil)
                case .result, .partial: continue
                }
                progress.wakes.append(rank)
            }
        }
        if isHeld(segment.chunk) { takeHeld(segment) }
        try foldOwn(segment, &progress)
        returnResults()
        return progress
    }

    /// What this rank has of the result as soon as it is there.
    private func takeHeld(_ segment: DeviceSegment) {
        let (sent, received) = (sentPart(segment), receivedPart(segment))
        let (from, to) = (lent.send + sent.lowerBound, lent.receive + received.lowerBound)
        if from != UnsafeRawPointer(to) { to.copyMemory(from: from, byteCount: sent.count) }
        missingSegments -= 1
        if lent.device?.isInPlace(sendOffset: sent.lowerBound, receiveOffset: received.lowerBound) ?? false {
            lent.device?.noteInPlace([received])
        } else {
            noteFinal(segment)
        }
    }

    /// All that is missing, for what goes on in a later view. Blocks.
    func completeInput() throws(DeviceError) {
        guard input != nil, let device = lent.device else { return }
        if !isInputAskedFor { askForInput { _, _ in } }
        try device.awaitFetched()
        for segment in inputOrder where isHeld(segment.chunk) && !hasInput(segment.chunk, segment.segment) {
            takeHeld(segment)
        }
        input = nil
    }

    // MARK: results

    func noteFinal(_ segment: DeviceSegment) {
        guard lent.device?.receivesOnDevice ?? false else { return }
        unreturned.append(receivedPart(segment))
    }

    /// Gives what is final to the device, if that is worth a copy, or the last.
    func returnResults() {
        guard let device = lent.device, !unreturned.isEmpty else { return }
        guard missingSegments == 0 || unreturned.reduce(0, { $0 + $1.count }) >= devicePieceBytes else { return }
        device.giveBack(unreturned)
        unreturned = []
    }
}
