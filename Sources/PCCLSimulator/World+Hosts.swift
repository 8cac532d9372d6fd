import PCCLBase
import PCCLMembership
import PCCLWire

/// A process: what reaches it, and the effects of its machine.
extension World {
    func deliver(_ event: HostEvent, to host: Host) {
        switch host.life {
        case .running: take(event, at: host)
        case .hung: host.inbox.append(event)
        case .dead(silent: true): break
        case .exited, .dead(silent: false):
            // Nobody listens there: the kernel says so.
            if case .dialArrives(let from, let peer, let to, let attempt) = event {
                let dial = Host.HeldDial(from: from, peer: peer, to: to, attempt: attempt)
                if isPendingDial(dial) { answer(dial, from: host, link: nil) }
            }
        }
    }

    private func isPendingDial(_ dial: Host.HeldDial) -> Bool {
        hosts[dial.from].dials.contains { $0.attempt == dial.attempt && !$0.isWaiting }
    }

    func resume(_ host: Host) {
        guard case .hung(let until) = host.life, until <= now else { return }
        host.life = .running
        note { "\(host.name) goes on" }
        let inbox = host.inbox
        host.inbox = []
        for event in inbox { deliver(event, to: host) }
    }

    private func take(_ event: HostEvent, at host: Host) {
        switch event {
        case .frame(let link, let frame):
            guard !links[link].isSevered, let end = host.links.first(where: { $0.link == link }) else { return }
            note {
                "\(host.name) ← \(end.peer): \(frame.header.kind) of \(frame.header.tag), launch "
                    + "\(frame.header.launch.value), \(frame.header.epoch)"
            }
            planeTake(host, frame, from: end.peer)
        case .linkBroken(let link, let reason): loseLink(host, link, reason)
        case .silence(let link): noticeSilence(host, link)
        case .dialArrives(let from, let peer, let to, let attempt):
            takeDial(host, Host.HeldDial(from: from, peer: peer, to: to, attempt: attempt))
        case .heldDialExpires(let from, let attempt):
            guard let i = host.held.firstIndex(where: { $0.from == from && $0.attempt == attempt }) else { return }
            answer(host.held.remove(at: i), from: host, link: nil)
        case .dialAnswered(let peer, let attempt, let link): dialAnswered(host, peer, attempt, link)
        case .dialDeadline(let peer, let attempt): failAttempt(host, peer, attempt)
        case .dialRetry(let peer, let attempt): retry(host, peer, attempt)
        case .unreachable(let peer, let dial): reportUnreachable(host, peer, dial: dial)
        case .masterAnswered(let connection, let accepted):
            guard host.diallingMaster == connection else { return }
            host.diallingMaster = nil
            if accepted {
                host.control = connection
                pump(host, .masterConnected)
            } else {
                pump(host, .masterUnreachable("refused"))
            }
        case .masterDialDeadline(let connection):
            guard host.diallingMaster == connection else { return }
            closeControl(host)
            pump(host, .masterUnreachable("no greeting"))
        case .masterBytes(let connection, let bytes):
            guard host.control == connection else { return }
            do {
                pump(host, .fromMaster(try ToPeer(bytes)))
            } catch {
                fail(.wire, "\(host.name) cannot read what the master sent: \(error)")
            }
        case .masterClosed(let connection):
            guard host.control == connection || host.diallingMaster == connection else { return }
            let wasGreeted = host.control == connection
            host.control = nil
            host.diallingMaster = nil
            note { "\(host.name): the master closed the connection" }
            pump(host, wasGreeted ? .masterClosed("closed") : .masterUnreachable("closed"))
        case .tick(let number):
            if number == host.wakeNumber { pump(host, .tick) }
        case .measured(let life, let figures):
            if life == host.caller.life { pump(host, .measured(figures)) }
        case .stateArrives(let launch): takeState(host, launch)
        case .caller(let life, let step):
            if life == host.caller.life { act(host, step) }
        case .orphaned:
            if !host.machine.isMember { kill(host, silent: false) }
        }
    }

    /// Rates as they are between the slots, and what a measurement makes of them: noise, or nothing at all.
    private func measure(_ peers: [PeerID], from host: Host) -> [LinkFigure] {
        peers.compactMap { peer in
            guard let end = host.links.first(where: { $0.peer == peer }), !random.oneIn(10) else { return nil }
            let slot = other(of: end.link, than: host).slot
            let noise = UInt64(90 + random.below(20))
            return LinkFigure(
                peer: peer, bytesPerSecond: scenario.rate[path(host.slot, slot)] * noise,
                latencyNanoseconds: scenario.latency[path(host.slot, slot)].nanoseconds)
        }
    }

    /// Events that effects bring about come after them, as in a session.
    func pump(_ host: Host, _ event: PeerMachine.Event) {
        host.pending.append(event)
        guard !host.isPumping else { return }
        host.isPumping = true
        var effects: [PeerMachine.Effect] = []
        var next = 0
        while next < host.pending.count {
            host.machine.handle(host.pending[next], at: now, effects: &effects)
            next += 1
            for effect in effects { perform(effect, at: host) }
            effects.removeAll(keepingCapacity: true)
        }
        host.pending.removeAll(keepingCapacity: true)
        host.isPumping = false
    }

