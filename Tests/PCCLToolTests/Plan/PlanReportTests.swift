import PCCLBase
import StrictJSON
import Testing

@testable import pccl

@Suite("The report of a plan")
struct PlanReportTests {
    private static let needed = ["--params", "7e9", "--peers", "8", "--rtt", "100ms"]

    private func report(_ options: String...) throws -> PlanReport {
        try PlanCommand.parse(Self.needed + options).report()
    }

    @Test("has a row for each mode and codec, under its heading")
    func table() throws {
        let report = try report("--bandwidth", "1gbit", "--codec", "none,int4,none")
        #expect(report.rows.map(\.forecast.mode) == PlanMode.allCases.flatMap { [$0, $0] })
        let table = report.lines.filter { !$0.hasPrefix("#") }
        #expect(table.count == 1 + 8 + 1)
        #expect(table.allSatisfy { $0.last != " " })
        // All columns are in line.
        #expect(Set(table.dropLast().map(\.count)).count == 1)
    }

    @Test("takes the time of a step from the work, unless it is given")
    func step() throws {
        let reckoned = try report("--bandwidth", "1gbit", "--tokens-per-step", "100000", "--tflops", "420")
        #expect(reckoned.plan.stepSeconds == 10)
        #expect(try report("--bandwidth", "1gbit", "--step-time", "2s").plan.stepSeconds == 2)
    }

    @Test("names the mildest mode that reaches the goal first, each with the first codec that does")
    func reached() throws {
        let report = try report("--bandwidth", "1gbit")
        guard case .reached(let rows) = report.verdict else {
            Issue.record("nothing reached: \(report.conclusion)")
            return
        }
        #expect(rows.map(\.forecast.mode) == [.streaming, .delayed])
        #expect(rows.map(\.forecast.codec) == [Codec(.bfloat16), .none])
        #expect(rows.allSatisfy { $0.forecast.utilisation >= PlanReport.goal })
        #expect(report.conclusion.hasPrefix("plan: streaming with bfloat16 is the mildest that hides"))
        #expect(report.conclusion.hasSuffix("98.2 % computing; also delayed without a codec (98.2 %)"))
    }

    @Test("says what would be needed where nothing reaches it, and that is enough")
    func missed() throws {
        let report = try report("--bandwidth", "50mbit")
        guard case .missed(let best, let syncEvery?) = report.verdict, let bits = best.leastBitsPerSecond else {
            Issue.record("not missed, or by too much: \(report.conclusion)")
            return
        }
        #expect((best.forecast.mode, best.forecast.codec) == (.delayed, Codec(.int4)))
        // As it is written, which is in three digits.
        #expect(report.conclusion.contains(Quantity.rate(bits)))
        var faster = report.plan
        faster.bitsPerSecond = bits
        #expect(bits == (bits / 1e5).rounded() * 1e5)
        #expect(faster.forecast(.delayed, Codec(.int4)).utilisation >= PlanReport.goal)
        var rarer = report.plan
        rarer.syncEvery = syncEvery
        #expect(rarer.forecast(.delayed, Codec(.int4)).utilisation >= PlanReport.goal)
        #expect(report.conclusion.hasSuffix(" each way, or with --sync-every \(syncEvery)"))
    }

    @Test("is JSON with every row and the last line")
    func json() throws {
        let report = try report("--bandwidth", "1gbit")
        let json = try JSONValue(parsing: report.json.written())
        guard case .array(let results)? = json["results"] else {
            Issue.record("no results")
            return
        }
        #expect(results.count == report.rows.count)
        #expect(results[0]["mode"] == .string("every-step"))
        #expect(results[0]["bytes_sent_per_round"] == .number(4.9e12))
        #expect(json["options"]?["bits_per_second"] == .number(1e9))
        #expect(json["verdict"]?["text"] == .string(report.conclusion))
    }

    @Test("short rounds have no more fragments than steps")
    func shortRounds() throws {
        let plan = try report("--bandwidth", "1gbit", "--sync-every", "3").plan
        #expect((plan.fragments, plan.overlapSteps) == (3, 3))
    }

    @Test(
        "is refused where an option means nothing",
        arguments: [
            ["--bandwidth", "500MB"], ["--bandwidth", "1gbit", "--codec", "int3"],
            ["--bandwidth", "1gbit", "--codec", "min-max32"], ["--bandwidth", "1gbit", "--fragments", "101"],
            ["--bandwidth", "1gbit", "--overlap", "101"], ["--bandwidth", "1gbit", "--sync-every", "0"],
            ["--bandwidth", "1gbit", "--step-time", "2s", "--tflops", "10"],
            ["--bandwidth", "1gbit", "--step-time", "2"],
        ])
    func refused(options: [String]) {
        #expect(throws: (any Error).self) { try PlanCommand.parse(Self.needed + options) }
    }

    @Test("holds its numbers at the ends of what may be asked")
    func extremes() throws {
        for options in [
            ["--params", "1", "--peers", "2", "--bandwidth", "1000tbit", "--rtt", "0s"],
            [
                "--params", "1e15", "--peers", "1024", "--bandwidth", "1kbit", "--rtt", "1min", "--sync-every",
                "1000000",
            ],
        ] {
            let report = try PlanCommand.parse(options + ["--fragments", "1"]).report()
            #expect(report.rows.allSatisfy { (0...1).contains($0.forecast.utilisation) })
            #expect(!report.conclusion.isEmpty)
        }
    }
}
