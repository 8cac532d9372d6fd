import PCCLBase
import PCCLMembership
import PCCLWire
import StrictJSON

/// Who is stuck: what `pccl status --stuck` asks for.
extension StatusSnapshot {
    /// One thing that does not go on, and the peers that keep it.
    struct Stuck: Sendable {
        enum What: Sendable {
            /// As members say that wait in it.
            case operation(MasterGroup.StuckTogether)
            /// That some members have made, for longer than a third of the dead time.
            case call(JointCall, since: Instant)
            /// A member that this master has not heard for a third of the dead time.
            case silent(Peer)
        }
        var group: GroupID
        var what: What
    }

    /// A call that takes longer than that is worth a word. As long as a member's word on an operation takes.
    private var patience: Interval { deadTime / 3 }

    var stuck: [Stuck] {
        groups.flatMap { group in
            let calls = group.callsSince.map { since in
                since + patience <= now ? group.calls.filter { !$0.missing.isEmpty }.map { ($0, since) } : []
            }
            return group.silent.map { Stuck(group: group.id, what: .silent($0)) }
                + group.stuck.map { Stuck(group: group.id, what: .operation($0)) }
                + (calls ?? []).map { Stuck(group: group.id, what: .call($0.0, since: $0.1)) }
        }
    }

    func json(of stuck: Stuck) -> JSONValue {
        var members: [JSONValue.Member] = [.init("group", .count(UInt64(stuck.group.value)))]
        switch stuck.what {
        case .silent(let peer):
            members += [
                .init("what", .string("silent")), .init("peers", .peers([peer.id])), .init("waiting", .array([])),
                .init("since", .seconds(unix(peer.lastHeard))),
            ]
        case .call(let call, let since):
            members += [
                .init("what", .string("call")), .init("peers", .peers(call.missing)),
                .init("waiting", .peers(call.called)), .init("since", .seconds(unix(since))),
                .init("call", .string(call.name.rawValue)),
            ]
        case .operation(let together):
            let operation = together.operation
            members += [
                .init("what", .string("operation")), .init("peers", .peers(operation.culprits.map(\.peer))),
                .init("waiting", .peers(together.waiting)),
                .init("since", .seconds(unixNow - Double(operation.milliseconds) / 1000)),
                .init("tag", .string("\(operation.tag.value)")),
                .init("operation", .string("\(operation.descriptor)")),
                .init("called", .count(UInt64(operation.called))),
                .init("prepared", .count(UInt64(operation.prepared))),
                .init("world_size", .count(UInt64(operation.worldSize))),
                .init("waits_for", .array(operation.culprits.map(json(of:)))),
            ]
        }
        members.append(.init("text", .string(text(of: stuck))))
        return .object(members)
    }

    private func json(of culprit: StuckOperation.Culprit) -> JSONValue {
        let reason =
            switch culprit.reason {
            case .hasNotCalled: "has_not_called"
            case .sendsNothing: "sends_nothing"
            case .takesNothing: "takes_nothing"
            case .isNotPrepared: "is_not_prepared"
            }
        return .object([
            .init("peer", .count(culprit.peer.value)), .init("reason", .string(reason)),
            .init("since", .seconds(unixNow - Double(culprit.milliseconds) / 1000)),
            .init("received_bytes", .count(culprit.receivedBytes)),
            .init("expected_bytes", .count(culprit.expectedBytes)),
            .init(
                "last_byte",
                culprit.silentMilliseconds.map { .seconds(unixNow - Double($0) / 1000) } ?? .null),
        ])
    }

    private func text(of stuck: Stuck) -> String {
        switch stuck.what {
        case .silent(let peer):
            let place = peer.address.map { " at \($0)" } ?? ""
            return "\(peer.id)\(place): the master has not heard it for \(seconds(since: peer.lastHeard))"
        case .call(let call, let since):
            return "\(call.called.enumerated(upTo: 8)): \(call.name.rawValue) has waited \(seconds(since: since)) for "
                + "\(call.missing.enumerated(upTo: 8)) to call it"
        case .operation(let together): return together.text
        }
    }

    private func seconds(since instant: Instant) -> String {
        StuckOperation.seconds(UInt32(clamping: (now - instant).milliseconds))
    }
}
