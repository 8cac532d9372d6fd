import PCCLBase
import PCCLCompute
import PCCLTransport
import PCCLWire

/// What the engine tells its session. All calls come on the loop's thread.
package protocol EngineDelegate: AnyObject {
    func engineEntered(
        _ peer: PeerID, _ epoch: Epoch, _ tag: Tag, _ launch: LaunchNumber, _ descriptor: OperationDescriptor)
    func enginePrepared(_ peer: PeerID, _ epoch: Epoch, _ tag: Tag, _ launch: LaunchNumber)
    /// This peer holds the whole result of its launch.
    func engineHoldsResult(_ tag: Tag, _ launch: LaunchNumber)
    /// An operation of this peer cannot go on: it has no memory, or its device fails. Said once, until the engine is halted.
    func engineCannotGoOn(_ text: String)
}

/// The data plane of one communicator: runs operations over links. It decides nothing about outcomes and knows views
/// only as places.
///
/// Bound to the loop of its links. Frames are told apart by epoch (older ones are dropped, newer ones kept for `adopt`)
/// and by the sender's launch number, which `bind` ties to an operation of ours; frames of a launch that is not bound yet
/// are kept, within the eager allowance.
package final class Engine {
    let loop: EventLoop
    let configuration: EngineConfiguration
    weak var delegate: (any EngineDelegate)?
    private let pools: Execution.Pools
    /// For what a device codes: memory that it copies to and from at full speed. Much of it is kept, for pinning is slow.
    private var poolsOfCodes: Execution.Pools?
    /// What devices work on, by what they answer with.
    var deviceTasks: [Int: DeviceTask] = [:]
    /// Of operations that a device codes: what the caller has lent.
    private var lentToDevice: [LaunchNumber: ReduceBuffers] = [:]

    private var epoch = Epoch.none
    private(set) var isHalted = true
    /// An operation of this peer cannot go on, which is told at the end of the turn, once.
    private var cannotGoOn = false
    /// Since then another one was not begun: there is no way back.
    private var hasDeclined = false
    private var members: [PeerID] = []
    private(set) var executions: [LaunchNumber: Execution] = [:]
    /// Operations that go through windows, or may yet.
    var runs: [LaunchNumber: WindowRun] = [:]
    var inbound: [PeerID: Inbound] = [:]
    private var outbound: [PeerID: Outbound] = [:]
    private(set) var links: [PeerID: Link] = [:]

    private var nextToken = 1
    /// Of requests for shared state: what comes late is not taken for an answer to a later one.
    private var nextRequest: UInt64 = 1
    private var landings: [Int: (launch: LaunchNumber, piece: StagedPiece)] = [:]
    private var departures: [Int: Departure] = [:]
    private var exchange: StateExchange?
    let windows: WindowExchange
    /// What operations through windows find now; nil if none can go there. Any thread may read it.
    package let windowRoom = Guarded<WindowRoom?>(nil)
    /// Whether others are expected not to go through windows.
    var patience = WindowPatience()

    /// What is known of one peer's launches in this epoch.
    struct Inbound {
        /// Their launch → ours.
        var bound: [LaunchNumber: LaunchNumber] = [:]
        var ignored: Set<LaunchNumber> = []
        /// What their entries say, until they are bound.
        var entries: [LaunchNumber: Entry] = [:]
        var latestEntry = LaunchNumber(0)
        /// How far those that are not bound have come through windows.
        var rounds: [LaunchNumber: WindowRounds] = [:]
        /// Data of launches that are not bound yet.
        var early: [LaunchNumber: [HeldFrame]] = [:]
        /// Frames of epochs to come, in order of arrival.
        var future: [HeldFrame] = []
        var heldBytes = 0
        var heldFrames = 0
    }

    struct HeldFrame {
        var header: FrameHeader
        var payload: [UInt8]
    }

    private struct Outbound {
        /// Operations that may have something for this peer, in the order of their launch.
        var queue: [Execution] = []
        var eagerBytes = 0
    }

    /// Something on its way out of our staging.
    private struct Departure {
        var launch: LaunchNumber
        var chunk: Int
        var pacedElements: Int
        var piece: StagedPiece
    }

    package init(_ loop: EventLoop, configuration: EngineConfiguration, delegate: any EngineDelegate) {
        self.loop = loop
        self.configuration = configuration
        self.delegate = delegate
        windows = WindowExchange(loop, configuration.windows)
        pools = Execution.Pools(
            staging: StagingPool(keptBytesLimit: configuration.keptStagingBytes, memory: configuration.memory),
            originals: StagingPool(keptBytesLimit: configuration.keptOriginalsBytes, memory: configuration.memory))
        windows.link = { [weak self] in self?.links[$0] }
        windows.onChange = { [weak self] in self?.noteWindows() }
    }

    /// It is not used any more.
    package func close() { windows.close() }

    func noteWindows() {
        let hasAll = members.count > 1 && members.count { windows.mapped[$0] != nil } == members.count - 1
        windowRoom.withLock { $0 = hasAll && !patience.isWaiting ? windows.room : nil }
    }

    // MARK: views and links

    /// A new epoch begins. All operations have been finished, but those that are resumed next.
    package func adopt(epoch: Epoch, members: [PeerID]) {
        self.epoch = epoch
        self.members = members
        isHalted = false
        outbound = [:]
        landings = [:]
        departures = [:]
        noteWindows()
        let held = members.map { ($0, inbound[$0]?.future ?? []) }
        inbound = [:]
        for (peer, frames) in held {
            for frame in frames where frame.header.epoch >= epoch { take(frame, from: peer) }
        }
    }

    /// Nothing moves any more until `adopt`. Memory of operations stays lent until each is finished.
    package func halt() {
        isHalted = true
        // What was not begun cannot be ended, or gone on with.
        if !hasDeclined { cannotGoOn = false }
        for run in runs.values { run.halt() }
        for execution in executions.values {
            for link in links.values { link.abandon(execution.launch) }
        }
        outbound = [:]
        landings = [:]
        // What is on its way out stays where it is until `adopt`: peers of this host that have not halted may be reading it.
    }

    /// This process is another peer from now on, maybe of another run: epochs and ids known so far mean nothing any more.
    /// Nothing is in flight.
    package func forget() {
        epoch = .none
        members = []
        inbound = [:]
        halt()
        departures = [:]
    }

    package func linkUp(_ link: Link) {
        links[link.peer] = link
        exchange?.linkUp()
        windows.linkUp(link)
        guard !isHalted else { return }
        let operations: [any EngineOperation] = Array(executions.values) + Array(runs.values)
        for operation in operations.sorted(by: { $0.launch < $1.launch }) { enter(operation, at: link.peer) }
    }

    package func linkDown(_ peer: PeerID) {
        links[peer] = nil
        exchange?.linkDown(peer)
        windows.linkDown(peer)
    }

    // MARK: shared state

    /// From now on others may receive what this memory holds.
    package func lendState(_ memory: StateMemory, owner: LaunchNumber) {
        exchange = StateExchange(
            loop, memory, owner: owner, pool: pools.staging, firstTag: nextRequest, configuration: configuration.state,
            link: { [weak self] in self?.links[$0] },
            abandon: { [weak self] owner in self?.links.values.forEach { $0.abandon(owner) } })
    }

    /// Changes the lent memory to these contents. `end` is called with what is wrong, or nil, unless something else is to be
    /// fetched before.
    package func fetchState(
        _ keys: [StateDecision.Key], from sources: [PeerID], owner: LaunchNumber, end: @escaping (String?) -> Void
    ) { exchange?.fetch(keys, from: sources, owner: owner, end: end) }

    /// The lent memory is the caller's again when this returns, and says what was moved.
    package func returnState() {
        guard let exchange else { return }
        exchange.end()
        nextRequest = exchange.freeTag
        self.exchange = nil
    }

    func takeToken() -> Int {
        defer { nextToken += 1 }
        return nextToken
    }

    // MARK: operations

    package func start(
        tag: Tag, launch: LaunchNumber, descriptor: OperationDescriptor, place: Place, buffers: ReduceBuffers
    ) {
        // It is about to leave; what it would send now could be of an input that is not whole.
        guard !cannotGoOn else {
            hasDeclined = true
            return
        }
        if let run = run(tag, launch, descriptor, place, buffers) {
            runs[launch] = run
            enter(run)
        } else if let execution = execution(tag, launch, descriptor, place, buffers) {
            begin(execution)
        }
    }

    /// Through the host. Nil if the input does not come there from a device; this peer cannot go on then.
    func execution(
        _ tag: Tag, _ launch: LaunchNumber, _ descriptor: OperationDescriptor, _ place: Place, _ buffers: ReduceBuffers
    ) -> Execution? {
        if let coded = buffers.onDevice(descriptor), let coding = coded.coding {
            lentToDevice[launch] = buffers
            return Execution(
                tag: tag, launch: launch, descriptor: descriptor, place: place, buffers: coded,
                configuration: configuration, pools: poolsOfCodes(near: coding.location))
        }
        return executionOnHost(tag, launch, descriptor, place, buffers)
    }

    func executionOnHost(
        _ tag: Tag, _ launch: LaunchNumber, _ descriptor: OperationDescriptor, _ place: Place, _ buffers: ReduceBuffers
    ) -> Execution? {
        do {
            return Execution(
                tag: tag, launch: launch, descriptor: descriptor, place: place,
                buffers: try buffers.onHost(descriptor, pieceBytes: configuration.devicePieceBytes),
                configuration: configuration, pools: pools)
        } catch {
            tellCannotGoOn("\(descriptor) with \(tag) cannot go on: \(error); this peer leaves the run")
            return nil
        }
    }

    /// What a device codes goes on through the host, where its result is kept: the same from the beginning.
    private func throughHost(_ halted: Execution) -> Execution? {
        guard halted.lent.coding != nil else { return halted }
        settle(halted, succeeded: false)
        guard let buffers = lentToDevice.removeValue(forKey: halted.launch) else { return nil }
        let anew = executionOnHost(halted.tag, halted.launch, halted.descriptor, halted.place, buffers)
        anew?.traffic = halted.traffic
        return anew
    }

    private func poolsOfCodes(near location: DeviceLocation) -> Execution.Pools {
        if let known = poolsOfCodes { return known }
        let made = Execution.Pools(
            staging: StagingPool(
                keptBytesLimit: configuration.keptOriginalsBytes, memory: .pinned(near: location)),
            originals: pools.originals)
        poolsOfCodes = made
        return made
    }

    func begin(_ execution: Execution) {
        executions[execution.launch] = execution
        if execution.lacksMemory { tellOutOfMemory(execution) }
        fetchInput(of: execution)
        enter(execution)
    }

    private func enter(_ operation: any EngineOperation) {
        for (rank, peer) in operation.place.members.enumerated() where rank != operation.place.rank {
            enter(operation, at: peer)
        }
    }

    /// Of operations that stand still.
    package func final(_ launches: [LaunchNumber]) -> [LaunchNumber: [ResultPart]] {
        var final: [LaunchNumber: [ResultPart]] = [:]
        for launch in launches {
            // What went through windows lies on the device alone: it begins again.
            final[launch] = executions[launch]?.final ?? (runs[launch] != nil ? [] : nil)
        }
        return final
    }

    /// An operation that was halted as `from`, in an earlier epoch, goes on in this one.
    package func resume(
        _ from: LaunchNumber, as launch: LaunchNumber, descriptor: OperationDescriptor, place: Place,
        _ resumption: Resumption
    ) {
        guard let found = executions.removeValue(forKey: from) ?? takeRun(from).flatMap(throughHost),
            let halted = throughHost(found)
        else { return }
        guard holdsStill(halted) else {
            halted.restoreInput()
            return settle(halted, succeeded: false)
        }
        begin(halted.resumed(as: launch, descriptor, place, resumption, configuration))
    }

    private func enter(_ operation: any EngineOperation, at peer: PeerID) {
        guard let link = links[peer], let rank = operation.place.members.firstIndex(of: peer) else { return }
        if !operation.peers[rank].isEntrySent {
            operation.peers[rank].isEntrySent = true
            configuration.recorder?.record(.entrySent, peer: peer, launch: operation.launch, tag: operation.tag)
            let bytes = operation.entry.bytes
            link.send(
                FrameHeader(
                    kind: .enter, epoch: operation.place.epoch, launch: operation.launch, tag: operation.tag,
                    payloadBytes: UInt32(bytes.count)),
                // The receiver pairs calls of a tag by the order of their entries.
                payload: bytes, inOrder: true)
        }
        guard let execution = operation as? Execution, !execution.peers[rank].isQueued else { return }
        execution.peers[rank].isQueued = true
        outbound[peer, default: Outbound()].queue.append(execution)
    }

    /// The peer's launch is its part of ours: it has entered, and what it sent early can be taken in.
    package func bind(_ launch: LaunchNumber, _ peer: PeerID, theirs: LaunchNumber) {
        let operation: (any EngineOperation)? = executions[launch] ?? runs[launch]
        guard let operation, let rank = operation.place.members.firstIndex(of: peer) else { return }
        let entry = inbound[peer]?.entries.removeValue(forKey: theirs)
        inbound[peer, default: Inbound()].bound[theirs] = launch
        operation.peers[rank].theirLaunch = theirs
        operation.peers[rank].hasEntered = true
        operation.peers[rank].windowBytes = Int(entry?.windowBytes ?? 0)
        if let run = runs[launch] { join(run, rank, peer, theirs, region: entry?.region) }
        if let execution = executions[launch] { takeEarly(execution, rank, peer) }
    }

    /// The rank has entered.
    func takeEarly(_ execution: Execution, _ rank: Int, _ peer: PeerID) {
        guard let theirs = execution.peers[rank].theirLaunch else { return }
        outbound[peer]?.eagerBytes -= execution.peers[rank].eagerBytes
        let early = inbound[peer]?.early.removeValue(forKey: theirs) ?? []
        for frame in early {
            inbound[peer]?.heldBytes -= frame.payload.count
            inbound[peer]?.heldFrames -= 1
            takeData(frame, execution, rank, peer)
        }
        links[peer]?.kick()
        tellIfWhole(execution)
    }

    package func ignore(_ peer: PeerID, theirs: LaunchNumber) {
        inbound[peer, default: Inbound()].ignored.insert(theirs)
        inbound[peer]?.entries[theirs] = nil
        inbound[peer]?.rounds[theirs] = nil
        for frame in inbound[peer]?.early.removeValue(forKey: theirs) ?? [] {
            inbound[peer]?.heldBytes -= frame.payload.count
            inbound[peer]?.heldFrames -= 1
        }
    }

    package func announcePrepared(_ tag: Tag, _ launch: LaunchNumber, _ epoch: Epoch, to peers: [PeerID]) {
        for peer in peers {
            configuration.recorder?.record(.preparedSent, peer: peer, launch: launch, tag: tag)
            links[peer]?.send(FrameHeader(kind: .prepared, epoch: epoch, launch: launch, tag: tag))
        }
    }

    /// Ends an operation: its memory is the caller's again when this returns, and its input whole unless it succeeded.
    package func finish(_ launch: LaunchNumber, succeeded: Bool) -> Traffic {
        if let run = takeRun(launch) {
            part(from: run, succeeded: succeeded)
            end(run, succeeded: succeeded)
            return run.traffic
        }
        guard let execution = executions.removeValue(forKey: launch) else { return Traffic() }
        part(from: execution, succeeded: succeeded)
        // Nobody reads it any more: all members are prepared, or have halted.
        if !departures.isEmpty { departures = departures.filter { $0.value.launch != launch } }
        if !succeeded {
            landings = landings.filter { $0.value.launch != launch }
            execution.restoreInput()
        } else {
            execution.buffers.feedback?.commit()
        }
        settle(execution, succeeded: succeeded)
        lentToDevice[launch] = nil
        return execution.traffic
    }

    /// Nothing of it comes or goes any more.
    private func part(from operation: any EngineOperation, succeeded: Bool) {
        for (rank, peer) in operation.place.members.enumerated() where rank != operation.place.rank {
            links[peer]?.abandon(operation.launch)
            let state = operation.peers[rank]
            if !state.hasEntered { outbound[peer]?.eagerBytes -= state.eagerBytes }
            outbound[peer]?.queue.removeAll { $0 === operation }
            guard let theirs = state.theirLaunch else { continue }
            inbound[peer]?.bound[theirs] = nil
            // After a success nothing of it is under way any more; after a failure something may be.
            if !succeeded { inbound[peer]?.ignored.insert(theirs) }
        }
    }

    func tellOutOfMemory(_ execution: Execution) {
        tellCannotGoOn("no memory is left for \(execution.descriptor) with \(execution.tag): this peer leaves the run")
    }

    /// At the end of the turn: the links that this will end are in use.
    func tellCannotGoOn(_ text: String) {
        guard !cannotGoOn else { return }
        cannotGoOn = true
        Log.write(.error, text)
        loop.atEndOfTurn { [weak self] in
            guard let self, cannotGoOn else { return }
            hasDeclined = false
            delegate?.engineCannotGoOn(text)
        }
    }

    func tellIfWhole(_ execution: Execution) {
        guard execution.missingSegments == 0, !execution.isTold else { return }
        execution.isTold = true
        delegate?.engineHoldsResult(execution.tag, execution.launch)
    }
}

