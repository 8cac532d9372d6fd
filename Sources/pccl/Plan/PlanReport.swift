import PCCL
import PCCLBase
import StrictJSON

/// A plan for some codecs, to be read.
struct PlanReport {
    /// Which share of the time must be computing for communication to count as hidden.
    static let goal = 0.95

    struct Row: Equatable {
        var forecast: CommunicationPlan.Forecast
        /// The slowest line with which the goal is reached, nil if there is none.
        var leastBitsPerSecond: Double?
    }

    let plan: CommunicationPlan
    /// Where the time of an inner step comes from.
    let step: String
    /// From the mildest change of training to the boldest, and in each mode in the order of the codecs.
    let rows: [Row]

    init(_ plan: CommunicationPlan, step: String, codecs: [Codec]) {
        self.plan = plan
        self.step = step
        rows = PlanMode.allCases.flatMap { mode in
            codecs.map { codec in
                Row(
                    forecast: plan.forecast(mode, codec),
                    leastBitsPerSecond: plan.leastBitsPerSecond(reaching: Self.goal, mode, codec))
            }
        }
    }

    // MARK: - The last line

    /// What it comes to.
    enum Verdict: Equatable {
        /// Of each mode that reaches the goal the first row that does.
        case reached([Row])
        /// The best row, and what it lacks.
        case missed(Row, syncEvery: Int?)
    }

    var verdict: Verdict {
        let reaching = PlanMode.allCases.compactMap { mode in
            rows.first { $0.forecast.mode == mode && $0.forecast.utilisation >= Self.goal }
        }
        if !reaching.isEmpty { return .reached(reaching) }
        let best = rows.reduce(rows[0]) { $1.forecast.utilisation > $0.forecast.utilisation ? $1 : $0 }
        return .missed(
            best,
            syncEvery: plan.leastSyncEvery(reaching: Self.goal, best.forecast.mode, best.forecast.codec))
    }

    var conclusion: String {
        switch verdict {
        case .reached(let rows):
            let first = rows[0].forecast
            let others = rows.dropFirst().map { "\(Self.name($0.forecast)) (\(Self.percent($0.forecast.utilisation)))" }
            return "plan: \(Self.name(first)) is the mildest that hides the communication: "
                + "\(Self.percent(first.utilisation)) computing"
                + (others.isEmpty ? "" : "; also \(others.joined(separator: ", "))")
        case .missed(let best, let syncEvery):
            let line = best.leastBitsPerSecond.map { "with \(Quantity.rate($0)) each way" }
            let round = syncEvery.map { "with --sync-every \($0)" }
            let needs = [line, round].compactMap { $0 }
            return "plan: nothing reaches \(fixed(Self.goal * 100, 0)) %; nearest is \(Self.name(best.forecast)), "
                + "\(Self.percent(best.forecast.utilisation)) computing, which would "
                + (needs.isEmpty ? "not with any line or round" : needs.joined(separator: ", or "))
        }
    }

    private static func name(_ forecast: CommunicationPlan.Forecast) -> String {
        let codec = forecast.codec == .none ? "without a codec" : "with \(forecast.codec)"
        return "\(forecast.mode.name) \(codec)"
    }

    private static func percent(_ share: Double) -> String { "\(fixed(share * 100, 1)) %" }

    // MARK: - For people

    private static let columns: [(title: String, width: Int)] = [
        ("bits", 6), ("sent/round", 10), ("one call", 9), ("waited/round", 12), ("computing", 9), ("95 % from", 11),
    ]

    /// What is assumed, the table, and the last line.
    var lines: [String] {
        let codecWidth = rows.reduce(8) { max($0, "\($1.forecast.codec)".count) }
        func line(_ mode: String, _ codec: String, _ cells: [String]) -> String {
            mode.leading(11) + " " + codec.leading(codecWidth)
                + zip(cells, Self.columns).map { " " + $0.trailing($1.width) }.joined()
        }
        return notes.map { "# \($0)" } + [line("mode", "codec", Self.columns.map(\.title))]
            + rows.map { line($0.forecast.mode.name, "\($0.forecast.codec)", cells($0)) } + [conclusion]
    }

