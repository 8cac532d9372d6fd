import PCCLBase

/// What a run has come to.
struct ChaosResult {
    enum Violation: String {
        case wrong, disagreement, hang, stall, unexpected, crash
    }

    var seed: UInt64
    var deadTime: Interval
    var kinds: [FaultKind]
    var counts = ChaosLedger.Counts()
    var stalls: StallBook
    /// Times a live peer was rightly taken for lost.
    var expulsions = 0
    var violation: (kind: Violation, text: String)?

    var faultCount: Int { stalls.faults.values.reduce(0, +) }

    /// A line for each kind, and the last line.
    var lines: [String] {
        let table = kinds.map { kind in
            let longest = stalls.longest[kind].map { "\($0.milliseconds) ms" } ?? "-"
            let promise = StallBook.promise(for: kind, deadTime: deadTime)
            return "\(kind.rawValue.padded(to: 8)) faults \("\(stalls.faults[kind] ?? 0)".padded(to: 5)) longest stall "
                + "\(longest.padded(to: 8)) promised "
                + (promise.map { "\($0.milliseconds) ms beyond the usual" } ?? "only that it ends")
        }
        return table + ["usual    \(stalls.usual.milliseconds) ms without a completed operation"] + [lastLine]
    }

    private var lastLine: String {
        func count(_ kind: Violation) -> Int { violation?.kind == kind ? 1 : 0 }
        let faults = kinds.map { "\($0.rawValue)=\(stalls.faults[$0] ?? 0)" }
        let longest = [FaultKind.kill, .stop].map {
            "longest_stall_\($0.rawValue)_ms=\(stalls.longest[$0]?.milliseconds ?? 0)"
        }
        let parts: [[String]] = [
            [violation == nil ? "ok" : "FAILED", "faults=\(faultCount)"], faults,
            [
                "operations=\(counts.operations)", "compared=\(counts.comparisons)", "aborts=\(counts.aborts)",
                "resumes=\(counts.resumes)",
                "retries=\(counts.retries)", "expelled=\(expulsions)", "wrong=\(count(.wrong))",
                "disagreements=\(count(.disagreement))", "hangs=\(count(.hang))", "stalls=\(count(.stall))",
                "unexpected=\(count(.unexpected) + count(.crash))",
            ], longest, ["usual_ms=\(stalls.usual.milliseconds)", "seed=\(seed)"],
        ]
        return "chaos: " + parts.flatMap { $0 }.joined(separator: " ")
    }
}
