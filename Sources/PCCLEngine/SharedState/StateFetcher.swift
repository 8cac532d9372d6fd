import PCCLBase
import PCCLCompute
import PCCLTransport
import PCCLWire

/// Receives what a decision says, from all members that have it at once.
///
/// Of each tensor first the hashes of its chunks, which have to come to the tensor's; then the chunks that differ from what
/// is here. Each source is asked for as much as its link carries in a while, and for more when something has come, so the
/// fastest gives most. A chunk lands in staging, and goes into the tensor when its hash is right. What a source does not
/// give in time others are asked for, too; one that gives something else is asked for nothing more.
final class StateFetcher {
    private enum Item: Hashable {
        case hashes(key: Int)
        case chunk(key: Int, Int)
        var key: Int {
            switch self {
            case .hashes(let key), .chunk(let key, _): key
            }
        }
    }
    private struct Source {
        let peer: PeerID
        var isLying = false
        /// Keys that it does not have.
        var lacks: Set<Int> = []
        var requests = 0
        var askedBytes = 0
        /// Its requests are with others until then.
        var restsUntil = Instant(nanoseconds: 0)
        var lastArrival: Instant
        var bytesSinceTick = 0
        var bytesPerSecond: Double?
    }
    private struct Key {
        let entry: Int
        let hash: ContentHash
        /// Of the chunks, once they are known.
        var chunks: [ContentHash] = []
        var missing = 0
        var isDone = false
    }
    private struct Request {
        let item: Item
        let source: Int
        /// What is asked for has so many bytes.
        let byteCount: Int
        let since: Instant
        /// Once something has come: how much will, and where it lies.
        var bodyBytes = 0
        var piece: StagedPiece?
        var arrivedBytes = 0
    }
    private let loop: EventLoop
    private let configuration: StateConfiguration
    /// In whose name staging is lent to links.
    let owner: LaunchNumber
    private let memory: StateMemory
    private let zstd = Zstd()
    private let pool: StagingPool
    private let link: (PeerID) -> Link?
    private let end: (String?) -> Void
    private var sources: [Source]
    private var keys: [Key]
    private var queue: [Item] = []
    private var queueHead = 0
    private var requests: [Tag: Request] = [:]
    private var asked: [Item: [Tag]] = [:]
    private var missingKeys: Int
    private var nextTag: UInt64
    /// Links write into these, whatever becomes of the requests.
    private var landings: [Int: (tag: Tag, peer: PeerID, piece: StagedPiece)] = [:]
    private var nextSource = 0
    private var timer: LoopTimer?
    private var lastTick: Instant
    private var isOver = false
    private var isStopped = false
    private(set) var receivedBytes: UInt64 = 0

    /// `end` is called once, at the end of a turn, with what is wrong or nil; not after `stop`. `firstTag`: no earlier request
    /// of this process had it, or one above.
    init(
        _ loop: EventLoop, _ memory: StateMemory, owner: LaunchNumber, _ keys: [StateDecision.Key],
        from peers: [PeerID], pool: StagingPool, firstTag: UInt64, configuration: StateConfiguration,
        link: @escaping (PeerID) -> Link?, end: @escaping (String?) -> Void
    ) {
        self.loop = loop
        self.configuration = configuration
        self.memory = memory
        self.owner = owner
        self.pool = pool
        self.link = link
        self.end = end
        nextTag = firstTag
        lastTick = loop.now
        sources = peers.map { Source(peer: $0, lastArrival: loop.now) }
        self.keys = keys.map { Key(entry: $0.entry, hash: $0.hash) }
        missingKeys = keys.count
    }

    /// Above those of all requests.
    var freeTag: UInt64 { nextTag }

    func start() {
        let timer = LoopTimer(loop) { [weak self] in self?.tick() }
        self.timer = timer
        timer.fire(at: loop.now + configuration.period)
        for key in keys.indices {
            memory.beginReceiving(keys[key].entry)
            // One chunk has the hash of the tensor.
            if chunkCount(key) == 1 { know([keys[key].hash], of: key) } else { queue.append(.hashes(key: key)) }
        }
        checkSources()
        pump()
        finishIfDone()
    }

    /// Links have let go of `owner`.
    func stop() {
        isOver = true
        isStopped = true
        timer?.close()
        timer = nil
        requests = [:]
        landings = [:]
    }

    private func chunkCount(_ key: Int) -> Int {
        ContentHash.chunkCount(of: memory.tensors[keys[key].entry].byteCount)
    }

    private func byteCount(_ item: Item) -> Int {
        switch item {
        case .hashes(let key): chunkCount(key) * ContentHash.byteCount
        case .chunk(let key, let chunk):
            ContentHash.range(ofChunk: chunk, byteCount: memory.tensors[keys[key].entry].byteCount).count
        }
    }

    // MARK: asking

    func linkUp() { pump() }

    func linkDown(_ peer: PeerID) {
        guard let source = sources.firstIndex(where: { $0.peer == peer }) else { return }
        landings = landings.filter { $0.value.peer != peer }
        takeBack(source)
        pump()
    }

