import PCCLBase
import PCCLMembership

/// One of several masters of a run, as far as etcd is concerned: who leads, and what is kept. A value, like the machines of
/// the membership: events in, effects out; it sees neither clock nor socket.
///
/// ```
///              nobody leads      lease       key made            state read
///   following ─────────────▶ granting ─▶ acquiring ─▶ loading ────────────▶ leading
///       ▲                                                                      │
///       └── the lease may have ended · the key or the state is another's · given up
/// ```
/// A *term* is the revision at which the key of the leader was made, with a lease: etcd makes no two of them alike, and a
/// later one is larger. Every write asks that the key is still that of this term, and the state still what this term wrote
/// last. Besides that a leader goes by a clock of its own: it was granted so many seconds, counted from before it asked, so
/// for etcd they end later. `now` is the time of a clock that also runs while the machine sleeps.
struct EtcdCandidacy: Sendable {
    enum Event: Sendable {
        case tick
        /// Each question is answered once.
        case answered(UInt64, Result<EtcdAnswer, EtcdFailure>)
        /// Only while it leads, and after the last one was kept.
        case append([UInt8])
        /// Leads no longer, and does not want to for this long.
        case giveUp(reason: String, holdOff: Interval)
        /// The process ends.
        case retire
    }

    enum Effect: Sendable {
        /// To be given up when the patience has passed.
        case ask(UInt64, EtcdRequest, patience: Interval)
        case leads(term: Int64, [UInt8]?)
        /// The name that the leader gave itself, if there is one.
        case follows(String?)
        case appended
        /// The lease is given back, or that failed.
        case retired
        case wake(at: Instant)
        case log(LogLine)
    }

    private struct Lease {
        var id: Int64
        var length: Interval
        /// When what was answered last had been asked.
        var askedAt: Instant

        /// Clocks differ in speed, and what a process does after it looked at one takes a moment.
        var end: Instant { askedAt + length * 9 / 10 }
    }

    private struct Term {
        var number: Int64
        var lease: Lease
        var keepAlive: (question: UInt64, askedAt: Instant)?
        var keepAliveAt: Instant
        /// At which revision the state was written last; 0: there is none.
        var writtenAt: Int64
        var appends: UInt64 = 0
        var appending: Appending?
    }

    private struct Appending {
        var state: [UInt8]
        var stored: StoredState
        var partsWritten: UInt32 = 0
        /// Nil: to be asked again at the moment that follows.
        var question: UInt64?
        var askAt: Instant?
    }

    private struct Loading {
        var stored: StoredState
        var state: [UInt8] = []
        /// Nil: to be asked at the moment that follows.
        var question: UInt64?
        var askAt: Instant?
        var nextPart: UInt32 { UInt32(state.count / StoredState.partBytes) }
    }

    private enum Phase {
        case following(nextLook: Instant)
        case looking(question: UInt64)
        case granting(question: UInt64, askedAt: Instant)
        case acquiring(question: UInt64?, Lease, askAt: Instant?)
        case loading(Term, Loading)
        case leading(Term)
        case retired
    }

    private let location: EtcdLocation
    /// Tells people who leads.
    var name: String
    private let leaseSeconds: Int
    private var phase = Phase.following(nextLook: Instant(nanoseconds: 0))
    private var nextQuestion: UInt64 = 1
    private var holdOffEnd = Instant(nanoseconds: 0)
    private var lastLeader: String??
    private var isUnreachable = false
    private var revocation: UInt64?
    /// Not known to be revoked.
    private var givenUpLease: Int64?
    private var isRetiring = false
    /// The last append was refused.
    private(set) var hasFailed = false
    /// Of the state that was kept last.
    private(set) var stateBytes = 0

    init(_ location: EtcdLocation, name: String = "", leaseSeconds: Int) {
        self.location = location
        self.name = name
        self.leaseSeconds = max(leaseSeconds, 1)
    }

    /// May act as the leader at this moment. To be asked before anything leaves the process.
    func mayAct(at now: Instant) -> Bool {
        if case .leading(let term) = phase { now < term.lease.end } else { false }
    }

