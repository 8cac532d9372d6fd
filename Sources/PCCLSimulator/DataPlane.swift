import PCCLBase
import PCCLMembership
import PCCLSchedule
import PCCLWire

/// The engine of a process, reduced to what outcomes depend on: which frames of which epoch and launch are taken, kept
/// or dropped, and what is in the callers' memory when.
///
/// An element is a word. Contributions are folded by a function for which order and multiplicity matter, so that a result
/// tells who is in it.
struct DataPlane {
    struct Inbound {
        let peer: PeerID
        /// Their launch → ours.
        var bound: [(theirs: LaunchNumber, ours: LaunchNumber)] = []
        var ignored: [LaunchNumber] = []
        /// Data of launches that are not bound yet.
        var early: [Frame] = []
        /// Frames of epochs to come.
        var future: [Frame] = []
    }

    var epoch = Epoch.none
    var isHalted = true
    var executions: [Execution] = []
    var inbound: [Inbound] = []

    mutating func inboundIndex(_ peer: PeerID) -> Int {
        if let index = inbound.firstIndex(where: { $0.peer == peer }) { return index }
        inbound.append(Inbound(peer: peer))
        return inbound.count - 1
    }
    func execution(_ launch: LaunchNumber) -> Execution? { executions.first { $0.launch == launch } }

    static func fold(_ sum: UInt64, _ contribution: UInt64) -> UInt64 {
        (sum << 7 | sum >> 57) &* 0x9e37_79b9_7f4a_7c15 &+ contribution
    }
}

/// One operation of a process in one epoch.
final class Execution {
    struct Outgoing {
        var phase: FrameHeader.Phase
        var chunk: Int
        var offset: Int
        var values: [UInt64]
    }
    struct Fold {
        var chunk: Int
        var operands: [Step.Operand]
        var into: Step.FoldTarget
        /// By operand, then by element of the chunk; nil until it has come.
        var arrived: [[UInt64?]]
    }
    struct PeerState {
        var isEntrySent = false
        var theirs: LaunchNumber?
        var outbox: [Outgoing] = []
    }

    let call: OperationCall
    let tag: Tag
    let launch: LaunchNumber
    let descriptor: OperationDescriptor
    let place: Assignment
    let layout: ChunkLayout
    let segmentElements: Int
    var peers: [PeerState]
    private var folds: [Fold] = []
    private var resultTargets: [[Int]]
    private var resultSource: [Int?]
    private var isDone: [Bool]
    private var saved: [UInt64?]
    /// By chunk: of how many members the contributions in its result are.
    private let worldSizes: [Int]
    /// By element, of those that are done.
    private var worldSizeOf: [Int]
    private(set) var missing: Int
    var isTold = false
    /// Set by a sabotaged simulation.
    var foldsTwice = false
    var keepsOtherBits = false

    /// With `resumed` it goes on where that execution was halted; otherwise with these steps.
    init(
        call: OperationCall, tag: Tag, launch: LaunchNumber, descriptor: OperationDescriptor, place: Assignment,
        steps fromTheStart: @autoclosure () -> [Step], segmentElements: Int,
        resumed: (Execution, Resumption)? = nil
    ) {
        self.call = call
        self.tag = tag
        self.launch = launch
        self.descriptor = descriptor
        self.place = place
        self.segmentElements = segmentElements
        let worldSize = place.members.count
        let count = Int(descriptor.count)
        let steps: [Step]
        var held: [Bool] = []
        if let (_, resumption) = resumed {
            let schedule = ResumedSchedule(
                resumption, of: descriptor.collective, elementCount: count, worldSize: worldSize)
            layout = schedule.layout
            steps = schedule.steps(rank: place.rank)
            held = schedule.held(by: place.rank)
            let reduced = layout.chunkCount - resumption.kept.count
            worldSizes = Array(repeating: worldSize, count: reduced) + resumption.kept.map(\.part.worldSize)
        } else {
            layout = CollectiveSchedule.layout(
                descriptor.collective, descriptor.algorithm, elementCount: count, worldSize: worldSize,
                shares: place.arrangement.shares, sites: place.arrangement.sites)
            steps = fromTheStart()
            held = CollectiveSchedule.held(
                descriptor.collective, descriptor.algorithm, rank: place.rank, worldSize: worldSize)
            worldSizes = Array(repeating: worldSize, count: layout.chunkCount)
        }
        worldSizeOf = Array(repeating: 0, count: count)
        peers = Array(repeating: PeerState(), count: worldSize)
        resultTargets = Array(repeating: [], count: layout.chunkCount)
        resultSource = Array(repeating: nil, count: layout.chunkCount)
        isDone = Array(repeating: false, count: count)
        saved = Array(repeating: nil, count: count)
        missing = 0
        if let (old, _) = resumed { takeOver(old, held) } else { begin(with: held) }
        for step in steps {
            switch step {
            case .sendInput(let chunk, let to):
                for segment in segments(of: chunk) {
                    let start = layout.elements(ofChunk: chunk).lowerBound
                    enqueue(
                        .reduce, chunk, segment.lowerBound,
                        Array(call.buffer[start + segment.lowerBound..<start + segment.upperBound]), to: to)
                }
            case .fold(let chunk, let operands, let into):
                let empty = [UInt64?](repeating: nil, count: layout.elements(ofChunk: chunk).count)
                folds.append(
                    Fold(
                        chunk: chunk, operands: operands, into: into,
                        arrived: Array(repeating: empty, count: operands.count)))
                if into == .result { missing += empty.count }
            case .receiveResult(let chunk, let from):
                resultSource[chunk] = from
                missing += layout.elements(ofChunk: chunk).count
            case .sendResult(let chunk, let to): resultTargets[chunk].append(to)
            }
        }
        for chunk in held.indices where held[chunk] {
            let start = layout.elements(ofChunk: chunk).lowerBound
            for segment in segments(of: chunk) {
                let values = Array(call.output[start + segment.lowerBound..<start + segment.upperBound])
                for rank in resultTargets[chunk] { enqueue(.gather, chunk, segment.lowerBound, values, to: rank) }
            }
        }
    }

