import PCCLBase
import PCCLMembership
import PCCLRecorder
import PCCLTransport
import PCCLWire
import Synchronization

/// Dumps that a session writes by itself.
struct RecorderDumps {
    /// More than somebody will read, and less than fills a disk: half a gigabyte.
    static let limit = 64

    /// Why one is due.
    var reason: String?
    var last: Instant?
    var count = 0
    var signals: UInt32?
}

/// The flight recorder: events and effects of the machine on their way through.
extension PeerSession {
    func record(_ event: PeerMachine.Event) {
        guard let recorder else { return }
        switch event {
        case .call(let id, let call): recordedCalls[id] = TraceCall(call)
        case .resultWhole(let tag, let launch): recorder.record(.resultWhole, launch: launch, tag: tag)
        case .linkUp(let peer): recorder.record(.linkUp, peer: peer)
        case .linkDown(let peer, _): recorder.record(.linkDown, peer: peer)
        case .masterConnected: recorder.record(.masterConnected)
        case .masterUnreachable, .masterClosed: recorder.record(.masterLost)
        case .fromMaster(let message): record(message, recorder)
        case .stateFetched(let launch, let failure):
            recorder.record(.stateFetched, launch: launch, value: failure == nil ? 1 : 0)
        case .launch, .outOfMemory, .leave, .entered, .prepared, .measured, .final, .observed, .tick: break
        }
    }

    private func record(_ message: ToPeer, _ recorder: Recorder) {
        switch message {
        case .propose(let epoch, _): recorder.record(.proposed, value: UInt64(epoch.value))
        case .view(let epoch, _, _, _): recorder.record(.view, value: UInt64(epoch.value))
        case .flush(let epoch): recorder.record(.flush, value: UInt64(epoch.value))
        case .verdict(let epoch, _, _, _, _, _): recorder.record(.verdict, value: UInt64(epoch.value))
        case .attached: recorder.record(.attached)
        case .welcome, .turnedAway, .heartbeat, .joinUnchanged, .pendingAnswer, .world, .callRefused,
            .optimizeUnchanged,
            .repeatOffer, .receiveState, .stateSynchronized, .stateRefused:
            break
        }
    }

    func record(_ effect: PeerMachine.Effect) {
        guard let recorder else { return }
        switch effect {
        case .start(_, let tag, let launch, let descriptor, _):
            recorder.record(.started, launch: launch, tag: tag, value: TraceDescriptor(descriptor).word)
        case .resume(_, let tag, let from, let launch, _, _, _):
            recorder.record(.resumed, launch: launch, tag: tag, value: UInt64(from.value))
        case .finish(let tag, let launch, let succeeded):
            recorder.record(.finished, launch: launch, tag: tag, value: succeeded ? 1 : 0)
        case .halt: recorder.record(.halted)
        case .lendState: recorder.record(.stateLent)
        case .returnState: recorder.record(.stateReturned)
        case .sendToMaster(.linked(let epoch)): recorder.record(.linked, value: UInt64(epoch.value))
        case .sendToMaster(.stuck(_, let operations)):
            for operation in operations {
                for culprit in operation.culprits {
                    recorder.record(
                        .stuck, peer: culprit.peer, tag: operation.tag,
                        value: UInt64(culprit.milliseconds) * 1_000_000)
                }
            }
        case .answer(let id, let answer):
            guard let call = recordedCalls.removeValue(forKey: id) else { return }
            let result = TraceResult(answer)
            recorder.record(.callEnded, value: UInt64(call.rawValue) | UInt64(result.rawValue) << 8)
        case .view(nil):
            recorder.record(.departed)
            // Who leaves by itself knows why.
            if let departure = machineDeparture { dumps.reason = dumps.reason ?? "it has left the run: \(departure)" }
        case .dialMaster, .closeMaster, .abandonMaster, .sendToMaster, .wantLinks, .adopt, .listFinal, .measureLinks,
            .bind, .ignore, .fetchState, .announcePrepared, .complete, .view, .wake, .log, .observe, .noteStuck:
            break
        }
    }