    // MARK: times

    private var wantedLength: Interval { .seconds(Double(leaseSeconds)) }
    private var patience: Interval { wantedLength / 5 }
    private var pause: Interval { wantedLength / 20 }
    private var lookPeriod: Interval { min(wantedLength / 10, .milliseconds(500)) }

    // MARK: events

    mutating func handle(_ event: Event, at now: Instant, effects: inout [Effect]) {
        switch event {
        case .tick: break
        case .answered(let question, let result): take(question, result, at: now, &effects)
        case .append(let state): append(state, at: now, &effects)
        case .giveUp(let reason, let holdOff):
            holdOffEnd = max(holdOffEnd, now + holdOff)
            switch phase {
            case .leading(let term), .loading(let term, _): follow(term.lease, reason, at: now, &effects)
            case .following, .looking, .granting, .acquiring, .retired: break
            }
        case .retire: retire(at: now, &effects)
        }
        advance(at: now, &effects)
        if let wake = nextWake { effects.append(.wake(at: wake)) }
    }

    private mutating func retire(at now: Instant, _ effects: inout [Effect]) {
        isRetiring = true
        switch phase {
        case .leading(let term), .loading(let term, _): follow(term.lease, "it is ended", at: now, &effects)
        case .acquiring(_, let lease, _): revoke(lease, &effects)
        case .following, .looking, .granting, .retired: break
        }
        phase = .retired
        if revocation == nil { effects.append(.retired) }
    }

    private mutating func take(
        _ question: UInt64, _ result: Result<EtcdAnswer, EtcdFailure>, at now: Instant, _ effects: inout [Effect]
    ) {
        if question == revocation {
            revocation = nil
            if isRetiring { effects.append(.retired) }
            return
        }
        noteReach(result, &effects)
        switch phase {
        case .following, .retired: break
        case .looking(question): looked(result, at: now, &effects)
        case .granting(question, let askedAt): granted(result, askedAt: askedAt, at: now, &effects)
        case .acquiring(question, let lease, _): acquired(result, lease, at: now, &effects)
        case .loading(let term, let loading) where loading.question == question:
            loaded(result, term, loading, at: now, &effects)
        case .loading(var term, let loading):
            guard hearOfLease(question, result, &term, at: now, &effects) else { return }
            phase = .loading(term, loading)
        case .leading(var term):
            if term.appending?.question == question { return appended(result, term, at: now, &effects) }
            guard hearOfLease(question, result, &term, at: now, &effects) else { return }
            phase = .leading(term)
        case .looking, .granting, .acquiring: break
        }
    }

    /// What is due.
    private mutating func advance(at now: Instant, _ effects: inout [Effect]) {
        switch phase {
        case .retired, .looking, .granting: break
        case .following(let nextLook):
            guard nextLook <= now else { return }
            phase = .looking(question: ask(.get(key: location.leaderKey), &effects))
        case .acquiring(let question, let lease, let askAt):
            if lease.end <= now {
                revoke(lease, &effects)
                phase = .following(nextLook: now)
                return advance(at: now, &effects)
            }
            guard question == nil, let askAt, askAt <= now else { return }
            acquire(lease, &effects)
        case .loading(var term, var loading):
            guard keepsLease(&term, at: now, &effects) else { return }
            if let askAt = loading.askAt, askAt <= now {
                loading.askAt = nil
                let name = loading.stored.name(ofPart: loading.nextPart)
                loading.question = ask(.get(key: location.partsKey + name), &effects)
            }
            phase = .loading(term, loading)
        case .leading(var term):
            guard keepsLease(&term, at: now, &effects) else { return }
            if let askAt = term.appending?.askAt, askAt <= now { askToAppend(&term, &effects) }
            phase = .leading(term)
        }
    }

    private var nextWake: Instant? {
        switch phase {
        case .retired, .looking, .granting: nil
        case .following(let nextLook): nextLook
        case .acquiring(_, let lease, let askAt): [lease.end, askAt].compactMap { $0 }.min()
        case .loading(let term, let loading):
            [term.lease.end, term.keepAlive == nil ? term.keepAliveAt : nil, loading.askAt].compactMap { $0 }.min()
        case .leading(let term):
            [term.lease.end, term.keepAlive == nil ? term.keepAliveAt : nil, term.appending?.askAt].compactMap { $0 }
                .min()
        }
    }

