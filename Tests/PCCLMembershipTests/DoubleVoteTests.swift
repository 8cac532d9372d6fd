import PCCLBase
import PCCLWire
import Testing

@testable import PCCLMembership

/// Found by fuzzing. A member that votes in a second call before the first has ended breaks the protocol, and harms itself
/// at most.
@Suite("A member that waits in two calls")
struct DoubleVoteTests {
    typealias ConnectionID = MasterMachine.ConnectionID

    private let ids = (1...4).map { ConnectionID($0) }
    private var master = MasterMachine(run: RunID(high: 1, low: 1), timeouts: .standard, now: Instant(nanoseconds: 1))
    private var effects: [MasterMachine.Effect] = []

    /// Peers 1 and 2 are a group, in epoch 2.
    init() {
        register(1)
        register(2)
        hear(1, .voteJoin)
        for id in 1...2 { hear(id, .linked(epoch: Epoch(2))) }
    }

    private mutating func handle(_ event: MasterMachine.Event) {
        effects = []
        master.handle(event, at: Instant(nanoseconds: 1), effects: &effects)
        #expect(master.brokenInvariant() == nil)
    }

    private mutating func hear(_ id: Int, _ message: ToMaster) { handle(.received(ids[id - 1], message)) }

    private mutating func register(_ id: Int) {
        handle(.connected(ids[id - 1], from: .v4(1), secret: PeerSecret(high: UInt64(id), low: 0)))
        hear(id, .hello(Hello(group: GroupID(0), listenPort: 1, addresses: [], stripes: 1)))
    }

    private func isSent(_ id: Int, _ isMeant: (ToPeer) -> Bool) -> Bool {
        effects.contains { if case .send(ids[id - 1], let message) = $0 { isMeant(message) } else { false } }
    }

    private func offer(content: UInt64, revision: UInt64 = 1) -> ToMaster {
        let entry = StateEntry(
            name: "w", type: .float32, count: 1, allowsInequality: false, hash: ContentHash(high: 0, low: content))
        return .offerState(StateOffer(revision: revision, strategy: .enforcePopular, entries: [entry]))
    }

    @Test("does not keep newcomers waiting when it is left alone, and the first call ends", arguments: [true, false])
    mutating func keepsNobodyWaiting(optimizes: Bool) {
        hear(2, optimizes ? .voteOptimize(figures: []) : offer(content: 1))
        handle(.closed(ids[0], reason: "closed"))
        register(3)
        hear(2, .voteJoin)
        hear(2, .flushReport(epoch: Epoch(3), operations: []))
        #expect(isSent(3) { if case .propose = $0 { true } else { false } })
    }

    @Test("has its synchronisation ended before the second call begins", arguments: [true, false])
    mutating func endsFirst(optimizes: Bool) {
        hear(1, offer(content: 1, revision: 2))
        hear(2, offer(content: 2))
        #expect(isSent(2) { if case .receiveState = $0 { true } else { false } })
        for id in 1...2 { hear(id, optimizes ? .voteOptimize(figures: []) : .voteJoin) }
        hear(2, .stateReceived(session: 1))
        #expect(isSent(2) { $0 == .stateSynchronized(revision: 2) })
        let isSolved = effects.contains { if case .solve = $0 { true } else { false } }
        let isAnswered = isSent(2) { if case .joinUnchanged = $0 { true } else { false } }
        #expect(optimizes ? isSolved : isAnswered)
    }

    @Test("ends what the others wait in, when it comes back and waits in another one", arguments: [true, false])
    mutating func comesBack(optimizes: Bool) {
        if !optimizes { register(3) }
        for id in 1...2 { hear(id, optimizes ? .voteOptimize(figures: []) : .voteJoin) }
        handle(.closed(ids[1], reason: "reset", mayReturn: true))
        handle(.connected(ids[3], from: .v4(1), secret: PeerSecret(high: 4, low: 0)))
        let members = master.peers.filter { $0.id.value < 3 }.map(\.member)
        let view = HeldView(
            epoch: Epoch(2), highestEpoch: Epoch(2), members: members, arrangement: .plain, call: .arePeersPending)
        hear(
            4,
            .attach(
                Attachment(
                    run: master.run, peer: PeerID(2), secret: PeerSecret(high: 2, low: 0),
                    hello: Hello(group: GroupID(0), listenPort: 1, addresses: [], stripes: 1), view: view)))
        for id in [1, 4] { #expect(isSent(id) { if case .flush = $0 { true } else { false } }) }
    }
}
