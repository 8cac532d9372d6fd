import ArgumentParser
import Glibc
import PCCLBase

/// `pccl plan`: what a training run over the internet would wait for.
struct PlanCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "plan",
        abstract: "Reckons how long a training run would compute, and how long it would wait for its peers.",
        discussion: """
            Nothing is measured: times come from the library's own cost model, the sizes of its codecs and the figures that \
            are printed. docs/diloco.md says how to read them.

            Modes, from the mildest change of training to the boldest: all-reduce of gradients in every step; synchronous \
            DiLoCo, which waits for an all-reduce of all parameters every --sync-every steps; streaming, which sends them in \
            fragments, each while --overlap more steps are made; delayed, which has the whole next round for it.

            Columns: the bits that a value takes; what each peer sends in a round of --sync-every steps; the time of one \
            call, of a fragment in streaming; what is waited for in a round, the outer step included; the share of the time \
            that is left for inner steps; and the line with which that would be 95 %.

              pccl plan --params 7e9 --peers 8 --bandwidth 1gbit --rtt 100ms
              pccl plan --params 1.5b --peers 4 --bandwidth 200mbit --rtt 60ms --step-time 3s --codec none,int4
            """)

    @Option(help: "Parameters of the model: 7e9, 1.5b, 350m.")
    var params: String

    @Option(help: "How many peers.")
    var peers: Int

    @Option(help: "Of one peer's line, each way: 500mbit, 1gbit.")
    var bandwidth: String

    @Option(help: "The time there and back between two peers: 100ms.")
    var rtt: String

    @Option(help: "The time of one inner step, communication aside: 2s. Else reckoned from the two below.")
    var stepTime: String?

    @Option(help: "Tokens of one inner step of one peer. (default: \(PlanAssumptions.tokensPerStep))")
    var tokensPerStep: Int?

    @Option(
        help: """
            What a peer gets out of its accelerators, in 10^12 operations a second. \
            (default: \(Int(PlanAssumptions.operationsPerSecond / 1e12)), two fifths of an H100's dense bfloat16)
            """)
    var tflops: Double?

    @Option(help: "Inner steps in a round.")
    var syncEvery = 100

    @Option(help: "Fragments in streaming. (default: 8, or --sync-every if that is less)")
    var fragments: Int?

    @Option(help: "Inner steps that a fragment may be on its way in streaming. (default: 5, or --sync-every)")
    var overlap: Int?

    @Option(help: "Codecs, separated by commas; docs/collectives.md has all of them.")
    var codec = "none,bfloat16,min-max8,int4"

    @Option(help: "GB/s of memory that the outer step gets.")
    var memoryBandwidth = PlanAssumptions().memoryBytesPerSecond / 1e9

    @Flag(help: "One JSON object instead of the table.")
    var json = false

    func validate() throws { _ = try report() }

    func run() throws {
        let report = try report()
        let text = json ? report.json.written() : report.lines.joined(separator: "\n")
        writeAll(text + "\n", to: STDOUT_FILENO)
    }

    func report() throws -> PlanReport {
        guard let parameters = Quantity.count(params) else {
            throw ValidationError("--params \(params): a number of parameters, like 7e9, 1.5b, 350m")
        }
        guard (2...1024).contains(peers) else { throw ValidationError("--peers goes from 2 to 1024") }
        guard let bits = Quantity.bitsPerSecond(bandwidth), PlanAssumptions.lineLimits.contains(bits) else {
            throw ValidationError("--bandwidth \(bandwidth): bits per second, like 500mbit or 1gbit, from 1kbit on")
        }
        guard let roundTrip = Quantity.seconds(rtt), roundTrip <= 60 else {
            throw ValidationError("--rtt \(rtt): a time up to a minute, like 100ms")
        }
        guard (1...PlanAssumptions.longestRound).contains(syncEvery) else {
            throw ValidationError("--sync-every goes from 1 to \(PlanAssumptions.longestRound)")
        }
        let fragments = fragments ?? min(8, syncEvery, parameters)
        guard (1...syncEvery).contains(fragments), fragments <= parameters else {
            throw ValidationError("--fragments goes from 1 to --sync-every, for each has a step at which it is sent")
        }
        let overlap = overlap ?? min(5, syncEvery)
        guard (0...syncEvery).contains(overlap) else {
            throw ValidationError("--overlap goes from 0 to --sync-every: a fragment is back before it is sent again")
        }
        guard (0.1...10_000).contains(memoryBandwidth) else {
            throw ValidationError("--memory-bandwidth is in GB/s, from 0.1 to 10000")
        }
        let step = try step(parameters)
        var plan = CommunicationPlan(
            parameters: parameters, peers: peers, bitsPerSecond: bits, roundTripSeconds: roundTrip,
            stepSeconds: step.seconds, syncEvery: syncEvery, fragments: fragments, overlapSteps: overlap)
        plan.assumptions.memoryBytesPerSecond = memoryBandwidth * 1e9
        return PlanReport(plan, step: step.origin, codecs: try codecs())
    }

    /// The time of an inner step, and in words where it comes from.
    private func step(_ parameters: Int) throws -> (seconds: Double, origin: String) {
        if let stepTime {
            guard tokensPerStep == nil, tflops == nil else {
                throw ValidationError("--step-time goes without --tokens-per-step and --tflops, which stand in for it")
            }
            guard let seconds = Quantity.seconds(stepTime), (1e-6...1e6).contains(seconds) else {
                throw ValidationError("--step-time \(stepTime): a time like 2s or 350ms")
            }
            return (seconds, "as given")
        }
        let tokens = tokensPerStep ?? PlanAssumptions.tokensPerStep
        let tera = tflops ?? PlanAssumptions.operationsPerSecond / 1e12
        guard (1...1_000_000_000).contains(tokens), (0.001...1e9).contains(tera) else {
            throw ValidationError("--tokens-per-step and --tflops are positive: tokens, and 10^12 operations a second")
        }
        let rate = tera == tera.rounded() ? fixed(tera, 0) : significant(tera)
        let work = PlanAssumptions.operationsPerParameterAndToken * Double(parameters) * Double(tokens)
        return (
            work / (tera * 1e12),
            "assumed: 6 x parameters x \(tokens) tokens / \(rate) TFLOP/s; "
                + "--step-time tells it better"
        )
    }

    private func codecs() throws -> [Codec] {
        let names = codec.split(separator: ",", omittingEmptySubsequences: false)
        return try names.reduce(into: []) { codecs, name in
            guard let codec = Codec(String(name)), codec == .none || codec.canCode(.float32) else {
                let known = Codec.Format.allCases.map { Codec($0) }.filter { $0 == .none || $0.canCode(.float32) }
                throw ValidationError(
                    "--codec \(name): for float32 there are \(known.map { "\($0)" }.joined(separator: ", "))")
            }
            if !codecs.contains(codec) { codecs.append(codec) }
        }
    }
}