    // MARK: to become the leader

    private mutating func looked(
        _ result: Result<EtcdAnswer, EtcdFailure>, at now: Instant, _ effects: inout [Effect]
    ) {
        phase = .following(nextLook: now + lookPeriod)
        guard case .success(.found(let leader)) = result else { return }
        if let leader {
            // Etcd was not there to be told.
            if leader.lease == givenUpLease { return askToRevoke(leader.lease, &effects) }
            return noteLeader(String(decoding: leader.bytes, as: UTF8.self), &effects)
        }
        noteLeader(nil, &effects)
        guard holdOffEnd <= now else { return }
        phase = .granting(question: ask(.grantLease(seconds: leaseSeconds), &effects), askedAt: now)
    }

    private mutating func granted(
        _ result: Result<EtcdAnswer, EtcdFailure>, askedAt: Instant, at now: Instant, _ effects: inout [Effect]
    ) {
        phase = .following(nextLook: now + lookPeriod)
        guard case .success(.granted(let id, let seconds)) = result else { return }
        acquire(Lease(id: id, length: .seconds(Double(seconds)), askedAt: askedAt), &effects)
    }

    private mutating func acquire(_ lease: Lease, _ effects: inout [Effect]) {
        let (leader, state) = (location.leaderKey, location.stateKey)
        let question = ask(
            .transact(
                EtcdTransaction(
                    conditions: [.made(key: leader, at: 0)],
                    then: [.put(key: leader, value: Array(name.utf8), lease: lease.id), .get(key: state)],
                    otherwise: [.get(key: leader), .get(key: state)])), &effects)
        phase = .acquiring(question: question, lease, askAt: nil)
    }

    private mutating func acquired(
        _ result: Result<EtcdAnswer, EtcdFailure>, _ lease: Lease, at now: Instant, _ effects: inout [Effect]
    ) {
        switch result {
        case .failure(.unanswered):
            // It may lead, and must find out.
            phase = .acquiring(question: nil, lease, askAt: now + pause)
        case .success(.transacted(true, let revision, let found)) where found.count == 1:
            begin(term: revision, lease, found[0], at: now, &effects)
        case .success(.transacted(false, _, let found)) where found.count == 2 && found[0]?.lease == lease.id:
            // An answer was lost before.
            begin(term: found[0]?.madeAt ?? 0, lease, found[1], at: now, &effects)
        case .success, .failure(.refused):
            // Another was first, or the lease has ended.
            revoke(lease, &effects)
            phase = .following(nextLook: now + lookPeriod)
        }
    }

    private mutating func begin(
        term number: Int64, _ lease: Lease, _ state: EtcdValue?, at now: Instant, _ effects: inout [Effect]
    ) {
        let term = Term(
            number: number, lease: lease, keepAliveAt: lease.askedAt + lease.length / 3,
            writtenAt: state?.writtenAt ?? 0)
        guard let state else { return lead(term, nil, at: now, &effects) }
        let stored: StoredState
        do throws(StoredState.Problem) {
            stored = try StoredState(state.bytes)
        } catch {
            return refuseState(term, error.description, at: now, &effects)
        }
        if stored.parts == 0 { return lead(term, stored.state, at: now, &effects) }
        phase = .loading(term, Loading(stored: stored, askAt: now))
    }

    private mutating func loaded(
        _ result: Result<EtcdAnswer, EtcdFailure>, _ term: Term, _ loading: Loading, at now: Instant,
        _ effects: inout [Effect]
    ) {
        var loading = loading
        (loading.question, loading.askAt) = (nil, now)
        switch result {
        case .failure: loading.askAt = now + pause
        case .success(.found(let part?)):
            let (index, isLast) = (loading.nextPart, loading.nextPart + 1 == loading.stored.parts)
            loading.state += part.bytes
            let isWhole =
                isLast
                ? loading.state.count == loading.stored.byteCount : part.bytes.count == StoredState.partBytes
            guard isWhole else {
                return refuseState(term, "is damaged: part \(index) has another length", at: now, &effects)
            }
            if isLast { return lead(term, loading.state, at: now, &effects) }
        case .success: return refuseState(term, "lacks a part", at: now, &effects)
        }
        phase = .loading(term, loading)
    }

