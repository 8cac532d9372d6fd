import ArgumentParser
import Glibc
import PCCL

/// `pccl bench`: how fast all-reduce is here, and how fast others are at the same work.
struct BenchCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "bench",
        abstract: "Measures all-reduce, between processes of this machine or across hosts.",
        discussion: """
            Without --master it starts the peers itself, each a process of its own. With --master it is one peer of a \
            run that spans hosts: start it once on each, with the same options; rank 0 prints. Other libraries may be \
            measured at the same work in the same run, turn by turn (--vs).

            Columns: the median and the 95th percentile of the time of one call; algorithm bandwidth, size / time; bus \
            bandwidth, 2 (P-1)/P of that, which is what each peer has to send and to receive; processor seconds of \
            one peer for 10^9 bytes of bus traffic; the most memory a peer took beyond the user's buffers; elements \
            that were wrong; and in how many times the time of pccl the library did it (2.00 x: it took twice as long).

            The exit status is 0 if everything was measured and right; 1 for a wrong result, a failure, a process that \
            ended or did not answer in time; 64 for wrong options; 130 after Ctrl-C. What --vs names and this machine \
            lacks is said and skipped; that all of it is lacking is a failure.

              pccl bench --peers 2,4 --vs gloo,mpi,pump --plot bench.svg
              pccl bench --master 10.0.0.1:48148 --peers 3 --sizes 64M
            """)

    @Option(help: "How many peers; several worlds, separated by commas, are measured one after the other.")
    var peers = "2"

    @Option(help: "Sizes, separated by commas; K, M and G stand for 2^10, 2^20 and 2^30. (default: 4K,64K,1M,4M,64M)")
    var sizes: String?

    @Option(help: "Instead of --sizes: the smallest one. (default: 8)")
    var min: String?

    @Option(help: "Instead of --sizes: the largest one. (default: 64M)")
    var max: String?

    @Option(help: "Instead of --sizes: each is so many times the one before. (default: 4)")
    var factor: Int?

    @Option(help: "The element type: \(DataType.allCases.map { "\($0)" }.joined(separator: ", ")).")
    var type = "float32"

    @Option(help: "The operation: sum, avg, prod, max, min.")
    var op = "sum"

    @Option(
        help:
            """
            What travels of floats: min-max8, int4/64, e4m3-e8m0+stochastic and so on; \
            docs/collectives.md has all of them. Not of gloo, MPI and the pump.
            """
    )
    var codec = "none"

    @Flag(help: "Reduce in place. (gloo always does.)")
    var inPlace = false

    @Option(help: "Connections per link of pccl and the pump; 0 lets the library choose.")
    var stripes = 0

    @Option(help: "How many operations are in flight at a time, each of the full size.")
    var tags = 1

    @Option(help: "How often each size is measured; in each round every library has its turn.")
    var rounds = 5

    @Flag(help: "Optimise the topology of pccl after the warm-up of each turn: unequal shares for unequal links.")
    var optimize = false

    @Option(help: "Timed calls in a turn. (default: 80 up to 64 KiB, 12 up to 4 MiB, 3 up to 64 MiB, 2 above)")
    var iterations: Int?

    @Option(help: "Calls before them that do not count. (default: 10, 3, 1, 1)")
    var warmup: Int?

    @Option(help: "Seconds of idleness before each timed call, which do not count; 0.25 is possible.")
    var pause = 0.0

    @Option(
        help:
            """
            Also measure, separated by commas: gloo, one-stripe (pccl with one connection per link), plain (pccl without \
            the codec), tcp (pccl without shared memory), and without --master mpi (mpi-tcp and mpi-shm), pump.
            """
    )
    var vs: String?

    @Option(help: "The Python that has torch, for gloo.")
    var python = "python3"

    @Option(help: "HOST:PORT of a master: measure as one peer of a run with --peers members.")
    var master: String?

    @Option(
        help:
            """
            HOST:PORT with --master, for gloo: an address of one of the peers, with a port that is free there. \
            (default in a laboratory: node 0, port \(GlooMeeting.usualPort))
            """
    )
    var glooStore: String?

    @Option(help: "The device that gloo uses with --master. (default: the laboratory's, else what PyTorch chooses)")
    var glooInterface: String?

    @Flag(help: "One JSON object on standard output; the table goes to standard error.")
    var json = false

    @Option(help: "Draw bus bandwidth over size into this file, .svg or .png (the latter with rsvg-convert).")
    var plot: String?

    @Option(help: "Seconds that one step (a start, a turn at one size) may take.")
    var timeout = 300

    @Flag(help: "Say on standard error what is being done.")
    var verbose = false

    static let largestWorld = 64
    static let largestSize = 64 << 30

    func validate() throws { _ = try parsed() }

    func run() throws {
        let parsed = try parsed()
        // The peers leave a master that has ended: nothing of interest, and it would run across the table.
        setenv("PCCL_LOG_LEVEL", "ERROR", 0)
        keepStandardStreamsOpen()
        do {
            try plot.map { try PlotFile.check($0) }
            try measure(parsed)
        } catch is BenchInterruption {
            writeAll("pccl bench: interrupted\n", to: STDERR_FILENO)
            throw ExitCode(130)
        } catch let error where !(error is ExitCode) {
            writeAll("pccl bench: \(oneLine(error))\n", to: STDERR_FILENO)
            throw ExitCode(1)
        }
    }

    private func measure(_ parsed: Parsed) throws {
        let machine = BenchMachine()
        var output = BenchOutput(isJSON: json, isVerbose: verbose)
        let outcome: BenchOutcome
        if let address = parsed.master {
            let run = JoinedRun(
                plan: parsed.plan, others: parsed.others, master: address, glooMeeting: parsed.glooMeeting,
                python: python, secondsPerStep: timeout, output: output)
            (outcome, output) = try run.run { introduce(parsed, machine, $0) }
        } else {
            introduce(parsed, machine, output)
            outcome = try BenchRun(
                plan: parsed.plan, others: parsed.others, python: python, secondsPerStep: timeout, output: output
            ).run()
        }
        let report = BenchReport(plan: parsed.plan, machine: machine, outcome: outcome, master: master)
        if json { output.object(report.json) }
        if let plot, !output.isSilent {
            let picture = BenchPlot(
                rows: outcome.rows, title: "All-reduce: \(describe(parsed.plan.work))", subtitle: machine.text)
            try PlotFile.write(picture.svg(), to: plot)
            output.note("drawn: \(plot)")
        }
        guard outcome.wrongElements == 0 else {
            throw BenchFailure("\(outcome.wrongElements) elements of results were WRONG: see the column")
        }
    }

    private func introduce(_ parsed: Parsed, _ machine: BenchMachine, _ output: BenchOutput) {
        output.note("pccl bench \(Release.version), \(machine.text)")
        let pause =
            parsed.plan.pauseMilliseconds > 0 ? ", \(significant(self.pause)) s idle before each timed call" : ""
        output.note(
            "all-reduce, \(describe(parsed.plan.work)); rounds: \(parsed.plan.rounds)\(pause); "
                + "GB are 10^9 bytes, MiB are 2^20")
    }

    private func describe(_ work: BenchWork) -> String {
        var words = [
            "\(work.type) \(work.operationName)", work.isInPlace ? "in place" : "from one buffer into another",
        ]
        if work.codec != .none { words.append("as \(work.codec)") }
        if work.tags > 1 { words.append("\(work.tags) at a time") }
        if work.optimizes { words.append("topology optimised") }
        if work.stripes > 0 { words.append("\(work.stripes) connections per link") }
        return words.joined(separator: ", ")
    }

    // MARK: - Options

    struct Parsed {
        var plan: BenchPlan
        var others: [BenchLibrary]
        var master: SocketAddress?
        var glooMeeting: GlooMeeting?
    }

    func parsed() throws -> Parsed {
        var work = BenchWork()
        guard let type = BenchWork.type(named: type) else { throw ValidationError("there is no --type \(type)") }
        guard let operation = BenchWork.operations.first(where: { $0.name == op })?.operation else {
            throw ValidationError("there is no --op \(op): sum, avg, prod, max, min")
        }
        guard (0...256).contains(stripes) else { throw ValidationError("--stripes goes from 0 to 256") }
        guard (1...1024).contains(tags) else { throw ValidationError("--tags goes from 1 to 1024") }
        guard (1...1000).contains(rounds) else { throw ValidationError("--rounds goes from 1 to 1000") }
        guard (1...100_000).contains(iterations ?? 1) else {
            throw ValidationError("--iterations goes from 1 to 100000")
        }
        guard (0...100_000).contains(warmup ?? 0) else { throw ValidationError("--warmup goes from 0 to 100000") }
        guard (0...3600).contains(pause) else { throw ValidationError("--pause goes from 0 to 3600") }
        guard (1...86_400).contains(timeout) else { throw ValidationError("--timeout goes from 1 to 86400") }
        guard let codec = Codec(codec) else {
            let names = Codec.Format.allCases.map { "\(Codec($0))" }.joined(separator: ", ")
            throw ValidationError("--codec \(codec): it knows \(names), with /32 to /256 and +stochastic")
        }
        guard codec == .none || codec.canCode(type) else {
            throw ValidationError("--codec \(codec) cannot code \(type) in fewer bytes")
        }
        work.codec = codec
        (work.type, work.operation, work.isInPlace, work.tags, work.stripes) = (type, operation, inPlace, tags, stripes)
        work.optimizes = optimize
        let plan = BenchPlan(
            work: work, peers: try parsedPeers(), sizes: try parsedSizes(), rounds: rounds, calls: iterations,
            warmUps: warmup, pauseMilliseconds: Int((pause * 1000).rounded(.up)))
        if let plot { try PlotFile.checkName(plot) }
        let others = try parsedOthers()
        return Parsed(
            plan: plan, others: others, master: try parsedMaster(plan.peers.count),
            glooMeeting: try parsedGlooMeeting(others))
    }

    private func parsedPeers() throws -> [Int] {
        let worlds = peers.split(separator: ",", omittingEmptySubsequences: false).map { Int($0) ?? 0 }
        guard worlds.allSatisfy({ (2...BenchCommand.largestWorld).contains($0) }) else {
            throw ValidationError("--peers \(peers): numbers from 2 to \(BenchCommand.largestWorld)")
        }
        return worlds
    }

    private func parsedSizes() throws -> [Int] {
        if let sizes {
            guard min == nil, max == nil, factor == nil else {
                throw ValidationError("--sizes goes without --min, --max and --factor")
            }
            guard let list = ByteSize.list(sizes), list.allSatisfy({ $0 <= BenchCommand.largestSize }) else {
                throw ValidationError("--sizes \(sizes) cannot be read: like 4K,1M,64M, up to 64G")
            }
            return list
        }
        if min == nil && max == nil && factor == nil { return [4 << 10, 64 << 10, 1 << 20, 4 << 20, 64 << 20] }
        guard let least = ByteSize.parse(min ?? "8"), let greatest = ByteSize.parse(max ?? "64M"),
            least <= greatest, greatest <= BenchCommand.largestSize
        else {
            throw ValidationError("--min \(min ?? "8") --max \(max ?? "64M"): sizes like 8 and 64M, the smaller first")
        }
        let factor = factor ?? 4
        guard (2...1024).contains(factor) else { throw ValidationError("--factor goes from 2 to 1024") }
        return ByteSize.series(from: least, to: greatest, factor: factor)
    }

    private func parsedOthers() throws -> [BenchLibrary] {
        guard let vs else { return [] }
        guard let others = BenchLibrary.parse(vs) else {
            let names = BenchLibrary.choices.map(\.name).joined(separator: ", ")
            throw ValidationError("--vs \(vs): it knows \(names)")
        }
        if master != nil, let local = others.first(where: { !$0.spansHosts }) {
            let names = BenchLibrary.choices.filter { $0.libraries.allSatisfy(\.spansHosts) }.map(\.name)
            throw ValidationError(
                "--vs \(local.rawValue) is between processes of one machine; with --master it knows "
                    + names.joined(separator: ", "))
        }
        return others
    }

    private func parsedGlooMeeting(_ others: [BenchLibrary]) throws -> GlooMeeting? {
        guard master != nil, others.contains(.gloo) else {
            guard glooStore == nil, glooInterface == nil else {
                throw ValidationError("--gloo-store and --gloo-interface are for --vs gloo with --master")
            }
            return nil
        }
        let store = glooStore.flatMap { HostAndPort(parsing: $0) }
        if let glooStore, store == nil {
            throw ValidationError("--gloo-store \(glooStore): HOST:PORT, as in 10.0.0.1:\(GlooMeeting.usualPort)")
        }
        guard let meeting = GlooMeeting(store: store, interface: glooInterface, in: .current) else {
            throw ValidationError(
                "--vs gloo with --master needs --gloo-store HOST:PORT, the same for all: an address of one of the peers "
                    + "that the others reach, with a port that is free there, as in 10.0.0.1:\(GlooMeeting.usualPort)")
        }
        return meeting
    }

    private func parsedMaster(_ worlds: Int) throws -> SocketAddress? {
        guard let master else { return nil }
        guard worlds == 1 else { throw ValidationError("with --master there is one world: --peers takes one number") }
        guard let address = HostAndPort(parsing: master) else {
            throw ValidationError("--master \(master): HOST:PORT, as in 10.0.0.1:48148 or [fd00::1]:48148")
        }
        do {
            return try SocketAddress(host: address.host, port: address.port)
        } catch {
            throw ValidationError("--master \(master): \(error.reason)")
        }
    }
}
