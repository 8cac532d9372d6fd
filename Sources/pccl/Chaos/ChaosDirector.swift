import Glibc
import PCCLBase

/// The parent's part of a chaos run: starts the peers, does to them what the plan says, hears what they report, and judges.
///
///     calm ─draw, pause─▶ fault ─▶ (its end, if it lasts) ─▶ all peers have completed an operation since ─▶ calm
///
/// The run ends in calm, with all peers leaving; or with the first broken promise.
final class ChaosDirector {
    struct Options {
        enum Length: Equatable {
            case faults(Int)
            case seconds(Int)
        }

        var plan: ChaosPlan.Options
        var length: Length
        var seed: UInt64
        /// Measures stalls and judges none.
        var isTolerant: Bool
        var isVerbose: Bool
        var logFolder: String?
    }

    private enum Stage {
        case gathering, faults, leaving, over
    }

    private static let longestPollMilliseconds: UInt64 = 50
    private static let progressNanoseconds: UInt64 = 10_000_000_000
    /// About one kill of five hits an operation.
    private static let killsThatHit = 50
    /// On top of what the library promises: a machine with more processes than processors.
    private static let patience = Interval.seconds(2)
    private static let remarkableCalmGap = Interval.milliseconds(200)
    private static let secondsForMaster: UInt64 = 10

    private let options: Options
    private let ground: ChaosGround
    private let signals: LabSignals
    private let began = monotonicNanoseconds()
    private var plan: ChaosPlan
    private var ledger = ChaosLedger()
    private var result: ChaosResult
    private var stage = Stage.gathering

    private var master: NodeProcess?
    private var masterPort: UInt16 = 0
    private var masterLog: ChaosLog
    private var peers: [ChaosPeerProcess] = []
    private var incarnations = 0
    /// The one that was free for the longest time first.
    private var freeSlots = Array(0..<Slots.count)

    private var draw: (fault: Fault, due: UInt64, isFollowedAtOnce: Bool)?
    private var active: [(fault: Fault, end: UInt64)] = []
    /// Long enough to know why a peer was taken for lost.
    private var recent: [(fault: Fault, end: UInt64)] = []
    private var disturbed: UInt64 = 0
    private var progressTold: UInt64

    init(_ options: Options, ground: ChaosGround, signals: LabSignals) {
        self.options = options
        self.ground = ground
        self.signals = signals
        plan = ChaosPlan(seed: options.seed, options: options.plan)
        result = ChaosResult(
            seed: options.seed, deadTime: options.plan.deadTime, kinds: options.plan.kinds,
            stalls: StallBook(deadTime: options.plan.deadTime))
        masterLog = ChaosLog(folder: options.logFolder, name: "master")
        progressTold = began
    }

    private var deadTime: Interval { options.plan.deadTime }

    /// Returns when all is over: well, or with what was broken.
    func direct() throws -> ChaosResult {
        defer { endProcesses() }
        try startMaster()
        for _ in 0..<options.plan.peers { try startPeer(slot: freeSlots[0]) }
        disturbed = monotonicNanoseconds()
        while stage != .over, result.violation == nil {
            waitForSomething()
            if let number = signals.termination() { throw Failure.interrupted(number) }
            listen()
            let now = monotonicNanoseconds()
            try endFaults(at: now)
            checkPatience(at: now)
            if result.violation == nil { try advance(at: now) }
            tellProgress(at: now)
        }
        result.counts = ledger.counts
        let kills = result.stalls.faults[.kill] ?? 0
        if kills >= Self.killsThatHit, result.counts.aborts + result.counts.resumes == 0 {
            broken(.unexpected, "\(kills) kills hit no operation: the run has tested nothing")
        }
        if result.violation != nil { tellWhereAllStand() }
        return result
    }

    enum Failure: Error, CustomStringConvertible {
        case interrupted(CInt)
        case noMaster(String)

        var description: String {
            switch self {
            case .interrupted(let number): "interrupted by signal \(number)"
            case .noMaster(let text): "the master did not start: \(text)"
            }
        }
    }

    private func broken(_ kind: ChaosResult.Violation, _ text: String) {
        if result.violation == nil { result.violation = (kind, text) }
    }

    // MARK: - Processes

