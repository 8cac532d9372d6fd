import Testing

@testable import pccl

@Suite("What a demo's peer concludes from its rounds")
struct RoundLedgerTests {
    /// The rounds that a peer makes, from a first one on, until its run is over.
    private func lastRound(_ ledger: inout RoundLedger, from first: Int, _ sizes: [Int]) -> Int? {
        for (round, size) in zip(first..., sizes) {
            ledger.note(worldSize: size)
            ledger.end(round: round)
            if ledger.isOver { return round }
        }
        return nil
    }

    @Test("a loss and a join are counted by whoever sees them, and the newcomer counts its own join")
    func counts() {
        var member = RoundLedger(peers: 4, lastRound: 6, isNewcomer: false)
        #expect(lastRound(&member, from: 1, [4, 4, 3, 4, 4, 4, 4]) == 6)
        #expect(member.losses == 1 && member.joins == 1 && member.worldSize == 4)
        var newcomer = RoundLedger(peers: 4, lastRound: 6, isNewcomer: true)
        #expect(lastRound(&newcomer, from: 4, [4, 4, 4, 4]) == 6)
        #expect(newcomer.losses == 0 && newcomer.joins == 1 && newcomer.worldSize == 4)
    }

    @Test("a peer that starts a little later than the others is no newcomer")
    func lateStarter() {
        var early = RoundLedger(peers: 4, lastRound: 9, isNewcomer: false)
        #expect(lastRound(&early, from: 1, [3, 3, 4, 4]) == nil)
        #expect(early.losses == 0 && early.joins == 0)
        #expect(lastRound(&early, from: 5, [3, 4]) == nil)
        #expect(early.losses == 1 && early.joins == 1)
    }

    @Test("a run without its newcomer goes on; all end with the same round, one after the newcomer's first")
    func lateNewcomer() {
        var member = RoundLedger(peers: 4, lastRound: 3, isNewcomer: false)
        #expect(lastRound(&member, from: 1, [4, 3, 3, 3, 3, 4, 4, 4]) == 7)
        var newcomer = RoundLedger(peers: 4, lastRound: 3, isNewcomer: true)
        #expect(lastRound(&newcomer, from: 6, [4, 4, 4]) == 7)
    }
}
