import PCCLBase
import PCCLWire

/// Peers that are admitted all together or not at all: the processes of one node, each in a group of its own, as where a
/// model is sharded within a node and replicated between nodes.
///
/// ```
///            group 0   group 1                 Groups whose members came in ensembles are a grid. A join point, and the
///  node A      1         2     an ensemble     question whether peers are pending, is one for all groups of a grid: it
///  node B      3         4     another         waits for the votes of all of their members. So all groups get the same
///  node C      5         6     waits           answer, and link the same ensembles at the same time:
///
///      every member of every group voted       all groups have linked
///   settled ─────────────────────────▶ linking ──────────────────────▶ settled, in all groups at once
///      ▲                                  │
///      └──────────────────────────────────┘ a group comes to anything else: all of them later again, with who is left
/// ```
/// Nothing here is remembered: a grid is what the ensembles of its members say, so it changes with them.
extension MasterMachine {
    /// Ensembles that wait, and of which all members have registered.
    private struct Candidate {
        var ensemble: Ensemble
        var peers: SortedPeers
        /// In order, each once.
        var groups: [Int]
    }

    /// Whether the members of this group, or all who wait to be, came in ensembles.
    func isInGrid(_ g: Int) -> Bool {
        let group = groups[g]
        let decisive = group.members.isEmpty ? group.newcomers.array : group.members
        return !decisive.isEmpty && decisive.allSatisfy { ensemble(of: $0) != nil }
    }

    func ensemble(of peer: PeerID) -> Ensemble? { peers.first { $0.id == peer }?.ensemble }

    /// Newcomers of a group that is in no grid.
    func singleNewcomers(_ g: Int) -> SortedPeers {
        guard hasEnsembles else { return groups[g].newcomers }
        return SortedPeers(groups[g].newcomers.filter { ensemble(of: $0) == nil })
    }

    /// Why a peer that comes with this ensemble cannot, or nil.
    func obstacle(to ensemble: Ensemble) -> String? {
        let mates = peers.filter { $0.ensemble?.id == ensemble.id }
        if let other = mates.first?.ensemble, other.size != ensemble.size {
            return "\(ensemble) is said to have \(ensemble.size) members, and \(mates[0].id) says \(other.size)"
        }
        if mates.count >= ensemble.size { return "\(ensemble) has all of its \(ensemble.size) members" }
        return nil
    }

    /// A member is lost, and with it those of its ensemble.
    mutating func removeMates(of lost: Peer, reason: String, at now: Instant, _ effects: inout [Effect]) {
        guard let ensemble = lost.ensemble else { return }
        for mate in peers where mate.ensemble?.id == ensemble.id && groups[groupIndex(mate.group)].isMember(mate.id) {
            // Another may have taken it along meanwhile.
            turnAway(mate.id, .ensemble, "\(lost.id), of the same ensemble, is gone: \(reason)", at: now, &effects)
        }
    }

    /// Does whatever the votes in grids allow. Called after every event that may have changed what counts.
    mutating func advanceGrids(at now: Instant, _ effects: inout [Effect]) {
        while gridsMayAdvance {
            gridsMayAdvance = false
            // Whoever it took over tells its ensemble when it attaches.
            guard hasEnsembles, rebuildsUntil == nil else { return }
            settleProposals(at: now, &effects)
            turnAwayMisfits(at: now, &effects)
            guard !gridsMayAdvance else { continue }
            // Groups that nothing ties together may be tied by who comes.
            for grid in grids(tiedBy: candidates.map(\.groups)) { advance(grid, at: now, &effects) }
            found(at: now, &effects)
        }
    }

    // MARK: what a grid is

    private func indices(_ ids: some Sequence<GroupID>) -> [Int] {
        Set(ids).sorted().compactMap { id in groups.firstIndex { $0.id == id } }
    }

    /// Groups with members that came in ensembles, each with those that it is tied to, directly or through others: by the
    /// ensembles of its members, and by these.
    private func grids(tiedBy others: [[Int]] = []) -> [[Int]] {
        let members = peers.filter { peer in
            peer.ensemble != nil && groups.contains { $0.id == peer.group && $0.isMember(peer.id) }
        }
        let ensembles = Dictionary(grouping: members, by: { $0.ensemble?.id }).values
        var grids: [Set<Int>] = []
        for tied in ensembles.map({ Set(indices($0.map(\.group))) })
            + others.map({ Set($0.filter { isInGrid($0) && !groups[$0].members.isEmpty }) }) where !tied.isEmpty
        {
            let joined = grids.filter { !$0.isDisjoint(with: tied) }
            grids.removeAll { !$0.isDisjoint(with: tied) }
            grids.append(joined.reduce(tied) { $0.union($1) })
        }
        return grids.map { $0.sorted() }.sorted { $0[0] < $1[0] }
    }

    private var candidates: [Candidate] {
        let waiting = peers.filter { peer in
            peer.ensemble != nil && groups.contains { $0.id == peer.group && $0.newcomers.contains(peer.id) }
        }
        return Dictionary(grouping: waiting, by: { $0.ensemble?.id }).values.compactMap { mates in
            guard let ensemble = mates[0].ensemble, mates.count == ensemble.size else { return nil }
            return Candidate(
                ensemble: ensemble, peers: SortedPeers(mates.map(\.id)), groups: indices(mates.map(\.group)))
        }.sorted { $0.peers.array[0] < $1.peers.array[0] }
    }

