import ArgumentParser
import Glibc
import PCCL

/// The daemon: one master, from its start to SIGTERM or SIGINT.
@main
struct MasterCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "pccl-master",
        abstract: "The master of a run: admits peers, notices losses, and never sees the data.",
        discussion: """
            SIGTERM and SIGINT end it cleanly, with status 0. Calls of its peers that need a master (to connect, \
            to update the topology, to ask who is waiting) then fail and say so.
            """)

    @Option(
        help: ArgumentHelp(
            "The address to listen on: IPv4, IPv6, or a name that stands for one.",
            discussion: "All addresses of the machine if not given, IPv4 and IPv6.", valueName: "address"))
    var listen: String?

    @Option(help: "The TCP port; 0 lets the system choose one, which is then printed.")
    var port: UInt16 = 48148

    @Option(help: "What is logged on standard error; else the environment's PCCL_LOG_LEVEL, else warn.")
    var logLevel: LogLevel?

    func run() throws {
        if let logLevel { setenv("PCCL_LOG_LEVEL", logLevel.environmentValue, 1) }
        let signals = TerminationSignals.block()

        let listenHost = listen.map(withoutBrackets) ?? anyAddress()
        let master: Master
        do {
            master = try Master(listen: SocketAddress(host: listenHost, port: port))
            try master.run()
        } catch {
            throw Failure(explanation(of: error, listenHost: listenHost))
        }

        writeLine("listening on \(endpoint(listenHost, master.port))")
        signals.onFirst {
            // It only fails on a master that does not run, and then there is nothing to end.
            try? master.interrupt()
        }
        do {
            try master.awaitTermination()
        } catch {
            throw Failure("ended by a fault of its own: \(error.reason)")
        }
        master.destroy()
    }

    /// Why it could not start, and what to do about it.
    private func explanation(of error: PCCLError, listenHost: String) -> String {
        let endpoint = endpoint(listenHost, port)
        // Only then is somebody to blame: an address that is not this machine's is nobody's fault.
        guard error.reason.contains(String(cString: strerror(EADDRINUSE))) else {
            return "cannot listen on \(endpoint): \(error.reason)"
        }
        let names = PortHolder.listeners(onPort: port).compactMap(\.process).map { "\($0.command) (process \($0.id))" }
        let culprit =
            names.isEmpty
            ? "a process that this user may not see (ask as root)"
            : names.joined(separator: ", ")
        return """
            cannot listen on \(endpoint): the port is taken by \(culprit).
            To see for yourself: ss -ltnp 'sport = :\(port)'. End that process, or choose another --port.
            (\(error.reason))
            """
    }
}

enum LogLevel: String, CaseIterable, ExpressibleByArgument {
    case trace, debug, info, warn, error, fatal, none

    init?(argument: String) { self.init(rawValue: argument.lowercased()) }

    var environmentValue: String { rawValue.uppercased() }
}

/// An error whose description is all there is to say: no usage follows it, and the status is 1.
private struct Failure: Error, CustomStringConvertible {
    let description: String
    init(_ description: String) { self.description = description }
}

/// `::` takes IPv4 peers too; a kernel without IPv6 has only `0.0.0.0`.
private func anyAddress() -> String {
    let probe = socket(AF_INET6, Int32(SOCK_STREAM.rawValue), 0)
    guard probe >= 0 else { return "0.0.0.0" }
    close(probe)
    return "::"
}

/// People write IPv6 addresses in brackets where a port may follow.
private func withoutBrackets(_ host: String) -> String {
    host.hasPrefix("[") && host.hasSuffix("]") ? String(host.dropFirst().dropLast()) : host
}

private func endpoint(_ host: String, _ port: UInt16) -> String {
    host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)"
}

/// One `write`, so that a line is never torn by what the library logs at the same time.
private func writeLine(_ text: String) {
    var line = "pccl-master: \(text)\n"
    line.withUTF8 { _ = write(STDERR_FILENO, $0.baseAddress, $0.count) }
}