    private func perform(_ effect: PeerMachine.Effect, at host: Host) {
        switch effect {
        case .dialMaster: dialMaster(host)
        case .closeMaster: closeControl(host)
        case .abandonMaster: closeControl(host, mayReturn: true)
        case .sendToMaster(let message): sendToMaster(host, message.bytes)
        case .wantLinks(let registration, let members): want(host, registration, members)
        case .adopt(let assignment): adopt(assignment, at: host)
        case .halt: host.plane.isHalted = true
        case .listFinal(let launches, let epoch): pump(host, .final(planeFinal(host, launches), epoch))
        case .observe(let launches):
            // As much as is the same with the real engine: nothing but what the machine knows itself.
            pump(
                host, .observed(Dictionary(uniqueKeysWithValues: launches.map { ($0, OperationProgress(members: [])) }))
            )
        case .noteStuck: break
        case .measureLinks(let peers):
            let step = HostEvent.measured(life: host.caller.life, measure(peers, from: host))
            plan(host, step, after: scenario.deadTime / 5000 * UInt64(1 + random.below(10)))
        case .start(let id, let tag, let launch, let descriptor, let assignment):
            guard let call = host.calls.first(where: { $0.id == id }) else { return }
            if let instance = call.instance { end(instance, .restart, at: host) }
            call.instance = checker.enter(host, tag, launch, assignment, call, descriptor)
            note { "\(host.name) starts \(tag), launch \(launch.value), \(assignment.epoch)" }
            planeStart(host, call, tag, launch, descriptor, assignment)
        case .resume(let id, let tag, let from, let launch, let descriptor, let assignment, let resumption):
            guard let call = host.calls.first(where: { $0.id == id }), let instance = call.instance else {
                return fail(.agreement, "\(host.name): \(tag) goes on, and nobody has called it")
            }
            end(instance, .resume, at: host)
            call.instance = checker.enter(
                host, tag, launch, assignment, call, descriptor, resumed: (instance, resumption))
            note { "\(host.name) goes on with \(tag), launch \(launch.value), \(assignment.epoch): \(resumption)" }
            planeStart(host, call, tag, launch, descriptor, assignment, resumed: (from, resumption))
        case .bind(let launch, let peer, let theirs): planeBind(host, launch, peer, theirs: theirs)
        case .ignore(let peer, let theirs): planeIgnore(host, peer, theirs: theirs)
        case .finish(_, let launch, let succeeded): finish(launch, succeeded, at: host)
        case .announcePrepared(let tag, let launch, let epoch, let peers):
            note { "\(host.name) is prepared for \(tag), launch \(launch.value)" }
            planeAnnounce(host, tag, launch, epoch, peers)
        case .lendState: host.state.isLent = true
        case .fetchState(let launch, let keys, let sources): fetchState(host, launch, keys, sources)
        case .returnState: returnState(host)
        case .complete(let id, let outcome): complete(id, outcome, at: host)
        case .answer(let id, let answer): answered(id, answer, at: host)
        case .view: break
        case .wake(let instant):
            host.wakeNumber += 1
            queue.push(.toHost(host.index, .tick(host.wakeNumber)), at: max(instant, now))
        case .log(let line): if line.level != .warning { note { "\(host.name): \(line.text)" } }
        }
    }

    private func adopt(_ original: Assignment, at host: Host) {
        var assignment = original
        if host.lastEpoch > .none, sabotages(.adoptOldEpoch, oneIn: 2) { assignment.epoch = host.lastEpoch }
        note { "\(host.name) adopts \(assignment.epoch): members \(assignment.members.map(\.value))" }
        if assignment.epoch <= host.lastEpoch {
            return fail(.epochsGrow, "\(host.name) goes from \(host.lastEpoch) to \(assignment.epoch)")
        }
        host.lastEpoch = assignment.epoch
        host.pendingAnswers = 0
        host.stateAnswers = 0
        if let wrong = checker.adopt(assignment, by: host) { return fail(.viewAgreed, wrong) }
        if let lineage = host.lineage, !checker.isVerdict(lineage, assignment.epoch) { host.callNumbers = [:] }
        planeAdopt(host, assignment)
    }

    private func finish(_ launch: LaunchNumber, _ succeeded: Bool, at host: Host) {
        guard let execution = planeFinish(host, launch, succeeded: succeeded) else { return }
        let call = execution.call
        if !succeeded {
            if call.buffer != call.input {
                fail(.inputWhole, "\(host.name), \(execution.tag): \(call.buffer) was \(call.input)")
            }
            return
        }
        if !call.inPlace, call.buffer != call.input {
            fail(.inputWhole, "\(host.name), \(execution.tag): the send buffer was written")
        }
        guard let instance = call.instance else { return }
        end(instance, .success, at: host)
        if execution.descriptor.algorithm == .twoLevel, !execution.place.arrangement.sites.isEmpty {
            counts.bySites += 1
        }
        guard failure == nil else { return }
        switch checker.checkResult(instance, execution, at: host) {
        case .right(let worldSizes): call.worldSizes = worldSizes
        case .wrong(let check, let text): fail(check, text)
        }
    }

