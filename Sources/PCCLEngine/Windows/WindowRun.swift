import PCCLBase
import PCCLCompute
import PCCLSchedule
import PCCLTransport
import PCCLWire

/// An operation on buffers of a device that may go through windows, which it does if all its members say so when they enter.
///
///     open ──all have entered, each with a region──▶ under way ──▶ whole
///       └──one has entered without──▶ it goes on as an `Execution`, through the host
///
/// The caller's input is copied to the own region, folded there out of all regions in rank order, and taken from there to
/// where the result belongs: a device reads what is a peer's, and writes what is its own. Kernels wait for nobody. In place,
/// what is overwritten is in the region still, or aside, so that `end` can undo everything.
///
/// Touched by the loop's thread alone; what workers do is told there.
final class WindowRun: EngineOperation, @unchecked Sendable {
    let tag: Tag
    let launch: LaunchNumber
    let descriptor: OperationDescriptor
    let place: Place
    let buffers: ReduceBuffers
    /// As an `Execution` has to say it, if it comes to that.
    let windowBytes: Int
    var peers: [Execution.PeerState]
    var isTold = false
    /// Why it cannot go on.
    private(set) var failure: DeviceError?

    private let loop: EventLoop
    private let exchange: WindowExchange
    private let own: WindowExchange.Own
    private let plan: WindowPlan
    private let reducer: DeviceReducer?
    private let region: Int
    private let regionBytes: Int
    private let isInPlace: Bool
    private let aside: DeviceWindow?
    private let send: UInt
    private let receive: UInt
    private var progress: WindowProgress
    /// By rank: where its region is, and what keeps it there.
    private var regions: [(address: UInt, window: DeviceWindow)?]
    private var isHalted = false
    private var tell: ((WindowRun) -> Void)?
    private var onFailure: ((WindowRun) -> Void)?

    /// Nil where it cannot go through windows, or not now.
    init?(
        tag: Tag, launch: LaunchNumber, descriptor: OperationDescriptor, place: Place, buffers: ReduceBuffers,
        windowBytes: Int, roundBytes: Int, loop: EventLoop, exchange: WindowExchange,
        tell: @escaping (WindowRun) -> Void, onFailure: @escaping (WindowRun) -> Void
    ) {
        guard let own = exchange.own, let device = buffers.device,
            let location = device.location, location.isSameContext(as: own.location),
            let needs = WindowNeeds(descriptor, buffers, place, roundBytes: roundBytes)
        else { return nil }
        let plan = needs.plan
        var regions = [(address: UInt, window: DeviceWindow)?](repeating: nil, count: place.worldSize)
        for (rank, peer) in place.members.enumerated() where rank != place.rank {
            guard let window = exchange.mapped[peer] else { return nil }
            regions[rank] = (0, window)
        }
        let reducer = DeviceReducer(
            type: descriptor.type, operation: descriptor.operation, worldSize: place.worldSize, at: location)
        guard reducer != nil || !plan.folds else { return nil }
        var aside: DeviceWindow?
        if needs.asideBytes > 0 {
            aside = exchange.takeSpare(needs.asideBytes)
            if aside == nil { return nil }
        }
        guard let region = exchange.takeRegion(needs.regionBytes) else {
            if let aside { exchange.giveBack(spare: aside) }
            return nil
        }
        regions[place.rank] = (own.window.address + UInt(region), own.window)
        self.tag = tag
        self.launch = launch
        self.descriptor = descriptor
        self.place = place
        self.buffers = buffers
        self.windowBytes = windowBytes
        self.loop = loop
        self.exchange = exchange
        self.own = own
        self.plan = plan
        self.reducer = reducer
        self.region = region
        regionBytes = needs.regionBytes
        isInPlace = needs.isInPlace
        self.aside = aside
        self.regions = regions
        self.tell = tell
        self.onFailure = onFailure
        send = UInt(bitPattern: buffers.send)
        receive = UInt(bitPattern: buffers.receive)
        peers = Array(repeating: Execution.PeerState(), count: place.worldSize)
        progress = WindowProgress(plan, rank: place.rank, worldSize: place.worldSize)
    }

    var entry: Entry {
        Entry(descriptor: descriptor, windowBytes: UInt32(clamping: windowBytes), region: UInt64(region))
    }

    var isWhole: Bool { progress.isWhole && failure == nil }
    /// Bytes that this member reads out of other members' regions, and the same of its own that others read.
    private(set) var traffic = Traffic()

    // MARK: going on

    /// The member of this rank has entered with a region at that offset of its window. False if that is not in it.
    func join(_ rank: Int, region offset: UInt64) -> Bool {
        guard let window = regions[rank]?.window, let offset = UInt(exactly: offset),
            offset % UInt(WindowConfiguration.grain) == 0,
            Int(clamping: offset) <= window.byteCount - regionBytes
        else { return false }
        regions[rank] = (window.address + offset, window)
        return true
    }

    var hasAllRegions: Bool { regions.allSatisfy { $0 != nil && $0?.address != 0 } }

    func heard(_ rounds: WindowRounds, from rank: Int) {
        progress.heard(
            WindowCounters(filled: Int(rounds.filled), folded: Int(rounds.folded), taken: Int(rounds.taken)),
            from: rank)
        advance()
    }

    /// For the others.
    var rounds: WindowRounds {
        let own = progress.own
        return WindowRounds(filled: UInt32(own.filled), folded: UInt32(own.folded), taken: UInt32(own.taken))
    }

