import PCCLBase
import PCCLMembership
import PCCLSchedule
import PCCLWire

/// Everything that is outside of the machines: clock, network, processes and their callers.
final class World {
    enum MasterInput {
        case dial(Int)
        case bytes(Int, [UInt8])
        case closed(Int, mayReturn: Bool)
        case solved(GroupID, question: UInt32, TopologySolution, life: Int)
        case tick(Int)
    }
    enum Happening {
        case toHost(Int, HostEvent)
        case toMaster(MasterInput)
        case resume(Int)
        case resumeMaster
        case restartMaster
        case fault(Int)
    }
    /// A connection of a process to the master.
    struct ControlPath {
        let host: Int
        var isOpenAtMaster = false
        var lastToMaster = Instant(nanoseconds: 0)
        var lastToHost = Instant(nanoseconds: 0)
    }
    /// The stripes between two processes; `dialler` has the greater id.
    struct LinkPath {
        let dialler: Int
        let listener: Int
        let diallerID: PeerID
        let listenerID: PeerID
        var isSevered = false
        /// When the dialler hears that it stands.
        var answeredAt = Instant(nanoseconds: 0)
        /// By direction (to the listener first), then by stripe: bytes of a stripe keep their order.
        var last: [Instant]
    }
    enum MasterLife {
        case running
        case hung(until: Instant)
        case dead
    }

    /// Ten times what the longest schedules take.
    private static let eventLimit = 500_000

    private let seed: UInt64
    let scenario: Scenario
    let sabotage: Sabotage?
    let isTracing: Bool
    var random: RandomSource
    var now = Instant(nanoseconds: 0)
    var queue = EventQueue<Happening>()
    var hosts: [Host] = []
    /// The last process at each slot.
    var hostAtSlot: [Int?]
    var links: [LinkPath] = []
    var connections: [ControlPath] = []
    var blockedUntil: [Instant]
    var spawnsLeft = 0
    private var nodesStarted: UInt64 = 0

    var master: MasterMachine
    var masterLife = MasterLife.running
    var masterInbox: [MasterInput] = []
    var masterWake = 0
    private var isMasterAboutToDie = false
    private var masterLives = 1
    /// What a master that is started anew finds on its disk.
    private var journal: MasterState?

    var checker = Checker()
    var counts = SimulationCounts()
    var failure: (check: SimulationCheck, text: String)?
    var trace: [String] = []
    var hasSabotaged = false
    private var notedStalls = 0
    private var stepsCache: [StepsKey: [Step]] = [:]
    private struct StepsKey: Hashable {
        var collective: Collective
        var algorithm: Algorithm
        var rank: Int
        var worldSize: Int
        var sites: [UInt16]
    }

    init(seed: UInt64, sabotage: Sabotage?, tracing: Bool, without parts: Set<Scenario.Part> = []) {
        self.seed = seed
        var random = RandomSource(seed: seed)
        let whole = Scenario(&random)
        scenario = parts.isEmpty ? whole : whole.without(parts)
        self.random = random
        self.sabotage = sabotage
        isTracing = tracing
        hostAtSlot = Array(repeating: nil, count: scenario.slots)
        blockedUntil = Array(
            repeating: Instant(nanoseconds: 0), count: (scenario.slots + 1) * (scenario.slots + 1))
        master = MasterMachine(run: RunID(high: seed, low: 1), timeouts: scenario.timeouts, now: now)
        for (index, fault) in scenario.faults.enumerated() {
            if case .spawn = fault.fault { spawnsLeft += 1 }
            queue.push(.fault(index), at: fault.at)
        }
        pumpMaster(.tick)
    }

    func run() {
        while failure == nil, spawnsLeft > 0 || !hosts.allSatisfy(\.isOver) {
            guard let next = queue.pop(), next.at <= scenario.horizon else {
                let waiting = hosts.filter { !$0.isOver }.map { "\($0.name) \(describe($0.caller))" }
                fail(.liveness, "at the end of time: \(waiting.joined(separator: "; "))")
                return
            }
            now = next.at
            counts.events += 1
            guard counts.events < World.eventLimit else { return fail(.liveness, "events without end") }
            switch next.payload {
            case .toHost(let index, let event): deliver(event, to: hosts[index])
            case .toMaster(let input): deliverToMaster(input)
            case .resume(let index): resume(hosts[index])
            case .resumeMaster:
                guard case .hung(let until) = masterLife, until <= now else { break }
                masterLife = .running
                note { "the master goes on" }
                let inbox = masterInbox
                masterInbox = []
                for input in inbox { takeAtMaster(input) }
            case .restartMaster: restartMaster()
            case .fault(let index): inflict(scenario.faults[index].fault)
            }
        }
    }