    /// It is not ours to overwrite.
    private mutating func refuseState(
        _ term: Term, _ problem: String, at now: Instant, _ effects: inout [Effect]
    ) {
        effects.append(.log(LogLine(.error, "what is at \(location.stateKey) \(problem); it is left as it is")))
        holdOffEnd = now + wantedLength
        follow(term.lease, "the state cannot be read", at: now, &effects)
    }

    private mutating func lead(_ term: Term, _ state: [UInt8]?, at now: Instant, _ effects: inout [Effect]) {
        guard now < term.lease.end else {
            return follow(term.lease, "its lease may have ended before it began", at: now, &effects)
        }
        phase = .leading(term)
        lastLeader = .none
        hasFailed = false
        stateBytes = state?.count ?? 0
        effects.append(.leads(term: term.number, state))
    }

    private mutating func noteLeader(_ leader: String?, _ effects: inout [Effect]) {
        guard lastLeader != .some(leader) else { return }
        lastLeader = .some(leader)
        effects.append(.follows(leader))
    }

    // MARK: to stay it

    /// False: it leads no longer.
    private mutating func keepsLease(_ term: inout Term, at now: Instant, _ effects: inout [Effect]) -> Bool {
        guard now < term.lease.end else {
            follow(term.lease, "etcd has not answered, and its lease may have ended", at: now, &effects)
            return false
        }
        if term.keepAlive == nil, term.keepAliveAt <= now {
            term.keepAlive = (ask(.keepAlive(lease: term.lease.id), &effects), now)
        }
        return true
    }

    /// False: it leads no longer.
    private mutating func hearOfLease(
        _ question: UInt64, _ result: Result<EtcdAnswer, EtcdFailure>, _ term: inout Term, at now: Instant,
        _ effects: inout [Effect]
    ) -> Bool {
        guard let keepAlive = term.keepAlive, keepAlive.question == question else { return true }
        term.keepAlive = nil
        switch result {
        case .success(.keptAlive(let seconds)) where seconds > 0:
            term.lease.length = .seconds(Double(seconds))
            term.lease.askedAt = keepAlive.askedAt
            term.keepAliveAt = keepAlive.askedAt + term.lease.length / 3
            return true
        case .success:
            follow(term.lease, "its lease has ended", at: now, &effects)
            return false
        case .failure:
            term.keepAliveAt = now + pause
            return true
        }
    }

    // MARK: to keep the state

    private mutating func append(_ state: [UInt8], at now: Instant, _ effects: inout [Effect]) {
        guard case .leading(var term) = phase, term.appending == nil else { return }
        term.appends += 1
        term.appending = Appending(
            state: state, stored: StoredState(state, term: term.number, number: term.appends), askAt: now)
        phase = .leading(term)
    }

    private mutating func askToAppend(_ term: inout Term, _ effects: inout [Effect]) {
        guard var appending = term.appending else { return }
        appending.askAt = nil
        appending.question = ask(.transact(transaction(appending, term)), &effects)
        term.appending = appending
    }

    /// The next part, or what makes them the state.
    private func transaction(_ appending: Appending, _ term: Term) -> EtcdTransaction {
        let (leader, state, parts) = (location.leaderKey, location.stateKey, location.partsKey)
        let isMine = EtcdTransaction.Condition.made(key: leader, at: term.number)
        let stored = appending.stored
        if appending.partsWritten < stored.parts {
            let index = appending.partsWritten
            let part = EtcdTransaction.Operation.put(
                key: parts + stored.name(ofPart: index), value: StoredState.part(index, of: appending.state), lease: 0)
            return EtcdTransaction(
                conditions: [isMine], then: [part], otherwise: [.get(key: leader), .get(key: state)])
        }
        // Parts of other states go, those also that a leader wrote which did not come to the end of it.
        let end = parts.dropLast() + "0"
        let stale: [EtcdTransaction.Operation] =
            stored.parts == 0
            ? [.delete(from: parts, to: String(end))]
            : [
                .delete(from: parts, to: parts + stored.folder),
                .delete(from: parts + stored.folder.dropLast() + "0", to: String(end)),
            ]
        return EtcdTransaction(
            conditions: [isMine, .written(key: state, at: term.writtenAt)],
            then: [.put(key: state, value: stored.bytes, lease: 0)] + stale,
            otherwise: [.get(key: leader), .get(key: state)])
    }

