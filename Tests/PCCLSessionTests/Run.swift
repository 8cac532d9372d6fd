import PCCLBase
import PCCLEngine
import PCCLMembership
import PCCLSession
import PCCLTestSupport
import PCCLTransport
import PCCLWire

/// A master and the means to make peers, with time-outs that a test chooses.
struct Run {
    private(set) var master: MasterSession
    let timeouts: Timeouts

    init(
        deadTime: Interval = .seconds(30), grace: Interval = .milliseconds(0), journal: MasterJournal? = nil
    ) throws {
        timeouts = Timeouts(deadTime: deadTime, masterGrace: grace)
        master = try MasterSession(listen: .loopback(port: 0), timeouts: timeouts, journal: journal)
    }

    /// Another master takes the port of the one that was closed.
    mutating func restartMaster(journal: MasterJournal?) throws {
        master = try MasterSession(listen: master.address, timeouts: timeouts, journal: journal)
    }

    func peer(group: UInt32 = 0, stripes: UInt16 = 1) throws -> PeerSession {
        try Run.peer([.loopback(port: master.address.port)], group: group, stripes: stripes, timeouts)
    }

    static func peer(
        _ addresses: [SocketAddress], group: UInt32 = 0, stripes: UInt16 = 1, _ timeouts: Timeouts
    ) throws -> PeerSession {
        try PeerSession(
            PeerSession.Configuration(
                master: addresses, group: GroupID(group), stripesPerLink: stripes, timeouts: timeouts, portBase: 23_000)
        )
    }

    /// Members of one view, in no particular order.
    func members(_ count: Int, group: UInt32 = 0, stripes: UInt16 = 1) throws -> [PeerSession] {
        let peers = try (0..<count).map { _ in try peer(group: group, stripes: stripes) }
        _ = try together(count) { try peers[$0].gather(count) }
        return peers
    }
}

struct Unexpected: Error { var answer: CallAnswer }

extension PeerSession {
    func ask(_ call: Call) throws -> CallAnswer { try self.call(call).value("\(call)") }

    /// Connects, and goes from join point to join point until the view is as large as that.
    func gather(_ worldSize: Int) throws {
        if currentView == nil {
            let answer = try ask(.connect)
            guard answer == .done else { throw Unexpected(answer: answer) }
        }
        while (currentView?.worldSize ?? worldSize) < worldSize {
            let answer = try ask(.updateTopology)
            guard answer == .done else { throw Unexpected(answer: answer) }
        }
    }

    /// Keeps the memory as long as it is lent.
    func reduce(_ tag: UInt64, _ memory: Memory, _ operation: ReduceOperation = .sum) -> OperationCompletion {
        let completion = OperationCompletion()
        completion.whenSet { _ in withExtendedLifetime(memory) {} }
        launch(
            Tag(tag),
            OperationDescriptor(
                count: UInt64(memory.byteCount / 4), type: .int32, operation: operation, algorithm: .direct),
            ReduceBuffers(send: UnsafeRawPointer(memory.base), receive: memory.base), completion)
        return completion
    }
}

extension Memory {
    convenience init(int32 value: Int32, count: Int) {
        self.init(byteCount: count * 4)
        for i in 0..<count { base.storeBytes(of: value &+ Int32(i), toByteOffset: 4 * i, as: Int32.self) }
    }

    /// It holds `factor` × i + `value`.
    func holds(int32 value: Int32, factor: Int32) -> Bool {
        (0..<byteCount / 4).allSatisfy {
            base.load(fromByteOffset: 4 * $0, as: Int32.self) == value &+ factor &* Int32($0)
        }
    }
}