    private func describe(_ caller: Caller) -> String {
        if let call = caller.currentCall { return "waits in \(call.call)" }
        let lanes = caller.lanes.indices.filter { caller.lanes[$0].inFlight }.map { scenario.lanes[$0].tag }
        return lanes.isEmpty ? "idles" : "waits in \(lanes)"
    }

    // MARK: small things

    func fail(_ check: SimulationCheck, _ text: String) {
        guard failure == nil else { return }
        failure = (check, text)
        note { "FAILED: \(check.rawValue): \(text)" }
    }

    func note(_ text: () -> String) {
        guard isTracing else { return }
        let milliseconds = now.nanoseconds / 1_000_000
        let micros = String(now.nanoseconds / 1000 % 1000 + 1000).dropFirst()
        var line = text()
        for noise in ["PCCLWire.", "PCCLBase.", "PCCLMembership."] { line = line.replacing(noise, with: "") }
        trace.append("\(milliseconds).\(micros) ms  \(line)")
    }

    /// Heartbeats, and all but the first complaints of one who waits for ever, would fill the trace.
    private func noteUnlessRoutine(_ message: ToMaster, from host: Host) {
        switch message {
        case .heartbeat: return
        case .stalled, .stuck:
            notedStalls += 1
            if notedStalls > 10 { return }
        default: break
        }
        note { "master ← \(host.name): \(message)" }
    }

    func steps(_ descriptor: OperationDescriptor, _ place: Assignment) -> [Step] {
        let key = StepsKey(
            collective: descriptor.collective, algorithm: descriptor.algorithm, rank: place.rank,
            worldSize: place.members.count, sites: place.arrangement.sites)
        if let steps = stepsCache[key] { return steps }
        let steps = CollectiveSchedule.steps(
            key.collective, key.algorithm, rank: key.rank, worldSize: key.worldSize, sites: key.sites)
        stepsCache[key] = steps
        return steps
    }

    /// Masters draw from it where they begin: sums and differences of several must not meet.
    private func secret(of connection: Int) -> PeerSecret {
        var source = RandomSource(seed: seed ^ UInt64(connection) << 32)
        return PeerSecret(high: source.next(), low: source.next())
    }

    /// A chance of one in `n` to put the defect in, while it has not been.
    func sabotages(_ kind: Sabotage, oneIn n: Int) -> Bool {
        guard sabotage == kind, !hasSabotaged, random.oneIn(n) else { return false }
        hasSabotaged = true
        note { "sabotage: \(kind)" }
        return true
    }

    func plan(_ host: Host, _ event: HostEvent, after interval: Interval) {
        queue.push(.toHost(host.index, event), at: now + interval)
    }

    // MARK: the network

    func path(_ from: Int, _ to: Int) -> Int { from * (scenario.slots + 1) + to }

    /// When something sent now arrives: what is blocked waits for the end of the block, as TCP sends it again.
    func arrival(from: Int, to: Int) -> Instant {
        let base = scenario.latency[path(from, to)]
        var delay = base + Interval(nanoseconds: random.next() % (base.nanoseconds + 1))
        if random.oneIn(24) { delay = delay * 6 }
        return max(now, blockedUntil[path(from, to)]) + delay
    }

    func isFirewalled(_ a: Int, _ b: Int) -> Bool {
        scenario.firewalled.contains { $0 == (max(a, b), min(a, b)) }
    }

    // MARK: control connections

    func sendToMaster(_ host: Host, _ bytes: [UInt8]) {
        guard let connection = host.control else { return }
        let at = max(arrival(from: host.slot, to: scenario.master), connections[connection].lastToMaster)
        connections[connection].lastToMaster = at
        queue.push(.toMaster(.bytes(connection, bytes)), at: at)
    }

    /// `mayReturn`: the master sees a connection that broke, not one that was closed.
    func closeControl(_ host: Host, mayReturn: Bool = false) {
        for connection in [host.control, host.diallingMaster].compactMap({ $0 }) {
            let at = max(arrival(from: host.slot, to: scenario.master), connections[connection].lastToMaster)
            connections[connection].lastToMaster = at
            queue.push(.toMaster(.closed(connection, mayReturn: mayReturn)), at: at)
        }
        host.control = nil
        host.diallingMaster = nil
    }