    /// Its requests are for others, or for itself later.
    private func takeBack(_ source: Int) {
        for (tag, request) in requests where request.source == source { drop(tag, isWanted: true) }
    }

    /// Forgets a request; what comes of it is thrown away. If nobody else is asked for the same, it waits again.
    private func drop(_ tag: Tag, isWanted: Bool) {
        guard let request = requests.removeValue(forKey: tag) else { return }
        sources[request.source].requests -= 1
        sources[request.source].askedBytes -= request.byteCount
        asked[request.item]?.removeAll { $0 == tag }
        guard asked[request.item]?.isEmpty ?? true else { return }
        asked[request.item] = nil
        if isWanted { queue.append(request.item) }
    }

    private func mayBeAsked(_ source: Int) -> Bool {
        let s = sources[source]
        guard !s.isLying, s.restsUntil <= loop.now, s.requests < configuration.requestsPerSource,
            s.askedBytes < window(s)
        else { return false }
        return link(s.peer) != nil
    }

    private func window(_ source: Source) -> Int {
        let most = min(configuration.largestWindowBytes, configuration.stagingBytes / max(sources.count, 1))
        guard let rate = source.bytesPerSecond else { return min(configuration.firstWindowBytes, most) }
        let roundTrip = link(source.peer).map { Double($0.roundTrip.nanoseconds) / 1e9 } ?? 0
        let bytes = Int(rate * (configuration.windowSeconds + 2 * roundTrip))
        return max(min(bytes, most), configuration.smallestWindowBytes)
    }

    /// Sources take turns, so that all begin at once.
    private func pump() {
        var passed = 0
        while !isOver, passed < sources.count, queueHead < queue.count {
            let source = nextSource % sources.count
            nextSource = source + 1
            if mayBeAsked(source), let item = takeItem(for: source) {
                ask(source, item)
                passed = 0
            } else {
                passed += 1
            }
        }
        if queueHead == queue.count {
            queue.removeAll(keepingCapacity: true)
            queueHead = 0
        }
    }

    private func takeItem(for source: Int) -> Item? {
        let lacks = sources[source].lacks
        guard let index = queue[queueHead...].firstIndex(where: { !lacks.contains($0.key) }) else { return nil }
        queue.swapAt(index, queueHead)
        queueHead += 1
        return queue[queueHead - 1]
    }

    private func ask(_ source: Int, _ item: Item) {
        let tag = Tag(nextTag)
        nextTag += 1
        let request = Request(item: item, source: source, byteCount: byteCount(item), since: loop.now)
        if sources[source].requests == 0 { sources[source].lastArrival = loop.now }
        sources[source].requests += 1
        sources[source].askedBytes += request.byteCount
        requests[tag] = request
        asked[item, default: []].append(tag)
        let key = keys[item.key]
        let part: StateRequest.Part =
            switch item {
            case .hashes: .hashes
            case .chunk(_, let chunk): .chunk(chunk)
            }
        let bytes = StateRequest(entry: key.entry, hash: key.hash, part: part).bytes
        link(sources[source].peer)?.send(
            FrameHeader(
                kind: .stateRequest, epoch: .none, launch: LaunchNumber(0), tag: tag, payloadBytes: UInt32(bytes.count)),
            payload: bytes)
    }

    // MARK: arrivals

    func placement(_ header: FrameHeader, from peer: PeerID, token: () -> Int) -> Placement {
        guard !isOver, let request = requests[header.tag], sources[request.source].peer == peer else { return .discard }
        let end = header.offset.addingReportingOverflow(UInt64(header.payloadBytes))
        let bodyBytes = Int(header.launch.value)
        guard bodyBytes <= request.byteCount, request.piece == nil || request.bodyBytes == bodyBytes, !end.overflow,
            end.partialValue <= UInt64(bodyBytes)
        else {
            return .violation(
                "\(header.payloadBytes) bytes at \(header.offset) of \(bodyBytes), where \(request.byteCount) were asked for"
            )
        }
        if request.piece == nil {
            requests[header.tag]?.bodyBytes = bodyBytes
            requests[header.tag]?.piece = StagedPiece(pool, byteCount: bodyBytes)
        }
        guard let piece = requests[header.tag]?.piece else {
            finish("no memory is left to receive it")
            return .discard
        }
        let number = token()
        landings[number] = (header.tag, peer, piece)
        return .into(piece.base + Int(header.offset), owner: owner, token: number)
    }

    func received(_ header: FrameHeader, token: Int) {
        guard let tag = landings.removeValue(forKey: token)?.tag, !isOver, var request = requests[tag] else { return }
        request.arrivedBytes += Int(header.payloadBytes)
        requests[tag] = request
        receivedBytes += UInt64(header.payloadBytes)
        sources[request.source].bytesSinceTick += Int(header.payloadBytes)
        sources[request.source].lastArrival = loop.now
        guard request.arrivedBytes >= request.bodyBytes, let piece = request.piece else { return }
        guard let isRight = take(request, UnsafeRawBufferPointer(start: piece.base, count: request.bodyBytes)) else {
            return finish("no memory is left to expand it")
        }
        if isRight {
            for twin in asked[request.item] ?? [] { drop(twin, isWanted: false) }
        } else {
            let peer = sources[request.source].peer
            Log.write(.warning, "\(peer) gives another shared state than it holds: it is asked for nothing more")
            sources[request.source].isLying = true
            takeBack(request.source)
            checkSources()
        }
        pump()
        finishIfDone()
    }

