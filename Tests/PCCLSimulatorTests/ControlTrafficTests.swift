import PCCLSimulator
import Testing

@Suite("What membership costs")
struct ControlTrafficTests {
    // The tables of docs/protocol.md ("What it amounts to"), with the length before each message.
    private let hello = 19
    private let welcome = 57
    private let vote = 5
    private let linked = 9
    private let broken = 18
    private let flush = 9
    private func propose(_ n: Int) -> Int { 13 + 21 * n }
    private func view(_ n: Int) -> Int { 34 + 21 * n }
    /// From one of so many survivors that has one operation in flight, which all of them and the lost member have entered,
    /// and its result in one part.
    private func report(_ n: Int) -> Int { 73 + 12 * n }
    private func verdict(_ n: Int) -> Int { 55 + 21 * n }

    @Test("messages, bytes and frames follow the formulae", arguments: [3, 4, 7, 16, 33])
    func formulae(n: Int) {
        var traffic = ControlTraffic(peerCount: n)
        traffic.run()
        #expect(traffic.costs.map(\.event) == ControlTraffic.Event.allCases)
        #expect(traffic.successes == 2 * n - 1)
        func expect(
            _ event: ControlTraffic.Event, to: (Int, Int), from: (Int, Int), peer: (Int, Int), frames: Int = 0
        ) {
            guard let cost = traffic.costs.first(where: { $0.event == event }) else {
                Issue.record("no \(event)")
                return
            }
            #expect((cost.toMaster.messages, cost.toMaster.bytes) == to, "\(event)")
            #expect((cost.fromMaster.messages, cost.fromMaster.bytes) == from, "\(event)")
            #expect((cost.busiestPeer.messages, cost.busiestPeer.bytes) == peer, "\(event)")
            #expect(cost.enterFrames == frames && cost.preparedFrames == frames, "\(event)")
        }
        let left = n - 1
        expect(
            .connect, to: (n, n * hello), from: (n + 1, n * welcome + view(1)), peer: (3, hello + welcome + view(1)))
        expect(
            .join, to: (n + 1, vote + n * linked), from: (2 * n, n * (propose(n) + view(n))),
            peer: (4, vote + linked + propose(n) + view(n)))
        expect(.operation, to: (0, 0), from: (0, 0), peer: (0, 0), frames: n * (n - 1))
        expect(
            .loss, to: (2 * left, left * (broken + report(left))), from: (2 * left, left * (flush + verdict(left))),
            peer: (4, broken + report(left) + flush + verdict(left)))
        expect(
            .joinFull, to: (2 * n, hello + left * vote + n * linked),
            from: (2 * n + 1, welcome + n * (propose(n) + view(n))),
            peer: (5, hello + linked + welcome + propose(n) + view(n)))
    }
}