    func dialMaster(_ host: Host) {
        let connection = connections.count
        connections.append(ControlPath(host: host.index))
        host.diallingMaster = connection
        let at = arrival(from: host.slot, to: scenario.master)
        connections[connection].lastToMaster = at
        queue.push(.toMaster(.dial(connection)), at: at)
        plan(host, .masterDialDeadline(connection: connection), after: scenario.timeouts.dialPatience)
    }

    private func pushToHost(_ connection: Int, _ event: HostEvent) {
        let host = hosts[connections[connection].host]
        let at = max(arrival(from: scenario.master, to: host.slot), connections[connection].lastToHost)
        connections[connection].lastToHost = at
        queue.push(.toHost(host.index, event), at: at)
    }

    // MARK: the master

    private func deliverToMaster(_ input: MasterInput) {
        if case .hung = masterLife { return masterInbox.append(input) }
        takeAtMaster(input)
    }

    private func takeAtMaster(_ input: MasterInput) {
        if case .dead = masterLife {
            if case .dial(let connection) = input {
                pushToHost(connection, .masterAnswered(connection: connection, accepted: false))
            }
            return
        }
        switch input {
        case .dial(let connection):
            connections[connection].isOpenAtMaster = true
            let slot = hosts[connections[connection].host].slot
            pushToHost(connection, .masterAnswered(connection: connection, accepted: true))
            pumpMaster(
                .connected(
                    .init(UInt64(connection)), from: World.address(slot),
                    secret: secret(of: connection)))
        case .bytes(let connection, let bytes):
            guard connections[connection].isOpenAtMaster else { return }
            do {
                let message = try ToMaster(bytes)
                noteUnlessRoutine(message, from: hosts[connections[connection].host])
                pumpMaster(.received(.init(UInt64(connection)), message))
            } catch {
                note { "master ← \(hosts[connections[connection].host].name): garbage (\(error))" }
                pumpMaster(.violated(.init(UInt64(connection)), reason: "\(error)"))
            }
        case .closed(let connection, let mayReturn):
            guard connections[connection].isOpenAtMaster else { return }
            connections[connection].isOpenAtMaster = false
            note {
                "master: the connection of \(hosts[connections[connection].host].name) \(mayReturn ? "broke" : "ended")"
            }
            pumpMaster(.closed(.init(UInt64(connection)), reason: "closed", mayReturn: mayReturn))
        case .solved(let group, let question, let solution, let life):
            guard life == masterLives else { return }
            pumpMaster(.solved(group, question: question, solution))
        case .tick(let number):
            if number == masterWake { pumpMaster(.tick) }
        }
    }

    /// What the master's worker takes for an answer: mostly less than a message takes, sometimes as long as a loss.
    private var thinking: Interval {
        scenario.deadTime / 5000 * UInt64(1 + random.below(random.oneIn(8) ? 2000 : 5))
    }

    static func address(_ slot: Int) -> SocketAddress.Host { .v4(0x0a00_0000 | UInt32(slot)) }
    static let listenPort: UInt16 = 48150

    func pumpMaster(_ event: MasterMachine.Event) {
        var effects: [MasterMachine.Effect] = []
        master.handle(event, at: now, effects: &effects)
        checkMaster()
        for effect in effects {
            switch effect {
            case .persist(let state): keep(state)
            case .send(let id, let message):
                if isMasterAboutToDie, diesBefore(message) { return crashMaster() }
                send(message, on: Int(id.value))
            case .close(let id):
                let connection = Int(id.value)
                guard connections[connection].isOpenAtMaster else { continue }
                connections[connection].isOpenAtMaster = false
                pushToHost(connection, .masterClosed(connection: connection))
            case .wake(let instant):
                masterWake += 1
                queue.push(.toMaster(.tick(masterWake)), at: max(instant, now))
            case .solve(let group, let question, let problem, let seed):
                let solution = problem.solved(effort: .quick, seed: seed)
                queue.push(
                    .toMaster(.solved(group, question: question, solution, life: masterLives)), at: now + thinking)
            case .improve: break  // Groups here are small enough for exact answers.
            case .log(let line): note { "master: \(line.text)" }
            }
        }
    }

    private func diesBefore(_ message: ToPeer) -> Bool {
        switch message {
        case .view, .verdict, .flush, .stateSynchronized: random.oneIn(3)
        case .pendingAnswer, .joinUnchanged: scenario.nodeSlots > 0 && random.oneIn(3)
        default: false
        }
    }