    private mutating func appended(
        _ result: Result<EtcdAnswer, EtcdFailure>, _ term: Term, at now: Instant, _ effects: inout [Effect]
    ) {
        var term = term
        guard var appending = term.appending else { return }
        switch result {
        case .success(.transacted(true, let revision, _)):
            if appending.partsWritten < appending.stored.parts {
                appending.partsWritten += 1
                term.appending = appending
                askToAppend(&term, &effects)
                phase = .leading(term)
            } else {
                keep(revision, &term, &effects)
            }
        case .success(.transacted(false, _, let found)) where found.count == 2:
            // An answer may have been lost before: then it is there.
            guard found[0]?.madeAt == term.number, let state = found[1], isOf(appending, state) else {
                return follow(term.lease, "another master leads, or has written", at: now, &effects)
            }
            keep(state.writtenAt, &term, &effects)
        case .failure(.refused(let reason)):
            if !hasFailed {
                effects.append(
                    .log(
                        LogLine(
                            .error, "etcd does not keep the state (\(reason)): whoever waits for this master waits on"))
                )
            }
            hasFailed = true
            retryAppend(&term, at: now)
        case .failure(.unanswered), .success: retryAppend(&term, at: now)
        }
    }

    private func isOf(_ appending: Appending, _ state: EtcdValue) -> Bool { state.bytes == appending.stored.bytes }

    private mutating func retryAppend(_ term: inout Term, at now: Instant) {
        term.appending?.question = nil
        term.appending?.askAt = now + pause
        phase = .leading(term)
    }

    private mutating func keep(_ revision: Int64, _ term: inout Term, _ effects: inout [Effect]) {
        if hasFailed { effects.append(.log(LogLine(.warning, "etcd keeps the state again"))) }
        hasFailed = false
        stateBytes = term.appending?.state.count ?? 0
        term.writtenAt = revision
        term.appending = nil
        phase = .leading(term)
        effects.append(.appended)
    }

    // MARK: to follow

    private mutating func follow(_ lease: Lease, _ reason: String, at now: Instant, _ effects: inout [Effect]) {
        phase = .following(nextLook: now + lookPeriod)
        lastLeader = .some(nil)
        effects.append(.follows(nil))
        effects.append(.log(LogLine(.warning, "this master leads no longer: \(reason)")))
        revoke(lease, &effects)
    }

    /// So that the next one need not wait for its end. Nothing depends on it.
    private mutating func revoke(_ lease: Lease, _ effects: inout [Effect]) {
        givenUpLease = lease.id
        askToRevoke(lease.id, &effects)
    }

    private mutating func askToRevoke(_ lease: Int64, _ effects: inout [Effect]) {
        revocation = ask(.revoke(lease: lease), &effects)
    }

    private mutating func ask(_ request: EtcdRequest, _ effects: inout [Effect]) -> UInt64 {
        defer { nextQuestion += 1 }
        effects.append(.ask(nextQuestion, request, patience: patience))
        return nextQuestion
    }

    private mutating func noteReach(_ result: Result<EtcdAnswer, EtcdFailure>, _ effects: inout [Effect]) {
        switch result {
        case .failure(let failure) where !isUnreachable:
            effects.append(.log(LogLine(.warning, "etcd: \(failure)")))
            isUnreachable = true
        case .failure: break
        case .success where isUnreachable:
            effects.append(.log(LogLine(.info, "etcd answers again")))
            isUnreachable = false
        case .success: break
        }
    }
}
