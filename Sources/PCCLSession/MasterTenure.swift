import PCCLBase
import PCCLMembership

/// What holds from the moment at which a master begins to lead until it leads no longer.
struct MasterTenure {
    var number = 0
    /// What it began with.
    var began: MasterState?
    /// What this master had begun with when it last gave the lead to another because it heard nobody, if it ever did.
    var passedOn: MasterState??
    /// A state is being kept. What follows it is held back, in order.
    var isKeeping = false
    var held: [MasterMachine.Effect] = []
    var tellsNextActFrom = Instant(nanoseconds: 0)

    /// Not for the same reason twice: somebody has to say in the end that all are lost.
    func mayPassOn(_ machine: MasterMachine) -> Bool {
        passedOn != .some(began) || machine.hasConnections
    }

    /// Often enough to see who acted when, and no more.
    mutating func isActToBeTold(at now: Instant) -> Bool {
        guard tellsNextActFrom <= now else { return false }
        tellsNextActFrom = now + .milliseconds(10)
        return true
    }

    mutating func takeLatestState() -> MasterState? {
        var latest: MasterState?
        held.removeAll { effect in
            guard case .persist(let state) = effect else { return false }
            latest = state
            return true
        }
        return latest
    }
}

/// How a master stands, for whoever watches.
package struct MasterStanding: Sendable {
    /// Of the store; nil: there is none.
    package var figures: MasterJournal.Figures?
    /// Nil: nobody else could lead.
    package var lead: Lead?

    package enum Lead: Hashable, Sendable {
        case leads(term: Int64)
        case follows(leader: String?)
    }

    package init(figures: MasterJournal.Figures? = nil, lead: Lead? = nil) {
        self.figures = figures
        self.lead = lead
    }

    init(_ lead: MasterLead, _ store: (any MasterStore)?) {
        figures = store?.figures
        guard store?.isShared == true else { return }
        switch lead {
        case .leads(let term, _): self.lead = term.map { .leads(term: $0) }
        case .follows(let leader): self.lead = .follows(leader: leader)
        }
    }
}
