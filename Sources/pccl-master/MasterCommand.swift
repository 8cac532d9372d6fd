import ArgumentParser
import Glibc
import PCCL
import PCCLBase
import PCCLSession
import PCCLTransport

/// The daemon: one master, from its start to SIGTERM or SIGINT.
@main
struct MasterCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "pccl-master",
        abstract: "The master of a run: admits peers, notices losses, and never sees the data.",
        discussion: """
            SIGTERM and SIGINT end it cleanly, with status 0. Its peers reduce on, and wait for it to come back; after \
            PCCL_MASTER_GRACE seconds (30) calls that need a master (to update the topology, to ask who is waiting) fail \
            and say so. Started again on the same port, it goes on with the run, from its journal.

            The journal is a small file. Unless --journal says where, it is master-PORT.journal in $STATE_DIRECTORY, \
            in $XDG_STATE_HOME/pccl or in ~/.local/state/pccl, whichever is known first.

            Of several masters that are given the same etcd (--store), one leads, and another takes over when it ends or is \
            cut off; peers are told where all of them are (PCCL_MASTERS).
            """,
        version: Release.version)

    @Option(
        help: ArgumentHelp(
            "The address to listen on: IPv4, IPv6, or a name that stands for one.",
            discussion: "All addresses of the machine if not given, IPv4 and IPv6.", valueName: "address"))
    var listen: String?

    @Option(help: "The TCP port; 0 lets the system choose one, which is then printed.")
    var port: UInt16 = 48148

    @Option(
        help: ArgumentHelp(
            "Where to keep what a master that is started anew must know.", valueName: "path"))
    var journal: String?

    @Option(
        help: ArgumentHelp(
            "Where to keep it otherwise: file:DIR, for a journal in that folder, or \(EtcdLocation.form).",
            discussion: "In etcd (version 3) it is kept for all masters of the run, of which one leads at a time.",
            valueName: "url"))
    var store: StoreOption?

    @Flag(help: "Keep nothing on disk: a master that is started anew takes over what its peers report.")
    var noJournal = false

    @Option(
        help: ArgumentHelp(
            "Show over HTTP how the run stands: a page, /api/status, /metrics and /healthz.",
            discussion: """
                Off if not given. Without an address 127.0.0.1, for nobody is asked who he is; port 0 lets the system \
                choose one. The address is printed.
                """, valueName: "[address:]port"))
    var http: String?

    @Option(
        help: ArgumentHelp(
            "Certificates: speak TLS 1.3 with peers that show one of the same authority, and with nobody else.",
            discussion: """
                A folder with ca.pem, certificate.pem, key.pem and maybe revoked.pem, as `pccl keys issue` makes it; else \
                the environment's PCCL_KEYS. Files that are replaced count for new connections.
                """, valueName: "folder"))
    var keys: String?

    @Option(
        help: ArgumentHelp(
            "A join token: serve peers that know it, and nobody else.",
            discussion: "Else the environment's PCCL_TOKEN or PCCL_TOKEN_FILE. `pccl keys token` makes one.",
            valueName: "path"))
    var tokenFile: String?

    @Option(help: "What is logged on standard error; else the environment's PCCL_LOG_LEVEL, else warn.")
    var logLevel: LogLevel?

    func validate() throws {
        guard journal == nil || !noJournal else { throw ValidationError("--journal goes without --no-journal") }
        guard store == nil || (journal == nil && !noJournal) else {
            throw ValidationError("--store goes without --journal and --no-journal")
        }
        guard journal != "" else { throw ValidationError("--journal needs a path") }
        if let http, StatusAddress(parsing: http) == nil {
            throw ValidationError("--http \(http): a port, or ADDRESS:PORT, with an IPv6 address in brackets")
        }
    }

    func run() throws {
        if let logLevel { setenv("PCCL_LOG_LEVEL", logLevel.environmentValue, 1) }
        let signals = TerminationSignals.block()

        let listenHost = listen.map(withoutBrackets) ?? anyAddress()
        let etcd = try etcdStore()
        let master: Master
        do {
            let address = try SocketAddress(host: listenHost, port: port)
            if let etcd {
                master = Master(listen: address, keys: keys, tokenFile: tokenFile) { etcd }
            } else {
                master = Master(listen: address, journal: journalPath, keys: keys, tokenFile: tokenFile)
            }
            try master.run()
        } catch {
            throw Failure(explanation(of: error, listenHost: listenHost))
        }

        let status: StatusServer?
        do {
            status = try statusServer(of: master)
        } catch {
            master.destroy()
            throw error
        }
        // Until then whoever asks is told that the master is ending.
        defer { status?.close() }

        if let status { writeLine("status at http://\(status.address)/") }
        writeLine("listening on \(endpoint(listenHost, master.port))")
        signals.onFirst {
            etcd?.retire()
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

    private func statusServer(of master: Master) throws -> StatusServer? {
        guard let http, let wanted = StatusAddress(parsing: http) else { return nil }
        let started = EventLoop.now
        do {
            let address = try SocketAddress(host: wanted.host, port: wanted.port)
            return try StatusServer(at: address) { show in
                master.inspect { machine, standing in
                    show(
                        StatusSnapshot(
                            of: machine, standing, deadTime: Environment.process.timeouts.deadTime, started: started,
                            now: EventLoop.now, unixNow: secondsSince1970()))
                }
            }
        } catch let error as PCCLError {
            throw Failure("--http \(http): \(error.reason)")
        } catch {
            throw Failure(
                obstacle(to: endpoint(wanted.host, wanted.port), port: wanted.port, option: "--http", "\(error)"))
        }
    }

    /// A port that the system chooses is another one the next time, so nobody would come back to it.
    private var journalPath: String? {
        if let journal { return journal }
        if case .folder(let folder) = store { return "\(folder)/master-\(port).journal" }
        guard !noJournal, port != 0 else { return nil }
        guard let folder = StateFolder.path else {
            writeLine("no journal is kept: neither STATE_DIRECTORY, XDG_STATE_HOME nor HOME is set; see --journal")
            return nil
        }
        // Nobody asked for this place, so that it cannot be used is no reason not to start.
        if let obstacle = StateFolder.obstacle(to: folder) {
            writeLine("no journal is kept: \(folder): \(obstacle); see --journal")
            return nil
        }
        return "\(folder)/master-\(port).journal"
    }

    private func etcdStore() throws -> EtcdStore? {
        guard case .etcd(let location) = store else { return nil }
        do throws(SystemError) {
            return try EtcdStore(at: location, deadTime: Environment.process.timeouts.deadTime)
        } catch {
            throw Failure("--store: \(error)")
        }
    }

    /// Why it could not start, and what to do about it.
    private func explanation(of error: PCCLError, listenHost: String) -> String {
        // Keys or a token that cannot be used.
        if error.code == .invalidArgument { return error.reason }
        let holders = PortHolder.listeners(onPort: port)
        let isJournal = error.reason.contains("journal")
        // A master at work has its journal and its port: the port says more.
        if isJournal, journal != nil || holders.isEmpty { return error.reason }
        // A journal in use and a port that is taken: then it is the port.
        let isPort = isJournal || error.reason.contains(String(cString: strerror(EADDRINUSE)))
        return obstacle(to: endpoint(listenHost, port), port: port, option: "--port", error.reason, isTaken: isPort)
    }

    private func obstacle(
        to endpoint: String, port: UInt16, option: String, _ reason: String, isTaken: Bool? = nil
    ) -> String {
        // Only then is somebody to blame: an address that is not this machine's is nobody's fault.
        guard isTaken ?? reason.contains(String(cString: strerror(EADDRINUSE))) else {
            return "cannot listen on \(endpoint): \(reason)"
        }
        let names = PortHolder.listeners(onPort: port).compactMap(\.process).map { "\($0.command) (process \($0.id))" }
        let culprit =
            names.isEmpty
            ? "a process that this user may not see (ask as root)"
            : names.joined(separator: ", ")
        return """
            cannot listen on \(endpoint): the port is taken by \(culprit).
            To see for yourself: ss -ltnp 'sport = :\(port)'. End that process, or choose another \(option).
            (\(reason))
            """
    }
}

enum LogLevel: String, CaseIterable, ExpressibleByArgument {
    case trace, debug, info, warn, error, fatal, none

    init?(argument: String) { self.init(rawValue: argument.lowercased()) }

    var environmentValue: String { rawValue.uppercased() }
}

/// Where a daemon keeps its state: what a service manager says, else what the XDG base directory specification does.
private enum StateFolder {
    static var path: String? {
        // systemd may name several, separated by colons.
        if let folder = variable("STATE_DIRECTORY")?.split(separator: ":").first { return String(folder) }
        if let folder = variable("XDG_STATE_HOME") { return folder + "/pccl" }
        return variable("HOME").map { $0 + "/.local/state/pccl" }
    }

    /// Makes it if need be. Nil: it can be used.
    static func obstacle(to folder: String) -> String? {
        for end in folder.indices.dropFirst() where folder[end] == "/" { mkdir(String(folder[..<end]), 0o700) }
        mkdir(folder, 0o700)
        return access(folder, W_OK | X_OK) == 0 ? nil : String(cString: strerror(errno))
    }

    private static func variable(_ name: String) -> String? {
        guard let value = getenv(name).map({ String(cString: $0) }), !value.isEmpty else { return nil }
        return value
    }
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

private func secondsSince1970() -> Double {
    var time = timespec()
    clock_gettime(CLOCK_REALTIME, &time)
    return Double(time.tv_sec) + Double(time.tv_nsec) / 1e9
}

/// One `write`, so that a line is never torn by what the library logs at the same time.
private func writeLine(_ text: String) {
    var line = "pccl-master: \(text)\n"
    line.withUTF8 { _ = write(STDERR_FILENO, $0.baseAddress, $0.count) }
}