    /// What a collective begins with is put where the rest of its result is to come.
    private func begin(with held: [Bool]) {
        for chunk in held.indices where held[chunk] {
            for element in layout.elements(ofChunk: chunk) {
                isDone[element] = true
                worldSizeOf[element] = place.members.count
                if !call.inPlace { call.result[element] = call.buffer[element] }
            }
        }
    }

    private func takeOver(_ old: Execution, _ held: [Bool]) {
        var isHeld = Array(repeating: false, count: isDone.count)
        for chunk in held.indices where held[chunk] {
            for element in layout.elements(ofChunk: chunk) {
                isHeld[element] = true
                isDone[element] = true
                worldSizeOf[element] = worldSizes[chunk]
            }
        }
        for element in isHeld.indices {
            guard let value = old.saved[element] else { continue }
            if isHeld[element] { saved[element] = value } else { call.buffer[element] = value }
        }
    }

    var final: [ResultPart] {
        isDone.indices.filter { isDone[$0] }
            .map { ResultPart(elements: $0..<$0 + 1, worldSize: worldSizeOf[$0]) }.joined
    }

    private func segments(of chunk: Int) -> [Range<Int>] {
        let segments = SegmentLayout(
            elementCount: layout.elements(ofChunk: chunk).count, elementsPerSegment: segmentElements)
        return (0..<segments.segmentCount).map { segments.elements(ofSegment: $0) }
    }

    private func enqueue(_ phase: FrameHeader.Phase, _ chunk: Int, _ offset: Int, _ values: [UInt64], to rank: Int) {
        peers[rank].outbox.append(Outgoing(phase: phase, chunk: chunk, offset: offset, values: values))
    }

    /// Takes a piece in. Returns what is wrong with it, or nil.
    func take(_ header: FrameHeader, _ values: [UInt64], from rank: Int) -> String? {
        let chunk = Int(header.chunk)
        let offset = Int(header.offset) / 8
        guard chunk < layout.chunkCount,
            offset + values.count <= layout.elements(ofChunk: chunk).count
        else { return "a piece outside of the buffer" }
        switch header.phase {
        case .reduce:
            for f in folds.indices where folds[f].chunk == chunk {
                let operand = folds[f].operands.firstIndex { $0 == .input(from: rank) || $0 == .partial(from: rank) }
                guard let operand else { continue }
                for (i, value) in values.enumerated() {
                    if folds[f].arrived[operand][offset + i] != nil { return "a contribution came twice" }
                    folds[f].arrived[operand][offset + i] = value
                }
                return fold(f, offset..<offset + values.count)
            }
            return "nobody folds chunk \(chunk) from rank \(rank)"
        case .gather:
            guard resultSource[chunk] == rank else { return "no result of chunk \(chunk) is due from rank \(rank)" }
            return finish(chunk, offset, values)
        case .state: return "a piece of a shared state"
        }
    }

    private func fold(_ f: Int, _ range: Range<Int>) -> String? {
        let start = layout.elements(ofChunk: folds[f].chunk).lowerBound
        for element in range {
            for (k, operand) in folds[f].operands.enumerated() where operand != .own {
                if folds[f].arrived[k][element] == nil { return nil }
            }
        }
        var sums: [UInt64] = []
        for element in range {
            var sum: UInt64?
            for (k, operand) in folds[f].operands.enumerated() {
                let value = operand == .own ? call.buffer[start + element] : folds[f].arrived[k][element] ?? 0
                sum = sum.map { DataPlane.fold($0, value) } ?? value
                if foldsTwice, operand == .own, let before = sum { sum = DataPlane.fold(before, value) }
            }
            sums.append(sum ?? 0)
        }
        switch folds[f].into {
        case .partial(let to):
            enqueue(.reduce, folds[f].chunk, range.lowerBound, sums, to: to)
            return nil
        case .result:
            return finish(folds[f].chunk, range.lowerBound, sums)
        }
    }

