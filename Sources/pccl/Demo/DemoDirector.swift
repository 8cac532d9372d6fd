import DigitsTraining
import Glibc

/// The parent's part: starts the peers, hears what they report, kills one, starts another, and judges.
///
///     gathering ─▶ together ─▶ killed ─▶ reduced ─▶ joining ─▶ restored ─▶ leaving ─▶ over
///
/// Each stage ends with what the peers report, never with the passing of time; only the deadline looks at the clock.
final class DemoDirector {
    struct Verdict {
        let line: String
    }

    enum Stage {
        /// The first peers connect.
        case gathering
        /// All train; the kill comes at a third of the steps.
        case together
        /// SIGKILL was sent; not all survivors have seen the loss.
        case killed
        /// The survivors train; the newcomer comes at half of the steps.
        case reduced
        /// The newcomer was started and waits for a join point.
        case joining
        /// All train to the end.
        case restored
        /// All are done and may leave.
        case leaving
        case over
    }

    private static let pollMilliseconds: CInt = 50
    private static let redrawNanoseconds: UInt64 = 100_000_000

    private let plan: DemoPlan
    private let screen: DemoScreen
    private let start = monotonicNanoseconds()
    private var table: DemoTable
    private var peers: [Peer] = []
    private var stage = Stage.gathering
    private var weightsByStep: [Int: (weights: UInt64, peer: Int)] = [:]
    private var lastDrawing: UInt64 = 0
    private var stepsPrinted = 0

    /// A peer and what is known of it.
    final class Peer {
        let index: Int
        let process: PeerProcess
        var moment: PeerReport.Moment?
        var progress = PeerReport.Progress()
        /// The state that it was given when it joined a running training.
        var takenOver: (step: Int, weights: UInt64)?
        var wasKilled = false
        var hasEnded = false

        init(index: Int, process: PeerProcess) {
            self.index = index
            self.process = process
        }
    }

    init(plan: DemoPlan, screen: DemoScreen) {
        self.plan = plan
        self.screen = screen
        table = DemoTable(plan: plan)
    }

    private var living: [Peer] { peers.filter { !$0.wasKilled } }
    private var furthestStep: Int { living.map(\.progress.step).max() ?? 0 }
    private var seconds: Double { Double(monotonicNanoseconds() - start) / 1e9 }

    /// Returns when all is over and well; throws as soon as something is wrong.
    func direct() throws(DemoFailure) -> Verdict {
        do {
            note(
                "master on 127.0.0.1:\(plan.masterPort); \(plan.peers) peers; \(plan.trainingImages) digits to train,"
                    + " \(plan.heldOutImages) held out; \(Perceptron.weightCount) weights")
            for index in 0..<plan.peers { try launch(index) }
            while stage != .over {
                waitForReports()
                for peer in peers { try listen(to: peer) }
                while try advance() {}
                try checkDeadline()
                show()
            }
            show(last: true)
            return try judge()
        } catch {
            show(last: true)
            showDiagnostics()
            throw error
        }
    }

    /// Ends every child that is still there. Only children of this demo, by their process ids.
    func endChildren() {
        for peer in peers { peer.process.kill() }
        for peer in peers { peer.process.killAndCollect() }
    }

    // MARK: - Stages

