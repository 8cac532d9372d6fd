import PCCL
import PCCLBase
import PCCLMembership
import PCCLSession

/// What a master knows at a moment, for whoever watches. Nothing in it is guessed: of operations a master hears only from
/// members that wait for others, and in a flush.
struct StatusSnapshot: Sendable {
    enum Standing: String, CaseIterable, Sendable {
        case attached
        /// A member whose connection broke, or that this master has not seen since it was started.
        case away
        /// Not admitted yet.
        case newcomer
    }

    struct Peer: Sendable {
        var id: PeerID
        /// Nil for a newcomer.
        var rank: Int?
        var address: SocketAddress?
        var standing: Standing
        /// When it connected, or began to be waited for.
        var since: Instant
        var lastHeard: Instant
    }

    /// A call that all members have to make.
    struct JointCall: Sendable {
        enum Name: String, CaseIterable, Sendable {
            case updateTopology = "update_topology"
            case arePeersPending = "are_peers_pending"
            case optimizeTopology = "optimize_topology"
            case synchronizeState = "synchronize_state"
        }
        var name: Name
        var called: [PeerID]
        var missing: [PeerID]
    }

    /// What keeps a group from going on, if anything, and who is waited for.
    struct Phase: Sendable {
        enum Name: String, CaseIterable, Sendable {
            case settled
            case optimizing
            case linking
            case sharing
            case flushing
            case recovering
        }
        var name: Name
        var awaited: [PeerID] = []
        /// The epoch that is to come of it.
        var nextEpoch: Epoch?
        var flushCause: FlushResolution.Cause?
    }

    struct Group: Sendable {
        var id: GroupID
        var epoch: Epoch
        var phase: Phase
        /// In rank order.
        var members: [Peer]
        var newcomers: [Peer]
        var calls: [JointCall]
        /// When the first of those calls was made.
        var callsSince: Instant?
        var late: [MasterGroup.LateOperation]
        var stuck: [MasterGroup.StuckTogether]
        /// Members that have not been heard for a third of the dead time.
        var silent: [Peer]
        var revision: UInt64?

        func count(_ standing: Standing) -> Int { (members + newcomers).count { $0.standing == standing } }
    }

    var version = Release.version
    /// Enough of the run's name to tell it from another; all of it would let a stranger pass for a peer. Nil: another master
    /// leads, and this one knows nothing of the run.
    var run: String?
    var now: Instant
    /// The same moment, in seconds since 1970.
    var unixNow: Double
    var started: Instant
    var deadTime: Interval
    /// It was started without a journal, and takes over from its peers what it should know.
    var isRebuilding: Bool
    var journal: MasterJournal.Figures?
    /// Nil: no other master could lead.
    var lead: MasterStanding.Lead?
    /// Those that have peers.
    var groups: [Group]
    var tally: MasterTally

    func unix(_ instant: Instant) -> Double {
        instant <= now ? unixNow - (now - instant).seconds : unixNow + (instant - now).seconds
    }
}

extension StatusSnapshot {
    /// Copies, and computes next to nothing: the master waits meanwhile. At most 1,024 peers are copied.
    init(
        of machine: MasterMachine?, _ standing: MasterStanding, deadTime: Interval, started: Instant, now: Instant,
        unixNow: Double
    ) {
        self.init(
            run: machine.map { StatusSnapshot.shortName($0.run) }, now: now, unixNow: unixNow, started: started,
            deadTime: deadTime, isRebuilding: machine?.isRebuilding ?? false, journal: standing.figures,
            lead: standing.lead, groups: [], tally: machine?.tally ?? MasterTally())
        guard let machine else { return }
        let peers = Dictionary(machine.peers.map { ($0.id, $0) }, uniquingKeysWith: { first, _ in first })
        for group in machine.groups where !group.members.isEmpty || !group.newcomers.isEmpty {
            groups.append(
                Group(
                    group, members: group.members.compactMap { peers[$0] },
                    newcomers: group.newcomers.compactMap { peers[$0] },
                    late: machine.lateOperations(of: group, at: now), stuck: group.stuckTogether(at: now),
                    silent: machine.silentMembers(of: group, at: now)))
        }
    }

    private static func shortName(_ run: RunID) -> String {
        let digits = String(run.high >> 32, radix: 16)
        return String(repeating: "0", count: 8 - digits.count) + digits
    }
}

extension StatusSnapshot.Group {
    fileprivate init(
        _ group: MasterGroup, members: [MasterMachine.Peer], newcomers: [MasterMachine.Peer],
        late: [MasterGroup.LateOperation], stuck: [MasterGroup.StuckTogether], silent: [MasterMachine.Peer]
    ) {
        func call(_ name: StatusSnapshot.JointCall.Name, _ votes: SortedPeers) -> StatusSnapshot.JointCall? {
            guard !votes.isEmpty else { return nil }
            return StatusSnapshot.JointCall(
                name: name, called: votes.array, missing: group.members.filter { !votes.contains($0) })
        }
        let calls = [
            call(.updateTopology, group.joinVotes), call(.arePeersPending, group.pendingVotes),
            call(.optimizeTopology, group.optimizeVotes), call(.synchronizeState, group.stateVotes),
        ].compactMap { $0 }
        self.init(
            id: group.id, epoch: group.epoch, phase: StatusSnapshot.Phase(group, members: members),
            members: members.enumerated().map { StatusSnapshot.Peer($1, rank: $0) },
            newcomers: newcomers.map { StatusSnapshot.Peer($0, rank: nil) },
            calls: calls, callsSince: calls.isEmpty ? nil : group.votesSince, late: late, stuck: stuck,
            silent: silent.map { peer in StatusSnapshot.Peer(peer, rank: group.members.firstIndex(of: peer.id)) },
            revision: group.revision)
    }
}

extension StatusSnapshot.Peer {
    fileprivate init(_ peer: MasterMachine.Peer, rank: Int?) {
        self.init(
            id: peer.id, rank: rank, address: peer.member.addresses.first,
            standing: rank == nil ? .newcomer : peer.connection == nil ? .away : .attached, since: peer.since,
            lastHeard: peer.lastHeard)
    }
}

extension StatusSnapshot.Phase {
    fileprivate init(_ group: MasterGroup, members: [MasterMachine.Peer]) {
        switch group.phase {
        case .settled:
            if let sharing = group.sharing {
                let receiving = sharing.receiving.keys.sorted().filter { !sharing.received.contains($0) }
                self.init(name: .sharing, awaited: receiving)
            } else {
                self.init(name: .settled)
            }
        case .solving: self.init(name: .optimizing)
        case .linking(let proposal):
            self.init(
                name: .linking, awaited: proposal.view.filter { !proposal.answered.contains($0) },
                nextEpoch: proposal.epoch)
        case .flushing(let flush):
            let reported = SortedPeers(flush.reports.map(\.peer))
            self.init(
                name: .flushing, awaited: group.members.filter { !reported.contains($0) }, nextEpoch: flush.epoch,
                flushCause: flush.cause)
        case .recovering(let recovery):
            let away = members.filter { recovery.reports[$0.id] == nil || $0.connection == nil }
            self.init(name: .recovering, awaited: away.map(\.id))
        }
    }
}