// MARK: - frames in

extension Engine: LinkDelegate {
    package func link(_ link: Link, placementFor header: FrameHeader) -> Placement {
        switch header.kind {
        // The link keeps these to itself.
        case .idle, .acknowledge, .void, .offer, .local, .fetching, .probe: return .discard
        case .window:
            guard header.payloadBytes == UInt32(WindowInvitation.byteCount) else {
                return .violation("an invitation of \(header.payloadBytes) bytes")
            }
            return .copy
        case .rounds:
            guard header.payloadBytes == UInt32(WindowRounds.byteCount) else {
                return .violation("rounds in \(header.payloadBytes) bytes")
            }
            return .copy
        case .prepared, .credit, .stateLack:
            guard header.payloadBytes == 0 else { return .violation("a \(header.kind) frame with a payload") }
            return .copy
        case .enter:
            guard header.payloadBytes == UInt32(Entry.byteCount) else {
                return .violation("an entry of \(header.payloadBytes) bytes")
            }
            return .copy
        case .stateRequest:
            guard header.payloadBytes == UInt32(StateRequest.byteCount) else {
                return .violation("a request of \(header.payloadBytes) bytes")
            }
            return .copy
        case .data where header.phase == .state:
            return exchange?.placement(header, from: link.peer, token: takeToken) ?? .discard
        case .data:
            return placeData(header, from: link.peer)
        }
    }

