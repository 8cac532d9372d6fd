import PCCLBase
import PCCLWire
import Testing

@testable import PCCLMembership

/// Found by fuzzing. A member that votes in a second call before the first has ended breaks the protocol, and harms itself
/// at most.
@Suite("A member that waits in two calls")
struct DoubleVoteTests {
    typealias ConnectionID = MasterMachine.ConnectionID

    @Test("does not keep newcomers waiting when it is left alone, and the first call ends", arguments: [true, false])
    func keepsNobodyWaiting(optimizes: Bool) {
        let offer = StateOffer(revision: 1, strategy: .enforcePopular, entries: [])
        let vote: ToMaster = optimizes ? .voteOptimize(figures: []) : .offerState(offer)
        let none = ToMaster.flushReport(epoch: Epoch(3), operations: [])
        let ids = (1...3).map { ConnectionID($0) }
        func register(_ id: ConnectionID) -> [MasterMachine.Event] {
            [
                .connected(id, from: .v4(1), secret: PeerSecret(high: id.value, low: 0)),
                .received(id, .hello(group: GroupID(0), listenPort: 1, addresses: [], stripes: 1)),
            ]
        }
        let pair =
            register(ids[0]) + register(ids[1]) + [.received(ids[0], .voteJoin)]
            + ids[..<2].map { .received($0, .linked(epoch: Epoch(2))) }
        // One of the two is lost, the other one votes for its second call, and a third peer waits to be admitted.
        let events =
            pair + [.received(ids[1], vote), .closed(ids[0], reason: "closed")] + register(ids[2])
            + [.received(ids[1], .voteJoin), .received(ids[1], none)]

        var master = MasterMachine(run: RunID(high: 1, low: 1), timeouts: .standard, now: Instant(nanoseconds: 1))
        var effects: [MasterMachine.Effect] = []
        for event in events {
            effects = []
            master.handle(event, at: Instant(nanoseconds: 1), effects: &effects)
            #expect(master.brokenInvariant() == nil)
        }
        let isProposed = effects.contains {
            if case .send(ids[2], .propose) = $0 { true } else { false }
        }
        #expect(isProposed)
    }
}