    private func finish(_ chunk: Int, _ offset: Int, _ values: [UInt64]) -> String? {
        let start = layout.elements(ofChunk: chunk).lowerBound + offset
        for (i, value) in values.enumerated() {
            if isDone[start + i] { return "a result came twice" }
            isDone[start + i] = true
            worldSizeOf[start + i] = worldSizes[chunk]
            missing -= 1
            let kept = keepsOtherBits ? value ^ 1 : value
            if call.inPlace {
                saved[start + i] = call.buffer[start + i]
                call.buffer[start + i] = kept
            } else {
                call.result[start + i] = kept
            }
        }
        for rank in resultTargets[chunk] { enqueue(.gather, chunk, offset, values, to: rank) }
        return nil
    }

    func restoreInput() {
        for (i, value) in saved.enumerated() { if let value { call.buffer[i] = value } }
    }
}

extension World {
    func planeForget(_ host: Host) {
        host.plane.epoch = .none
        host.plane.isHalted = true
        host.plane.inbound = []
    }

    func planeAdopt(_ host: Host, _ assignment: Assignment) {
        host.plane.epoch = assignment.epoch
        host.plane.isHalted = false
        let held = assignment.members.map { peer in
            (peer, host.plane.inbound.first { $0.peer == peer }?.future ?? [])
        }
        host.plane.inbound = []
        for (peer, frames) in held {
            for frame in frames where frame.header.epoch >= assignment.epoch { planeTake(host, frame, from: peer) }
        }
    }

    func planeStart(
        _ host: Host, _ call: OperationCall, _ tag: Tag, _ launch: LaunchNumber, _ descriptor: OperationDescriptor,
        _ place: Assignment, resumed: (from: LaunchNumber, Resumption)? = nil
    ) {
        var halted: (Execution, Resumption)?
        if let (from, resumption) = resumed {
            guard let position = host.plane.executions.firstIndex(where: { $0.launch == from }) else {
                return fail(.schedule, "\(host.name): \(tag) goes on, and was not halted")
            }
            halted = (host.plane.executions.remove(at: position), resumption)
        }
        let execution = Execution(
            call: call, tag: tag, launch: launch, descriptor: descriptor, place: place,
            steps: steps(descriptor, place), segmentElements: scenario.segmentElements, resumed: halted)
        execution.foldsTwice = sabotage == .foldTwice
        execution.keepsOtherBits = sabotage == .keepOtherBits && host.index == 1
        host.plane.executions.append(execution)
        for rank in place.members.indices where rank != place.rank { planeFlush(host, execution, rank) }
    }

    /// Sends whatever waits for this rank, if its link stands.
    func planeFlush(_ host: Host, _ execution: Execution, _ rank: Int) {
        let peer = execution.place.members[rank]
        guard !host.plane.isHalted, let link = host.link(to: peer) else { return }
        if !execution.peers[rank].isEntrySent {
            execution.peers[rank].isEntrySent = true
            let header = FrameHeader(
                kind: .enter, epoch: execution.place.epoch, launch: execution.launch, tag: execution.tag,
                payloadBytes: UInt32(Entry.byteCount))
            let entry = Entry(descriptor: execution.descriptor, windowBytes: 1 << 18)
            transmit(host, link, header, entry: entry)
            if sabotage == .enterTwice, random.oneIn(4) { transmit(host, link, header, entry: entry) }
        }
        let outbox = execution.peers[rank].outbox
        execution.peers[rank].outbox = []
        for piece in outbox {
            let header = FrameHeader(
                kind: .data, phase: piece.phase, chunk: UInt16(piece.chunk), epoch: execution.place.epoch,
                launch: execution.launch, tag: execution.tag, offset: UInt64(piece.offset * 8),
                payloadBytes: UInt32(piece.values.count * 8))
            transmit(host, link, header, values: piece.values)
            if sabotage == .sendTwice, random.oneIn(8) { transmit(host, link, header, values: piece.values) }
        }
    }

    func planeLinkUp(_ host: Host, _ peer: PeerID) {
        for execution in host.plane.executions {
            if let rank = execution.place.members.firstIndex(of: peer) { planeFlush(host, execution, rank) }
        }
    }