    private func placeData(_ header: FrameHeader, from peer: PeerID) -> Placement {
        if header.epoch < epoch || (header.epoch == epoch && isHalted) { return .discard }
        if header.epoch > epoch { return holdPlacement(header, peer) }
        guard let launch = inbound[peer]?.bound[header.launch] ?? expected(header, from: peer) else {
            if inbound[peer]?.ignored.contains(header.launch) ?? false { return .discard }
            return holdPlacement(header, peer)
        }
        fallBack(launch)
        guard let execution = executions[launch], let rank = execution.place.members.firstIndex(of: peer) else {
            return .discard
        }
        // It has no plan to hold the frame against, and is about to end.
        guard !execution.lacksMemory else { return .discard }
        do throws(Execution.Refusal) {
            let arrival = try execution.arrival(header, from: rank)
            execution.markReceived(arrival)
            switch arrival.destination {
            case .gather where execution.gathers[arrival.chunk]?.isCoded ?? false:
                guard let (piece, base) = execution.landing(arrival) else { throw .noMemory }
                return .into(base, owner: launch, token: land(piece, launch))
            case .gather:
                let offset = execution.offset(chunk: arrival.chunk, elements: arrival.elements)
                guard execution.saveOriginal(offset: offset, count: arrival.byteCount) else { throw .noMemory }
                return .into(execution.buffers.receive + offset, owner: launch, token: 0)
            case .fold(let operand):
                guard let (piece, base) = execution.landing(arrival, operand: operand) else { throw .noMemory }
                return .into(base, owner: launch, token: land(piece, launch))
            }
        } catch {
            switch error {
            case .violation(let text): return .violation(text)
            case .noMemory:
                tellOutOfMemory(execution)
                return .discard
            }
        }
    }

