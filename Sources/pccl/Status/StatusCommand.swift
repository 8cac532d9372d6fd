import ArgumentParser
import Glibc
import PCCLBase
import StrictJSON

/// `pccl status`: how a run stands, as its master sees it.
struct StatusCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "status",
        abstract: "Asks a master how its run stands: groups, members, who is waited for.",
        discussion: """
            The master must have been started with --http; the address is the one that it prints then. What it shows is what \
            the master knows: of operations it hears only when somebody waits in them for others. docs/operations.md has more.

            Ends with 0 when there was an answer, with 1 when there was none, or not a master's; with --stuck, with 2 if \
            something is stuck.

              pccl-master --http 48149 &
              pccl status
              pccl status --stuck
              pccl status --master 127.0.0.1:48149 --json
            """)

    @OptionGroup var source: StatusSource

    @Flag(help: "The master's JSON as it comes, instead of the table.")
    var json = false

    @Flag(help: "Only what does not go on: which operation, who waits for whom, since when, and why.")
    var stuck = false

    func run() throws {
        signal(SIGPIPE, SIG_IGN)
        let client = try source.client(patience: .seconds(5))
        do {
            let (text, report) = try client.status()
            if stuck { return try show(stuckIn: report, client) }
            let shown =
                json
                ? text : StatusTable(address: "\(client.address)", report: report).lines.joined(separator: "\n") + "\n"
            writeAll(shown, to: STDOUT_FILENO)
        } catch let error as StatusClient.Problem {
            writeAll("pccl status: \(error)\n", to: STDERR_FILENO)
            throw ExitCode(1)
        }
    }

    private func show(stuckIn report: JSONValue, _ client: StatusClient) throws {
        guard case .array(let found)? = report["stuck"] else {
            throw StatusClient.Problem(description: "this master is of a release that does not say what is stuck")
        }
        let lines = StatusTable(address: "\(client.address)", report: report).stuckLines
        writeAll(
            json ? JSONValue.array(found).written() + "\n" : lines.joined(separator: "\n") + "\n", to: STDOUT_FILENO)
        if !found.isEmpty { throw ExitCode(2) }
    }
}

struct StatusSource: ParsableArguments {
    @Option(help: ArgumentHelp("The --http address of the master.", valueName: "host:port"))
    var master = "127.0.0.1:\(StatusClient.usualPort)"

    func validate() throws { _ = try client(patience: .seconds(1)) }

    /// Also as an address that a browser would take.
    func client(patience: Interval) throws -> StatusClient {
        var text = master[...]
        if text.hasPrefix("http://") { text = text.dropFirst("http://".count) }
        if text.hasSuffix("/") { text = text.dropLast() }
        guard let address = HostAndPort(parsing: String(text)), address.port > 0, !address.host.contains("/") else {
            throw ValidationError("--master \(master): HOST:PORT, as the master prints it")
        }
        return StatusClient(address: address, patience: patience)
    }
}