    func lacks(_ tag: Tag, _ peer: PeerID) {
        guard let request = requests[tag], sources[request.source].peer == peer else { return }
        sources[request.source].lacks.insert(request.item.key)
        drop(tag, isWanted: true)
        checkSources()
        pump()
    }

    /// Nil if there is no memory to expand it.
    private func take(_ request: Request, _ body: UnsafeRawBufferPointer) -> Bool? {
        if request.bodyBytes == request.byteCount { return take(request.item, body) }
        guard let piece = StagedPiece(pool, byteCount: request.byteCount) else { return nil }
        let whole = UnsafeMutableRawBufferPointer(start: piece.base, count: request.byteCount)
        return zstd.expand(body, into: whole) && take(request.item, UnsafeRawBufferPointer(whole))
    }

    /// False if it is not what was asked for.
    private func take(_ item: Item, _ bytes: UnsafeRawBufferPointer) -> Bool {
        switch item {
        case .hashes(let key):
            guard let hashes = try? StateRequest.hashes([UInt8](bytes), count: chunkCount(key)),
                keys[key].hash
                    == ContentHash(
                        ofChunks: hashes, byteCount: memory.tensors[keys[key].entry].byteCount, by: memory.function)
            else { return false }
            know(hashes, of: key)
        case .chunk(let key, let chunk):
            let hash = keys[key].chunks[chunk]
            guard ContentHash(ofChunk: bytes, by: memory.function) == hash else { return false }
            memory.write(bytes, toChunk: chunk, of: keys[key].entry, hash)
            keys[key].missing -= 1
            endIfWhole(key)
        }
        return true
    }

    private func know(_ hashes: [ContentHash], of key: Int) {
        keys[key].chunks = hashes
        let here = memory.tensors[keys[key].entry].chunks
        let differing = hashes.indices.filter { here[$0] != hashes[$0] }
        keys[key].missing = differing.count
        queue.append(contentsOf: differing.map { .chunk(key: key, $0) })
        endIfWhole(key)
    }

    private func endIfWhole(_ key: Int) {
        guard keys[key].missing == 0, !keys[key].isDone else { return }
        keys[key].isDone = true
        missingKeys -= 1
        memory.endReceiving(keys[key].entry, keys[key].hash)
    }

    private func finishIfDone() { if missingKeys == 0 { finish(nil) } }

    /// Nobody is left who could have what is missing.
    private func checkSources() {
        let missing = keys.indices.first { key in
            !keys[key].isDone && sources.allSatisfy { $0.isLying || $0.lacks.contains(key) }
        }
        if missing != nil { finish("no source gives what it said it holds") }
    }

    private func finish(_ failure: String?) {
        guard !isOver else { return }
        isOver = true
        loop.atEndOfTurn { [self] in if !isStopped { end(failure) } }
    }

    // MARK: time

    private func tick() {
        guard !isOver else { return }
        let now = loop.now
        let seconds = Double((now - lastTick).nanoseconds) / 1e9
        // A process that was itself stopped has not been kept waiting.
        let wasAway = (now - lastTick).nanoseconds > configuration.period.nanoseconds * 10
        lastTick = now
        for source in sources.indices {
            let bytes = Double(sources[source].bytesSinceTick)
            sources[source].bytesSinceTick = 0
            if wasAway { sources[source].lastArrival = now }
            guard sources[source].requests > 0, seconds > 0 else { continue }
            if bytes > 0 {
                let rate = bytes / seconds
                sources[source].bytesPerSecond = sources[source].bytesPerSecond.map { ($0 * 3 + rate) / 4 } ?? rate
            }
            if now - sources[source].lastArrival >= configuration.patience {
                Log.write(
                    .info, "\(sources[source].peer) has given nothing of the shared state for a while: others are asked"
                )
                sources[source].restsUntil = now + configuration.period * 5
                takeBack(source)
            }
        }
        pump()
        askIdleSources(now)
        timer?.fire(at: now + configuration.period)
    }

    /// Nothing else is left to ask for: what one source has owed for long another may have sooner.
    private func askIdleSources(_ now: Instant) {
        guard queueHead == queue.count else { return }
        for source in sources.indices where sources[source].requests == 0 && mayBeAsked(source) {
            let late = requests.filter { _, request in
                request.source != source && asked[request.item]?.count == 1
                    && !sources[source].lacks.contains(request.item.key)
                    && now - request.since >= configuration.lastPatience
            }
            guard let oldest = late.min(by: { $0.value.since < $1.value.since }) else { continue }
            ask(source, oldest.value.item)
        }
    }
}