    private func isSettled(_ g: Int) -> Bool {
        if case .settled = groups[g].phase { groups[g].sharing == nil } else { false }
    }

    /// Who could only be admitted without others, or beside others who came without.
    private mutating func turnAwayMisfits(at now: Instant, _ effects: inout [Effect]) {
        let grids = grids()
        for candidate in candidates {
            let met = grids.filter { !Set($0).isDisjoint(with: candidate.groups) }
            let plain = candidate.groups.first { !groups[$0].members.isEmpty && !isInGrid($0) }
            let missing = met.joined().first { !candidate.groups.contains($0) }
            let reason =
                if let plain {
                    "\(groups[plain].id) has members that came in no ensemble"
                } else if let missing {
                    "its groups are \(names(candidate.groups)); those who are there have members in \(groups[missing].id), too"
                } else { "" }
            guard !reason.isEmpty else { continue }
            for peer in candidate.peers { turnAway(peer, .ensemble, reason, at: now, &effects) }
        }
        for grid in grids {
            for g in grid where isInGrid(g) {
                for peer in singleNewcomers(g) {
                    turnAway(peer, .ensemble, "the members of \(groups[g].id) came in ensembles", at: now, &effects)
                }
            }
        }
        // A master that knew nothing may have found some of an ensemble admitted, and others not.
        for peer in peers {
            guard let ensemble = peer.ensemble, groups[groupIndex(peer.group)].newcomers.contains(peer.id) else {
                continue
            }
            let mates = peers.filter { $0.ensemble?.id == ensemble.id && $0.id != peer.id }
            guard mates.contains(where: { groups[groupIndex($0.group)].isMember($0.id) }) else { continue }
            turnAway(peer.id, .ensemble, "others of \(ensemble) were admitted without it", at: now, &effects)
            for mate in mates {
                turnAway(mate.id, .ensemble, "\(peer.id), of the same ensemble, was not admitted", at: now, &effects)
            }
        }
    }

    private func names(_ indices: [Int]) -> String { indices.map { groups[$0].id.description }.joined(separator: ", ") }

    // MARK: joint calls

    private mutating func advance(_ grid: [Int], at now: Instant, _ effects: inout [Effect]) {
        guard grid.allSatisfy({ isSettled($0) && isInGrid($0) }) else { return }
        let asking = grid.filter { groups[$0].pendingVotes.isSuperset(of: groups[$0].members) }
        let joining = grid.filter { groups[$0].joinVotes.isSuperset(of: groups[$0].members) }
        let candidates = candidates.filter { candidate in grid.allSatisfy { candidate.groups.contains($0) } }
        // Some may be at the join point already if a master ended before all had heard its answer.
        if !asking.isEmpty, grid.allSatisfy({ asking.contains($0) || joining.contains($0) }) {
            let arePending = !candidates.isEmpty || asking.count < grid.count
            for g in asking { noteAnswerToPending(g, arePending) }
            // Members of one group must not hear what a master forgets before those of another do.
            persist(&effects)
            for g in asking { sendToMembers(g, .pendingAnswer(arePending: arePending), &effects) }
            return
        }
        guard joining.count == grid.count else { return }
        guard let first = candidates.first, first.groups.allSatisfy({ isSettled($0) }) else {
            guard candidates.isEmpty else { return }
            for g in grid { noteJoinUnchanged(g) }
            persist(&effects)
            for g in grid { sendToMembers(g, .joinUnchanged(world: worldCounts), &effects) }
            return
        }
        propose(candidates.filter { $0.groups == first.groups }, at: now, &effects)
    }

    /// Where nobody is, nobody has to vote.
    private mutating func found(at now: Instant, _ effects: inout [Effect]) {
        for candidate in candidates
        where candidate.groups.allSatisfy({ isSettled($0) && groups[$0].members.isEmpty }) {
            propose([candidate], at: now, &effects)
        }
    }

    private mutating func propose(_ candidates: [Candidate], at now: Instant, _ effects: inout [Effect]) {
        nextGridJoin += 1
        for g in candidates[0].groups {
            let newcomers = SortedPeers(
                candidates.flatMap(\.peers.array).filter { groups[g].newcomers.contains($0) })
            propose(
                groups[g].members + newcomers.array, .plain, newcomers: newcomers,
                with: .init(number: nextGridJoin, groups: candidates[0].groups.map { groups[$0].id }), g, at: now,
                &effects)
        }
        gridsMayAdvance = true
    }

    /// Proposals of a grid come to an end together: all groups have linked, or one of them has come to something else.
    private mutating func settleProposals(at now: Instant, _ effects: inout [Effect]) {
        var seen = Set<UInt64>()
        for g in groups.indices {
            guard case .linking(let proposal) = groups[g].phase, let join = proposal.join,
                seen.insert(join.number).inserted
            else { continue }
            var proposals: [(g: Int, proposal: MasterGroup.Proposal)] = []
            for g in indices(join.groups) {
                if case .linking(let proposal) = groups[g].phase, proposal.join?.number == join.number {
                    proposals.append((g, proposal))
                }
            }
            if proposals.count < join.groups.count {
                for (g, _) in proposals { groups[g].phase = .settled }
                gridsMayAdvance = true
            } else if proposals.allSatisfy(\.proposal.isLinked) {
                adopt(proposals, at: now, &effects)
            }
        }
    }
}