    func planeBind(_ host: Host, _ launch: LaunchNumber, _ peer: PeerID, theirs: LaunchNumber) {
        guard let execution = host.plane.execution(launch),
            let rank = execution.place.members.firstIndex(of: peer)
        else { return }
        let index = host.plane.inboundIndex(peer)
        host.plane.inbound[index].bound.append((theirs, launch))
        execution.peers[rank].theirs = theirs
        let early = host.plane.inbound[index].early.filter { $0.header.launch == theirs }
        host.plane.inbound[index].early.removeAll { $0.header.launch == theirs }
        for frame in early { planeData(host, frame, execution, rank) }
        planeTellIfWhole(host, execution)
    }

    func planeIgnore(_ host: Host, _ peer: PeerID, theirs: LaunchNumber) {
        let index = host.plane.inboundIndex(peer)
        host.plane.inbound[index].ignored.append(theirs)
        host.plane.inbound[index].early.removeAll { $0.header.launch == theirs }
    }

    func planeAnnounce(_ host: Host, _ tag: Tag, _ launch: LaunchNumber, _ epoch: Epoch, _ peers: [PeerID]) {
        for peer in peers {
            guard let link = host.link(to: peer) else { continue }
            if sabotage == .losePrepared, random.oneIn(4) { continue }
            transmit(host, link, FrameHeader(kind: .prepared, epoch: epoch, launch: launch, tag: tag))
        }
    }

    func planeFinal(_ host: Host, _ launches: [LaunchNumber]) -> [LaunchNumber: [ResultPart]] {
        var final: [LaunchNumber: [ResultPart]] = [:]
        for launch in launches {
            guard let execution = host.plane.execution(launch) else { continue }
            var parts = execution.final
            let count = Int(execution.descriptor.count)
            if let last = parts.last, last.elements.upperBound < count, sabotages(.claimMore, oneIn: 2) {
                parts[parts.count - 1].elements = last.elements.lowerBound..<last.elements.upperBound + 1
            }
            final[launch] = parts
        }
        return final
    }

    func planeFinish(_ host: Host, _ launch: LaunchNumber, succeeded: Bool) -> Execution? {
        guard let position = host.plane.executions.firstIndex(where: { $0.launch == launch }) else { return nil }
        let execution = host.plane.executions.remove(at: position)
        for (rank, peer) in execution.place.members.enumerated() {
            guard let theirs = execution.peers[rank].theirs else { continue }
            let index = host.plane.inboundIndex(peer)
            host.plane.inbound[index].bound.removeAll { $0.theirs == theirs }
            if !succeeded { host.plane.inbound[index].ignored.append(theirs) }
        }
        if !succeeded, sabotage != .skipRestore { execution.restoreInput() }
        return execution
    }

    func planeTake(_ host: Host, _ frame: Frame, from peer: PeerID) {
        let header = frame.header
        if header.epoch < host.plane.epoch || (header.epoch == host.plane.epoch && host.plane.isHalted) { return }
        let index = host.plane.inboundIndex(peer)
        if header.epoch > host.plane.epoch {
            host.plane.inbound[index].future.append(frame)
            return
        }
        switch header.kind {
        case .enter:
            guard let entry = frame.entry else { return }
            pump(host, .entered(peer, header.epoch, header.tag, header.launch, entry.descriptor))
        case .prepared:
            pump(host, .prepared(peer, header.epoch, header.tag, header.launch))
        case .data:
            if let bound = host.plane.inbound[index].bound.first(where: { $0.theirs == header.launch }) {
                guard let execution = host.plane.execution(bound.ours),
                    let rank = execution.place.members.firstIndex(of: peer)
                else { return }
                planeData(host, frame, execution, rank)
                planeTellIfWhole(host, execution)
            } else if !host.plane.inbound[index].ignored.contains(header.launch) {
                host.plane.inbound[index].early.append(frame)
            }
        case .credit, .idle, .acknowledge, .void, .offer, .local, .fetching, .probe, .stateRequest, .stateLack, .window,
            .rounds:
            break
        }
    }

    private func planeData(_ host: Host, _ frame: Frame, _ execution: Execution, _ rank: Int) {
        if let wrong = execution.take(frame.header, frame.values, from: rank) {
            return fail(.schedule, "\(host.name), \(execution.tag): \(wrong)")
        }
        for to in execution.peers.indices where !execution.peers[to].outbox.isEmpty { planeFlush(host, execution, to) }
    }

    private func planeTellIfWhole(_ host: Host, _ execution: Execution) {
        guard execution.missing == 0, !execution.isTold else { return }
        execution.isTold = true
        pump(host, .resultWhole(execution.tag, execution.launch))
        if sabotage == .commitWithoutPrepared {
            for (rank, peer) in execution.place.members.enumerated() {
                guard let theirs = execution.peers[rank].theirs else { continue }
                pump(host, .prepared(peer, execution.place.epoch, execution.tag, theirs))
            }
        }
    }
}
