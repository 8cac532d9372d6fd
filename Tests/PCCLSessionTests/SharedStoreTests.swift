import PCCLBase
import PCCLMembership
import PCCLSession
import PCCLTestSupport
import PCCLTransport
import PCCLWire
import Testing

/// What several masters share. The test says who leads, and when a state is kept.
private final class SharedPlace: Sendable {
    struct Content: Sendable {
        var state: MasterState?
        var term: Int64 = 0
    }
    let content = Guarded(Content())
}

private final class ToldStore: MasterStore, @unchecked Sendable {
    private let place: SharedPlace
    private let loopBox = Guarded<EventLoop?>(nil)
    /// How often the master gave the lead away.
    let givenUp = Guarded(0)
    // The loop's thread only.
    private var onChange: ((MasterLead) -> Void)?
    private var isLeading = false
    private var holds = false
    private var held: (state: MasterState, onKept: () -> Void)?
    private(set) var appends = 0

    init(_ place: SharedPlace) { self.place = place }

    let isShared = true
    var figures: MasterJournal.Figures { MasterJournal.Figures(bytes: 0, appends: UInt64(appends), hasFailed: false) }
    private(set) var mayAct = false

    func begin(on loop: EventLoop, at _: SocketAddress, _ onChange: @escaping (MasterLead) -> Void) {
        loopBox.withLock { $0 = loop }
        self.onChange = onChange
    }
    func append(_ state: MasterState, then onKept: @escaping () -> Void) {
        #expect(held == nil, "one is kept already")
        held = (state, onKept)
        if !holds { release() }
    }
    func giveUp(_ reason: String, holdOff: Interval) {
        givenUp.withLock { $0 += 1 }
        stop()
    }
    func end() { onChange = nil }

    private func release() {
        guard isLeading, let held else { return }
        self.held = nil
        appends += 1
        place.content.withLock { $0.state = held.state }
        held.onKept()
    }

    private func stop() {
        (isLeading, mayAct, held) = (false, false, nil)
        onChange?(.follows(leader: nil))
    }

    // MARK: for the test's thread

    private func onLoop(_ body: @escaping @Sendable () -> Void) {
        let done = Completion<Void>()
        guard
            loopBox.withLock({ $0 })?.submit({
                body()
                done.set(())
            }) == true
        else { return }
        done.wait()
    }

    func lead() {
        onLoop { [self] in
            let content = place.content.withLock { content in
                content.term += 1
                return content
            }
            (isLeading, mayAct) = (true, true)
            onChange?(.leads(term: content.term, content.state))
        }
    }
    func follow() { onLoop { [self] in stop() } }
    /// The lease has ended, and nobody has noticed.
    func endLease() { onLoop { [self] in mayAct = false } }
    func hold() { onLoop { [self] in holds = true } }
    func letGo() {
        onLoop { [self] in
            holds = false
            release()
        }
    }
}

@Suite("Masters that share a store", .timeLimit(.minutes(3)))
struct SharedStoreTests {
    private struct Masters {
        let place = SharedPlace()
        let stores: [ToldStore]
        let sessions: [MasterSession]
        let timeouts: Timeouts

        init(_ count: Int = 2, deadTime: Interval = .seconds(30)) throws {
            timeouts = Timeouts(deadTime: deadTime, masterGrace: .seconds(60))
            let place = self.place
            stores = (0..<count).map { _ in ToldStore(place) }
            sessions = try stores.map { [timeouts] in
                try MasterSession(listen: .loopback(port: 0), timeouts: timeouts, journal: $0)
            }
        }

        func peer() throws -> PeerSession {
            try Run.peer(sessions.map { .loopback(port: $0.address.port) }, timeouts)
        }
        func members(_ count: Int) throws -> [PeerSession] {
            let peers = try (0..<count).map { _ in try peer() }
            _ = try together(count) { try peers[$0].gather(count) }
            return peers
        }
        func close(_ peers: [PeerSession]) {
            peers.forEach { $0.close() }
            sessions.forEach { $0.close() }
        }
    }

    /// Somebody who says hello, and nothing more.
    private func introduced(to master: MasterSession) throws -> RawSocket {
        let raw = try RawSocket(port: master.address.port)
        let hello = ToMaster.hello(
            Hello(group: GroupID(0), listenPort: 1, addresses: [], stripes: 1, ensemble: nil)
        ).bytes
        var length = ByteWriter()
        length.write(UInt32(hello.count))
        try raw.write(Preamble(role: .control).bytes + length.bytes + hello)
        return raw
    }

    @Test("a peer finds the one that leads, and waits while nobody does")
    func finds() throws {
        let masters = try Masters()
        let early = InThread { [peer = try masters.peer()] in
            try peer.gather(1)
            return peer
        }
        let raw = try RawSocket(port: masters.sessions[0].address.port)
        try raw.write(Preamble(role: .control).bytes)
        #expect(try raw.readToEnd() == Preamble(role: .standby).bytes)
        masters.stores[1].lead()
        let peer = try early.result()
        #expect(peer.currentView?.worldSize == 1)
        masters.close([peer])
    }