    private func checkMaster() {
        var groups = master.groups
        if sabotage == .countMemberTwice, let first = groups.first?.members.first { groups[0].members.append(first) }
        if let broken = MasterMachine.brokenInvariant(groups: groups, peers: master.peers) {
            return fail(.masterInvariant, broken)
        }
        guard !master.isRebuilding else { return }
        if sabotage == .splitEnsemble, let split = groups.firstIndex(where: { $0.members.count > 1 }) {
            groups[split].members.removeLast()
        }
        if let broken = MasterMachine.brokenEnsemble(groups: groups, peers: master.peers) {
            fail(.masterInvariant, broken)
        }
    }

    private func send(_ original: ToPeer, on connection: Int) {
        guard connections[connection].isOpenAtMaster else { return }
        let host = hosts[connections[connection].host]
        let lineage = Checker.Lineage(run: master.run, group: host.group)
        var message = original
        switch message {
        case .welcome(let peer, let run, _, _, _, _):
            checker.register(peer, Checker.Lineage(run: run, group: host.group))
        case .view(let epoch, let members, let world, let arrangement):
            checker.decide(lineage, epoch, members.map(\.id), arrangement, &counts, isVerdict: false)
            if members.count > 1, sabotages(.swapRanks, oneIn: 2) {
                var swapped = members
                swapped.swapAt(0, members.count - 1)
                message = .view(epoch: epoch, members: swapped, world: world, arrangement: arrangement)
            } else if !arrangement.shares.isEmpty, sabotages(.changeShares, oneIn: 2) {
                message = .view(epoch: epoch, members: members, world: world)
            }
        case .verdict(let epoch, let members, let world, let arrangement, let operations, let missed):
            checker.decide(lineage, epoch, members.map(\.id), arrangement, &counts, isVerdict: true)
            if let first = operations.firstIndex(where: { $0.outcome == .abort }), sabotages(.commitAborted, oneIn: 1) {
                var changed = operations
                changed[first].outcome = .commit
                message = .verdict(
                    epoch: epoch, members: members, world: world, arrangement: arrangement, operations: changed,
                    missed: missed)
            }
        case .pendingAnswer(let arePending):
            if sabotages(.flipPendingAnswer, oneIn: 4) { message = .pendingAnswer(arePending: !arePending) }
            if sabotages(.refuseRightProgram, oneIn: 4) { message = .callRefused(reason: "sabotage") }
        case .turnedAway, .heartbeat, .propose, .joinUnchanged, .world, .flush, .callRefused, .optimizeUnchanged,
            .attached, .repeatOffer, .receiveState, .stateSynchronized, .stateRefused:
            break
        }
        var bytes = message.bytes
        if bytes.count > 1, sabotages(.cutMessageShort, oneIn: 8) { bytes.removeLast() }
        if case .heartbeat = message {} else { note { "master → \(host.name): \(message)" } }
        pushToHost(connection, .masterBytes(connection: connection, bytes))
    }

    // MARK: what goes wrong

    private func running(_ slot: Int) -> Host? {
        guard let index = hostAtSlot[slot], !hosts[index].isOver else { return nil }
        return hosts[index]
    }

    private func inflict(_ fault: Scenario.Fault) {
        note { "fault: \(fault)" }
        switch fault {
        case .spawn(let slot): spawn(slot)
        case .block(let from, let to, let length):
            blockedUntil[path(from, to)] = max(blockedUntil[path(from, to)], now + length)
            for host in hosts where host.slot == to && !host.isOver {
                for end in host.links { watchSilence(end.link, at: host) }
            }
        case .resetLink(let a, let b):
            guard let a = running(a), let b = running(b) else { return }
            for end in a.links where other(of: end.link, than: a) === b {
                links[end.link].isSevered = true
                for host in [a, b] {
                    plan(
                        host, .linkBroken(link: end.link, "reset"),
                        after: Interval(nanoseconds: random.next() % (scenario.timeouts.deadTime / 500).nanoseconds))
                }
            }
        case .resetControl(let slot):
            guard let host = running(slot), let connection = host.control else { return }
            queue.push(
                .toMaster(.closed(connection, mayReturn: true)), at: arrival(from: slot, to: scenario.master))
            pushToHost(connection, .masterClosed(connection: connection))
        case .crash(let slot, let silent):
            guard let host = running(slot) else { return }
            kill(host, silent: silent)
        case .hang(let slot, let length):
            guard let host = running(slot), case .running = host.life else { return }
            host.life = .hung(until: now + length)
            queue.push(.resume(host.index), at: now + length)
            for end in host.links { watchSilence(end.link, at: other(of: end.link, than: host)) }
        case .leave(let slot):
            guard let host = running(slot) else { return }
            plan(host, .caller(life: host.caller.life, .quit), after: Interval(nanoseconds: 0))
        case .exhaust(let slot):
            guard let host = running(slot) else { return }
            pump(host, .outOfMemory("no memory"))
        case .garbage(let slot):
            guard let host = running(slot) else { return }
            // A list that claims four thousand million members, and nothing after it.
            sendToMaster(host, [6, 1, 0, 0, 0, 255, 255, 255, 255])
        case .stranger:
            guard let host = running(random.below(scenario.slots)) else { return }
            let connection = connections.count
            connections.append(ControlPath(host: host.index))
            queue.push(.toMaster(.dial(connection)), at: now)
            if random.oneIn(2) {
                queue.push(.toMaster(.bytes(connection, [UInt8](repeating: 0x47, count: 40))), at: now)
            }
        case .masterCrash:
            crashMaster()
        case .masterCrashInSending: isMasterAboutToDie = true
        case .masterHang(let length):
            guard case .running = masterLife else { return }
            masterLife = .hung(until: now + length)
            queue.push(.resumeMaster, at: now + length)
        }
    }

