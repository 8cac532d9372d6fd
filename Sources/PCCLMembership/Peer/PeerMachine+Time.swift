import PCCLBase
import PCCLWire

/// What a peer does because time has passed, and when it wants to be woken next.
extension PeerMachine {
    mutating func tick(at now: Instant, _ effects: inout [Effect]) {
        switch phase {
        case .dialling: return dialElsewhere(at: now, &effects)
        case .idle, .left: return
        case .registering, .newcomer, .member:
            if detachment == nil { keepMaster(at: now, &effects) } else { seekMaster(at: now, &effects) }
        }
        switch phase {
        case .idle, .dialling, .registering, .left: break
        case .newcomer(var newcomer):
            newcomer.proposal = expired(newcomer.proposal, at: now)
            phase = .newcomer(newcomer)
            answerProposalIfReady(&effects)
        case .member(var m):
            m.proposal = expired(m.proposal, at: now)
            reportDownLinks(&m, at: now, &effects)
            reportStalls(&m, at: now, &effects)
            lookForStuck(&m, at: now, &effects)
            phase = .member(m)
            answerProposalIfReady(&effects)
        }
    }

    private mutating func keepMaster(at now: Instant, _ effects: inout [Effect]) {
        if masterHeard + timeouts.deadTime <= now {
            return loseMaster("nothing was heard from it for \(timeouts.deadTime.seconds) s", at: now, &effects)
        }
        if nextHeartbeat <= now {
            nextHeartbeat = now + timeouts.heartbeatPeriod
            effects.append(.sendToMaster(.heartbeat))
        }
    }

    /// Whoever has not come by the deadline counts as unreachable.
    private func expired(_ proposal: Proposal?, at now: Instant) -> Proposal? {
        guard var proposal, !proposal.isAnswered, proposal.deadline <= now else { return proposal }
        for member in proposal.members where !linksUp.contains(member.id) { proposal.failed.insert(member.id) }
        return proposal
    }

    private func reportDownLinks(_ m: inout Membership, at now: Instant, _ effects: inout [Effect]) {
        guard detachment == nil, m.flushing == nil else { return }
        for i in m.reportDownAt.indices where m.reportDownAt[i].at <= now {
            m.reportDownAt[i].at = now + timeouts.dialPatience
            m.reportDownAt[i].isTold = true
            effects.append(
                .sendToMaster(
                    .brokenLink(epoch: m.assignment.epoch, peer: m.reportDownAt[i].peer, gaveUp: true)))
        }
    }

    private func reportStalls(_ m: inout Membership, at now: Instant, _ effects: inout [Effect]) {
        guard m.flushing == nil else { return }
        for operation in m.ledger.inLaunchOrder where operation.nextStallCheck <= now {
            m.ledger.postponeStallCheck(
                operation.tag, to: timeouts.nextStragglerCheck(since: operation.since, at: now))
            let missing = m.assignment.others.filter { !operation.hasEntered($0) }
            guard !missing.isEmpty else { continue }
            effects.append(
                .sendToMaster(
                    .stalled(
                        epoch: m.assignment.epoch, tag: operation.tag, missing: missing,
                        waitedMilliseconds: UInt32(clamping: (now - operation.since).milliseconds))))
        }
    }

    mutating func requestWake(_ effects: inout [Effect]) {
        var next: Instant?
        func consider(_ instant: Instant) { next = min(next ?? instant, instant) }
        switch phase {
        case .idle, .left: break
        case .dialling: search.dialAt.map { consider($0) }
        case .registering, .newcomer, .member:
            if let detachment {
                detachment.nextWake.map { consider($0) }
            } else {
                consider(min(nextHeartbeat, masterHeard + timeouts.deadTime))
            }
        }
        switch phase {
        case .idle, .dialling, .registering, .left: break
        case .newcomer(let newcomer):
            if let proposal = newcomer.proposal, !proposal.isAnswered { consider(proposal.deadline) }
        case .member(let m):
            if let proposal = m.proposal, !proposal.isAnswered { consider(proposal.deadline) }
            if detachment == nil, m.flushing == nil { m.reportDownAt.forEach { consider($0.at) } }
            if m.flushing == nil, let check = m.ledger.earliestStallCheck { consider(check) }
            if let look = m.watch.nextLook { consider(look) }
        }
        guard let next else { return }
        if let requested = requestedWake, requested <= next { return }
        requestedWake = next
        effects.append(.wake(at: next))
    }
}
