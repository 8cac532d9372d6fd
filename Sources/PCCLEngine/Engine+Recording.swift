import PCCLBase
import PCCLRecorder
import PCCLWire

/// Bytes between this rank and another, of contributions and of results.
struct RecordedPieces {
    struct Flow {
        var bytes = 0
        /// Known once something has come.
        var expectedBytes = 0
    }
    var inputsIn = Flow()
    var resultsIn = Flow()
    var inputsOut = 0
    var resultsOut = 0
}

/// What the flight recorder is told: of each phase and peer the first piece and the last, and nothing in between.
extension Engine {
    func recordArrival(_ header: FrameHeader, from peer: PeerID) {
        guard let recorder = configuration.recorder else { return }
        switch header.kind {
        case .enter: recorder.record(.entryReceived, peer: peer, launch: header.launch, tag: header.tag)
        case .prepared: recorder.record(.preparedReceived, peer: peer, launch: header.launch, tag: header.tag)
        case .data, .credit, .idle, .acknowledge, .void, .offer, .local, .fetching, .probe, .stateRequest, .stateLack,
            .window, .rounds:
            break
        }
    }

    func recordPiece(_ header: FrameHeader, _ execution: Execution, from rank: Int) {
        guard let recorder = configuration.recorder else { return }
        let isResult = header.phase == .gather
        var flow = isResult ? execution.peers[rank].pieces.resultsIn : execution.peers[rank].pieces.inputsIn
        let isFirst = flow.bytes == 0
        if isFirst { flow.expectedBytes = execution.expectedBytes(from: rank, isResult: isResult) }
        flow.bytes += Int(header.payloadBytes)
        if isResult {
            execution.peers[rank].pieces.resultsIn = flow
        } else {
            execution.peers[rank].pieces.inputsIn = flow
        }
        func record(_ kind: TraceEvent.Kind) {
            recorder.record(
                kind, peer: execution.place.members[rank], launch: execution.launch, tag: execution.tag,
                value: UInt64(flow.bytes))
        }
        if isFirst { record(isResult ? .firstResultReceived : .firstInputReceived) }
        if flow.bytes == flow.expectedBytes { record(isResult ? .lastResultReceived : .lastInputReceived) }
    }

    func recordPiece(_ header: FrameHeader, _ execution: Execution, to rank: Int) {
        guard let recorder = configuration.recorder else { return }
        let isResult = header.phase == .gather
        let before = isResult ? execution.peers[rank].pieces.resultsOut : execution.peers[rank].pieces.inputsOut
        let bytes = before + Int(header.payloadBytes)
        if isResult {
            execution.peers[rank].pieces.resultsOut = bytes
        } else {
            execution.peers[rank].pieces.inputsOut = bytes
        }
        func record(_ kind: TraceEvent.Kind) {
            recorder.record(
                kind, peer: execution.place.members[rank], launch: execution.launch, tag: execution.tag,
                value: UInt64(bytes))
        }
        if before == 0 { record(isResult ? .firstResultSent : .firstInputSent) }
        let isLast = !execution.outgoing[rank].contains { ($0.phase == .gather) == isResult }
        if isLast { record(isResult ? .lastResultSent : .lastInputSent) }
    }
}

extension Execution {
    fileprivate func expectedBytes(from rank: Int, isResult: Bool) -> Int {
        if isResult {
            return gathers.reduce(0) { sum, gather in
                guard let gather, gather.from == rank else { return sum }
                return sum + gather.layout.byteCount(gather.segments.elementCount)
            }
        }
        return folds.reduce(0) { sum, fold in
            guard let fold, let operand = fold.operandIndex(fromRank: rank) else { return sum }
            return sum + fold.streams[operand].totalBytes
        }
    }
}