    private func keep(_ state: MasterState) {
        if let read = try? MasterState(state.bytes), read == state {
            journal = state
        } else {
            fail(.wire, "the state \(state) cannot be read back")
        }
    }

    private func restartMaster() {
        guard case .dead = masterLife else { return }
        masterLife = .running
        masterLives += 1
        counts.masterRestarts += 1
        if let journal, scenario.keepsJournal {
            note { "the master is started anew, with its journal" }
            master = MasterMachine(restoring: journal, timeouts: scenario.timeouts, now: now)
        } else {
            note { "the master is started anew, and knows nothing" }
            checker.hasForgetfulMaster = true
            master = MasterMachine(
                run: RunID(high: scenario.deadTime.nanoseconds, low: UInt64(masterLives)), timeouts: scenario.timeouts,
                now: now)
        }
        pumpMaster(.tick)
    }

    private func crashMaster() {
        if case .dead = masterLife { return }
        masterLife = .dead
        isMasterAboutToDie = false
        masterInbox = []
        if let delay = scenario.masterReturnsAfter { queue.push(.restartMaster, at: now + delay) }
        for connection in connections.indices where connections[connection].isOpenAtMaster {
            connections[connection].isOpenAtMaster = false
            // Half of what was under way is lost with the master: the reset overtakes it.
            if random.oneIn(2) { connections[connection].lastToHost = now }
            pushToHost(connection, .masterClosed(connection: connection))
        }
    }

    private func spawn(_ slot: Int) {
        spawnsLeft -= 1
        guard let node = scenario.node(of: slot) else {
            if running(slot) == nil { start(slot, with: nil) }
            return
        }
        let left = node.compactMap { running($0) }
        guard left.count < node.count else { return }
        for host in left { kill(host, silent: false) }
        nodesStarted += 1
        for slot in node { start(slot, with: Ensemble(id: nodesStarted, size: node.count)) }
    }

    private func start(_ slot: Int, with ensemble: Ensemble?) {
        let program = scenario.programs[slot]
        let host = Host(
            index: hosts.count, slot: slot, group: scenario.groupOfSlot[slot], program: program, ensemble: ensemble,
            state: HostState(&random),
            machine: PeerMachine(
                PeerMachine.Configuration(
                    group: scenario.groupOfSlot[slot], listenPort: World.listenPort, addresses: [],
                    stripes: UInt16(scenario.stripes), ensemble: ensemble, timeouts: scenario.timeouts)))
        host.caller.reconnectsLeft = program.reconnects
        hosts.append(host)
        hostAtSlot[slot] = host.index
        plan(host, .caller(life: 0, .connect), after: Interval(nanoseconds: 0))
    }

    func kill(_ host: Host, silent: Bool) {
        host.life = .dead(silent: silent)
        host.inbox = []
        if silent {
            for end in host.links { watchSilence(end.link, at: other(of: end.link, than: host)) }
        } else {
            for end in host.links { tellBroken(end.link, from: host, "the process was killed") }
            for dial in host.dials {
                if let link = dial.link { tellBroken(link, from: host, "the process was killed") }
            }
            // What it had not read makes the kernel break the connection instead of closing it.
            closeControl(host, mayReturn: scenario.timeouts.masterGrace.nanoseconds > 0 && random.oneIn(4))
        }
        host.links = []
        tellMates(of: host)
    }
}