    /// Goes on to the next stage if the reports so far allow it.
    private func advance() throws(DemoFailure) -> Bool {
        switch stage {
        case .gathering:
            guard peers.allSatisfy({ $0.progress.step > 0 && $0.progress.worldSize == plan.peers }) else {
                return false
            }
            note("all \(plan.peers) peers are connected and train")
            stage = .together

        case .together:
            guard furthestStep >= plan.killStep else { return false }
            let victim = peers[plan.victim]
            victim.wasKilled = true
            victim.process.kill()
            note("\(plan.unit) \(furthestStep): SIGKILL to peer \(victim.index) (process \(victim.process.pid))")
            stage = .killed

        case .killed:
            guard living.allSatisfy({ $0.progress.losses > 0 }) else { return false }
            let retries = living.map { "\($0.progress.retries)" }.joined(separator: ", ")
            note(
                "the \(living.count) others saw the loss and train on"
                    + (plan.rounds == nil ? "; calls made again: \(retries)" : ""))
            stage = .reduced

        case .reduced:
            guard furthestStep >= plan.joinStep else { return false }
            try launch(plan.newcomer)
            note(
                "\(plan.unit) \(furthestStep): peer \(plan.newcomer) starts (process \(peers[plan.newcomer].process.pid))"
            )
            stage = .joining

        case .joining:
            guard let taken = peers[plan.newcomer].takenOver, living.allSatisfy({ $0.progress.joins > 0 }) else {
                return false
            }
            note(
                "\(plan.unit) \(taken.step): peer \(plan.newcomer) joined and took over weights"
                    + " \(hexadecimal(taken.weights))")
            stage = .restored

        case .restored:
            guard living.allSatisfy({ $0.moment == .finished }) else { return false }
            note("all \(furthestStep) \(plan.unit)s are done; the peers leave")
            for peer in living { peer.process.allowToLeave() }
            stage = .leaving

        case .leaving:
            guard peers.allSatisfy(\.hasEnded) else { return false }
            stage = .over

        case .over:
            return false
        }
        return true
    }

    private func launch(_ index: Int) throws(DemoFailure) {
        let process = try PeerProcess(
            arguments: [
                DemoPeerCommand.configuration.commandName ?? "demo-peer",
                "--peer", "\(index)", "--peers", "\(plan.peers)", "--steps", "\(plan.steps)",
                "--pace", "\(plan.paceMilliseconds)", "--hold-at-step", "\(plan.holdStep)",
                "--port", "\(plan.masterPort)", "--data", plan.dataPath,
            ] + DemoRoundsOptions(plan.rounds).arguments,
            environment: plan.environment)
        peers.append(Peer(index: index, process: process))
    }

    // MARK: - Reports

    private func waitForReports() {
        var descriptors = peers.flatMap(\.process.openDescriptors).map {
            pollfd(fd: $0, events: Int16(POLLIN), revents: 0)
        }
        _ = poll(&descriptors, nfds_t(descriptors.count), Self.pollMilliseconds)
    }

    private func listen(to peer: Peer) throws(DemoFailure) {
        if peer.hasEnded { return }
        for line in peer.process.readReports() {
            guard let report = PeerReport(line: line) else {
                throw DemoFailure("peer \(peer.index) reported what the demo does not understand: \(line)")
            }
            switch report {
            case .failure(let reason):
                throw DemoFailure("peer \(peer.index) at \(plan.unit) \(peer.progress.step): \(reason)")
            case .progress(let moment, let progress):
                try receive(moment, progress, from: peer)
            }
        }
        if peer.process.hasEnded() {
            peer.hasEnded = true
            try checkEnd(of: peer)
        }
    }

    private func receive(
        _ moment: PeerReport.Moment, _ progress: PeerReport.Progress, from peer: Peer
    ) throws(DemoFailure) {
        peer.moment = moment
        peer.progress = progress
        if moment == .state && peer.index == plan.newcomer && peer.takenOver == nil {
            peer.takenOver = (progress.step, progress.weights)
        }
        // A newcomer has weights of its own until it is given the others'.
        if moment != .connected { try compareWeights(of: peer) }
    }

    /// Whoever reports weights for a step must have those that all others have at that step.
    private func compareWeights(of peer: Peer) throws(DemoFailure) {
        let step = peer.progress.step
        guard let known = weightsByStep[step] else {
            weightsByStep[step] = (peer.progress.weights, peer.index)
            return
        }
        guard known.weights == peer.progress.weights else {
            throw DemoFailure(
                "after \(plan.unit) \(step) peer \(peer.index) has weights \(hexadecimal(peer.progress.weights)),"
                    + " peer \(known.peer) has \(hexadecimal(known.weights))")
        }
    }

    private func checkEnd(of peer: Peer) throws(DemoFailure) {
        let expected: PeerProcess.End = peer.wasKilled ? .signal(SIGKILL) : .exit(0)
        if peer.process.end == expected && (peer.wasKilled || stage == .leaving) { return }
        let how =
            switch peer.process.end {
            case .exit(let status): "exited with status \(status)"
            case .signal(let signal): "was ended by signal \(signal)"
            case nil: "ended"
            }
        throw DemoFailure(
            "peer \(peer.index) (process \(peer.process.pid)) \(how) at \(plan.unit) \(peer.progress.step)")
    }