    /// The caller has the outcome next.
    func record(_ tag: Tag, _ outcome: OperationOutcome) {
        guard let recorder else { return }
        let result = TraceResult(outcome)
        recorder.record(.completed, tag: tag, value: UInt64(result.rawValue))
        switch result {
        case .memberLost, .masterLost, .outOfMemory: dumps.reason = dumps.reason ?? "\(tag) has failed: \(result)"
        case .success, .mismatch, .misuse, .refused, .destroyed: break
        }
    }

    /// Writes one, if there was a reason since it was asked last and there is a place for it. Of what fails together the
    /// first is the reason of all.
    func dumpIfDue(at now: Instant) {
        let reason = takeDumpReason(at: now)
        guard let reason, let directory = configuration.recorder.directory, dumps.count < RecorderDumps.limit else {
            return
        }
        dumps.last = now
        dumps.count += 1
        let number = PeerSession.dumpNumber.wrappingAdd(1, ordering: .relaxed).newValue
        let peer = recordedIdentity.withLock { $0?.peer.value ?? 0 }
        let path = "\(directory)/pccl-\(peer)-\(TraceFile.here.process)-\(number).trace"
        do throws(TraceFileError) {
            try dump(to: path, reason: reason)
            Log.write(.info, "the flight recorder was written to \(path): \(reason)")
        } catch {
            Log.write(.error, "the flight recorder cannot be written: \(error)")
        }
    }

    private static let dumpNumber = Atomic<Int>(0)

    private func takeDumpReason(at now: Instant) -> String? {
        guard recorder != nil else { return nil }
        defer { dumps.reason = nil }
        if let signal = configuration.recorder.signal {
            let count = signal.count
            defer { dumps.signals = count }
            if let known = dumps.signals, known != count { return "\(signal.name) has come" }
        }
        // What went wrong since is in the next one, and most of it in the last.
        guard let reason = dumps.reason, dumps.last.map({ $0 + configuration.timeouts.deadTime <= now }) ?? true else {
            return nil
        }
        return reason
    }

    /// Any thread may ask. Throws if nothing is recorded.
    package func dump(to path: String, reason: String) throws(TraceFileError) {
        guard let recorder else { throw .unreadable("nothing is recorded: PCCL_RECORDER=0") }
        let identity = recordedIdentity.withLock { $0 }
        let file = TraceFile(
            of: recorder, peer: identity?.peer ?? PeerID(0), group: configuration.group,
            run: UInt32(truncatingIfNeeded: (identity?.run.high ?? 0) >> 32), release: configuration.recorder.release,
            reason: reason)
        try file.write(to: path)
    }
}

extension TraceCall {
    init(_ call: Call) {
        switch call {
        case .connect: self = .connect
        case .updateTopology: self = .updateTopology
        case .arePeersPending: self = .arePeersPending
        case .optimizeTopology: self = .optimizeTopology
        case .synchronizeState: self = .synchronizeState
        }
    }
}

extension TraceResult {
    init(_ outcome: OperationOutcome) {
        switch outcome {
        case .success: self = .success
        case .memberLost: self = .memberLost
        case .mismatch: self = .mismatch
        case .misuse, .tooFewPeers, .notConnected, .tagInUse: self = .misuse
        case .masterLost: self = .masterLost
        case .outOfMemory: self = .outOfMemory
        case .destroyed: self = .destroyed
        }
    }

    init(_ answer: CallAnswer) {
        switch answer {
        case .done, .pending, .synchronized: self = .success
        case .failed(let failure):
            switch failure {
            case .alreadyConnected, .notConnected, .callInProgress, .operationsInFlight, .alone, .noSharedState:
                self = .misuse
            case .masterUnreachable, .masterLost: self = .masterLost
            case .turnedAway, .refused: self = .refused
            case .outOfMemory: self = .outOfMemory
            case .destroyed: self = .destroyed
            }
        }
    }
}
