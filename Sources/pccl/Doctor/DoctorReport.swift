import PCCL
import StrictJSON

/// What a doctor found, to be read.
struct DoctorReport {
    let findings: [Finding]
    let wishes: Machine.Wishes
    /// Of the farthest peer, and where that comes from.
    let roundTrip: (seconds: Double, origin: String)

    init(_ machine: Machine) {
        findings = machine.findings
        wishes = machine.wishes
        roundTrip = machine.roundTrip
    }

    func count(_ weight: Finding.Weight) -> Int { findings.count { $0.weight == weight } }

    // MARK: - for people

    var lines: [String] {
        let width = findings.filter { $0.area != .reach }.map(\.subject.count).max() ?? 0
        let areas = Finding.Area.allCases.flatMap { area -> [String] in
            let found = findings.filter { $0.area == area }
            return found.isEmpty ? [] : [area.rawValue] + found.flatMap { lines($0, width) }
        }
        return [assumptions] + areas + persistence + [conclusion]
    }

    private var assumptions: String {
        "# for \(wishes.peers) peers and \(Quantity.rate(wishes.bitsPerSecond)) over \(Quantity.time(roundTrip.seconds)) "
            + "there and back (\(roundTrip.origin))"
    }

    private func lines(_ finding: Finding, _ width: Int) -> [String] {
        let head = "  \(finding.weight.rawValue.leading(6))  \(finding.subject.leading(width))  \(finding.text)"
        guard let change = finding.change else { return [head] }
        let indent = String(repeating: " ", count: 10)
        return [head] + change.commands.map { "\(indent)> \($0)" } + ["\(indent)  brings: \(change.brings)"]
    }

    private var persistence: [String] {
        let isNeeded = findings.contains { $0.change?.commands.contains { $0.hasPrefix("sysctl -w") } ?? false }
        return isNeeded
            ? ["# sysctl needs root; to keep such a setting, write NAME = VALUE into /etc/sysctl.d/90-pccl.conf"] : []
    }

    var conclusion: String {
        func counted(_ weight: Finding.Weight) -> String {
            let count = count(weight)
            return "\(count) \(weight.rawValue)\(count == 1 ? "" : "s")"
        }
        return "doctor: \(counted(.fault)), \(counted(.change)), \(counted(.note)), \(count(.ok)) ok"
    }

    // MARK: - for programs

    var json: JSONValue {
        .object([
            .init("tool", .string("pccl doctor")),
            .init("version", .string(Release.version)),
            .init(
                "options",
                .object([
                    .init("peers", .integer(wishes.peers)), .init("bits_per_second", .number(wishes.bitsPerSecond)),
                    .init("round_trip_seconds", .number(roundTrip.seconds)),
                    .init("round_trip_is", .string(roundTrip.origin)),
                ])),
            .init("findings", .array(findings.map(object))),
            .init("counts", .object(Finding.Weight.allCases.map { .init($0.rawValue, .integer(count($0))) })),
        ])
    }

    private func object(_ finding: Finding) -> JSONValue {
        .object([
            .init("area", .string(finding.area.rawValue)), .init("subject", .string(finding.subject)),
            .init("weight", .string(finding.weight.rawValue)), .init("text", .string(finding.text)),
            .init("commands", .array(finding.change?.commands.map { .string($0) } ?? [])),
            .init("brings", finding.change.map { .string($0.brings) } ?? .null),
            .init("figures", .object(finding.figures)),
        ])
    }
}