    private func land(_ piece: StagedPiece, _ launch: LaunchNumber) -> Int {
        let token = takeToken()
        landings[token] = (launch, piece)
        return token
    }

    /// What was resumed is known at all members from the verdict on, and in its epoch the first launch of its tag is it at each
    /// of them. So its data has a place before the entry, which another stripe may hold up: what is kept is more than an
    /// eager allowance, and may come as soon as we have entered.
    private func expected(_ header: FrameHeader, from peer: PeerID) -> LaunchNumber? {
        guard !(inbound[peer]?.ignored.contains(header.launch) ?? false) else { return nil }
        for execution in executions.values where execution.isResumed && execution.tag == header.tag {
            guard let rank = execution.place.members.firstIndex(of: peer), execution.peers[rank].theirLaunch == nil
            else { continue }
            execution.peers[rank].theirLaunch = header.launch
            inbound[peer, default: Inbound()].bound[header.launch] = execution.launch
            return execution.launch
        }
        return nil
    }

    private func holdPlacement(_ header: FrameHeader, _ peer: PeerID) -> Placement {
        let held = inbound[peer]?.heldBytes ?? 0
        // An honest sender stays within the eager allowance in each of the two epochs that may be under way.
        guard held + Int(header.payloadBytes) <= 2 * configuration.eagerBytesPerLink else {
            return .violation("more than the eager allowance before the call")
        }
        return .copy
    }

