import PCCLBase
import PCCLCompute
import PCCLSchedule
import PCCLTransport
import PCCLWire

/// What members tell each other of an operation, however its bytes go.
protocol EngineOperation: AnyObject {
    var tag: Tag { get }
    var launch: LaunchNumber { get }
    var descriptor: OperationDescriptor { get }
    var place: Place { get }
    var peers: [Execution.PeerState] { get set }
    var entry: Entry { get }
}

/// Operations through windows of device memory.
///
/// Whether one goes there is known when all members have entered: each says in its entry whether it could. Who says no sends
/// at once, as ever; so who hears a no, or data, goes on through the host.
extension Engine {
    /// Nil where it is an operation of the host's memory, or cannot go through windows now.
    func run(
        _ tag: Tag, _ launch: LaunchNumber, _ descriptor: OperationDescriptor, _ place: Place, _ buffers: ReduceBuffers
    ) -> WindowRun? {
        guard let location = buffers.device?.location else { return nil }
        windows.prepare(
            at: location, with: place.members.enumerated().filter { $0.offset != place.rank }.map(\.element))
        patience.pass()
        noteWindows()
        let run = WindowRun(
            tag: tag, launch: launch, descriptor: descriptor, place: place, buffers: buffers,
            windowBytes: Execution.windowBytes(descriptor, place, configuration),
            roundBytes: configuration.windows.roundBytes, loop: loop, exchange: windows,
            tell: { [weak self] in self?.tell($0) },
            onFailure: { [weak self] run in
                guard let failure = run.failure else { return }
                self?.tellCannotGoOn(
                    "\(run.descriptor) with \(run.tag) cannot go on: \(failure); this peer leaves the run")
            })
        if run != nil { buffers.device?.useDevice() }
        return run
    }

    func takeRun(_ launch: LaunchNumber) -> WindowRun? { runs.removeValue(forKey: launch) }

    /// The member of this rank has entered; nil: it does not go through windows.
    func join(_ run: WindowRun, _ rank: Int, _ peer: PeerID, _ theirs: LaunchNumber, region: UInt64?) {
        let hasSent = inbound[peer]?.early[theirs] != nil
        guard let region, !hasSent else { return fallBack(run.launch) }
        guard run.join(rank, region: region) else {
            links[peer]?.breakOff("a region at offset \(region) of its window")
            return
        }
        if let rounds = inbound[peer]?.rounds.removeValue(forKey: theirs) { run.heard(rounds, from: rank) }
        run.advance()
    }

    func takeRounds(_ frame: HeldFrame, from peer: PeerID) {
        guard let rounds = try? WindowRounds(frame.payload) else { return }
        let theirs = frame.header.launch
        guard let launch = inbound[peer]?.bound[theirs] else {
            // Entries come in the order of launches: of one that has come and gone nothing is of use any more.
            let isToCome = theirs > inbound[peer]?.latestEntry ?? LaunchNumber(0)
            let isWaiting = inbound[peer]?.entries[theirs] != nil
            guard isToCome || isWaiting, inbound[peer]?.rounds.count ?? 0 < configuration.heldFramesPerLink else {
                return
            }
            inbound[peer, default: Inbound()].rounds[theirs, default: rounds].advance(to: rounds)
            return
        }
        guard let run = runs[launch], let rank = run.place.members.firstIndex(of: peer) else { return }
        run.heard(rounds, from: rank)
    }

    /// A step of it has ended.
    private func tell(_ run: WindowRun) {
        guard !isHalted else { return }
        let bytes = run.rounds.bytes
        for (rank, peer) in run.place.members.enumerated() where rank != run.place.rank {
            links[peer]?.send(
                FrameHeader(
                    kind: .rounds, epoch: run.place.epoch, launch: run.launch, tag: run.tag,
                    payloadBytes: UInt32(bytes.count)),
                payload: bytes)
        }
        guard run.isWhole, !run.isTold else { return }
        run.isTold = true
        patience.succeeded()
        delegate?.engineHoldsResult(run.tag, run.launch)
    }

    /// If that is an operation that was to go through windows, it goes on through the host. No member has begun.
    ///
    /// Where the input was not copied to the host by who launched it, it is here, and all of this peer's links wait for that:
    /// seldom, see `WindowPatience`.
    func fallBack(_ launch: LaunchNumber) {
        guard let run = takeRun(launch) else { return }
        patience.refused()
        noteWindows()
        guard let execution = throughHost(run) else { return }
        execution.peers = run.peers
        begin(execution)
        for (rank, peer) in run.place.members.enumerated() where run.peers[rank].hasEntered {
            takeEarly(execution, rank, peer)
        }
    }

    /// False if it did not succeed, and its input is not what it was.
    @discardableResult
    func end(_ run: WindowRun, succeeded: Bool) -> Bool {
        do {
            try run.end(succeeded: succeeded)
            return true
        } catch {
            tellCannotGoOn(
                "the input of \(run.descriptor) with \(run.tag) is not what it was: \(error); this peer leaves the run")
            return false
        }
    }

    /// The same as an operation of the host's memory, which has not begun. Nil if the input does not come there.
    func throughHost(_ run: WindowRun) -> Execution? {
        guard end(run, succeeded: false) else { return nil }
        let execution = execution(run.tag, run.launch, run.descriptor, run.place, run.buffers)
        execution?.traffic = run.traffic
        return execution
    }
}

extension WindowRounds {
    fileprivate mutating func advance(to other: WindowRounds) {
        filled = max(filled, other.filled)
        folded = max(folded, other.folded)
        taken = max(taken, other.taken)
    }
}
