import Glibc
import StrictJSON

/// Where the table goes, and what is said beside it.
struct BenchOutput {
    /// Standard output belongs to the JSON object when one was asked for.
    let isJSON: Bool
    let isVerbose: Bool
    /// A peer that is not to print, for another one does.
    var isSilent = false

    private static let columns: [(title: String, width: Int)] = [
        ("peers", 5), ("size", 9), ("type", 9), ("library", 10), ("median ms", 11), ("p95 ms", 11), ("alg GB/s", 9),
        ("bus GB/s", 9), ("CPU s/GB", 9), ("+MiB", 7), ("wrong", 6), ("pccl is", 9),
    ]

    func heading() {
        table(Self.columns.map { $0.title.trailing($0.width) }.joined(separator: " "))
    }

    func row(_ row: BenchRow, _ work: BenchWork) {
        table(BenchOutput.text(row, work))
    }

    static func text(_ row: BenchRow, _ work: BenchWork) -> String {
        let size = ByteSize.label(row.bytes / work.tags)
        let cells = [
            String(row.peers), work.tags == 1 ? size : "\(work.tags)x\(size)", "\(work.type)", row.library,
            significant(row.medianNanoseconds / 1e6), significant(row.percentile95Nanoseconds / 1e6),
            significant(row.algorithmBandwidth), significant(row.busBandwidth),
            significant(row.processorSecondsPerGigabyte), fixed(Double(row.extraBytes) / 1_048_576, 1),
            String(row.wrongElements), row.timesOfPCCL.map { "\(significant($0)) x" } ?? "",
        ]
        let padded = zip(cells, columns).map { $0.trailing($1.width) }.joined(separator: " ")
        return String(padded.reversed().drop { $0 == " " }.reversed())
    }

    func object(_ json: JSONValue) {
        if !isSilent { writeAll(json.written() + "\n", to: STDOUT_FILENO) }
    }

    /// What a reader of the table should know; not part of it.
    func note(_ text: String) {
        if !isSilent { writeAll("# \(text)\n", to: isJSON ? STDERR_FILENO : STDOUT_FILENO) }
    }

    func progress(_ text: String) {
        if isVerbose && !isSilent { writeAll("bench: \(text)\n", to: STDERR_FILENO) }
    }

    private func table(_ line: String) {
        if !isSilent { writeAll(line + "\n", to: isJSON ? STDERR_FILENO : STDOUT_FILENO) }
    }
}