    private func end(_ instance: Int, _ ending: Checker.Ending, at host: Host) {
        switch ending {
        case .success: counts.succeeded += 1
        case .abort: counts.aborted += 1
        case .restart: counts.restarted += 1
        case .resume: counts.resumed += 1
        case .mismatch, .misuse: break
        }
        if let text = checker.end(instance, ending, at: host) { fail(.agreement, text) }
    }

    private func complete(_ id: OperationID, _ outcome: OperationOutcome, at host: Host) {
        guard let position = host.calls.firstIndex(where: { $0.id == id }) else {
            return fail(.agreement, "\(host.name): an operation was completed twice: \(outcome)")
        }
        let call = host.calls.remove(at: position)
        note { "\(host.name): \(scenario.lanes[call.lane].tag) ends: \(outcome)" }
        if let instance = call.instance {
            switch outcome {
            case .success(let worldSize, let parts): judge(call, worldSize, parts, at: host)
            case .masterLost, .outOfMemory, .destroyed: break  // Nobody can say.
            case .memberLost: end(instance, .abort, at: host)
            case .mismatch: end(instance, .mismatch, at: host)
            case .misuse: end(instance, .misuse, at: host)
            case .tooFewPeers, .notConnected, .tagInUse:
                fail(.expectedOutcome, "\(host.name): an operation that had begun ended with \(outcome)")
            }
        }
        if sabotages(.swallowCompletion, oneIn: 6) { return }
        guard !host.isOver else { return }
        plan(host, .caller(life: host.caller.life, .afterOperation(lane: call.lane, outcome)), after: pause(host))
    }

    /// Whether the caller of a success, which was told at finish, learns who is in it.
    private func judge(_ call: OperationCall, _ worldSize: Int, _ parts: [ResultPart], at host: Host) {
        var parts = parts
        if parts.count > 1 {
            counts.mixed += 1
            if sabotages(.hideParts, oneIn: 1) { parts = [] }
        }
        let all = parts.isEmpty ? [ResultPart(elements: call.input.indices, worldSize: worldSize)] : parts
        let told = all.flatMap { part in part.elements.map { _ in part.worldSize } }
        let tag = scenario.lanes[call.lane].tag
        if told != call.worldSizes {
            fail(.elements, "\(host.name), \(tag): is told of \(told) members, and it was \(call.worldSizes)")
        }
        if scenario.lanes[call.lane].onLoss != .resume, Set(told).count > 1 {
            fail(.elements, "\(host.name), \(tag): several views made it, \(told), which was not asked for")
        }
    }

    private func answered(_ id: CallID, _ answer: CallAnswer, at host: Host) {
        guard let current = host.caller.currentCall, current.id == id else {
            return fail(.expectedOutcome, "\(host.name): an answer to no question: \(answer)")
        }
        host.caller.currentCall = nil
        note { "\(host.name): \(current.call) ends: \(answer)" }
        switch answer {
        case .pending(let arePending):
            host.pendingAnswers += 1
            if let text = checker.answer(host, arePending) { fail(.pendingJoint, text) }
            hear(arePending ? "that peers are pending" : "that nobody is pending", host)
        case .done:
            switch current.call {
            case .connect:
                counts.joins += 1
                if host.ensemble != nil { counts.joinsOfNodes += 1 }
            case .optimizeTopology: counts.optimized += 1
            case .updateTopology: hear("the end of a join point", host)
            case .arePeersPending, .synchronizeState: break
            }
        case .synchronized(let revision): noteSynchronized(host, revision: revision)
        case .failed(.noSharedState): noteSynchronized(host, revision: nil)
        case .failed: break
        }
        plan(host, .caller(life: host.caller.life, .afterCall(current.call, answer)), after: pause(host))
    }

    private func hear(_ original: String, _ host: Host) {
        let text = host.ensemble != nil && sabotages(.hearOtherwise, oneIn: 8) ? "nothing" : original
        if let text = checker.hear(text, host) { fail(.gridJoint, text) }
    }

    /// A launcher ends what is left of a node when one of its processes is gone and the others were not admitted, or were
    /// told that they are no longer. Whoever is still a member will be told.
    func tellMates(of host: Host) {
        guard let ensemble = host.ensemble else { return }
        for mate in hosts where mate.ensemble == ensemble && mate !== host && !mate.isOver {
            plan(mate, .orphaned, after: scenario.deadTime * 2)
        }
    }

    func pause(_ host: Host) -> Interval {
        Interval(nanoseconds: random.next() % host.program.think.nanoseconds)
    }
}
