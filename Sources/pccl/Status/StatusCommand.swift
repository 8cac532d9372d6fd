import ArgumentParser
import Glibc
import PCCLBase

/// `pccl status`: how a run stands, as its master sees it.
struct StatusCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "status",
        abstract: "Asks a master how its run stands: groups, members, who is waited for.",
        discussion: """
            The master must have been started with --http; the address is the one that it prints then. What it shows is what \
            the master knows: of operations it hears only when somebody waits in them for others. docs/operations.md has more.

            Ends with 0 when there was an answer, with 1 when there was none, or not a master's.

              pccl-master --http 48149 &
              pccl status
              pccl status --master 127.0.0.1:48149 --json
            """)

    @OptionGroup var source: StatusSource

    @Flag(help: "The master's JSON as it comes, instead of the table.")
    var json = false

    func run() throws {
        signal(SIGPIPE, SIG_IGN)
        let client = try source.client(patience: .seconds(5))
        do throws(StatusClient.Problem) {
            let (text, report) = try client.status()
            let shown =
                json
                ? text : StatusTable(address: "\(client.address)", report: report).lines.joined(separator: "\n") + "\n"
            writeAll(shown, to: STDOUT_FILENO)
        } catch {
            writeAll("pccl status: \(error)\n", to: STDERR_FILENO)
            throw ExitCode(1)
        }
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
