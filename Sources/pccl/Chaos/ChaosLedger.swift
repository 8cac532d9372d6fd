/// Holds what the members of a run said of each operation against each other: all that survive a call see the same outcome,
/// and a success has the same bits at all of them.
struct ChaosLedger {
    struct Counts: Equatable {
        /// Operations that succeeded, each counted once for all members.
        var operations = 0
        /// Times that operations were interrupted and went on.
        var resumes = 0
        /// Attempts that a loss undid.
        var aborts = 0
        /// Attempts after the first one.
        var retries = 0
        /// Outcomes that were held against another member's.
        var comparisons = 0
    }

    private(set) var counts = Counts()
    private var outcomes: [ChaosReport.OperationName: (outcome: ChaosReport.Outcome, peer: Int)] = [:]

    /// Names in the order of their first report. A peer that was stopped tells of its last operations when it goes on; by
    /// then the others have done some thousand.
    private var names: [ChaosReport.OperationName] = []
    private var oldest = 0
    private let capacity: Int

    init(capacity: Int = 100_000) { self.capacity = capacity }

    /// The disagreement in words, if there is one.
    mutating func record(_ report: ChaosReport.OperationReport, of peer: Int) -> String? {
        // Whoever is alone has no member to agree with.
        if report.outcome == .alone { return nil }
        guard let known = outcomes[report.name] else {
            remember(report, of: peer)
            return nil
        }
        counts.comparisons += 1
        if isSame(known.outcome, report.outcome) { return nil }
        return "\(report.name): peer \(known.peer) saw \(known.outcome), peer \(peer) \(report.outcome)"
    }

    private mutating func remember(_ report: ChaosReport.OperationReport, of peer: Int) {
        switch report.outcome {
        case .success: counts.operations += 1
        case .memberLost: counts.aborts += 1
        case .alone: break
        }
        counts.resumes += report.resumptions
        if report.name.attempt > 0 { counts.retries += 1 }
        outcomes[report.name] = (report.outcome, peer)
        names.append(report.name)
        if names.count - oldest > capacity {
            outcomes[names[oldest]] = nil
            oldest += 1
        }
        if oldest > capacity {
            names.removeFirst(oldest)
            oldest = 0
        }
    }

    /// By their bits: a result of few elements does not always show whose contributions are in it, and then two members
    /// may name different ones.
    private func isSame(_ a: ChaosReport.Outcome, _ b: ChaosReport.Outcome) -> Bool {
        switch (a, b) {
        case (.success(_, let a), .success(_, let b)): a == b
        case (.memberLost, .memberLost), (.alone, .alone): true
        case (.success, _), (.memberLost, _), (.alone, _): false
        }
    }
}
