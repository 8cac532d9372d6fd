import PCCLBase
import PCCLCompute
import PCCLSchedule
import PCCLTransport
import PCCLWire

/// Where an operation runs: the view of one epoch, in rank order, and this peer's place in it.
package struct Place: Hashable, Sendable {
    package var epoch: Epoch
    package var members: [PeerID]
    package var rank: Int
    /// Of the members' chunks in the direct algorithm, by rank; none when all are equal.
    package var shares: [UInt16]
    /// Of the members, by rank; none when nothing is known of sites.
    package var sites: [UInt16]
    package init(epoch: Epoch, members: [PeerID], rank: Int, shares: [UInt16] = [], sites: [UInt16] = []) {
        self.epoch = epoch
        self.members = members
        self.rank = rank
        self.shares = shares
        self.sites = sites
    }
    package var worldSize: Int { members.count }
}

/// One operation in flight at this peer: its schedule and how far each segment of it has come.
///
/// Each element passes through at most these hands here: contribution received into staging (or read from the caller's
/// buffer), folded from cache, result in the caller's buffer and sent from there. In place, what is about to be
/// overwritten is first copied aside, so that `restoreInput` can undo everything.
final class Execution: EngineOperation {
    let tag: Tag
    let launch: LaunchNumber
    let descriptor: OperationDescriptor
    let place: Place
    let lent: ReduceBuffers
    /// Those lent, but for a one-shot in place.
    private(set) var buffers: ReduceBuffers
    let reducer: Reducer
    /// Where the operation has a codec.
    let coder: Coder?
    let chunks: ChunkLayout
    /// By chunk: what was final from the start.
    private let held: [Bool]
    /// By chunk, and by those alone that were kept from an earlier view: its size.
    private let keptWorldSizes: [Int: Int]
    let elementsPerSegment: Int
    /// Offered to each rank that sends us contributions.
    let windowBytes: Int

    var peers: [PeerState]
    /// By chunk; nil where this rank has no such step.
    var folds: [Fold?]
    var gathers: [Gather?]
    /// By destination rank.
    var outgoing: [[OutgoingStream]]
    /// Result segments that this rank does not hold yet.
    var missingSegments = 0
    var traffic = Traffic()
    var lacksMemory = false
    let isResumed: Bool
    /// The session knows that the result is whole.
    var isTold = false

    /// Of what comes from a device in pieces, by chunk and segment: what is there. Nil where all of it is.
    var input: [[Bool]]?
    var isInputAskedFor = false
    /// Segments of it, in the order in which they are needed.
    private(set) var inputOrder: [DeviceSegment] = []
    /// Of results on their way to a device: parts of what is received that are not given to it yet.
    var unreturned: [Range<Int>] = []
    let devicePieceBytes: Int
    /// Where the device codes.
    var coded = CodedOnDevice()

    private var originals: [(offset: Int, count: Int, piece: StagedPiece)] = []
    private let pools: Pools

    var entry: Entry { Entry(descriptor: descriptor, windowBytes: UInt32(clamping: windowBytes)) }

    /// Pools of the engine: staging turns over quickly, originals stay for an operation.
    struct Pools {
        let staging: StagingPool
        let originals: StagingPool
    }

    struct PeerState {
        /// The launch number under which this rank's frames come, once known.
        var theirLaunch: LaunchNumber?
        var isEntrySent = false
        /// It stands in the queue of what may be sent there.
        var isQueued = false
        var hasEntered = false
        /// Sent before it had entered.
        var eagerBytes = 0
        /// What each contribution to a chunk it reduces may run ahead, from its entry.
        var windowBytes = 0
        /// What has come and gone, for the recorder.
        var pieces = RecordedPieces()
    }

    /// Contributions to one chunk, folded here.
    struct Fold {
        struct Segment {
            /// The first operand that is not folded in yet.
            var next = 0
            /// Operands [0, next) folded together, once there are two.
            var accumulator: StagedPiece?
            /// By operand.
            var arrived: [StagedPiece?]
            /// By operand: pieces of which something is still to come, and how many elements have.
            var arriving: [StagedPiece?]
            var landed: [Int]

