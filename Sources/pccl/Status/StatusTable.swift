import Glibc
import StrictJSON

/// A master's `/api/status` as lines for people. What is not there is not shown: another release may say more or less.
struct StatusTable {
    var address: String
    var report: JSONValue
    /// Of the last changes, at most.
    var changeLimit = 10

    var lines: [String] {
        // It knows nothing of the run.
        if let lead = report["lead"], lead["leads"] == .bool(false) { return [headline] }
        let groups = report["groups"].elements
        return [headline] + groups.flatMap { [""] + lines(of: $0) } + (groups.isEmpty ? ["", "no peer is here"] : [])
            + ["", tally] + changes
    }

    private var headline: String {
        var parts = [
            "pccl-master \(report["version"].text) at \(address)", "up \(Self.span(report["uptime_seconds"].amount))",
        ]
        if let run = report["run"], run != .null { parts.append("run \(run.text)") }
        if let lead = report["lead"], lead != .null {
            parts.append(
                lead["leads"] == .bool(true)
                    ? "leads in term \(UInt64(max(0, lead["term"].amount)))"
                    : lead["leader"] == .null
                        ? "stands by, and nobody leads" : "stands by while \(lead["leader"].text) leads")
        }
        if let journal = report["journal"], journal != .null {
            parts.append(
                journal["failing"] == .bool(true)
                    ? "the journal cannot be written" : "journal \(bytes(UInt64(max(0, journal["bytes"].amount))))")
        }
        if report["rebuilding"] == .bool(true) { parts.append("takes over what its peers report") }
        return parts.joined(separator: ", ")
    }

    // MARK: - groups

    private func lines(of group: JSONValue) -> [String] {
        let (members, newcomers) = (group["members"].elements, group["newcomers"].elements)
        let away = members.count { $0["state"] == .string("away") }
        var title = ["\(members.count) member\(members.count == 1 ? "" : "s")"]
        if away > 0 { title.append("\(away) away") }
        if !newcomers.isEmpty { title.append("\(newcomers.count) waiting to be admitted") }
        let peers = members + newcomers
        let width = max(7, peers.map { $0["address"].text.count }.max() ?? 0)
        let head = "  " + "rank".trailing(4) + "peer".trailing(7) + "  " + "address".leading(width) + "  "
        return [
            "group \(group["group"].text), epoch \(group["epoch"].text): \(title.joined(separator: ", "))",
            head + "state".leading(9) + "since".trailing(12) + "last heard".trailing(14),
        ] + peers.map { row($0, width) } + waits(group).map { "  \($0)" }
    }

    private func row(_ peer: JSONValue, _ width: Int) -> String {
        let rank = peer["rank"] == .null ? "-" : peer["rank"].text
        return "  " + rank.trailing(4) + peer["peer"].text.trailing(7) + "  " + peer["address"].text.leading(width)
            + "  "
            + peer["state"].text.leading(9) + age(peer["since"]).trailing(12) + "\(age(peer["heard"])) ago".trailing(14)
    }

    private func waits(_ group: JSONValue) -> [String] {
        var lines: [String] = []
        let awaited = group["phase_waits_for"].elements
        if group["phase"] != .string("settled") {
            let cause = group["flush_cause"].map { $0 == .null ? "" : " after \($0.text)" } ?? ""
            lines.append(group["phase"].text + cause + (awaited.isEmpty ? "" : ": waits for \(Self.names(awaited))"))
        }
        for call in group["calls"].elements where !call["waits_for"].elements.isEmpty {
            lines.append(
                "\(call["call"].text): called by \(Self.names(call["called_by"].elements)) \(age(group["calls_since"])) ago, "
                    + "waits for \(Self.names(call["waits_for"].elements))")
        }
        let stuck = report["stuck"].elements.filter { $0["group"] == group["group"] }
        for operation in group["late_operations"].elements
        where !stuck.contains(where: { $0["tag"] == operation["tag"] }) {
            lines.append(
                "operation with tag \(operation["tag"].text): called by \(Self.names(operation["called_by"].elements)) "
                    + "\(age(operation["since"])) ago, waits for \(Self.names(operation["waits_for"].elements))")
        }
        // The rest of them is above.
        return lines + stuck.filter { $0["what"] != .string("call") }.map { $0["text"].text }
    }