    func advance() {
        guard hasAllRegions, !isHalted, failure == nil else { return }
        while let step = progress.next() { begin(step) }
    }

    private func begin(_ step: WindowProgress.Step) {
        let end: DeviceWorker.End = { [self, loop] result in loop.submit { [self] in ended(step, result) } }
        switch step {
        case .fill(let round): own.filling.submit(fill(round), then: end)
        case .fold(let round): own.folding.submit(fold(round), then: end)
        case .take(let round): own.taking.submit(take(round), then: end)
        }
    }

    private func address(_ rank: Int) -> UInt { regions[rank]?.address ?? 0 }

    private func fill(_ round: Int) -> DeviceWorker.Work {
        let (send, region, copies) = (send, address(place.rank), plan.fill(round))
        let aside = aside?.address
        return { (stream) throws(DeviceError) in
            for copy in copies {
                try stream.copy(region + UInt(copy.to), from: send + UInt(copy.from), copy.count)
                if let aside { try stream.copy(aside + UInt(copy.from), from: send + UInt(copy.from), copy.count) }
            }
        }
    }

    private func fold(_ round: Int) -> DeviceWorker.Work {
        guard let fold = plan.fold(round), let reducer else { return { (_) throws(DeviceError) in } }
        let inputs = (0..<place.worldSize).map { address($0) + UInt(fold.input) }
        let region = address(place.rank)
        let table = region + UInt(plan.regionBytes + round % plan.halves * WindowNeeds.tableBytes(place.worldSize))
        return { (stream) throws(DeviceError) in
            try stream.reduce(
                reducer, inputs, table: table, into: region + UInt(fold.output), count: fold.elementCount)
        }
    }

    private func take(_ round: Int) -> DeviceWorker.Work {
        let takes = plan.take(round).map { (from: address($0.rank) + UInt($0.copy.from), copy: $0.copy) }
        let receive = receive
        return { (stream) throws(DeviceError) in
            for take in takes { try stream.copy(receive + UInt(take.copy.to), from: take.from, take.copy.count) }
        }
    }

    private func ended(_ step: WindowProgress.Step, _ result: Result<Void, DeviceError>) {
        guard !isHalted, failure == nil else { return }
        switch result {
        case .success:
            progress.ended(step)
            count(step)
            tell?(self)
            advance()
        case .failure(let error):
            failure = error
            onFailure?(self)
        }
    }

    private func count(_ step: WindowProgress.Step) {
        let bytes: Int
        switch step {
        case .fill: bytes = 0
        case .fold(let round):
            bytes = (plan.fold(round)?.elementCount ?? 0) * descriptor.type.byteCount * (place.worldSize - 1)
        case .take(let round):
            bytes = plan.take(round).reduce(0) { $0 + ($1.rank == place.rank ? 0 : $1.copy.count) }
        }
        traffic.receivedBytes += UInt64(bytes)
        traffic.sentBytes += UInt64(bytes)
    }

    // MARK: the end

    /// Nothing is begun any more; what was begun goes on.
    func halt() { isHalted = true }

    /// The caller's memory is the caller's again when this returns, and its input whole unless it succeeded. Throws if it is
    /// not.
    ///
    /// Waits for what the device was asked to do, and for nobody else.
    func end(succeeded: Bool) throws(DeviceError) {
        isHalted = true
        tell = nil
        onFailure = nil
        if progress.isWorking {
            own.filling.drain()
            own.folding.drain()
            own.taking.drain()
        }
        defer { giveBack() }
        if !succeeded { try restore() }
    }

    private func giveBack() {
        exchange.giveBack(region: region)
        if let aside { exchange.giveBack(spare: aside) }
        for (rank, peer) in place.members.enumerated() where rank != place.rank {
            // It may be the last one who holds it.
            if let window = regions[rank]?.window, window !== exchange.mapped[peer] { exchange.letGo(window) }
        }
        regions = []
    }

    /// Undoes every write to the caller's buffer, if it was the input too.
    private func restore() throws(DeviceError) {
        guard plan.folds, isInPlace else { return }
        let (send, region, aside) = (send, address(place.rank), aside?.address)
        let (from, count) = overwritten
        let copies = (0..<progress.own.filled).flatMap { plan.fill($0) }
            .filter { $0.from >= from && $0.from < from + count }
        guard !copies.isEmpty else { return }
        try own.filling.perform { (stream) throws(DeviceError) in
            for copy in copies {
                let kept = aside.map { $0 + UInt(copy.from) } ?? region + UInt(copy.to)
                try stream.copy(send + UInt(copy.from), from: kept, copy.count)
            }
        }
    }

    /// What the result takes of the buffer that is sent.
    private var overwritten: (from: Int, count: Int) {
        let all = Int(descriptor.byteCount)
        guard descriptor.collective == .reduceScatter else { return (0, all) }
        return (place.rank * (all / place.worldSize), all / place.worldSize)
    }
}

extension ReduceBuffers {
    /// Whether what is received takes the place of what is sent.
    func isInPlace(_ descriptor: OperationDescriptor, _ place: Place) -> Bool {
        let before = place.rank * (Int(descriptor.byteCount) / max(place.worldSize, 1))
        return switch descriptor.collective {
        case .allReduce, .broadcast, .barrier: send == UnsafeRawPointer(receive)
        case .reduceScatter: send + before == UnsafeRawPointer(receive)
        case .allGather: send == UnsafeRawPointer(receive) + before
        }
    }
}