            init(operands: Int) {
                arrived = Array(repeating: nil, count: operands)
                arriving = arrived
                landed = Array(repeating: 0, count: operands)
            }
        }
        let operands: [Step.Operand]
        let target: Step.FoldTarget
        let segments: SegmentLayout
        /// Segments that something has arrived for, and that are not done.
        var active: [Int: Segment] = [:]
        /// By segment, of results.
        var isDone: [Bool]
        /// By operand: what came, what was freed again, and up to where the sender may send.
        var streams: [IncomingStream]

        /// The sender that gets credit only when a segment is done with, while the others get it as their pieces are folded:
        /// so that no more sums wait, for a slow contributor or for a slow successor, than one window holds.
        static func pacing(_ operands: [Step.Operand]) -> Int { operands[0] == .own ? 1 : 0 }

        func operandIndex(fromRank rank: Int) -> Int? {
            operands.firstIndex {
                switch $0 {
                case .own: false
                case .input(let from), .partial(let from): from == rank
                }
            }
        }
    }

    struct IncomingStream {
        var layout: BlockLayout
        /// By segment: elements that have come, or are about to.
        var claimed: [Int]
        var freedBytes = 0
        var grantedBytes: Int
        var totalBytes: Int
    }

    struct Gather {
        let from: Int
        let segments: SegmentLayout
        /// What does not come as it is to lie in the receive buffer is coded.
        let layout: BlockLayout
        let isCoded: Bool
        /// By segment: elements that have come or are about to, and those that have landed.
        var claimed: [Int]
        var landed: [Int]
        /// By segment, where they are coded: pieces of which something is still to come.
        var arriving: [Int: StagedPiece] = [:]
    }

    /// One chunk on its way to one rank.
    struct OutgoingStream {
        enum Source {
            case input
            case result
            case partial
        }
        let chunk: Int
        let source: Source
        let segments: SegmentLayout
        let layout: BlockLayout
        let isCoded: Bool
        /// This rank's own, which waits for nobody else's and so may leave before the receiver has entered.
        let isContribution: Bool
        /// Segments leave one after the other, as those of an input do, although they become ready in any order. A fold of
        /// several streams needs that: if each sent other segments first, as many as its window allows, none of them would
        /// be complete, and none of them freed.
        let isOrdered: Bool
        /// The next segment, where they are ordered.
        var nextInOrder = 0
        /// Of what is not ready from the start: segments that have become ready and are not sent, in their order of leaving.
        private var ready: [(segment: Int, piece: StagedPiece?)] = []
        private var readyHead = 0
        /// Elements of the next segment that have left already.
        var startedElements = 0
        var startedBytes = 0
        /// Of an input that is coded: the segment on its way.
        private var coded: StagedPiece?
        var creditBytes = 0

        var phase: FrameHeader.Phase {
            switch source {
            case .input, .partial: .reduce
            case .result: .gather
            }
        }
        var hasReady: Bool {
            switch source {
            case .input: nextInOrder < segments.segmentCount
            case .result, .partial: readyHead < ready.count && (!isOrdered || ready[readyHead].segment == nextInOrder)
            }
        }
        var bytesLeft: Int { layout.byteCount(segments.elementCount) - startedBytes }
        var isDone: Bool { bytesLeft == 0 }

        init(
            chunk: Int, source: Source, segments: SegmentLayout, layout: BlockLayout, isCoded: Bool,
            isContribution: Bool, isOrdered: Bool
        ) {
            self.chunk = chunk
            self.source = source
            self.segments = segments
            self.layout = layout
            self.isCoded = isCoded
            self.isContribution = isContribution
            self.isOrdered = isOrdered
        }