    /// What does not go on, and who keeps it: the whole answer of `pccl status --stuck`.
    var stuckLines: [String] {
        let stuck = report["stuck"].elements
        guard !stuck.isEmpty else { return ["nothing is stuck"] }
        return stuck.map { "group \($0["group"].text): \($0["text"].text)" }
    }

    // MARK: - what was

    private var tally: String {
        let counts = report["counts"]
        let departures = counts["departures"].members.filter { $0.value.amount > 0 }
        let losses = departures.filter { $0.key != "left" }
        let causes = losses.map { "\($0.key) \($0.value.text)" }.joined(separator: ", ")
        let left = departures.first { $0.key == "left" }?.value.text ?? "0"
        let lost = Int(min(losses.reduce(0) { $0 + $1.value.amount }, 0x1p53))
        return "since it was started: \(counts["admissions"].text) admitted, \(left) left, \(lost) lost"
            + (causes.isEmpty ? "" : " (\(causes))")
    }

    private var changes: [String] {
        let shown = report["history"].elements.suffix(changeLimit)
        return (shown.isEmpty ? [] : ["", "last changes"])
            + shown.map { "  \(Self.clock($0["at"].amount))  group \($0["group"].text)  \($0["text"].text)" }
    }

    // MARK: - words

    private func age(_ moment: JSONValue?) -> String { Self.span(report["now"].amount - moment.amount) }

    static func span(_ seconds: Double) -> String {
        let count = Int(max(0, min(seconds, 1e12)).rounded())
        return switch count {
        case ..<120: "\(count) s"
        case ..<7200: "\(count / 60) min"
        case ..<172_800: "\(count / 3600) h \(count % 3600 / 60) min"
        default: "\(count / 86_400) days"
        }
    }

    static func names(_ peers: [JSONValue], upTo limit: Int = 12) -> String {
        guard peers.count > 1 else { return peers.first.map { "peer \($0.text)" } ?? "nobody" }
        let rest = peers.count - limit
        return "peers " + peers.prefix(limit).map(\.text).joined(separator: ", ")
            + (rest > 0 ? " and \(rest) more" : "")
    }

    /// By this machine's clock and time zone.
    static func clock(_ secondsSince1970: Double) -> String {
        var time = time_t(max(0, min(secondsSince1970, 1e11)))
        var parts = tm()
        localtime_r(&time, &parts)
        return [parts.tm_hour, parts.tm_min, parts.tm_sec].map { ($0 < 10 ? "0" : "") + "\($0)" }.joined(separator: ":")
    }
}

/// Where nothing is, there is nothing to show.
extension JSONValue? {
    fileprivate subscript(key: String) -> JSONValue? { self?[key] }

    fileprivate var elements: [JSONValue] { if case .array(let values) = self { values } else { [] } }
    fileprivate var members: [JSONValue.Member] { if case .object(let members) = self { members } else { [] } }
    fileprivate var amount: Double { self?.amount ?? 0 }
    fileprivate var text: String {
        switch self {
        case .some(let value): value.text
        case nil: "?"
        }
    }
}

extension JSONValue {
    /// Within what an Int can hold, whatever somebody who is no master may say.
    fileprivate var amount: Double { if case .number(let value) = self { min(max(value, -0x1p53), 0x1p53) } else { 0 } }

    /// On one line, and nothing that a terminal would obey: reasons and addresses come from peers.
    fileprivate var text: String {
        guard case .string(let text) = self else { return self == .null ? "?" : written() }
        return String(
            String.UnicodeScalarView(text.unicodeScalars.map { $0.properties.generalCategory == .control ? " " : $0 }))
    }
}
