import PCCLBase
import PCCLMembership

/// The programs of the processes. A right program is what the documents recommend:
///
/// ```
/// connect
/// each round:  ask whether peers are pending; if so, update the topology
///              all-reduce every lane, again where a member was lost
///              in some programs, synchronise the shared state, or optimise the topology, every so many rounds
/// leave
/// ```
/// or the same with the question asked while the operations run. A newcomer goes straight to the operations, since the
/// members that admitted it do.
extension World {
    func act(_ host: Host, _ step: CallerStep) {
        guard !host.isOver else { return }
        switch step {
        case .connect: begin(.connect, host)
        case .call(let call): begin(call, host)
        case .round: beginRound(host)
        case .optimize: optimize(host)
        case .synchronize: synchronize(host)
        case .launch(let lane): launch(host, lane)
        case .afterCall(let call, let answer): afterCall(host, call, answer)
        case .afterOperation(let lane, let outcome): afterOperation(host, lane, outcome)
        case .quit: quit(host)
        }
    }

    private func then(_ host: Host, _ step: CallerStep) {
        plan(host, .caller(life: host.caller.life, step), after: pause(host))
    }

    private func quit(_ host: Host) {
        note { "\(host.name) leaves" }
        host.life = .exited
        pump(host, .leave)
        tellMates(of: host)
    }

    func begin(_ call: Call, _ host: Host) {
        host.caller.nextCall += 1
        let id = CallID(host.caller.nextCall)
        host.caller.currentCall = (id, call)
        note { "\(host.name) calls \(call)" }
        pump(host, .call(id, call))
    }

    // MARK: rounds

    private func isMisused(_ host: Host) -> Scenario.Misuse {
        switch host.program.misuse {
        case .skipsOperations(host.caller.round), .votesInsteadOfAsking(host.caller.round),
            .votesInsteadOfOptimizing(host.caller.round), .otherCount(host.caller.round):
            host.program.misuse
        default: .none
        }
    }

    private func beginRound(_ host: Host) {
        host.caller.round += 1
        // Alone there is nothing to count as work.
        if let view = host.machine.view, view.members.count == 1, host.caller.soloRounds < 20 {
            host.caller.soloRounds += 1
            host.caller.round -= 1
        }
        guard host.caller.round <= host.program.rounds else { return quit(host) }
        if case .votesInsteadOfAsking = isMisused(host) { return begin(.updateTopology, host) }
        if scenario.asksDuringOperations {
            host.caller.asked = host.caller.isMasterless ? false : nil
            if !host.caller.isMasterless { then(host, .call(.arePeersPending)) }
            beginBatch(host)
        } else if host.caller.isMasterless {
            beginBatch(host)
        } else {
            begin(.arePeersPending, host)
        }
    }

    private func beginBatch(_ host: Host) {
        host.caller.isBatchOver = false
        host.caller.worldSize = host.machine.view?.members.count ?? 1
        host.caller.lanes = scenario.lanes.map { Caller.LaneState(left: $0.repeats) }
        if case .skipsOperations = isMisused(host) { host.caller.lanes = scenario.lanes.map { _ in .init(left: 0) } }
        host.caller.queue = Array(scenario.lanes.indices)
        if host.program.window == .max { host.caller.queue.shuffle(using: &random) }
        for _ in 0..<min(host.program.window, host.caller.queue.count) { launchNext(host) }
    }

    private func launchNext(_ host: Host) {
        while !host.caller.queue.isEmpty {
            let lane = host.caller.queue.removeFirst()
            if host.caller.lanes[lane].left > 0 { return then(host, .launch(lane: lane)) }
        }
        guard host.caller.lanes.allSatisfy({ $0.left == 0 }), !host.caller.isBatchOver else { return }
        host.caller.isBatchOver = true
        endRoundIfOver(host)
    }

    private func endRoundIfOver(_ host: Host) {
        guard host.caller.isBatchOver else { return }
        guard scenario.asksDuringOperations else { return endRound(host) }
        switch host.caller.asked {
        case nil: break
        case true?:
            host.caller.asked = nil
            then(host, .call(.updateTopology))
        case false?:
            host.caller.asked = nil
            endRound(host)
        }
    }

    /// Rounds are counted from the last join point, which is the same one for old members and new.
    private func endRound(_ host: Host) {
        host.caller.roundsSinceJoin += 1
        if isDue(host, every: scenario.synchronizesEvery) {
            then(host, .synchronize)
        } else {
            afterSynchronization(host)
        }
    }

    func afterSynchronization(_ host: Host) {
        then(host, isDue(host, every: scenario.optimizesEvery) ? .optimize : .round)
    }

    private func isDue(_ host: Host, every rounds: Int) -> Bool {
        rounds > 0 && host.caller.roundsSinceJoin % rounds == 0
    }

    private func optimize(_ host: Host) {
        guard !host.caller.isMasterless, host.machine.view?.members.count ?? 0 > 1 else { return then(host, .round) }
        if case .votesInsteadOfOptimizing = isMisused(host), !host.caller.hasVotedWrongly {
            // A join point ends in the same round: once is enough.
            host.caller.hasVotedWrongly = true
            return begin(.updateTopology, host)
        }
        begin(.optimizeTopology, host)
    }

