import PCCLBase
import PCCLWire
import Testing

@testable import PCCLMembership

@Suite("A master's state, as bytes")
struct MasterStateTests {
    private static let run = RunID(high: .max, low: 3)
    private static let members = [
        Member(
            id: PeerID(1), addresses: [.loopback(port: 48150), SocketAddress(.v6(high: 1, low: .max), port: 65535)],
            stripes: 1),
        Member(id: PeerID(.max), addresses: [], stripes: 256),
    ]
    private static let arrangement = Arrangement(shares: [4096, 0], sites: [1, .max])

    private static func state(_ outcome: GroupOutcome, hasLost: Bool = false) -> MasterState {
        MasterState(
            run: run, nextPeer: .max,
            groups: [
                MasterState.Group(
                    id: GroupID(.max), epoch: Epoch(.max),
                    members: [
                        MasterState.Peer(secret: PeerSecret(high: 5, low: .max), member: members[0]),
                        MasterState.Peer(secret: nil, member: members[1]),
                    ],
                    arrangement: arrangement, outcome: outcome, hasLost: hasLost),
                MasterState.Group(
                    id: GroupID(0), epoch: Epoch(1), members: [], arrangement: .plain, outcome: .unknown,
                    hasLost: !hasLost),
            ])
    }

    private static let resumption = Resumption(
        number: .max,
        kept: (0..<3).map { KeptPart(ResultPart(elements: $0 * 10..<$0 * 10 + 5, worldSize: 3), holders: [0, 1]) })
    private static func resume(_ tag: UInt64, _ resumption: Resumption) -> OperationVerdict {
        OperationVerdict(tag: Tag(tag), launch: LaunchNumber(7), outcome: .resume, resumption: resumption)
    }

    /// Every kind of outcome, with the extremes of its fields.
    static let states = [
        MasterState(run: run, nextPeer: 1, groups: []),
        state(.unknown), state(GroupOutcome(kind: .view, members: members, arrangement: arrangement), hasLost: true),
        state(
            GroupOutcome(
                kind: .verdicts([
                    GroupOutcome.Verdict(
                        peer: PeerID(1),
                        operations: [
                            OperationVerdict(tag: Tag(.max), launch: LaunchNumber(.max), outcome: .commit),
                            OperationVerdict(tag: Tag(0), launch: LaunchNumber(1), outcome: .mismatch),
                            resume(9, resumption),
                        ],
                        missed: [FailedCalls(tag: Tag(1), count: .max)]),
                    GroupOutcome.Verdict(peer: PeerID(.max), operations: [resume(9, resumption)], missed: []),
                ]),
                members: members, arrangement: .plain)),
    ]

    @Test("it is read as it was written", arguments: states)
    func roundTrip(state: MasterState) throws {
        #expect(try MasterState(state.bytes) == state)
    }

    @Test("how an operation goes on is written once, however many members were told")
    func resumptionsAreShared() throws {
        func bytes(_ memberCount: UInt64) -> Int {
            let verdicts = (0..<memberCount).map {
                GroupOutcome.Verdict(
                    peer: PeerID($0), operations: [Self.resume(9, Self.resumption)], missed: [])
            }
            return Self.state(GroupOutcome(kind: .verdicts(verdicts), members: [], arrangement: .plain)).bytes.count
        }
        #expect(bytes(101) - bytes(1) == 100 * (8 + 4 + 8 + 4 + 1 + 8 + 4))
    }

    @Test("cut short at any length it is an error", arguments: states)
    func cutShort(state: MasterState) {
        for count in state.bytes.indices {
            do throws(WireError) {
                _ = try MasterState(Array(state.bytes[..<count]))
                Issue.record("\(count) bytes were taken for the whole")
            } catch {
                guard case .cutShort(let needed, let had) = error, needed > had else {
                    Issue.record("\(error)")
                    continue
                }
            }
        }
    }

    @Test("bytes after the end are an error", arguments: states)
    func leftOver(state: MasterState) {
        #expect(throws: WireError.leftOver(2)) { _ = try MasterState(state.bytes + [0, 0]) }
    }

    /// A run, the next id, then the groups; a group's id, epoch and flag come before its members.
    @Test("a count is checked against its limit before memory is taken, and against the bytes that are there")
    func lyingCounts() {
        func number(_ value: UInt32) -> [UInt8] {
            var writer = ByteWriter()
            writer.write(value)
            return writer.bytes
        }
        let beforeGroups = [UInt8](repeating: 0, count: 24)
        let beforeMembers = beforeGroups + number(1) + [UInt8](repeating: 0, count: 9)
        // No answers and no revision; no members, shares, sites and figures; no members, shares, sites and figures of the outcome; then its kind, and
        // no resumptions.
        let answers = [UInt8](repeating: 0, count: 6)
        let plain = [UInt8](repeating: 0, count: 9)
        let beforeVerdicts = beforeMembers + number(0) + answers + plain + number(0) + plain + [2] + number(0)
        let limits = [MasterState.groupLimit, WireLimits.members, WireLimits.members]
        for (prefix, limit) in zip([beforeGroups, beforeMembers, beforeVerdicts], limits) {
            for count in [UInt32(limit + 1), 1 << 24, .max] {
                do throws(WireError) {
                    _ = try MasterState(prefix + number(count))
                    Issue.record("\(count) passed")
                } catch {
                    guard case .tooMany(_, Int(count), limit) = error else {
                        Issue.record("\(error)")
                        continue
                    }
                }
            }
            do throws(WireError) {
                _ = try MasterState(prefix + number(1))
                Issue.record("an element was read from nothing")
            } catch {
                guard case .cutShort = error else {
                    Issue.record("\(error)")
                    continue
                }
            }
        }
        #expect(throws: WireError.unknownKind(3)) { _ = try MasterState(beforeVerdicts.dropLast(5) + [3]) }
    }
}