    package func link(_ link: Link, received header: FrameHeader, token: Int) {
        if header.phase == .state {
            exchange?.received(header, token: token)
            return
        }
        guard header.epoch == epoch, !isHalted, let launch = inbound[link.peer]?.bound[header.launch],
            let execution = executions[launch],
            let rank = execution.place.members.firstIndex(of: link.peer)
        else {
            landings[token] = nil
            return
        }
        finishArrival(header, execution, rank, piece: landings.removeValue(forKey: token)?.piece)
    }

    package func link(_ link: Link, received header: FrameHeader, payload: [UInt8]) {
        recordArrival(header, from: link.peer)
        take(HeldFrame(header: header, payload: payload), from: link.peer)
    }

    private func take(_ frame: HeldFrame, from peer: PeerID) {
        let header = frame.header
        if header.kind == .window { return windows.takeInvitation(frame.payload, from: peer) }
        if header.kind == .stateRequest { return answer(frame, from: peer) }
        if header.kind == .stateLack {
            exchange?.takeLack(header.tag, from: peer)
            return
        }
        if header.epoch < epoch || (header.epoch == epoch && isHalted) { return }
        if header.epoch > epoch {
            guard (inbound[peer]?.heldFrames ?? 0) < configuration.heldFramesPerLink else { return }
            inbound[peer, default: Inbound()].future.append(frame)
            inbound[peer]?.heldBytes += frame.payload.count
            inbound[peer]?.heldFrames += 1
            return
        }
        switch header.kind {
        case .idle, .acknowledge, .void, .offer, .local, .fetching, .probe, .stateRequest, .stateLack, .window: break
        case .rounds: takeRounds(frame, from: peer)
        case .enter:
            guard let entry = try? Entry(frame.payload) else {
                Log.write(.error, "\(peer) sent an entry that cannot be read")
                return
            }
            inbound[peer, default: Inbound()].entries[header.launch] = entry
            inbound[peer]?.latestEntry = header.launch
            delegate?.engineEntered(peer, header.epoch, header.tag, header.launch, entry.descriptor)
        case .prepared:
            delegate?.enginePrepared(peer, header.epoch, header.tag, header.launch)
        case .credit:
            guard let execution = executions[header.launch],
                let rank = execution.place.members.firstIndex(of: peer)
            else { return }
            execution.grant(header.offset, chunk: Int(header.chunk), to: rank)
            links[peer]?.kick()
        case .data:
            takeCopiedData(frame, from: peer)
        }
    }