    private func startMaster() throws {
        let process = try ground.startMaster(port: masterPort)
        master = process
        let deadline = monotonicNanoseconds() + Self.secondsForMaster * 1_000_000_000
        while monotonicNanoseconds() < deadline {
            var wait = pollfd(fd: process.errors.descriptor, events: Int16(POLLIN), revents: 0)
            _ = poll(&wait, 1, CInt(Self.longestPollMilliseconds))
            let (_, errors, hasEnded) = process.poll()
            masterLog.add(errors)
            if let line = errors.first(where: { $0.contains("listening on") }),
                let port = line.split(separator: ":").last.flatMap({ UInt16($0) })
            {
                masterPort = port
                return
            }
            if hasEnded { break }
        }
        throw Failure.noMaster(masterLog.lastLines.joined(separator: "; "))
    }

    private func startPeer(slot: Int) throws {
        freeSlots.removeAll { $0 == slot }
        incarnations += 1
        let process = try ground.startPeer(
            [
                "chaos-peer", "--slot", "\(slot)", "--incarnation", "\(incarnations)", "--seed", "\(options.seed)",
                "--host", ground.masterHost, "--port", "\(masterPort)",
            ], slot: slot)
        peers.append(
            ChaosPeerProcess(
                incarnation: incarnations, slot: slot, process: process,
                log: ChaosLog(folder: options.logFolder, name: "peer-\(incarnations)")))
    }

    /// Only children of this run, by their process ids.
    private func endProcesses() {
        for peer in peers { peer.signal(SIGKILL) }
        master?.signal(SIGKILL)
        while peers.contains(where: { !$0.hasEnded }) || master.map({ !$0.poll().hasEnded }) ?? false {
            for peer in peers { _ = peer.listen() }
            sleep(milliseconds: 1)
        }
    }

    private func waitForSomething() {
        let now = monotonicNanoseconds()
        let due = (active.map(\.end) + [draw?.due].compactMap { $0 }).min()
        // Rounded up, not to look too early and again.
        let untilDue = due.map { $0 > now ? ($0 - now) / 1_000_000 + 1 : 0 } ?? Self.longestPollMilliseconds
        let milliseconds = min(Self.longestPollMilliseconds, untilDue)
        var descriptors = [signals.descriptor] + peers.flatMap(\.openDescriptors)
        if let master, !master.errors.hasEnded { descriptors.append(master.errors.descriptor) }
        var waits = descriptors.map { pollfd(fd: $0, events: Int16(POLLIN), revents: 0) }
        _ = poll(&waits, nfds_t(waits.count), CInt(milliseconds))
    }

    // MARK: - Reports

    private func listen() {
        for peer in peers {
            for line in peer.listen() { hear(line, from: peer) }
        }
        for peer in peers where peer.hasEnded { end(of: peer) }
        peers.removeAll(where: \.hasEnded)
        if let master {
            let (_, errors, hasEnded) = master.poll()
            masterLog.add(errors)
            if hasEnded { broken(.crash, "the master has ended with status \(master.status ?? 0)") }
        }
    }

    private func hear(_ line: String, from peer: ChaosPeerProcess) {
        peer.heard = (monotonicNanoseconds(), line)
        peer.wasHeard = true
        switch ChaosReport(line: line) {
        case .entering(let phase, _, let at):
            if phase == .alone { completed(peer, began: at, ended: at) }
            if phase == .connecting { result.stalls.interrupted(peer.incarnation) }
        case .operation(let report):
            if let text = ledger.record(report, of: peer.incarnation) { broken(.disagreement, text) }
            if report.outcome != .memberLost { completed(peer, began: report.began, ended: report.ended) }
        case .expelled(let reason, let at):
            result.stalls.interrupted(peer.incarnation)
            result.expulsions += 1
            disturbed = max(disturbed, at)
            note("peer \(peer.incarnation) in slot \(peer.slot) was expelled: \(reason)")
            if !isExplained(peer) {
                broken(.unexpected, "peer \(peer.incarnation) was expelled, and nothing was done to it: \(reason)")
            }
        case .violation(let kind, let text):
            let kind: ChaosResult.Violation =
                switch kind {
                case .wrong, .input: .wrong
                case .disagreement: .disagreement
                case .unexpected: .unexpected
                }
            broken(kind, "peer \(peer.incarnation) in slot \(peer.slot): \(text)")
        case nil:
            // No kill can cut a line off: each is one write, of a length that a pipe takes as a whole.
            broken(.unexpected, "peer \(peer.incarnation) said what is no report: \(line)")
        }
    }