    @Test("the lead goes from one to another and back: members attach, and nobody is lost")
    func takesOver() throws {
        let masters = try Masters()
        masters.stores[0].lead()
        let peers = try masters.members(3)
        for round in 1...4 {
            masters.stores[(round + 1) % 2].follow()
            // Collectives need no master.
            _ = try together(3) { try peers[$0].reduce(1, Memory(int32: 1, count: 10)).value() }
            masters.stores[round % 2].lead()
            let answers = try together(3) { try peers[$0].ask(.updateTopology) }
            #expect(answers == [.done, .done, .done])
            #expect(peers.allSatisfy { $0.currentView?.worldSize == 3 && $0.departure == nil })
        }
        masters.close(peers)
    }

    @Test("nothing that follows a state leaves before it is kept; heartbeats do")
    func nothingBefore() throws {
        let masters = try Masters(1, deadTime: .seconds(4))
        masters.stores[0].lead()
        masters.stores[0].hold()
        let raw = try introduced(to: masters.sessions[0])
        _ = try raw.read(Preamble.byteCount)
        func message() throws -> ToPeer {
            var reader = ByteReader(try raw.read(4))
            return try ToPeer(try raw.read(Int(try reader.read(UInt32.self))))
        }
        // It is registered and a member by then.
        #expect(try message() == .heartbeat)
        masters.stores[0].letGo()
        var kinds: [String] = []
        while kinds.count < 2 {
            switch try message() {
            case .heartbeat: break
            case .welcome: kinds.append("welcome")
            case .view: kinds.append("view")
            default: kinds.append("another")
            }
        }
        #expect(kinds == ["welcome", "view"])
        masters.close([])
    }

    @Test("a view that was decided and not kept is decided again by who leads next")
    func waitsForStore() throws {
        let masters = try Masters()
        masters.stores[0].lead()
        let peers = try masters.members(2)
        masters.stores[0].hold()
        let third = try masters.peer()
        let join = InThread { try third.gather(3) }
        let votes = peers.map { peer in InThread { try peer.gather(3) } }
        // Its view is decided, and may not be known: the master that knows of it ends here.
        func memberCount() -> Int {
            let count = Completion<Int>()
            _ = masters.sessions[0].inspect { machine, _ in count.set(machine?.groups.first?.members.count ?? 0) }
            return count.wait()
        }
        while memberCount() < 3 {}
        #expect(peers.allSatisfy { $0.currentView?.worldSize == 2 })
        masters.stores[0].follow()
        masters.stores[1].lead()
        for vote in votes { try vote.result() }
        try join.result()
        #expect((peers + [third]).allSatisfy { $0.currentView?.worldSize == 3 })
        masters.close(peers + [third])
    }

    @Test("what is held back leaves in its order once the state is kept")
    func leavesInOrder() throws {
        let masters = try Masters(1)
        masters.stores[0].lead()
        let peers = try masters.members(2)
        masters.stores[0].hold()
        let newcomers = try (0..<3).map { _ in try masters.peer() }
        let joins = newcomers.map { peer in InThread { try peer.gather(5) } }
        let votes = peers.map { peer in InThread { try peer.gather(5) } }
        let pause = Completion<Void>()
        _ = masters.sessions[0].inspect { _, _ in pause.set(()) }
        pause.wait()
        masters.stores[0].letGo()
        for thread in joins + votes { try thread.result() }
        masters.close(peers + newcomers)
    }

    @Test("a master whose lease has ended without its knowledge says nothing more, to nobody")
    func endedLease() throws {
        let masters = try Masters()
        masters.stores[0].lead()
        let peers = try masters.members(2)
        masters.stores[0].endLease()
        masters.stores[1].lead()
        // Both votes arrive at the first, which would have to answer.
        let answers = try together(2) { try peers[$0].ask(.arePeersPending) }
        #expect(answers == [.pending(false), .pending(false)])
        #expect(masters.stores[0].givenUp.withLock { $0 } > 0)
        #expect(peers.allSatisfy { $0.departure == nil })
        masters.close(peers)
    }

    @Test("a master that hears nobody gives the lead away before it takes anybody for lost")
    func deaf() throws {
        let masters = try Masters(deadTime: .seconds(1))
        masters.stores[0].lead()
        let raw = try introduced(to: masters.sessions[0])
        // It says nothing more: the connection is closed, and it hears nothing of being lost.
        let heard = try raw.readToEnd()
        #expect(masters.stores[0].givenUp.withLock { $0 } == 1)
        var position = Preamble.byteCount
        while position + 4 <= heard.count {
            var reader = ByteReader(heard[position..<position + 4])
            let count = Int(try reader.read(UInt32.self))
            if case .turnedAway(let reason) = try ToPeer(Array(heard[position + 4..<position + 4 + count])) {
                Issue.record("it was told: \(reason)")
            }
            position += 4 + count
        }
        masters.close([])
    }
}
