import PCCLBase
import PCCLMembership
import PCCLWire
import StrictJSON
import Testing

@testable import pccl_master

@Suite("Who is stuck, as a master says it")
struct StuckStatusTests {
    private func report(_ culprit: UInt64, silent: UInt32?, received: UInt64 = 5) -> ToMaster {
        .stuck(
            epoch: Epoch(2),
            operations: [
                StuckOperation(
                    tag: Tag(7),
                    descriptor: OperationDescriptor(
                        count: 100, type: .float32, operation: .sum, algorithm: .direct),
                    milliseconds: 1700, worldSize: 2, called: 2, prepared: 0,
                    culprits: [
                        StuckOperation.Culprit(
                            peer: PeerID(culprit), reason: .sendsNothing, milliseconds: 1600, receivedBytes: received,
                            expectedBytes: 400, silentMilliseconds: silent)
                    ])
            ])
    }

    /// Peers 1 and 2 are members, attached, and heard just now.
    private var two: ToldMaster {
        var m = ToldMaster()
        m.arrive(1)
        m.arrive(2)
        m.say(1, .voteJoin)
        m.say(1, .linked(epoch: Epoch(2)))
        m.say(2, .linked(epoch: Epoch(2)))
        return m
    }

    private func stuck(_ m: ToldMaster) throws -> [JSONValue] {
        guard case .array(let stuck)? = try JSONValue(parsing: m.snapshot().json.written())["stuck"] else {
            Issue.record("nothing is said of it")
            return []
        }
        return stuck
    }

    @Test("an operation: who waits for whom, since when by the master's clock, with how much, and in words")
    func operation() throws {
        var m = two
        m.say(1, report(2, silent: 1500))
        m.pass(.milliseconds(300))
        let found = try stuck(m)
        #expect(
            found.map { $0.written() } == [
                """
                {
                  "group": 0,
                  "what": "operation",
                  "peers": [
                    2
                  ],
                  "waiting": [
                    1
                  ],
                  "since": 1799999998.3,
                  "tag": "7",
                  "operation": "all-reduce(sum, 100 × float32, direct)",
                  "called": 2,
                  "prepared": 0,
                  "world_size": 2,
                  "waits_for": [
                    {
                      "peer": 2,
                      "reason": "sends_nothing",
                      "since": 1799999998.4,
                      "received_bytes": 5,
                      "expected_bytes": 400,
                      "last_byte": 1799999998.5
                    }
                  ],
                  "text": "peer 1: tag 7, all-reduce(sum, 100 × float32, direct), has waited 1.9 s for peer 2: it has called, and brought 5 of 400 B; its last byte came 1.8 s ago. 2 of 2 have called, 0 are prepared: no verdict yet"
                }
                """
            ])
        #expect(m.snapshot().metrics.contains("pccl_stuck_operations{group=\"0\"} 1\n"))
        m.say(1, .stuck(epoch: Epoch(2), operations: []))
        #expect(try stuck(m).isEmpty)
    }

    @Test("a member that the master does not hear for a third of the dead time, before it is lost")
    func silent() throws {
        var m = two
        m.pass(.milliseconds(1999))
        #expect(try stuck(m).isEmpty)
        m.pass(.milliseconds(1))
        m.say(1, .heartbeat)
        let found = try stuck(m)
        #expect(found.count == 1 && found[0]["what"] == .string("silent") && found[0]["peers"] == .array([.number(2)]))
        #expect(found[0]["text"] == .string("peer 2 at 10.0.0.1:48152: the master has not heard it for 2.0 s"))
        #expect(m.snapshot().metrics.contains("pccl_silent_peers{group=\"0\"} 1\n"))
    }

    @Test("a joint call that waits for as long")
    func call() throws {
        var m = two
        m.say(1, .voteJoin)
        m.pass(.milliseconds(1900))
        for peer in [1, 2] as [UInt64] { m.say(peer, .heartbeat) }
        #expect(try stuck(m).isEmpty)
        m.pass(.milliseconds(200))
        let found = try stuck(m)
        #expect(found.map { $0["text"] } == [.string("peer 1: update_topology has waited 2.1 s for peer 2 to call it")])
    }
}