    private var notes: [String] {
        let assumptions = plan.assumptions
        let memory = fixed(assumptions.memoryBytesPerSecond / 1e9, 0)
        return [
            "\(Quantity.count(plan.parameters)) parameters, \(plan.peers) peers, each with "
                + "\(Quantity.rate(plan.bitsPerSecond)) each way, \(Quantity.time(plan.roundTripSeconds)) there and back",
            "a round: \(plan.syncEvery) inner steps of \(Quantity.time(plan.stepSeconds)), \(step)",
            "streaming: \(plan.fragments) fragments, each on its way for \(plan.overlapSteps) steps before it is waited for",
            "assumed: \(fixed(assumptions.lineShare * 100, 0)) % of a line carry elements; the outer step takes "
                + "\(Quantity.time(plan.outerStepSeconds)) a round, "
                + "\(fixed(assumptions.outerBytesPerParameter, 0)) bytes a parameter at \(memory) GB/s of memory",
        ]
    }

    private func cells(_ row: Row) -> [String] {
        let forecast = row.forecast
        return [
            fixed(forecast.bitsPerValue, 2), Quantity.bytes(forecast.bytesSent), Quantity.time(forecast.callSeconds),
            Quantity.time(forecast.waitedSeconds), Self.percent(forecast.utilisation),
            row.leastBitsPerSecond.map(Quantity.rate) ?? "never",
        ]
    }
}

extension PlanReport {
    /// The same for programs, in seconds, bytes and bits.
    var json: JSONValue {
        .object([
            .init("tool", .string("pccl plan")),
            .init("version", .string(Release.version)),
            .init("options", options),
            .init("assumptions", assumptions),
            .init("results", .array(rows.map(object))),
            .init("verdict", object(verdict)),
        ])
    }

    private var options: JSONValue {
        .object([
            .init("parameters", .integer(plan.parameters)), .init("peers", .integer(plan.peers)),
            .init("bits_per_second", .number(plan.bitsPerSecond)),
            .init("round_trip_seconds", .number(plan.roundTripSeconds)),
            .init("step_seconds", .number(plan.stepSeconds)), .init("sync_every", .integer(plan.syncEvery)),
            .init("fragments", .integer(plan.fragments)), .init("overlap_steps", .integer(plan.overlapSteps)),
        ])
    }

    private var assumptions: JSONValue {
        .object([
            .init("step", .string(step)),
            .init("line_share", .number(plan.assumptions.lineShare)),
            .init("outer_bytes_per_parameter", .number(plan.assumptions.outerBytesPerParameter)),
            .init("memory_bytes_per_second", .number(plan.assumptions.memoryBytesPerSecond)),
            .init("outer_step_seconds", .number(plan.outerStepSeconds)),
        ])
    }

    private func object(_ row: Row) -> JSONValue {
        .object([
            .init("mode", .string(row.forecast.mode.name)), .init("codec", .string("\(row.forecast.codec)")),
            .init("bits_per_value", .number(row.forecast.bitsPerValue)),
            .init("bytes_sent_per_round", .number(row.forecast.bytesSent)),
            .init("call_seconds", .number(row.forecast.callSeconds)),
            .init("waited_seconds_per_round", .number(row.forecast.waitedSeconds)),
            .init("utilisation", .number(row.forecast.utilisation)),
            .init("least_bits_per_second", row.leastBitsPerSecond.map { .number($0) } ?? .null),
        ])
    }

    private func object(_ verdict: Verdict) -> JSONValue {
        let text = JSONValue.Member("text", .string(conclusion))
        let goal = JSONValue.Member("goal", .number(Self.goal))
        switch verdict {
        case .reached(let rows):
            return .object([text, goal, .init("reached_by", .array(rows.map(object)))])
        case .missed(let best, let syncEvery):
            return .object([
                text, goal, .init("reached_by", .array([])), .init("nearest", object(best)),
                .init("least_sync_every", syncEvery.map { .integer($0) } ?? .null),
            ])
        }
    }
}