        mutating func offer(_ segment: Int, _ piece: StagedPiece?) {
            var place = ready.count
            if isOrdered { while place > readyHead, ready[place - 1].segment > segment { place -= 1 } }
            ready.insert((segment, piece), at: place)
        }

        /// What goes next: all that is left of a segment, or as much as fits into `limit` bytes.
        func next(limit: Int) -> Range<Int> {
            let segment = source == .input ? nextInOrder : ready[readyHead].segment
            let whole = segments.elements(ofSegment: segment)
            let start = whole.lowerBound + startedElements
            // Pieces end at multiples of a cache line, whatever the type, and where blocks do.
            let grain = max(64 / layout.blockElements, 1)
            let fitting = max(limit / layout.blockBytes / grain, 1) * grain * layout.blockElements
            return start..<min(start + fitting, whole.upperBound)
        }

        /// An input that is to be coded before its next piece leaves: its segment.
        var uncoded: (segment: Int, elements: Range<Int>)? {
            guard isCoded, source == .input, coded == nil else { return nil }
            return (nextInOrder, segments.elements(ofSegment: nextInOrder))
        }
        mutating func code(as piece: StagedPiece) { coded = piece }

        /// Takes what `next` has said. The piece is that of the whole segment, and `offset` where the elements lie in it.
        mutating func take(_ elements: Range<Int>) -> (piece: StagedPiece?, offset: Int) {
            let segment = source == .input ? nextInOrder : ready[readyHead].segment
            let piece = source == .input ? coded : ready[readyHead].piece
            let whole = segments.elements(ofSegment: segment)
            startedBytes += layout.byteCount(elements.count)
            startedElements += elements.count
            if elements.upperBound == whole.upperBound {
                startedElements = 0
                nextInOrder += 1
                switch source {
                case .input: coded = nil
                case .result, .partial:
                    ready[readyHead].piece = nil
                    readyHead += 1
                    if readyHead == ready.count {
                        ready.removeAll(keepingCapacity: true)
                        readyHead = 0
                    }
                }
            }
            return (piece, layout.byteCount(elements.lowerBound - whole.lowerBound))
        }
    }

    /// With `resumed` it goes on with what that execution, which was halted and is not used any more, has left.
    init(
        tag: Tag, launch: LaunchNumber, descriptor: OperationDescriptor, place: Place, buffers: ReduceBuffers,
        configuration: EngineConfiguration, pools: Pools, resumed: (from: Execution, Resumption)? = nil
    ) {
        self.tag = tag
        self.launch = launch
        self.descriptor = descriptor
        self.place = place
        self.buffers = buffers
        self.pools = pools
        devicePieceBytes = configuration.devicePieceBytes
        lent = buffers
        isResumed = resumed != nil
        let reducer = Reducer(
            type: descriptor.type, operation: descriptor.operation, worldSize: place.worldSize)
        self.reducer = reducer
        let count = Int(descriptor.count)
        let steps: [Step]
        if let (_, resumption) = resumed {
            let schedule = ResumedSchedule(
                resumption, of: descriptor.collective, elementCount: count, worldSize: place.worldSize)
            chunks = schedule.layout
            held = schedule.held(by: place.rank)
            let reduced = chunks.chunkCount - resumption.kept.count
            keptWorldSizes = Dictionary(
                uniqueKeysWithValues: resumption.kept.enumerated().map {
                    (reduced + $0.offset, $0.element.part.worldSize)
                })
            steps = schedule.steps(rank: place.rank)
        } else {
            let schedule = CollectiveSchedule(
                descriptor.collective, descriptor.algorithm, elementCount: count, rank: place.rank,
                worldSize: place.worldSize, shares: place.shares, sites: place.sites)
            chunks = schedule.layout
            held = schedule.held
            keptWorldSizes = [:]
            steps = schedule.steps
        }
        let codec = descriptor.codec
        coder =
            codec == .none
            ? nil
            : Coder(codec, type: descriptor.type, operation: descriptor.operation, worldSize: place.worldSize)
        elementsPerSegment = Execution.elementsPerSegment(descriptor, place, configuration)
        windowBytes = Execution.windowBytes(descriptor, steps, elementsPerSegment, configuration)
        peers = Array(repeating: PeerState(), count: place.worldSize)
        folds = Array(repeating: nil, count: chunks.chunkCount)
        gathers = Array(repeating: nil, count: chunks.chunkCount)
        outgoing = Array(repeating: [], count: place.worldSize)
        placeBlocks(isResumed: resumed != nil)
        if descriptor.collective == .allReduce, descriptor.algorithm == .oneShot, buffers.isInPlace, !setInputApart() {
            // Without a copy it cannot run.
            missingSegments = 1
            lacksMemory = true
            return
        }
        if let (from, _) = resumed { takeOver(from) }
        // What is resumed has all of it.
        if resumed == nil, buffers.coding != nil || buffers.device?.sendsFromDevice ?? false {
            inputOrder = orderOfInput(steps)
            input =
                inputOrder.isEmpty
                ? nil
                : (0..<chunks.chunkCount).map { chunk in
                    Array(repeating: false, count: segments(chunk).segmentCount)
                }
            missingSegments = inputOrder.count { isHeld($0.chunk) }
        }
        lay(steps)
    }