    private func checkDeadline() throws(DemoFailure) {
        if DemoSignals.received != 0 { throw DemoFailure("interrupted by signal \(DemoSignals.received)") }
        guard seconds > Double(plan.timeoutSeconds) else { return }
        let standing = living.map {
            "peer \($0.index) \($0.moment?.rawValue ?? "silent") at \(plan.unit) \($0.progress.step)"
        }
        throw DemoFailure("not done after \(plan.timeoutSeconds) s: " + standing.joined(separator: ", "))
    }

    // MARK: - Verdict

    /// All that was promised, from the last report of each peer.
    private func judge() throws(DemoFailure) -> Verdict {
        let killed = peers.filter { $0.process.end == .signal(SIGKILL) }
        let last = furthestStep
        let joined = peers.filter { $0.takenOver.map { $0.step > 0 && $0.step < last } ?? false }
        guard killed.count == 1 else { throw DemoFailure("killed=\(killed.count), expected 1") }
        guard joined.count == 1 else { throw DemoFailure("joined=\(joined.count), expected 1") }
        guard living.count == plan.peers, let first = living.first else {
            throw DemoFailure("\(living.count) peers at the end, expected \(plan.peers)")
        }
        guard plan.isEnd(last) else { throw DemoFailure("\(plan.unit)s=\(last), expected \(plan.steps)") }
        for peer in living {
            let progress = peer.progress
            func require(_ name: String, _ value: Int, _ expected: Int) throws(DemoFailure) {
                if value != expected { throw DemoFailure("peer \(peer.index): \(name)=\(value), expected \(expected)") }
            }
            try require("\(plan.unit)s", progress.step, last)
            try require("world", progress.worldSize, plan.peers)
            try require("losses", progress.losses, plan.lossesSeen(by: peer.index))
            try require("joins", progress.joins, 1)
            guard progress.weights == first.progress.weights else {
                throw DemoFailure(
                    "peer \(peer.index) ends with weights \(hexadecimal(progress.weights)),"
                        + " peer \(first.index) with \(hexadecimal(first.progress.weights))")
            }
            guard progress.accuracy >= DemoPlan.lowestAccuracy else {
                throw DemoFailure(
                    "peer \(peer.index): accuracy \(decimal(progress.accuracy, 3)),"
                        + " expected at least \(decimal(DemoPlan.lowestAccuracy, 2))")
            }
        }
        let training = plan.rounds.map { " mode=\($0.mode.rawValue) codec=\($0.codec)" } ?? ""
        return Verdict(
            line: "demo: ok world=\(first.progress.worldSize) joined=\(joined.count) killed=\(killed.count)"
                + " \(plan.unit)s=\(last) accuracy=\(decimal(first.progress.accuracy, 2))"
                + " weights=\(hexadecimal(first.progress.weights))\(training) identical=yes")
    }

    // MARK: - Showing

    private func note(_ text: String) {
        let line = decimal(seconds, 1).trailing(6) + " s  " + text
        table.notes.append(line)
        if !screen.isLive { screen.print(line) }
    }

    private func show(last: Bool = false) {
        let now = monotonicNanoseconds()
        if screen.isLive {
            guard last || now - lastDrawing >= Self.redrawNanoseconds else { return }
            lastDrawing = now
            screen.draw(table.lines(peers, stage: stage, seconds: seconds, on: screen))
        } else if last {
            for line in table.peerLines(peers, on: screen) { screen.print(line) }
        } else if furthestStep >= stepsPrinted + max(1, plan.steps / 20) {
            stepsPrinted = furthestStep
            screen.print(decimal(seconds, 1).trailing(6) + " s  " + table.summary(peers))
        }
    }

    private func showDiagnostics() {
        for peer in peers {
            _ = peer.process.readReports()
            for line in peer.process.diagnostics { writeAll("peer \(peer.index): \(line)\n", to: STDERR_FILENO) }
        }
    }
}

func hexadecimal(_ value: UInt64) -> String {
    let digits = String(value, radix: 16)
    return String(repeating: "0", count: 16 - digits.count) + digits
}
