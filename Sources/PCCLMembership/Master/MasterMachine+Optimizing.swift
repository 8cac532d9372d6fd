import PCCLBase
import PCCLWire

/// The optimise call of a group: every member has voted, and told what it knows of its links.
///
/// ```
///   voteOptimize × P ─▶ solve ─▶ solved: better ─▶ propose (the same members in a new order) ─▶ view
///                                       as good ─▶ optimizeUnchanged
/// ```
///
/// A better arrangement goes the way of a join point without newcomers, since the two have the same hard cases: a member
/// is lost (the votes stay, so the survivors' figures are solved anew), or the master goes (only who has agreed to the
/// proposal may have missed the view).
extension MasterMachine {
    mutating func optimize(_ g: Int, at now: Instant, _ effects: inout [Effect]) {
        guard groups[g].members.count > 1 else {
            endOptimizing(g, &effects)
            // No honest member waits at the join point too, but newcomers do not wait for a dishonest one.
            return advance(g, at: now, &effects)
        }
        groups[g].questions &+= 1
        groups[g].phase = .solving(question: groups[g].questions)
        effects.append(
            .solve(groups[g].id, question: groups[g].questions, problem(g), seed: UInt64(groups[g].questions)))
    }

    mutating func arrange(
        _ g: Int, _ question: UInt32, _ solution: TopologySolution, at now: Instant, _ effects: inout [Effect]
    ) {
        // A member was lost meanwhile: the question was put anew, or will be.
        guard case .solving(question) = groups[g].phase else { return }
        groups[g].phase = .settled
        groups[g].suggestion = nil
        let problem = problem(g)
        if problem.isLarge {
            effects.append(.improve(groups[g].id, problem, seed: UInt64(groups[g].questions)))
        }
        guard solution.members.sorted() == groups[g].members.sorted(),
            solution.members != groups[g].members || solution.arrangement != groups[g].arrangement
        else {
            endOptimizing(g, &effects)
            return advance(g, at: now, &effects)
        }
        let (shares, sites) = (solution.arrangement.shares, solution.arrangement.sites)
        effects.append(
            .log(
                LogLine(
                    .info,
                    "\(groups[g].id) is arranged anew: members \(solution.members.map(\.value)), "
                        + (shares.isEmpty ? "equal chunks" : "chunks of \(shares) parts")
                        + (sites.isEmpty ? "" : ", in sites \(sites)"))))
        propose(solution.members, solution.arrangement, newcomers: SortedPeers(), g, at: now, &effects)
    }

    private mutating func endOptimizing(_ g: Int, _ effects: inout [Effect]) {
        groups[g].optimizeVotes.removeAll()
        groups[g].note(.optimizeUnchanged)
        if groups[g].voteKinds == 0 { groups[g].votesSince = nil }
        sendToMembers(g, .optimizeUnchanged, &effects)
    }

    private func problem(_ g: Int) -> TopologyProblem {
        TopologyProblem(
            members: groups[g].members, figures: groups[g].members.map { groups[g].figures[$0] ?? [] },
            suggestion: groups[g].suggestion)
    }
}
