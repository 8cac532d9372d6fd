import PCCLBase
import PCCLCompute
import PCCLTransport
import PCCLWire

/// What the engine does for a synchronisation of the shared state. Epochs, and halts, have no part in it: contents are asked
/// for by their hashes.
final class StateExchange {
    private let loop: EventLoop
    private let pool: StagingPool
    private let configuration: StateConfiguration
    private let link: (PeerID) -> Link?
    /// All links let go of memory that was lent to them in this name.
    private let abandon: (LaunchNumber) -> Void
    private let memory: StateMemory
    private let server: StateServer
    private var fetcher: StateFetcher?
    /// Above those of all requests so far.
    private(set) var freeTag: UInt64
    private var receivedBytes: UInt64 = 0

    /// The memory is lent as that of `owner` until `end`.
    init(
        _ loop: EventLoop, _ memory: StateMemory, owner: LaunchNumber, pool: StagingPool, firstTag: UInt64,
        configuration: StateConfiguration, link: @escaping (PeerID) -> Link?, abandon: @escaping (LaunchNumber) -> Void
    ) {
        self.loop = loop
        self.memory = memory
        self.pool = pool
        self.link = link
        self.abandon = abandon
        self.configuration = configuration
        freeTag = firstTag
        server = StateServer(loop, memory, owner: owner, pool: pool, compression: configuration.compression)
    }

    /// `end` is called with what is wrong, or nil, unless something else is to be fetched before.
    func fetch(
        _ keys: [StateDecision.Key], from sources: [PeerID], owner: LaunchNumber, end: @escaping (String?) -> Void
    ) {
        stopFetching()
        for key in keys { server.withdraw(key.entry) }
        let fetcher = StateFetcher(
            loop, memory, owner: owner, keys, from: sources, pool: pool, firstTag: freeTag,
            configuration: configuration, link: link, end: end)
        self.fetcher = fetcher
        fetcher.start()
    }

    private func stopFetching() {
        guard let fetcher else { return }
        abandon(fetcher.owner)
        fetcher.stop()
        freeTag = fetcher.freeTag
        receivedBytes += fetcher.receivedBytes
        self.fetcher = nil
    }

    /// The memory is the caller's again.
    func end() {
        stopFetching()
        abandon(server.owner)
        memory.traffic.sentBytes = server.sentBytes
        memory.traffic.receivedBytes = receivedBytes
    }

    // MARK: links

    func linkUp() { fetcher?.linkUp() }

    func linkDown(_ peer: PeerID) {
        server.forget(peer)
        fetcher?.linkDown(peer)
    }

    func placement(_ header: FrameHeader, from peer: PeerID, token: () -> Int) -> Placement {
        fetcher?.placement(header, from: peer, token: token) ?? .discard
    }

    func received(_ header: FrameHeader, token: Int) { fetcher?.received(header, token: token) }

    func takeRequest(_ payload: [UInt8], _ tag: Tag, from peer: PeerID) {
        if let request = try? StateRequest(payload), server.take(request, tag, from: peer) {
            link(peer)?.kick()
        } else {
            link(peer)?.send(FrameHeader(kind: .stateLack, epoch: .none, launch: LaunchNumber(0), tag: tag))
        }
    }

    func takeLack(_ tag: Tag, from peer: PeerID) { fetcher?.lacks(tag, peer) }

    func nextSegment(for link: Link, limit: Int, token: () -> Int) -> OutgoingSegment? {
        server.nextSegment(for: link, limit: limit, token: token)
    }

    func bytesLeft(for peer: PeerID) -> Int { server.bytesLeft(for: peer) }

    func sent(_ segment: OutgoingSegment, to peer: PeerID) { server.sent(segment, to: peer) }
}
