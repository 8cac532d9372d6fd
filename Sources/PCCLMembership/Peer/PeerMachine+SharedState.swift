import PCCLBase
import PCCLWire

/// A synchronisation of the shared state, from the caller's call to its end.
///
/// ```
///   call ─▶ lendState, offerState ─▶ stateSynchronized ─▶ returnState, answer
///                 │ ▲
///     receiveState│ │stateReceived: all that was to be received is here
///                 ▼ │
///              fetchState ─▶ fetched
/// ```
/// From the call on, others may receive what the tensors hold. A flush has no part in it: what is under way goes on, and
/// the master decides anew who is to receive what from whom.
extension PeerMachine {
    struct Sharing {
        /// What the caller's tensors hold by now.
        var offer: StateOffer
        var decision: StateDecision?
        /// What the engine was asked for last.
        var fetch: LaunchNumber?
    }

    mutating func synchronize(_ offer: StateOffer, _ id: CallID, _ effects: inout [Effect]) {
        guard case .member(var m) = phase else { return }
        if let failure = obstacle(to: m) {
            effects.append(.answer(id, .failed(failure)))
        } else if !m.ledger.isEmpty || !m.queued.isEmpty {
            effects.append(.answer(id, .failed(.operationsInFlight)))
        } else {
            m.stateCall = id
            m.sharing = Sharing(offer: offer)
            phase = .member(m)
            effects.append(.lendState(id, takeLaunchNumber()))
            effects.append(.sendToMaster(.offerState(offer)))
        }
    }

    mutating func receiveState(_ decision: StateDecision, at now: Instant, _ effects: inout [Effect]) {
        guard case .member(var m) = phase, var sharing = m.sharing else {
            return violation("a state for who has not asked for one", at: now, &effects)
        }
        let entries = decision.keys.map(\.entry)
        let isPossible =
            zip(entries, entries.dropFirst()).allSatisfy { $0 < $1 }
            && entries.allSatisfy {
                sharing.offer.entries.indices.contains($0) && !sharing.offer.entries[$0].allowsInequality
            }
            && !decision.sources.contains(m.registration.peer)
        guard isPossible else { return violation("a state that is not of the caller's shape", at: now, &effects) }
        let fetch = takeLaunchNumber()
        (sharing.decision, sharing.fetch) = (decision, fetch)
        let missing = decision.keys.filter { sharing.offer.entries[$0.entry].hash != $0.hash }
        for key in missing { sharing.offer.entries[key.entry].hash = nil }
        m.sharing = sharing
        phase = .member(m)
        if missing.isEmpty {
            endFetching(fetch, failure: nil, &effects)
        } else {
            effects.append(.fetchState(fetch, missing, from: decision.sources))
        }
    }

    mutating func endFetching(_ fetch: LaunchNumber, failure: String?, _ effects: inout [Effect]) {
        guard case .member(var m) = phase, let sharing = m.sharing, let decision = sharing.decision,
            sharing.fetch == fetch
        else { return }
        if failure == nil {
            for key in decision.keys { m.sharing?.offer.entries[key.entry].hash = key.hash }
            m.sharing?.offer.revision = decision.revision
            phase = .member(m)
        }
        effects.append(.sendToMaster(.stateReceived(session: decision.session, failure: failure)))
    }

    mutating func endSharing(_ revision: UInt64?, _ effects: inout [Effect]) {
        guard case .member(var m) = phase else { return }
        m.note(revision == nil ? .noSharedState : .stateSynchronized)
        if let revision { m.revision = revision }
        let call = m.stateCall
        m.stateCall = nil
        if m.sharing != nil { effects.append(.returnState) }
        m.sharing = nil
        phase = .member(m)
        guard let call else { return }
        effects.append(.answer(call, revision.map { .synchronized(revision: $0) } ?? .failed(.noSharedState)))
    }
}