    /// Where a caller's buffer has this rank's block alone, it is addressed as if the blocks of all ranks lay around it. What
    /// an all-gather starts with is put where the others' blocks are to come.
    private func placeBlocks(isResumed: Bool) {
        let blockBytes = Int(descriptor.byteCount) / place.worldSize
        let before = place.rank * blockBytes
        switch descriptor.collective {
        case .allReduce, .broadcast, .barrier: return
        case .reduceScatter:
            buffers = lent.moved(receive: -before)
        case .allGather:
            buffers = lent.moved(send: -before)
            // From a device it comes there piece by piece.
            guard !isResumed, !buffers.isInPlace, !(lent.device?.sendsFromDevice ?? false) else { return }
            (lent.receive + before).copyMemory(from: lent.send, byteCount: blockBytes)
        }
    }

    private static func elementsPerSegment(
        _ descriptor: OperationDescriptor, _ place: Place, _ configuration: EngineConfiguration
    ) -> Int {
        guard descriptor.codec != .none else { return max(configuration.segmentBytes / descriptor.type.byteCount, 1) }
        return configuration.elementsPerCodedSegment(
            descriptor.codec.layout(of: descriptor.type), ofChunk: Int(descriptor.count) / place.worldSize)
    }

    private static func windowBytes(
        _ descriptor: OperationDescriptor, _ steps: [Step], _ elementsPerSegment: Int,
        _ configuration: EngineConfiguration
    ) -> Int {
        let largestPiece =
            descriptor.codec == .none
            ? BlockLayout(elementBytes: descriptor.type.partialByteCount(descriptor.operation))
            : descriptor.codec.layout(of: descriptor.type)
        return configuration.windowBytes(
            streams: contributions(steps), segmentWireBytes: largestPiece.byteCount(elementsPerSegment))
    }

    /// What an operation will allow in its entries, before it is made.
    static func windowBytes(
        _ descriptor: OperationDescriptor, _ place: Place, _ configuration: EngineConfiguration
    ) -> Int {
        let schedule = CollectiveSchedule(
            descriptor.collective, descriptor.algorithm, elementCount: Int(descriptor.count), rank: place.rank,
            worldSize: place.worldSize, shares: place.shares, sites: place.sites)
        return windowBytes(
            descriptor, schedule.steps, elementsPerSegment(descriptor, place, configuration), configuration)
    }

    /// How many streams of others are folded here.
    private static func contributions(_ steps: [Step]) -> Int {
        steps.reduce(0) { sum, step in
            guard case .fold(_, let operands, _) = step else { return sum }
            return sum + operands.count { $0 != .own }
        }
    }

