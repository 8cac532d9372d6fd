/// What a peer of a chaos run tells its parent, a line each. Times are of the machine's monotonic clock, which all
/// processes share.
enum ChaosReport: Equatable {
    /// What the peer is going to do: the last one says in what it waits.
    case entering(Phase, round: Int, at: UInt64)
    case operation(OperationReport)
    /// It was taken for lost, or lost the master, and connects again.
    case expelled(reason: String, at: UInt64)
    /// A promise is broken, as far as this peer can see.
    case violation(Violation, text: String)

    enum Phase: String {
        case connecting, handover, asking, updating, optimizing, reducing, alone, leaving
    }

    enum Violation: String, CaseIterable {
        /// A result that is made from no set of members.
        case wrong
        /// An input that is not as it was, after a failure.
        case input
        /// A call failed as it should not have.
        case unexpected
        /// Members of one group hold different states.
        case disagreement
    }

    /// One attempt at one operation.
    struct OperationReport: Equatable {
        var name: OperationName
        var outcome: Outcome
        /// How often it was interrupted and went on.
        var resumptions = 0
        var began: UInt64
        var ended: UInt64
    }

    /// The same at all members.
    struct OperationName: Hashable {
        /// Which succession of members, each of which has handed its state to the next: it begins anew when all are lost.
        var lineage: UInt64
        var round: Int
        var index: Int
        var attempt: Int
    }

    enum Outcome: Equatable {
        case success(Slots, digest: UInt64)
        case memberLost
        /// There was nobody to reduce with.
        case alone
    }

    var line: String {
        var line: ControlLine
        switch self {
        case .entering(let phase, let round, let at):
            line = ControlLine("entering")
            line["phase"] = phase.rawValue
            line["round"] = "\(round)"
            line["at"] = "\(at)"
        case .operation(let report):
            line = ControlLine("operation")
            line["lineage"] = "\(report.name.lineage)"
            line["round"] = "\(report.name.round)"
            line["index"] = "\(report.name.index)"
            line["attempt"] = "\(report.name.attempt)"
            switch report.outcome {
            case .success(let slots, let digest):
                line["outcome"] = "success"
                line["slots"] = "\(slots.rawValue)"
                line["digest"] = "\(digest)"
            case .memberLost: line["outcome"] = "lost"
            case .alone: line["outcome"] = "alone"
            }
            line["resumptions"] = "\(report.resumptions)"
            line["began"] = "\(report.began)"
            line["at"] = "\(report.ended)"
        case .expelled(let reason, let at):
            line = ControlLine("expelled", text: reason)
            line["at"] = "\(at)"
        case .violation(let violation, let text):
            line = ControlLine("violation", text: text)
            line["kind"] = violation.rawValue
        }
        return line.written
    }

    /// Nothing but what `line` writes is understood.
    init?(line text: String) {
        let line = ControlLine(parsing: text)
        func number(_ key: String) -> UInt64? { line[key].flatMap { UInt64($0) } }
        func count(_ key: String) -> Int? { line[key].flatMap { Int($0) } }
        switch line.word {
        case "entering":
            guard let phase = line["phase"].flatMap(Phase.init(rawValue:)), let round = count("round"),
                let at = number("at")
            else { return nil }
            self = .entering(phase, round: round, at: at)
        case "operation":
            guard let lineage = number("lineage"), let round = count("round"), let index = count("index"),
                let attempt = count("attempt"), let resumptions = count("resumptions"), let began = number("began"),
                let ended = number("at")
            else { return nil }
            let outcome: Outcome
            switch line["outcome"] {
            case "success":
                guard let slots = line["slots"].flatMap({ UInt8($0) }), let digest = number("digest") else {
                    return nil
                }
                outcome = .success(Slots(rawValue: slots), digest: digest)
            case "lost": outcome = .memberLost
            case "alone": outcome = .alone
            case _: return nil
            }
            self = .operation(
                OperationReport(
                    name: OperationName(lineage: lineage, round: round, index: index, attempt: attempt),
                    outcome: outcome, resumptions: resumptions, began: began, ended: ended))
        case "expelled":
            guard let reason = line["text"], let at = number("at") else { return nil }
            self = .expelled(reason: reason, at: at)
        case "violation":
            guard let violation = line["kind"].flatMap(Violation.init(rawValue:)), let text = line["text"] else {
                return nil
            }
            self = .violation(violation, text: text)
        case _: return nil
        }
    }
}
