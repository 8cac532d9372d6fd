import PCCLBase
import PCCLWire

/// A registered peer whose master is gone, or whose connection to it broke.
///
/// ```
///   attached ──lost──▶ seeking: dials, says attach ──attached──▶ attached
///                         │ the master grace passes
///                         ▼
///                      over: membership calls fail, collectives of a full view go on; it still seeks
/// ```
/// Until the grace is over nothing fails: calls wait, and so do operations that need the master's word.
extension PeerMachine {
    struct Detachment {
        var reason: String
        let since: Instant
        let deadline: Instant
        /// Members wait for the master no longer.
        var isOver = false
        /// Whether the master is sought at all.
        let comesBack: Bool
        /// Nil: an attempt is under way.
        var dialAt: Instant?
        /// The master has to answer `attach` by then.
        var answerBy: Instant?
        var backoff: Interval

        var nextWake: Instant? {
            [isOver ? nil : deadline, dialAt, answerBy].compactMap { $0 }.min()
        }
    }

    mutating func detach(_ reason: String, at now: Instant, _ effects: inout [Effect]) {
        effects.append(.abandonMaster)
        if var detachment {
            // One more attempt that came to nothing. Peers do not all come at once, and ids differ.
            detachment.reason = reason
            detachment.answerBy = nil
            let spread = Interval(nanoseconds: detachment.backoff.nanoseconds / 16 * (peerNumber % 8))
            detachment.dialAt = detachment.comesBack ? now + detachment.backoff + spread : nil
            detachment.backoff = min(detachment.backoff * 2, timeouts.longestRedial)
            self.detachment = detachment
            return
        }
        let comesBack = timeouts.masterGrace.nanoseconds > 0
        detachment = Detachment(
            reason: reason, since: now, deadline: now + timeouts.masterGrace, comesBack: comesBack, dialAt: nil,
            answerBy: nil, backoff: timeouts.firstRedial)
        guard comesBack else { return endGrace(&effects) }
        effects.append(
            .log(LogLine(.warning, "the master is lost (\(reason)); collectives go on while it is looked for")))
        effects.append(.dialMaster)
    }

    private var peerNumber: UInt64 {
        switch phase {
        case .newcomer(let newcomer): newcomer.registration.peer.value
        case .member(let m): m.registration.peer.value
        case .idle, .dialling, .registering, .left: 0
        }
    }

    /// Those who wait for the master are told that it is gone.
    private mutating func endGrace(_ effects: inout [Effect]) {
        guard let reason = detachment?.reason else { return }
        detachment?.isOver = true
        switch phase {
        case .idle, .dialling, .registering, .left: break
        case .newcomer:
            effects.append(.abandonMaster)
            depart(.masterUnreachable(reason), .notConnected, &effects)
        case .member(var m):
            effects.append(
                .log(LogLine(.warning, "the master is lost (\(reason)); collectives of the present view go on")))
            // A verdict, or a view that this peer has agreed to, may have reached others before the master went: they
            // would be in an epoch that this peer never learns of, and wait for it there.
            let mayHaveMissedView = m.flushing != nil || m.proposal?.isAnswered ?? false
            let isStuck = m.needsRepair && m.ledger.isWaiting
            if mayHaveMissedView || isStuck || !linksUp.isSuperset(of: m.assignment.others) {
                effects.append(.abandonMaster)
                return depart(.masterLost(reason), .masterLost(reason), &effects)
            }
            m.failCalls(.masterLost(reason), &effects)
            m.proposal = nil
            phase = .member(m)
        }
    }

    mutating func seekMaster(at now: Instant, _ effects: inout [Effect]) {
        if let answerBy = detachment?.answerBy, answerBy <= now {
            detach("it did not answer for \(timeouts.deadTime.seconds) s", at: now, &effects)
        }
        if let detachment, !detachment.isOver, detachment.deadline <= now { endGrace(&effects) }
        guard let dialAt = detachment?.dialAt, dialAt <= now else { return }
        detachment?.dialAt = nil
        effects.append(.dialMaster)
    }

    /// A master that was about to register this peer is gone. Whether it did, nobody relies on: it is registered anew.
    mutating func registersElsewhere(at now: Instant) -> Bool {
        let dialAt = now + timeouts.firstRedial * 4
        guard configuration.hasSeveralMasters, dialAt < search.until else { return false }
        search.dialAt = dialAt
        return true
    }

    mutating func dialElsewhere(at now: Instant, _ effects: inout [Effect]) {
        guard let dialAt = search.dialAt, dialAt <= now else { return }
        search.dialAt = nil
        effects.append(.dialMaster)
    }

    /// A connection to a master stands.
    mutating func attach(at now: Instant, _ effects: inout [Effect]) {
        guard detachment != nil else { return }
        let registration: Registration
        var view: HeldView?
        switch phase {
        case .idle, .dialling, .registering, .left: return
        case .newcomer(let newcomer): registration = newcomer.registration
        case .member(let m):
            registration = m.registration
            view = heldView(m)
        }
        detachment?.answerBy = now + timeouts.deadTime
        masterHeard = now
        nextHeartbeat = now + timeouts.heartbeatPeriod
        effects.append(
            .sendToMaster(
                .attach(
                    Attachment(
                        run: registration.run, peer: registration.peer, secret: registration.secret,
                        hello: configuration.hello, view: view))))
    }

    private func heldView(_ m: Membership) -> HeldView {
        let call: JointCall? =
            if m.joinCall != nil {
                .updateTopology
            } else if m.pendingCall != nil {
                .arePeersPending
            } else if m.optimizeCall != nil, !m.isMeasuring {
                .optimizeTopology
            } else if m.stateCall != nil {
                .synchronizeState
            } else {
                nil
            }
        return HeldView(
            epoch: m.assignment.epoch,
            highestEpoch: max(m.assignment.epoch, m.proposal?.epoch ?? .none, m.flushing ?? .none),
            members: m.members, arrangement: m.assignment.arrangement, answers: m.answers.count,
            lastAnswer: m.answers.last, call: call, figures: call == .optimizeTopology ? m.figures : [],
            revision: m.revision, isHalted: m.flushing != nil, needsRepair: m.needsRepair)
    }

    mutating func endDetachment(_ world: WorldCounts, _ effects: inout [Effect]) {
        detachment = nil
        effects.append(.log(LogLine(.info, "attached to the master again")))
        guard case .member(var m) = phase else { return }
        m.world = world
        m.watch.forgetTold()
        phase = .member(m)
        tellView(&effects)
    }
}