    /// In one-shot this rank's results overwrite what it has not sent to a slow rank yet, so in place it sends from a copy.
    /// False when there is no memory for that.
    private func setInputApart() -> Bool {
        let byteCount = Int(descriptor.byteCount)
        guard saveOriginal(offset: 0, count: byteCount), let copy = originals.last?.piece else { return false }
        buffers = ReduceBuffers(
            send: UnsafeRawPointer(copy.base), receive: buffers.receive, feedback: buffers.feedback)
        return true
    }

    func segments(_ chunk: Int) -> SegmentLayout {
        SegmentLayout(elementCount: chunks.elements(ofChunk: chunk).count, elementsPerSegment: elementsPerSegment)
    }

    /// Turns the schedule into streams.
    private func lay(_ steps: [Step]) {
        // What was kept lies in buffers only, and its codes are forgotten.
        func isCoded(_ chunk: Int) -> Bool { coder != nil && keptWorldSizes[chunk] == nil }
        func layout(_ chunk: Int, ofSums: Bool) -> BlockLayout {
            if let coder, isCoded(chunk) { return coder.layout }
            return BlockLayout(elementBytes: ofSums ? reducer.accumulatorBytes : reducer.elementBytes)
        }
        func stream(_ chunk: Int, _ source: OutgoingStream.Source) -> OutgoingStream {
            OutgoingStream(
                chunk: chunk, source: source, segments: segments(chunk),
                layout: layout(chunk, ofSums: source == .partial), isCoded: isCoded(chunk),
                isContribution: source != .result || (isHeld(chunk) && keptWorldSizes[chunk] == nil),
                isOrdered: source == .partial && descriptor.algorithm == .twoLevel)
        }
        for step in steps {
            switch step {
            case .sendInput(let chunk, let to):
                outgoing[to].append(stream(chunk, .input))
            case .sendResult(let chunk, let to):
                // Results before inputs: see `nextSegment`.
                var stream = stream(chunk, .result)
                if isHeld(chunk) {
                    for segment in 0..<stream.segments.segmentCount where hasInput(chunk, segment) {
                        stream.offer(segment, nil)
                    }
                }
                outgoing[to].insert(stream, at: 0)
            case .receiveResult(let chunk, let from):
                let segments = segments(chunk)
                gathers[chunk] = Gather(
                    from: from, segments: segments, layout: layout(chunk, ofSums: false), isCoded: isCoded(chunk),
                    claimed: Array(repeating: 0, count: segments.segmentCount),
                    landed: Array(repeating: 0, count: segments.segmentCount))
                missingSegments += segments.segmentCount
            case .fold(let chunk, let operands, let target):
                let segments = segments(chunk)
                let streams = operands.map { operand in
                    let isSum = if case .partial = operand { true } else { false }
                    let layout = layout(chunk, ofSums: isSum)
                    return IncomingStream(
                        layout: layout, claimed: Array(repeating: 0, count: segments.segmentCount),
                        grantedBytes: windowBytes, totalBytes: layout.byteCount(segments.elementCount))
                }
                folds[chunk] = Fold(
                    operands: operands, target: target, segments: segments,
                    isDone: Array(repeating: false, count: segments.segmentCount), streams: streams)
                switch target {
                case .result: missingSegments += segments.segmentCount
                case .partial(let to):
                    outgoing[to].insert(stream(chunk, .partial), at: 0)
                }
            }
        }
    }

    // MARK: memory

    /// The byte offset, in the caller's buffers, of the elements of a segment.
    func offset(chunk: Int, elements: Range<Int>) -> Int {
        (chunks.elements(ofChunk: chunk).lowerBound + elements.lowerBound) * reducer.elementBytes
    }

    func stagingPiece(byteCount: Int) -> StagedPiece? { StagedPiece(pools.staging, byteCount: max(byteCount, 1)) }

