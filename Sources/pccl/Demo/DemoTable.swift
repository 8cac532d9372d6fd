import Glibc

/// The picture of the run: a bar, one row for each peer, and what happened.
struct DemoTable {
    /// What happened so far, oldest first.
    var notes: [String] = []

    private static let barWidth = 40
    private let plan: DemoPlan

    init(plan: DemoPlan) {
        self.plan = plan
    }

    func lines(
        _ peers: [DemoDirector.Peer], stage: DemoDirector.Stage, seconds: Double, on screen: DemoScreen
    ) -> [String] {
        let head = [
            screen.styled("pccl demo", .bold) + "  " + decimal(seconds, 1) + " s  " + words(for: stage),
            bar(peers, on: screen) + "  " + summary(peers),
            "",
        ]
        return head + peerLines(peers, on: screen) + [""] + notes.map { screen.styled($0, .faint) }
    }

    func peerLines(_ peers: [DemoDirector.Peer], on screen: DemoScreen) -> [String] {
        let head =
            "peer".trailing(6) + "process".trailing(10) + "  " + "state".leading(10) + "world".trailing(6)
            + plan.unit.trailing(8) + "accuracy".trailing(10) + "loss".trailing(8) + "sent".trailing(11)
            + "received".trailing(11) + waitName.trailing(13)
        return [screen.styled(head, .bold)] + peers.map { row($0, on: screen) }
    }

    /// One line about the whole run.
    func summary(_ peers: [DemoDirector.Peer]) -> String {
        let living = peers.filter { !$0.wasKilled }
        guard let furthest = living.max(by: { $0.progress.step < $1.progress.step })?.progress else { return "" }
        let sent = peers.reduce(0) { $0 + $1.progress.sentBytes }
        return "\(plan.unit) \(furthest.step)/\(plan.steps)  world \(furthest.worldSize)"
            + "  accuracy \(decimal(furthest.accuracy, 3))  loss \(decimal(furthest.loss, 3))"
            + "  sent \(bytes(sent))  \(waitName) \(milliseconds(furthest.allReduceNanoseconds))"
    }

    private func row(_ peer: DemoDirector.Peer, on screen: DemoScreen) -> String {
        let (state, style) = state(of: peer)
        let progress = peer.progress
        let name = "\(peer.index)".trailing(6) + "\(peer.process.pid)".trailing(10) + "  "
        let standing = "\(progress.worldSize)".trailing(6) + "\(progress.step)".trailing(8)
        let learning = decimal(progress.accuracy, 3).trailing(10) + decimal(progress.loss, 3).trailing(8)
        let traffic =
            bytes(progress.sentBytes).trailing(11) + bytes(progress.receivedBytes).trailing(11)
            + milliseconds(progress.allReduceNanoseconds).trailing(13)
        return name + screen.styled(state.leading(10), style) + standing + learning + traffic
    }

    private func state(of peer: DemoDirector.Peer) -> (String, DemoScreen.Style) {
        if peer.wasKilled { return ("killed", .red) }
        switch peer.moment {
        case nil: return ("starting", .yellow)
        case .connected: return ("connected", .yellow)
        case .waiting: return ("waiting", .yellow)
        case .state, .step: return (peer.takenOver == nil ? "training" : "joined", .green)
        case .finished: return ("done", .green)
        }
    }

    private func bar(_ peers: [DemoDirector.Peer], on screen: DemoScreen) -> String {
        let step = peers.map(\.progress.step).max() ?? 0
        let filled = min(step, plan.steps) * Self.barWidth / plan.steps
        let rest = String(repeating: ".", count: Self.barWidth - filled)
        return "[" + screen.styled(String(repeating: "#", count: filled), .green) + rest + "]"
    }

    private func words(for stage: DemoDirector.Stage) -> String {
        switch stage {
        case .gathering: "the peers gather"
        case .together: "all train; at \(plan.unit) \(plan.killStep) peer \(plan.victim) will be killed"
        case .killed: "peer \(plan.victim) was killed"
        case .reduced: "the survivors train; at \(plan.unit) \(plan.joinStep) a new peer will come"
        case .joining: "peer \(plan.newcomer) joins"
        case .restored: "all train to \(plan.unit) \(plan.steps)"
        case .leaving: "the peers leave"
        case .over: "over"
        }
    }

    /// What the last figure of a row is the time of: in a round only what it was waited for.
    private var waitName: String { plan.rounds == nil ? "all-reduce" : "waited" }

    private func milliseconds(_ nanoseconds: UInt64) -> String {
        decimal(Double(nanoseconds) / 1e6, 2) + " ms"
    }
}
