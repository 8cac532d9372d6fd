import PCCLBase
import PCCLWire

/// What a master must not forget: who belongs to the run, and the last outcome of each group, which some members may not
/// have heard when the master ends. All else the members tell when they attach again.
package struct MasterState: Hashable, Sendable {
    package struct Peer: Hashable, Sendable {
        package var secret: PeerSecret?
        package var member: Member
        package var ensemble: Ensemble?
    }
    package struct Group: Hashable, Sendable {
        package var id: GroupID
        package var epoch: Epoch
        /// In rank order.
        package var members: [Peer]
        package var arrangement: Arrangement
        package var outcome: GroupOutcome
        /// A member was lost since that outcome.
        package var hasLost: Bool
        /// The joint calls of this epoch that left it as it was: how many were answered, what was said last, and what it was
        /// said of. Members may hear an answer again that nobody else has heard and is still here.
        package var answers: UInt32 = 0
        package var lastAnswer: JointAnswer?
        package var revision: UInt64?
    }

    /// A group stays known when its members are gone, for its epochs; a run has had that many at most.
    package static let groupLimit = 1 << 20

    package var run: RunID
    /// Ids from here on were never given.
    package var nextPeer: UInt64
    package var groups: [Group]
}

/// How the epoch of a group began, as all its members were told: they may be fewer by now.
package struct GroupOutcome: Hashable, Sendable {
    package enum Kind: Hashable, Sendable {
        /// With the view of a proposal.
        case view
        /// After a flush; each member was told of its own operations.
        case verdicts([Verdict])
        /// This master has not heard.
        case unknown
    }

    package var kind: Kind
    package var members: [Member] = []
    package var arrangement = Arrangement.plain

    package static let unknown = GroupOutcome(kind: .unknown)

    package struct Verdict: Hashable, Sendable {
        package var peer: PeerID
        package var operations: [OperationVerdict]
        package var missed: [FailedCalls]
    }
}

extension MasterState {
    package var bytes: [UInt8] {
        var w = ByteWriter()
        w.write(run)
        w.write(nextPeer)
        w.write(groups) { w, group in
            w.write(group.id.value)
            w.write(group.epoch.value)
            w.write(group.hasLost)
            w.write(group.members) { w, peer in
                w.write(peer.member)
                w.write(peer.secret != nil)
                if let secret = peer.secret { w.write(secret) }
                w.write(peer.ensemble)
            }
            w.write(group.answers)
            w.write(group.lastAnswer)
            w.write(group.revision)
            w.write(group.arrangement)
            w.write(group.outcome.members) { $0.write($1) }
            w.write(group.outcome.arrangement)
            switch group.outcome.kind {
            case .unknown: w.write(UInt8(0))
            case .view: w.write(UInt8(1))
            case .verdicts(let verdicts):
                w.write(UInt8(2))
                w.write(verdicts)
            }
        }
        return w.bytes
    }

    package init(_ bytes: [UInt8]) throws(WireError) {
        var r = ByteReader(bytes)
        run = try r.readRun()
        nextPeer = try r.read()
        groups = try r.readList("groups", limit: MasterState.groupLimit) { (r) throws(WireError) in try r.readGroup() }
        try r.finish()
    }
}

extension ByteReader {
    fileprivate mutating func readGroup() throws(WireError) -> MasterState.Group {
        let id = GroupID(try read())
        let epoch = Epoch(try read())
        let hasLost = try readBool()
        let members = try readList("members", limit: WireLimits.members) { (r) throws(WireError) in
            let member = try r.readMember()
            let secret = try r.readBool() ? try r.readSecret() : nil
            return MasterState.Peer(secret: secret, member: member, ensemble: try r.readEnsemble())
        }
        let answers: UInt32 = try read()
        let lastAnswer: JointAnswer? = try readOptional("joint answer")
        let revision = try readRevision()
        let arrangement = try readArrangement()
        var outcome = GroupOutcome(kind: .unknown, members: try readMembers(), arrangement: try readArrangement())
        let kind = try read(UInt8.self)
        switch kind {
        case 0: outcome.kind = .unknown
        case 1: outcome.kind = .view
        case 2:
            outcome.kind = .verdicts(try readMemberVerdicts())
        default: throw .unknownKind(kind)
        }
        return MasterState.Group(
            id: id, epoch: epoch, members: members, arrangement: arrangement, outcome: outcome, hasLost: hasLost,
            answers: answers, lastAnswer: lastAnswer, revision: revision)
    }
}

/// How an operation goes on is the same for all members, and is written once.
extension ByteWriter {
    fileprivate mutating func write(_ verdicts: [GroupOutcome.Verdict]) {
        let resumptions = verdicts.lazy.flatMap(\.operations).compactMap(\.resumption)
        let shared = Dictionary(resumptions.map { ($0.number, $0) }, uniquingKeysWith: { first, _ in first })
        write(shared.values.sorted { $0.number < $1.number }) { $0.write($1) }
        write(verdicts) { w, verdict in
            w.write(verdict.peer.value)
            w.write(verdict.operations) { w, operation in
                w.write(operation.tag.value)
                w.write(operation.launch.value)
                w.write(operation.outcome.rawValue)
                if let resumption = operation.resumption { w.write(resumption.number) }
            }
            w.write(verdict.missed)
        }
    }
}

extension ByteReader {
    fileprivate mutating func readMemberVerdicts() throws(WireError) -> [GroupOutcome.Verdict] {
        var shared: [UInt64: Resumption] = [:]
        for resumption in try readList(
            "resumptions", limit: ResultPart.limitOfAll,
            { (r) throws(WireError) in
                try r.readResumption()
            })
        {
            shared[resumption.number] = resumption
        }
        return try readList("verdicts", limit: WireLimits.members) { (r) throws(WireError) in
            GroupOutcome.Verdict(
                peer: PeerID(try r.read()),
                operations: try r.readList("operations", limit: WireLimits.operations) { (r) throws(WireError) in
                    try r.readOperation(shared)
                },
                missed: try r.readFailedCalls())
        }
    }

    private mutating func readOperation(_ shared: [UInt64: Resumption]) throws(WireError) -> OperationVerdict {
        let tag = Tag(try read())
        let launch = LaunchNumber(try read())
        let raw = try read(UInt8.self)
        guard let outcome = OperationVerdict.Outcome(rawValue: raw) else {
            throw .unknownValue(field: "outcome", value: UInt64(raw))
        }
        guard outcome == .resume else { return OperationVerdict(tag: tag, launch: launch, outcome: outcome) }
        let number: UInt64 = try read()
        guard let resumption = shared[number] else { throw .unknownValue(field: "resumption", value: number) }
        return OperationVerdict(tag: tag, launch: launch, outcome: outcome, resumption: resumption)
    }
}
