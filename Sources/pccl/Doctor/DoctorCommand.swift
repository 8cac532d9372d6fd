import ArgumentParser
import Glibc
import PCCLBase

/// `pccl doctor`: what this machine lacks for training over ordinary networks.
struct DoctorCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "doctor",
        abstract: "Looks for what this machine lacks for a training run, and says what to change.",
        discussion: """
            Looks at settings of the kernel, limits, ports and addresses, the clock, variables of the environment and the \
            driver of GPUs; with --master and --peer also at who answers there. It changes nothing and needs no privileges. \
            docs/operations.md has more.

            Each line is ok; note, to be known; change, which works and would work better; or fault, which will not work. \
            Below it: what to type, and what that brings.

            Ends with 0 when nothing is at fault, with 1 when something is, with 2 for wrong options.

              pccl doctor --master master.example:48148
              pccl doctor --peer 203.0.113.7:48150 --bandwidth 10gbit --peers 16
            """)

    @Option(help: ArgumentHelp("A master that should answer.", valueName: "host:port"))
    var master: [String] = []

    @Option(help: ArgumentHelp("A peer that should answer; repeatable.", valueName: "host:port"))
    var peer: [String] = []

    @Option(help: "How many peers the run will have.")
    var peers = Machine.Wishes().peers

    @Option(help: "This machine's line, each way: 500mbit, 10gbit.")
    var bandwidth = "1gbit"

    @Option(help: "The time to the farthest peer and back: 80ms. (default: of the peers that are called, else 100ms)")
    var rtt: String?

    @Option(help: "How long an address may take to answer: 5s.")
    var timeout = "5s"

    @Flag(help: "Leave the driver of GPUs alone: it is not loaded.")
    var noGpu = false

    @Flag(help: "One JSON object instead of the lines.")
    var json = false

    func validate() throws { _ = try reader() }

    func run() throws {
        signal(SIGPIPE, SIG_IGN)
        let report = DoctorReport(try reader().read())
        let text = json ? report.json.written() : report.lines.joined(separator: "\n")
        writeAll(text + "\n", to: STDOUT_FILENO)
        if report.count(.fault) > 0 { throw ExitCode(1) }
    }

    func reader() throws -> MachineReader {
        guard (2...1024).contains(peers) else { throw ValidationError("--peers goes from 2 to 1024") }
        guard let bits = Quantity.bitsPerSecond(bandwidth), PlanAssumptions.lineLimits.contains(bits) else {
            throw ValidationError("--bandwidth \(bandwidth): bits per second, like 500mbit or 10gbit, from 1kbit on")
        }
        guard let patience = Quantity.seconds(timeout), (0.1...60).contains(patience) else {
            throw ValidationError("--timeout \(timeout): a time from 0.1s to 60s")
        }
        return MachineReader(
            wishes: Machine.Wishes(peers: peers, bitsPerSecond: bits, roundTripSeconds: try roundTrip()),
            looksAtGPU: !noGpu, masters: try master.map { try Self.endpoint("--master", $0) },
            peers: try peer.map { try Self.endpoint("--peer", $0) }, patience: .seconds(patience))
    }

    private func roundTrip() throws -> Double? {
        guard let rtt else { return nil }
        guard let seconds = Quantity.seconds(rtt), seconds > 0, seconds <= 60 else {
            throw ValidationError("--rtt \(rtt): a time up to a minute, like 80ms")
        }
        return seconds
    }

    private static func endpoint(_ option: String, _ text: String) throws -> HostAndPort {
        guard let endpoint = HostAndPort(parsing: text), endpoint.port > 0 else {
            throw ValidationError("\(option) \(text): HOST:PORT, like master.example:48148 or [fd00::1]:48150")
        }
        return endpoint
    }
}