    private func answer(_ frame: HeldFrame, from peer: PeerID) {
        if let exchange {
            exchange.takeRequest(frame.payload, frame.header.tag, from: peer)
        } else {
            links[peer]?.send(
                FrameHeader(kind: .stateLack, epoch: .none, launch: LaunchNumber(0), tag: frame.header.tag))
        }
    }

    private func takeCopiedData(_ frame: HeldFrame, from peer: PeerID) {
        if let launch = inbound[peer]?.bound[frame.header.launch] {
            fallBack(launch)
            guard let execution = executions[launch], let rank = execution.place.members.firstIndex(of: peer)
            else { return }
            takeData(frame, execution, rank, peer)
            return
        }
        if inbound[peer]?.ignored.contains(frame.header.launch) ?? false { return }
        inbound[peer, default: Inbound()].early[frame.header.launch, default: []].append(frame)
        inbound[peer]?.heldBytes += frame.payload.count
        inbound[peer]?.heldFrames += 1
    }

    /// Data that came before it could be placed.
    private func takeData(_ frame: HeldFrame, _ execution: Execution, _ rank: Int, _ peer: PeerID) {
        switch placeData(frame.header, from: peer) {
        case .into(let memory, _, let token):
            frame.payload.withUnsafeBytes { bytes in
                if let base = bytes.baseAddress { memory.copyMemory(from: base, byteCount: bytes.count) }
            }
            finishArrival(frame.header, execution, rank, piece: landings.removeValue(forKey: token)?.piece)
        case .violation(let reason):
            Log.write(.error, "\(peer) broke the protocol: \(reason)")
        case .copy, .discard: break
        }
    }

