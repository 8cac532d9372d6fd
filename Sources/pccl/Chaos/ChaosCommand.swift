import ArgumentParser
import Glibc
import PCCLBase

/// `pccl chaos`: see docs/chaos.md.
struct ChaosCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "chaos",
        abstract: "Kills, stops and cuts off real peers at random, and checks every result and promise.",
        discussion: """
            Starts a master and peers as processes of their own, each in a network namespace (as root) or all on the \
            loopback device, and keeps them reducing while faults come. The faults follow from the seed. The last line \
            begins with "chaos: ok", or with "chaos: FAILED"; the exit status says the same.
            """)

    @Option(help: "How many peers the group has on average, 2 to \(Slots.count - 1).")
    var peers = 4

    @Option(help: "End after so many faults; 100 if there is no --time either.")
    var faults: Int?

    @Option(help: "End after so many seconds.")
    var time: Int?

    @Option(help: "The seed of the faults and of the load; else one that nobody tried.")
    var seed: UInt64?

    @Option(help: "The dead time in seconds (PCCL_TIMEOUT of all processes), 0.2 to 60.")
    var timeout = 1.0

    @Option(help: "What to do: any of \(FaultKind.list); all if not given.")
    var kinds: String?

    @Flag(help: "All on the loopback device, without namespaces; then links have no faults.")
    var loopback = false

    @Option(help: "A folder for what the processes log; PCCL_LOG_LEVEL says how much.")
    var logs: String?

    @Flag(help: "Stalls that are longer than promised are shown, and are no failure: for machines with other work.")
    var tolerant = false

    @Flag(help: "Tell of each fault.")
    var verbose = false

    func validate() throws {
        guard (2..<Slots.count).contains(peers) else {
            throw ValidationError("--peers must be from 2 to \(Slots.count - 1)")
        }
        guard faults == nil || time == nil else { throw ValidationError("--faults or --time, not both") }
        guard (faults ?? 1) > 0, (time ?? 1) > 0 else { throw ValidationError("--faults and --time must be above 0") }
        guard (0.2...60).contains(timeout) else { throw ValidationError("--timeout must be from 0.2 to 60") }
        _ = try wantedKinds()
    }

    func run() throws {
        var plan = ChaosPlan.Options(kinds: try wantedKinds(), peers: peers, deadTime: .seconds(timeout))
        let obstacle = loopback ? nil : LabNamespaces.obstacle()
        let isInLab = !loopback && obstacle == nil
        if !isInLab {
            let reason = obstacle.map { "a lab \($0). " } ?? ""
            writeAll("chaos: \(reason)On the loopback device links have no faults\n", to: STDERR_FILENO)
            plan.kinds.removeAll { FaultKind.ofLinks.contains($0) }
            guard !plan.kinds.isEmpty else { throw ValidationError("--kinds has only faults of links") }
        }
        if let logs { mkdir(logs, 0o755) }
        setenv("PCCL_TIMEOUT", "\(timeout)", 1)

        let signals = LabSignals()
        let ground = try isInLab ? ChaosGround.inLab() : ChaosGround.onLoopback()
        defer { ground.close() }
        let seed = seed ?? UInt64.random(in: 0..<1_000_000_000)
        writeAll(
            "chaos: seed \(seed), \(peers) peers \(isInLab ? "in namespaces" : "on the loopback device"), dead "
                + "time \(timeout) s\n", to: STDOUT_FILENO)
        let director = ChaosDirector(
            ChaosDirector.Options(
                plan: plan, length: time.map { .seconds($0) } ?? .faults(faults ?? 100), seed: seed,
                isTolerant: tolerant, isVerbose: verbose, logFolder: logs),
            ground: ground, signals: signals)
        let result = try director.direct()
        if let violation = result.violation {
            writeAll("chaos: FAILED \(violation.kind.rawValue): \(violation.text)\n", to: STDOUT_FILENO)
        }
        for line in result.lines { writeAll(line + "\n", to: STDOUT_FILENO) }
        if result.violation != nil { throw ExitCode(1) }
    }

    private func wantedKinds() throws -> [FaultKind] {
        guard let kinds else { return FaultKind.standard }
        let wanted = try kinds.split(separator: ",").map { name in
            guard let kind = FaultKind(rawValue: String(name)) else {
                throw ValidationError("--kinds: \(name) is none of \(FaultKind.list)")
            }
            return kind
        }
        guard !wanted.isEmpty else { throw ValidationError("--kinds names nothing") }
        guard wanted.contains(.join) || !(wanted.contains(.kill) || wanted.contains(.leave)) else {
            throw ValidationError("--kinds: kill and leave go with join only, or two peers would be left soon")
        }
        return FaultKind.allCases.filter { wanted.contains($0) }
    }
}