    private func completed(_ peer: ChaosPeerProcess, began: UInt64, ended: UInt64) {
        peer.lastBegan = max(peer.lastBegan, began)
        if began < peer.countsFrom || peer.isStopped {
            result.stalls.interrupted(peer.incarnation)
            return
        }
        let calmGap = result.stalls.completed(peer.incarnation, at: Instant(nanoseconds: ended))
        if let calmGap, calmGap > Self.remarkableCalmGap {
            note("in calm, peer \(peer.incarnation) completed nothing for \(calmGap.milliseconds) ms")
        }
    }

    private func isExplained(_ peer: ChaosPeerProcess) -> Bool {
        recent.contains { $0.fault.touches(slot: peer.slot) }
    }

    private func end(of peer: ChaosPeerProcess) {
        freeSlots.append(peer.slot)
        result.stalls.interrupted(peer.incarnation)
        disturbed = monotonicNanoseconds()
        let expected: [CInt]
        switch (peer.wasKilled, peer.isLeaving, peer.wasHeard) {
        case (true, _, _): expected = [128 + SIGKILL]
        // Before it said anything, it may not have come to expect the signal.
        case (false, true, false): expected = [0, 128 + SIGTERM]
        case (false, true, true): expected = [0]
        case (false, false, _): expected = []
        }
        if !expected.contains(peer.status ?? -1) {
            broken(.crash, "peer \(peer.incarnation) in slot \(peer.slot) ended with status \(peer.status ?? -1)")
            tell(peer.diagnostics, of: "peer \(peer.incarnation)")
        }
    }

    // MARK: - Faults

    private var isCalm: Bool {
        active.isEmpty
            && peers.allSatisfy { !$0.isLeaving && !$0.wasKilled && !$0.isStopped && $0.lastBegan > disturbed }
    }

    private func advance(at now: UInt64) throws {
        switch stage {
        case .gathering:
            guard isCalm, result.stalls.knowsUsual else { return }
            note("\(peers.count) peers reduce")
            stage = .faults
        case .faults:
            if draw == nil {
                guard isCalm else { return }
                closeEpisode()
                if isLongEnough(at: now) {
                    leaveAll()
                } else {
                    drawNext(after: now)
                }
            }
            if let draw, draw.due <= now { try inject(draw, at: now) }
        case .leaving:
            if peers.isEmpty { stage = .over }
        case .over: break
        }
    }

    private func isLongEnough(at now: UInt64) -> Bool {
        switch options.length {
        case .faults(let count): result.faultCount >= count
        case .seconds(let seconds): now - began >= UInt64(seconds) * 1_000_000_000
        }
    }

    private func leaveAll() {
        note("all leave")
        stage = .leaving
        disturbed = monotonicNanoseconds()
        for peer in peers {
            peer.isLeaving = true
            peer.signal(SIGTERM)
        }
    }

    private func drawNext(after: UInt64) {
        let living = peers.filter { !$0.isLeaving && !$0.wasKilled && !$0.isStopped }.map(\.slot).sorted()
        guard let next = plan.next(ChaosPlan.Population(living: living, free: freeSlots)) else { return }
        draw = (next.fault, after + next.pause.nanoseconds, next.isFollowedAtOnce)
    }

    private func inject(_ next: (fault: Fault, due: UInt64, isFollowedAtOnce: Bool), at now: UInt64) throws {
        draw = nil
        let fault = next.fault
        // Before it is done: what peers report of it must come later.
        disturbed = now
        result.stalls.injected(fault, at: Instant(nanoseconds: now))
        note("fault \(result.faultCount): \(fault)")
        try perform(fault)
        let end = now + fault.duration.nanoseconds
        recent.append((fault, end))
        if fault.duration.nanoseconds > 0 { active.append((fault, end)) }
        if next.isFollowedAtOnce, !isLongEnough(at: now) { drawNext(after: now) }
    }

    private func perform(_ fault: Fault) throws {
        switch fault {
        case .kill(let slot):
            let peer = living(slot)
            peer?.wasKilled = true
            peer?.signal(SIGKILL)
        case .stop(let slot, _):
            let peer = living(slot)
            peer?.isStopped = true
            peer?.signal(SIGSTOP)
        case .leave(let slot):
            let peer = living(slot)
            peer?.isLeaving = true
            peer?.signal(SIGTERM)
        case .join(let slot): try startPeer(slot: slot)
        case .cut, .oneway, .delay: try ground.begin(fault)
        case .master:
            master?.signal(SIGKILL)
            while let master, !master.poll().hasEnded { sleep(milliseconds: 1) }
            master = nil
        }
    }