    /// Must be called before anything is written to this part of the receive buffer. False when there is no memory.
    func saveOriginal(offset: Int, count: Int) -> Bool {
        // What others overwrite in an all-gather or a broadcast is no input.
        guard buffers.isInPlace, descriptor.collective.isReduction, count > 0 else { return true }
        guard let piece = StagedPiece(pools.originals, byteCount: count) else { return false }
        piece.base.copyMemory(from: buffers.receive + offset, byteCount: count)
        originals.append((offset, count, piece))
        return true
    }

    /// Undoes every write to the caller's buffer, if it was the input too.
    func restoreInput() {
        for original in originals {
            (buffers.receive + original.offset).copyMemory(from: original.piece.base, byteCount: original.count)
        }
        originals = []
    }

    // MARK: going on

    func isHeld(_ chunk: Int) -> Bool { held.indices.contains(chunk) && held[chunk] }

    /// What of the result lies in the receive buffer for good.
    var final: [ResultPart] {
        // That lies on the device alone: it begins again.
        guard buffers.coding == nil else { return [] }
        var parts: [ResultPart] = []
        for chunk in 0..<chunks.chunkCount {
            let elements = chunks.elements(ofChunk: chunk)
            let worldSize = keptWorldSizes[chunk] ?? place.worldSize
            if isHeld(chunk) {
                parts.append(ResultPart(elements: elements, worldSize: worldSize))
                continue
            }
            let segments = segments(chunk)
            for segment in 0..<segments.segmentCount {
                let range = segments.elements(ofSegment: segment)
                let isFinal =
                    gathers[chunk].map { $0.landed[segment] == range.count }
                    ?? folds[chunk].map { $0.target == .result && $0.isDone[segment] } ?? false
                guard isFinal else { continue }
                let start = elements.lowerBound + range.lowerBound
                parts.append(ResultPart(elements: start..<start + range.count, worldSize: worldSize))
            }
        }
        return parts.sorted { $0.elements.lowerBound < $1.elements.lowerBound }.joined
    }

    func resumed(
        as launch: LaunchNumber, _ descriptor: OperationDescriptor, _ place: Place, _ resumption: Resumption,
        _ configuration: EngineConfiguration
    ) -> Execution {
        Execution(
            tag: tag, launch: launch, descriptor: descriptor, place: place, buffers: lent,
            configuration: configuration, pools: pools, resumed: (self, resumption))
    }

    /// What is held stays in the buffer, and its originals aside; all else is the caller's input again.
    private func takeOver(_ halted: Execution) {
        traffic = halted.traffic
        let kept = held.indices.filter { held[$0] }.map { chunks.elements(ofChunk: $0) }
            .map { $0.lowerBound * reducer.elementBytes..<$0.upperBound * reducer.elementBytes }
            .sorted { $0.lowerBound < $1.lowerBound }
        for original in halted.originals {
            let range = original.offset..<original.offset + original.count
            func restore(_ part: Range<Int>) {
                guard !part.isEmpty else { return }
                (lent.receive + part.lowerBound).copyMemory(
                    from: original.piece.base + (part.lowerBound - range.lowerBound), byteCount: part.count)
            }
            var start = range.lowerBound
            var isKept = false
            for part in kept[Execution.firstEnding(after: start, kept)...] {
                guard part.lowerBound < range.upperBound else { break }
                isKept = true
                restore(start..<max(part.lowerBound, start))
                start = min(part.upperBound, range.upperBound)
            }
            restore(start..<range.upperBound)
            // What was put back in part may be put back again: it is the input in any case.
            if isKept { originals.append(original) }
        }
        halted.originals = []
    }

    /// The first of ascending ranges that ends beyond this offset.
    private static func firstEnding(after offset: Int, _ ranges: [Range<Int>]) -> Int {
        var (low, high) = (0, ranges.count)
        while low < high {
            let middle = (low + high) / 2
            if ranges[middle].upperBound > offset { high = middle } else { low = middle + 1 }
        }
        return low
    }
}