    private func launch(_ host: Host, _ lane: Int) {
        let plan = scenario.lanes[lane]
        var descriptor = plan.descriptor(worldSize: host.caller.worldSize)
        if case .otherCount = isMisused(host), lane == 0 { descriptor.count += 1 }
        let id = OperationID(host.caller.nextOperation)
        host.caller.nextOperation += 1
        let stem = (UInt64(host.index) << 32 | id.value) &* 0xd6e8_feb8_6659_fd93
        host.callNumbers[plan.tag, default: 0] += 1
        let call = OperationCall(
            id: id, lane: lane, number: host.callNumbers[plan.tag] ?? 0,
            inPlace: random.oneIn(host.program.inPlaceOneIn),
            input: (0..<descriptor.count).map { ($0 &+ stem) &* 0xff51_afd7_ed55_8ccd })
        host.calls.append(call)
        host.caller.lanes[lane].inFlight = true
        note { "\(host.name) launches \(plan.tag)" }
        pump(host, .launch(id, plan.tag, descriptor, onLoss: plan.onLoss))
    }

    // MARK: outcomes

    private func afterCall(_ host: Host, _ call: Call, _ answer: CallAnswer) {
        switch (call, answer) {
        case (.connect, .done):
            host.caller.isMasterless = false
            host.caller.asked = nil
            host.caller.roundsSinceJoin = 0
            if scenario.asksDuringOperations {
                host.caller.round -= 1
                beginRound(host)
            } else {
                beginBatch(host)
            }
        case (.connect, .failed):
            host.caller.connectsLeft -= 1
            if host.caller.connectsLeft > 0 {
                plan(host, .caller(life: host.caller.life, .connect), after: scenario.deadTime / 20 + pause(host))
            } else {
                quit(host)
            }
        case (.arePeersPending, .pending(let arePending)):
            if scenario.asksDuringOperations {
                host.caller.asked = arePending
                endRoundIfOver(host)
            } else if arePending {
                begin(.updateTopology, host)
            } else {
                beginBatch(host)
            }
        case (.updateTopology, .done): afterJoinPoint(host)
        case (.optimizeTopology, .done): then(host, .round)
        case (.synchronizeState, .synchronized), (.synchronizeState, .failed(.noSharedState)):
            afterSynchronization(host)
        case (_, .failed(let failure)): afterFailure(host, call, failure)
        case (.connect, .pending), (.updateTopology, .pending), (.arePeersPending, .done),
            (.optimizeTopology, .pending), (.synchronizeState, .done), (.synchronizeState, .pending),
            (_, .synchronized):
            fail(.expectedOutcome, "\(host.name): \(call) was answered \(answer)")
        }
    }

    private func afterJoinPoint(_ host: Host) {
        host.caller.roundsSinceJoin = 0
        if scenario.asksDuringOperations { then(host, .round) } else { beginBatch(host) }
    }

    private func afterFailure(_ host: Host, _ call: Call, _ failure: CallFailure) {
        switch failure {
        case .masterLost:
            // Collectives of the present view go on for as long as it lasts.
            guard host.machine.isMember else { return restart(host) }
            host.caller.isMasterless = true
            if case .updateTopology = call { return afterJoinPoint(host) }
            if case .optimizeTopology = call { return then(host, .round) }
            if case .synchronizeState = call { return afterSynchronization(host) }
            if scenario.asksDuringOperations {
                host.caller.asked = false
                endRoundIfOver(host)
            } else {
                beginBatch(host)
            }
        case .turnedAway, .notConnected, .masterUnreachable, .outOfMemory: restart(host)
        case .alone: then(host, .round)
        case .destroyed: break
        case .refused:
            if scenario.isRight { return fail(.expectedOutcome, "\(host.name): \(call) was refused") }
            quit(host)
        case .alreadyConnected, .callInProgress, .operationsInFlight, .noSharedState:
            if scenario.isRight { return fail(.expectedOutcome, "\(host.name): \(call) failed: \(failure)") }
            quit(host)
        }
    }

    private func afterOperation(_ host: Host, _ lane: Int, _ outcome: OperationOutcome) {
        host.caller.lanes[lane].inFlight = false
        switch outcome {
        case .success: host.caller.lanes[lane].left -= 1
        case .memberLost:
            host.caller.worldSize = host.machine.view?.members.count ?? 1
            // Some may have been told at once, who knew of more members than there are, and others not at all.
            if case .allReduce = scenario.lanes[lane].descriptor.collective { break }
            host.callNumbers[scenario.lanes[lane].tag, default: 1] -= 1
        case .tooFewPeers: host.caller.lanes[lane].left = 0
        case .mismatch:
            if scenario.isRight { return fail(.expectedOutcome, "\(host.name): \(outcome)") }
            host.caller.lanes[lane].left -= 1
        case .misuse, .tagInUse:
            if scenario.isRight { return fail(.expectedOutcome, "\(host.name): \(outcome)") }
            return quit(host)
        case .notConnected, .masterLost, .outOfMemory: return restart(host)
        case .destroyed: return
        }
        if host.caller.lanes[lane].left > 0 { then(host, .launch(lane: lane)) } else { launchNext(host) }
    }

    /// No longer a member: connects again as a newcomer, or gives up.
    private func restart(_ host: Host) {
        host.caller.life += 1
        host.caller.lanes = []
        host.caller.isBatchOver = true
        guard host.caller.reconnectsLeft > 0 else { return quit(host) }
        host.caller.reconnectsLeft -= 1
        // It begins again with what it had at first, or something like it.
        host.state = HostState(&random)
        then(host, .connect)
    }
}
