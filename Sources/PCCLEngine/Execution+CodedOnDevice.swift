import PCCLBase
import PCCLCompute
import PCCLSchedule

/// What a device that codes is asked for, and what it has done.
struct CodedOnDevice {
    /// Segments of the input as codes, which have not left.
    private var codes: [DeviceSegment: StagedPiece] = [:]
    /// Of those, and of those that are being made: bytes.
    private(set) var bytesAhead = 0
    /// Of `inputOrder`: the first that was not asked for.
    var nextToEncode = 0
    /// To be asked for.
    var folds: [FoldOnDevice] = []
    var decodes: [(segment: DeviceSegment, codes: StagedPiece)] = []

    mutating func expect(_ byteCount: Int) { bytesAhead += byteCount }
    mutating func put(_ segment: DeviceSegment, _ piece: StagedPiece) { codes[segment] = piece }
    mutating func take(_ segment: DeviceSegment) -> StagedPiece? { codes.removeValue(forKey: segment) }
    mutating func leave(_ byteCount: Int) { bytesAhead -= byteCount }
}

/// One segment that a device folds.
struct FoldOnDevice {
    var arrival: Arrival
    var operands: [Step.Operand]
    var target: Step.FoldTarget
    /// By operand.
    var pieces: [StagedPiece?]
    /// For what goes on to others.
    var codes: StagedPiece?
}

/// What an operation does whose codes a device makes and folds: its buffers are the device's, and the host has codes only. What
/// is sent is coded some way ahead of its leaving; a segment is folded when all contributions to it are there, which costs one
/// launch of each kernel and not one for each that comes; results are decoded as they come, and are whole when that is done.
extension Execution {
    /// False where they are ahead enough, or all was asked for.
    func mayEncode(within bytes: Int) -> Bool { coded.nextToEncode < inputOrder.count && coded.bytesAhead < bytes }

    /// The next segment of the input, and where its codes are to go. Nil without memory.
    func nextToEncode() -> (segment: DeviceSegment, elements: UInt, count: Int, codes: StagedPiece)? {
        let segment = inputOrder[coded.nextToEncode]
        let range = elements(segment)
        guard let coder, let piece = stagingPiece(byteCount: coder.layout.byteCount(range.count)) else { return nil }
        coded.nextToEncode += 1
        coded.expect(coder.layout.byteCount(range.count))
        let address = UInt(bitPattern: buffers.send + offset(chunk: segment.chunk, elements: range))
        return (segment, address, range.count, piece)
    }

    func takeCodes(_ segment: DeviceSegment, _ piece: StagedPiece) throws(Refusal) -> FoldProgress {
        coded.put(segment, piece)
        return try takeInput(segment)
    }

    /// As `advanceCoded`: true never, since the end is told later.
    func advanceOnDevice(
        _ coder: Coder, _ segment: inout Fold.Segment, _ operands: [Step.Operand], _ target: Step.FoldTarget,
        _ arrival: Arrival
    ) throws(Refusal) -> Bool {
        let isComplete = operands.indices.allSatisfy { operands[$0] == .own || segment.arrived[$0] != nil }
        // Once it is begun nothing is missing.
        guard segment.next == 0, isComplete else { return false }
        segment.next = operands.count
        let isCoded = target == .result ? isResultCoded : true
        let codes = isCoded ? try staged(coder.layout.byteCount(arrival.whole.count)) : nil
        coded.folds.append(
            FoldOnDevice(
                arrival: arrival, operands: operands, target: target, pieces: segment.arrived, codes: codes))
        return false
    }

    func request(_ fold: FoldOnDevice) -> DeviceCoder.Fold {
        let place = offset(chunk: fold.arrival.chunk, elements: fold.arrival.whole)
        let operands = fold.operands.indices.map { index -> DeviceCoder.Fold.Operand in
            if let piece = fold.pieces[index] { return .codes(UnsafeRawPointer(piece.base)) }
            return .own(UInt(bitPattern: buffers.send + place))
        }
        let isResult = fold.target == .result
        return DeviceCoder.Fold(
            operands: operands, count: fold.arrival.whole.count, worldSize: isResult ? self.place.worldSize : nil,
            codes: fold.codes?.base, elements: isResult ? UInt(bitPattern: buffers.receive + place) : nil)
    }

    /// It is folded.
    func end(_ fold: FoldOnDevice) -> FoldProgress {
        var progress = FoldProgress()
        guard var segment = folds[fold.arrival.chunk]?.active.removeValue(forKey: fold.arrival.segment) else {
            return progress
        }
        for operand in fold.operands.indices { release(operand, &segment, fold.operands, fold.arrival, &progress) }
        finishFold(fold.target, fold.arrival, piece: fold.codes, &progress)
        return progress
    }
}