    /// The end of what lasts.
    private func endFaults(at now: UInt64) throws {
        for (fault, end) in active where end <= now {
            switch fault {
            case .stop(let slot, _):
                guard let peer = peers.first(where: { $0.slot == slot && $0.isStopped }) else { break }
                peer.isStopped = false
                peer.countsFrom = now
                peer.heard = (now, "goes on after a stop; before: \(peer.heard.text)")
                peer.signal(SIGCONT)
            case .cut, .oneway, .delay: try ground.end(fault)
            // Of two that overlap the first to end brings it back.
            case .master: if master == nil { try startMaster() }
            case .kill, .leave, .join: break
            }
            disturbed = max(disturbed, now)
        }
        active.removeAll { $0.end <= now }
        let memory = (deadTime * 3 + Self.patience).nanoseconds
        recent.removeAll { $0.end + memory < now }
    }

    private func living(_ slot: Int) -> ChaosPeerProcess? { peers.first { $0.slot == slot && !$0.wasKilled } }

    // MARK: - Judgement

    private func closeEpisode() {
        guard let episode = result.stalls.calmed() else { return }
        if options.isVerbose {
            note("calm again; the longest stall was \(episode.longest.milliseconds) ms at peer \(episode.peer ?? 0)")
        }
        if episode.isTooLong, let limit = episode.limit {
            let text =
                "peer \(episode.peer ?? 0) completed nothing for \(episode.longest.milliseconds) ms, "
                + "\(limit.milliseconds) ms are the most for: "
                + episode.faults.map(\.description).joined(separator: ", then ")
            if options.isTolerant { show("longer than promised: " + text) } else { broken(.stall, text) }
        }
    }

    /// A peer that says nothing waits for somebody; a run that does not calm down goes round in circles.
    private func checkPatience(at now: UInt64) {
        let faults = result.stalls.episode?.faults ?? []
        let extra = faults.reduce(Interval(nanoseconds: 0)) { $0 + $1.duration }
        let silence = deadTime * 3 + Self.patience + extra
        for peer in peers where !peer.isStopped && now > peer.heard.at + silence.nanoseconds {
            return broken(
                .hang,
                "nothing was heard from peer \(peer.incarnation) in slot \(peer.slot) for "
                    + "\((now - peer.heard.at) / 1_000_000) ms")
        }
        let unrest = deadTime * 10 + Self.patience * 5 + extra
        if !isCalm, now > disturbed + unrest.nanoseconds, active.isEmpty {
            broken(.hang, "after \((now - disturbed) / 1_000_000) ms not all peers reduce again")
        }
    }

    // MARK: - Showing

    private func note(_ text: String) {
        if options.isVerbose { show(text) }
    }

    private func show(_ text: String) {
        let milliseconds = (monotonicNanoseconds() - began) / 1_000_000
        let thousandths = String(1000 + milliseconds % 1000).dropFirst()
        writeAll("\(milliseconds / 1000).\(thousandths) s  \(text)\n", to: STDOUT_FILENO)
    }

    private func tellProgress(at now: UInt64) {
        guard now - progressTold >= Self.progressNanoseconds else { return }
        progressTold = now
        show(
            "\(result.faultCount) faults, \(ledger.counts.operations) operations, \(ledger.counts.aborts) aborts, "
                + "\(peers.count) peers")
    }

    private func tell(_ lines: [String], of name: String) {
        for line in lines { writeAll("[\(name)] \(line)\n", to: STDERR_FILENO) }
    }

    /// Who waits in what, from the last reports.
    private func tellWhereAllStand() {
        let now = monotonicNanoseconds()
        for peer in peers {
            let kind = peer.isStopped ? ", stopped" : peer.isLeaving ? ", leaving" : ""
            show(
                "peer \(peer.incarnation) in slot \(peer.slot) (process \(peer.pid)\(kind)), heard "
                    + "\((now - peer.heard.at) / 1_000_000) ms ago: \(peer.heard.text)")
            tell(peer.diagnostics, of: "peer \(peer.incarnation)")
        }
        tell(masterLog.lastLines, of: "master")
    }
}