    private func finishArrival(
        _ header: FrameHeader, _ execution: Execution, _ rank: Int, piece: StagedPiece?
    ) {
        guard let arrival = execution.located(header, from: rank) else { return }
        recordPiece(header, execution, from: rank)
        do {
            defer { pumpDevice(execution) }
            let progress: FoldProgress
            switch arrival.destination {
            case .gather: progress = try execution.finishGather(arrival)
            case .fold(let operand):
                guard piece != nil else { return }
                progress = try execution.finishContribution(arrival, operand: operand)
            }
            act(on: progress, of: execution)
        } catch {
            tellOutOfMemory(execution)
        }
        tellIfWhole(execution)
    }

    func act(on progress: FoldProgress, of execution: Execution) {
        for grant in progress.grants {
            guard let theirs = execution.peers[grant.rank].theirLaunch else { continue }
            links[execution.place.members[grant.rank]]?.send(
                FrameHeader(
                    kind: .credit, chunk: UInt16(grant.chunk), epoch: execution.place.epoch, launch: theirs,
                    tag: execution.tag, offset: UInt64(grant.bytes)))
        }
        for rank in progress.wakes { links[execution.place.members[rank]]?.kick() }
    }

    // MARK: frames out

    package func nextSegment(for link: Link, limit: Int) -> OutgoingSegment? {
        operationSegment(for: link, limit: limit)
            ?? exchange?.nextSegment(for: link, limit: limit, token: takeToken)
    }

    private func operationSegment(for link: Link, limit: Int) -> OutgoingSegment? {
        guard !isHalted, let queue = outbound[link.peer]?.queue else { return nil }
        for execution in queue {
            guard let rank = execution.place.members.firstIndex(of: link.peer) else { continue }
            let left = configuration.eagerBytesPerLink - (outbound[link.peer]?.eagerBytes ?? 0)
            guard
                let next = execution.nextSegment(
                    to: rank, limit: limit, isFarAway: link.isLong, eagerBytesLeft: left,
                    configuration: configuration)
            else {
                if execution.lacksMemory { tellOutOfMemory(execution) }
                continue
            }
            recordPiece(next.header, execution, to: rank)
            if next.isEager { outbound[link.peer]?.eagerBytes += Int(next.header.payloadBytes) }
            pumpDevice(execution)
            if execution.outgoing[rank].isEmpty { outbound[link.peer]?.queue.removeAll { $0 === execution } }
            var token = 0
            if let piece = next.piece {
                token = takeToken()
                departures[token] = Departure(
                    launch: execution.launch, chunk: Int(next.header.chunk),
                    pacedElements: next.pacedElements, piece: piece)
            }
            return OutgoingSegment(
                header: next.header, payload: next.payload, owner: execution.launch, token: token,
                isLent: next.piece == nil)
        }
        return nil
    }

    package func bytesLeft(for link: Link) -> Int {
        let shared = exchange?.bytesLeft(for: link.peer) ?? 0
        guard !isHalted, let queue = outbound[link.peer]?.queue else { return shared }
        return queue.reduce(shared) { sum, execution in
            guard let rank = execution.place.members.firstIndex(of: link.peer) else { return sum }
            return execution.outgoing[rank].reduce(sum) { $0 + $1.bytesLeft }
        }
    }

    package func link(_ link: Link, sent segment: OutgoingSegment) {
        if segment.header.phase == .state {
            exchange?.sent(segment, to: link.peer)
            return
        }
        guard let departure = departures.removeValue(forKey: segment.token), departure.pacedElements > 0, !isHalted,
            let execution = executions[departure.launch]
        else { return }
        var progress = FoldProgress()
        execution.notePaced(chunk: departure.chunk, elements: departure.pacedElements, &progress)
        act(on: progress, of: execution)
    }
}
