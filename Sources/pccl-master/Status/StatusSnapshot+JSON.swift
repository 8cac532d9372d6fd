import PCCLBase
import PCCLMembership
import PCCLSession
import PCCLWire
import StrictJSON

/// `/api/status`. Moments are seconds since 1970. Names and meanings: docs/operations.md.
extension StatusSnapshot {
    var json: JSONValue {
        .object([
            .init("tool", .string("pccl-master")),
            .init("version", .string(version)),
            .init("run", run.map { .string($0) } ?? .null),
            .init("now", .seconds(unixNow)),
            .init("started", .seconds(unix(started))),
            .init("uptime_seconds", .seconds((now - started).seconds)),
            .init("dead_time_seconds", .seconds(deadTime.seconds)),
            .init("rebuilding", .bool(isRebuilding)),
            .init(
                "journal",
                journal.map {
                    .object([
                        .init("bytes", .integer($0.bytes)), .init("appends", .count($0.appends)),
                        .init("failing", .bool($0.hasFailed)),
                    ])
                } ?? .null),
            .init("lead", lead.map(json(of:)) ?? .null),
            .init("groups", .array(groups.map(json(of:)))),
            .init("stuck", .array(stuck.map(json(of:)))),
            .init("counts", counts),
            .init("history", .array(tally.changes.map(json(of:)))),
        ])
    }

    private func json(of lead: MasterStanding.Lead) -> JSONValue {
        switch lead {
        case .leads(let term):
            .object([.init("leads", .bool(true)), .init("term", .number(Double(term))), .init("leader", .null)])
        case .follows(let leader):
            .object([
                .init("leads", .bool(false)), .init("term", .null),
                .init("leader", leader.map { .string($0) } ?? .null),
            ])
        }
    }

    private func json(of group: Group) -> JSONValue {
        .object([
            .init("group", .count(UInt64(group.id.value))),
            .init("epoch", .count(UInt64(group.epoch.value))),
            .init("phase", .string(group.phase.name.rawValue)),
            .init("phase_waits_for", .peers(group.phase.awaited)),
            .init("next_epoch", group.phase.nextEpoch.map { .count(UInt64($0.value)) } ?? .null),
            .init("flush_cause", group.phase.flushCause.map { .string($0.rawValue) } ?? .null),
            // As text: readers of JSON round large numbers.
            .init("revision", group.revision.map { .string("\($0)") } ?? .null),
            .init("members", .array(group.members.map(json(of:)))),
            .init("newcomers", .array(group.newcomers.map(json(of:)))),
            .init("calls_since", group.callsSince.map { .seconds(unix($0)) } ?? .null),
            .init(
                "calls",
                .array(
                    group.calls.map {
                        .object([
                            .init("call", .string($0.name.rawValue)), .init("called_by", .peers($0.called)),
                            .init("waits_for", .peers($0.missing)),
                        ])
                    })),
            .init(
                "late_operations",
                .array(
                    group.late.map {
                        .object([
                            .init("tag", .string("\($0.tag.value)")), .init("since", .seconds(unix($0.since))),
                            .init("called_by", .peers($0.waiting.array)), .init("waits_for", .peers($0.missing)),
                            .init("heard", .seconds(unix($0.heard))),
                        ])
                    })),
        ])
    }

    private func json(of peer: Peer) -> JSONValue {
        .object([
            .init("peer", .count(peer.id.value)),
            .init("rank", peer.rank.map { .integer($0) } ?? .null),
            .init("address", .address(peer.address)),
            .init("state", .string(peer.standing.rawValue)),
            .init("since", .seconds(unix(peer.since))),
            .init("heard", .seconds(unix(peer.lastHeard))),
        ])
    }

    private var counts: JSONValue {
        func sum(_ counts: [MasterTally.Cause: UInt64]) -> JSONValue {
            .object(MasterTally.Cause.allCases.map { .init($0.rawValue, .count(counts[$0] ?? 0)) })
        }
        return .object([
            .init("registrations", .count(tally.registrations)),
            .init("admissions", .count(tally.admissions)),
            .init("departures", sum(tally.departures)),
            .init("newcomers_gone", sum(tally.newcomersGone)),
            .init("detachments", .count(tally.detachments)),
            .init("attachments", .count(tally.attachments)),
            .init("views", .count(tally.views)),
            .init(
                "flushes",
                .object(
                    FlushResolution.Cause.allCases.map { .init($0.rawValue, .count(tally.flushes[$0] ?? 0)) })),
            .init(
                "verdicts",
                .object(StatusSnapshot.outcomes.map { .init("\($0)", .count(tally.verdicts[$0] ?? 0)) })),
        ])
    }

    private func json(of change: MasterTally.Change) -> JSONValue {
        var members: [JSONValue.Member] = [
            .init("number", .count(change.number)),
            .init("at", .seconds(unix(change.at))),
            .init("group", .count(UInt64(change.group.value))),
            .init("epoch", .count(UInt64(change.epoch.value))),
        ]
        func add(_ event: String, _ peers: [PeerID], _ text: String) {
            members += [
                .init("event", .string(event)), .init("peers", .peers(peers)), .init("text", .string(text)),
            ]
        }
        func place(_ address: SocketAddress?) -> String { address.map { " at \($0)" } ?? "" }
        switch change.kind {
        case .registered(let peer, let address): add("registered", [peer], "\(peer)\(place(address)) registered")
        case .admitted(let peers):
            add("admitted", peers.array, "\(peers.array.enumerated(upTo: 8)) admitted in \(change.epoch)")
        case .gone(let peer, let address, .left, let wasMember, _):
            add(wasMember ? "left" : "newcomer_gone", [peer], "\(peer)\(place(address)) left")
        case .gone(let peer, let address, let cause, let wasMember, let reason):
            let word = wasMember ? "is lost" : "went before it was admitted"
            add(
                wasMember ? "lost" : "newcomer_gone", [peer],
                "\(peer)\(place(address)) \(word) (\(cause.rawValue)): \(reason)")
            members.append(.init("cause", .string(cause.rawValue)))
        case .detached(let peer, let reason):
            add("detached", [peer], "the connection of \(peer) broke, and it is waited for: \(reason)")
        case .attached(let peer): add("attached", [peer], "\(peer) has attached again")
        }
        return .object(members)
    }
}

extension StatusSnapshot {
    static let outcomes = OperationVerdict.Outcome.allCases
}

extension JSONValue {
    static func count(_ value: UInt64) -> JSONValue { .number(Double(value)) }
    static func peers(_ peers: [PeerID]) -> JSONValue { .array(peers.map { .count($0.value) }) }
    fileprivate static func address(_ address: SocketAddress?) -> JSONValue {
        address.map { .string($0.description) } ?? .null
    }
    /// To a thousandth: no clock here is better.
    static func seconds(_ value: Double) -> JSONValue { .number((value * 1000).rounded() / 1000) }
}
