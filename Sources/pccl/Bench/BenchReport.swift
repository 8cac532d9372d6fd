import Glibc
import PCCL
import StrictJSON

/// The machine a measurement was made on, as it was before.
struct BenchMachine {
    let processor: String
    let cores: Int
    let memoryBytes: Int
    let system: String
    /// How busy others kept it: the load average of the last minute.
    let load: String
    /// UTC.
    let date: String

    init() {
        let lines = ((try? textOfFile("/proc/cpuinfo")) ?? "").split(separator: "\n")
        let model = lines.first { $0.hasPrefix("model name") }?.split(separator: ":").last
        processor = model.map { String($0.drop { $0 == " " }) } ?? "an unknown processor"
        cores = max(1, sysconf(Int32(_SC_NPROCESSORS_ONLN)))
        memoryBytes = sysconf(Int32(_SC_PHYS_PAGES)) * sysconf(Int32(_SC_PAGESIZE))
        system = BenchMachine.kernel()
        load = ((try? textOfFile("/proc/loadavg")) ?? "").split(separator: " ").first.map(String.init) ?? "unknown"
        date = BenchMachine.now()
    }

    var text: String {
        "\(date), \(cores) core\(cores == 1 ? "" : "s") of \(processor), \(system), load \(load) before the start"
    }

    private static func kernel() -> String {
        var names = utsname()
        uname(&names)
        func text<T>(_ field: T) -> String {
            withUnsafeBytes(of: field) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
        }
        return "\(text(names.sysname)) \(text(names.release)) \(text(names.machine))"
    }

    private static func now() -> String {
        var seconds = time(nil)
        var parts = tm()
        gmtime_r(&seconds, &parts)
        var text = [CChar](repeating: 0, count: 32)
        let count = strftime(&text, text.count, "%Y-%m-%dT%H:%M:%SZ", &parts)
        return String(decoding: text[..<count].map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }
}

/// Everything of a measurement as one JSON object.
struct BenchReport {
    let plan: BenchPlan
    let machine: BenchMachine
    let outcome: BenchOutcome
    /// The master that was joined, or nil for processes of this machine.
    let master: String?

    var json: JSONValue {
        .object([
            .init("tool", .string("pccl bench")),
            .init("version", .string(Release.version)),
            .init("date", .string(machine.date)),
            .init(
                "machine",
                .object([
                    .init("processor", .string(machine.processor)), .init("cores", .integer(machine.cores)),
                    .init("memory_bytes", .integer(machine.memoryBytes)), .init("system", .string(machine.system)),
                    .init("load_average_before", .string(machine.load)),
                ])),
            .init("options", options),
            .init("libraries", .array(outcome.libraries.map(named))),
            .init("skipped", .array(outcome.skipped.map(named))),
            .init("results", .array(outcome.rows.map(row))),
        ])
    }

    private var options: JSONValue {
        .object([
            .init("type", .string("\(plan.work.type)")), .init("op", .string(plan.work.operationName)),
            .init("codec", .string("\(plan.work.codec)")),
            .init("in_place", .bool(plan.work.isInPlace)), .init("tags", .integer(plan.work.tags)),
            .init("stripes", .integer(plan.work.stripes)), .init("optimize", .bool(plan.work.optimizes)),
            .init("rounds", .integer(plan.rounds)),
            .init("pause_seconds", .number(Double(plan.pauseMilliseconds) / 1000)),
            .init("master", master.map { .string($0) } ?? .null),
        ])
    }

    private func named(_ library: BenchOutcome.Library) -> JSONValue {
        .object([.init("name", .string(library.name)), .init("text", .string(library.text))])
    }

    private func row(_ row: BenchRow) -> JSONValue {
        .object([
            .init("peers", .integer(row.peers)), .init("bytes", .integer(row.bytes)),
            .init("library", .string(row.library)), .init("calls", .integer(row.calls)),
            .init("min_seconds", .number(row.leastNanoseconds / 1e9)),
            .init("median_seconds", .number(row.medianNanoseconds / 1e9)),
            .init("p95_seconds", .number(row.percentile95Nanoseconds / 1e9)),
            .init("algorithm_bandwidth_gigabytes_per_second", .number(row.algorithmBandwidth)),
            .init("bus_bandwidth_gigabytes_per_second", .number(row.busBandwidth)),
            .init("cpu_seconds_per_gigabyte", .number(row.processorSecondsPerGigabyte)),
            .init("extra_memory_bytes", .integer(row.extraBytes)),
            .init("wrong_elements", .integer(row.wrongElements)),
            .init("times_of_pccl", row.timesOfPCCL.map { .number($0) } ?? .null),
        ])
    }
}
