import Glibc
import PCCL
import PCCLBase
import PCCLTransport

/// A master and some peers in this process, over real connections on 127.0.0.1.
final class LoopbackWorld: Sendable {
    let master: Master
    let peers: [Communicator]
    private let configuration: Communicator.Configuration

    /// All peers are members of one view when this returns. `timeouts` are the master's; as everybody has them unless given.
    init(
        _ count: Int, stripes: Int = 1, algorithm: Algorithm? = nil, timeoutSeconds: Double? = nil,
        timeouts: Timeouts = .standard, stateHash: HashFunction? = nil
    ) throws {
        let master = Master(listen: SocketAddress.loopback(port: 0), timeouts: timeouts)
        try master.run()
        var configuration = Communicator.Configuration(
            master: SocketAddress.loopback(port: master.port), stripesPerLink: stripes)
        configuration.algorithm = algorithm
        configuration.timeoutSeconds = timeoutSeconds
        configuration.stateHash = stateHash
        self.master = master
        self.configuration = configuration
        let peers = try (0..<count).map { _ in try Communicator(configuration) }
        self.peers = peers
        try LoopbackWorld.gather(peers, worldSize: count)
    }

    /// Brings in one more.
    func join() throws -> Communicator {
        let newcomer = try Communicator(configuration)
        let members = peers.filter(\.isConnected)
        try LoopbackWorld.gather(members + [newcomer], worldSize: members.count + 1)
        return newcomer
    }

    private static func gather(_ peers: [Communicator], worldSize: Int) throws {
        try onThreads(peers) { _, peer in
            if !peer.isConnected { try peer.connect() }
            while try peer.attributes().worldSize < worldSize {
                if try peer.arePeersPending() { try peer.updateTopology() }
            }
        }
    }

    func destroy() {
        for peer in peers { peer.destroy() }
        master.destroy()
    }
}

/// Runs the body for each item on a thread of its own; rethrows the first error once all have ended.
func onThreads<T: Sendable>(_ items: [T], _ body: @escaping @Sendable (Int, T) throws -> Void) throws {
    let failures = Guarded<[any Error]>([])
    let threads = items.enumerated().map { index, item in
        startThread {
            do { try body(index, item) } catch { failures.withLock { $0.append(error) } }
        }
    }
    for thread in threads { pthread_join(thread, nil) }
    if let failure = failures.withLock({ $0.first }) { throw failure }
}

private final class Work {
    let body: @Sendable () -> Void
    init(_ body: @escaping @Sendable () -> Void) { self.body = body }
}

func startThread(_ body: @escaping @Sendable () -> Void) -> pthread_t {
    var thread = pthread_t()
    pthread_create(&thread, nil, runWork, Unmanaged.passRetained(Work(body)).toOpaque())
    return thread
}

private func runWork(_ argument: UnsafeMutableRawPointer?) -> UnsafeMutableRawPointer? {
    if let argument { Unmanaged<Work>.fromOpaque(argument).takeRetainedValue().body() }
    return nil
}

/// Memory of a test, shared by threads that keep out of each other's way.
///
/// Values that repeat are filled in and compared in blocks: element by element a sanitizer takes minutes for a million.
final class Buffer<T: Reducible>: @unchecked Sendable {
    let elements: UnsafeMutableBufferPointer<T>

    /// The values begin again after `period` elements.
    init(_ count: Int, period: Int = .max, _ value: (Int) -> T) {
        elements = .allocate(capacity: count)
        guard let base = elements.baseAddress, count > 0 else { return }
        var filled = min(count, period)
        for i in 0..<filled { elements.initializeElement(at: i, to: value(i)) }
        while filled < count {
            let more = min(filled, count - filled)
            (base + filled).initialize(from: base, count: more)
            filled += more
        }
    }

    deinit { elements.deallocate() }

    /// These values, and from there on the same again and again, to the bit.
    func repeats(_ period: Int, where fits: (Int, T) -> Bool) -> Bool {
        guard let base = elements.baseAddress else { return true }
        guard elements.prefix(period).enumerated().allSatisfy({ fits($0, $1) }) else { return false }
        let rest = max(elements.count - period, 0)
        return rest == 0 || memcmp(base, base + period, rest * MemoryLayout<T>.stride) == 0
    }

    func isAll(_ value: T) -> Bool where T: Equatable { repeats(1) { $1 == value } }
}
