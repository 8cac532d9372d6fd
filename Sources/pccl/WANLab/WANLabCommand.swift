import ArgumentParser
import Glibc
import WANLab

/// A wide-area network on one machine: see docs/wanlab.md.
struct WANLabCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "wanlab",
        abstract: "Runs programs in a wide-area network that exists on this machine only.",
        discussion: """
            Each node is a network namespace; packets between them are carried by this process, at the rate, with the \
            delay and the losses of the lab's description. Needs root.
            """,
        subcommands: [
            WANLabRunCommand.self, WANLabCheckCommand.self, WANLabControlCommand.self, WANLabPresetsCommand.self,
            WANLabCleanCommand.self,
        ],
        defaultSubcommand: WANLabRunCommand.self)
}

struct LabOptions: ParsableArguments {
    @Argument(help: "A preset (see `pccl wanlab presets`), or a JSON file.")
    var lab: String

    @Option(help: "How many nodes; else the file's or the preset's number.")
    var nodes: Int?

    @Option(help: "The seed of all losses and jitter; else the file's, or 1.")
    var seed: UInt64?

    @Flag(
        inversion: .prefixedNo, help: "Let TCP hand over up to 64 KiB at once. Without it the relay works much harder.")
    var offload = true

    func configuration() throws -> LabConfiguration {
        var configuration = try preset() ?? file()
        if let seed { configuration.seed = seed }
        return configuration
    }

    private func preset() throws -> LabConfiguration? { try LabConfiguration(preset: lab, nodeCount: nodes) }

    private func file() throws -> LabConfiguration {
        guard let text = contents(of: lab) else {
            let names = LabConfiguration.presets.map(\.name).joined(separator: ", ")
            throw LabError("\(lab) is neither a preset (\(names)) nor a file that can be read: \(systemError())")
        }
        do throws(LabError) { return try LabConfiguration(json: text, nodeCount: nodes) } catch {
            throw LabError("\(lab): \(error)")
        }
    }
}

struct WANLabRunCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "run",
        abstract: "Runs a command in every node at once (the default).",
        usage: "pccl wanlab [run] <lab> [options] [-- <command> ...]",
        discussion: """
            Without a command the lab stands until Ctrl-C; `ip netns exec pccl-lab-PID-0 ...` runs something in it. The \
            command finds PCCL_LAB_NODE, PCCL_LAB_NODES, PCCL_LAB_ADDRESS, PCCL_LAB_MASTER and others in its environment, \
            and {node}, {nodes}, {address} and {master} in its words are replaced. The status is the worst of all.
            """)

    @OptionGroup var options: LabOptions

    @Option(help: "Show only this node's output, as it is.")
    var show: Int?

    @Option(help: "End the lab as soon as this node's command ends; its status counts.")
    var until: Int?

    @Flag(
        inversion: .prefixedNo,
        help: "Start a pccl-master in node 0. Without either: if the command is `pccl bench` or names the master.")
    var master: Bool?

    @Flag(help: "At the end, tell what each link carried, lost and dropped, and what the relay cost.")
    var stats = false

    @Argument(parsing: .postTerminator, help: "The command and its arguments.")
    var command: [String] = []

    func run() throws {
        let configuration = try options.configuration()
        for (name, node) in [("--show", show), ("--until", until)] {
            guard node.map((0..<configuration.nodeCount).contains) ?? true else {
                throw ValidationError("\(name): the lab's nodes go from 0 to \(configuration.nodeCount - 1)")
            }
        }
        let signals = LabSignals()
        let lab = try Lab(configuration, offload: options.offload)
        let status: CInt
        do {
            defer {
                lab.close()
                if stats { for line in lab.relay.report() { writeAll("wanlab: \(line)\n", to: STDERR_FILENO) } }
            }
            status = try command.isEmpty ? hold(lab, signals) : runCommand(in: lab, signals)
        }
        if status != 0 { throw ExitCode(status) }
    }

    private func hold(_ lab: Lab, _ signals: LabSignals) throws -> CInt {
        for (node, namespace) in lab.namespaces.nodes.enumerated() {
            writeAll(
                "\(namespace.name) \(LabAddress.v4Text(node: node)) \(LabAddress.v6Text(node: node))\n",
                to: STDOUT_FILENO)
        }
        writeAll("wanlab: lab \(lab.pid) stands; Ctrl-C ends it\n", to: STDERR_FILENO)
        lab.relay.beginEvents()
        while signals.termination() == nil {
            var wait = pollfd(fd: signals.descriptor, events: Int16(POLLIN), revents: 0)
            _ = poll(&wait, 1, -1)
        }
        return 0
    }

    private func runCommand(in lab: Lab, _ signals: LabSignals) throws -> CInt {
        let programs = NodePrograms(signals: signals)
        programs.shownNode = show
        programs.decidingNode = until
        do {
            if master ?? isMasterWanted {
                let process = try lab.start(["pccl-master", "--port", "\(Lab.masterPort)", "--no-journal"], in: 0)
                programs.add(helper: process)
                try programs.wait(for: "listening on", from: process, seconds: 10)
            }
            for node in 0..<lab.configuration.nodeCount {
                programs.add(try lab.start(completed(command, lab.configuration), in: node))
            }
        } catch {
            programs.end()
            throw error
        }
        lab.relay.beginEvents()
        return programs.run()
    }

    private var isBench: Bool {
        command.count >= 2 && (command[0] == "pccl" || command[0].hasSuffix("/pccl"))
            && ["bench", "bench-state"].contains(command[1])
    }

    private var isMasterWanted: Bool {
        isBench || command.contains { $0.contains("{master}") || $0.contains("PCCL_LAB_MASTER") }
    }

    /// `pccl bench` in a lab measures the lab: it joins the others, unless it was told whom to join.
    private func completed(_ command: [String], _ configuration: LabConfiguration) -> [String] {
        guard isBench else { return command }
        func has(_ option: String) -> Bool { command.contains { $0 == option || $0.hasPrefix(option + "=") } }
        return command + (has("--master") ? [] : ["--master", "{master}"])
            + (has("--peers") ? [] : ["--peers", "{nodes}"])
    }
}

struct WANLabPresetsCommand: ParsableCommand {
    static let configuration = CommandConfiguration(commandName: "presets", abstract: "Lists the presets.")

    func run() {
        for preset in LabConfiguration.presets {
            let name = preset.name.padded(to: 14)
            writeAll(
                "\(name) \(preset.defaultNodeCount) nodes or as many as told; \(preset.summary)\n", to: STDOUT_FILENO)
        }
    }
}

struct WANLabCleanCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "clean",
        abstract: "Removes what labs that were killed have left behind; every start does that, too.")

    func run() throws {
        guard geteuid() == 0 else { throw LabError("wanlab clean needs root: run it with sudo") }
        for lab in LabRegistry.clean() { writeAll("removed lab \(lab)\n", to: STDOUT_FILENO) }
    }
}

struct WANLabControlCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "ctl",
        abstract: "Tells a running lab what to do.",
        discussion: """
            set LINK FIGURE=VALUE...        new figures for packets from now on, as in: set path:0-1 loss_percent=5
            stall A B [port=P] [for_s=S]    black-hole one TCP connection between nodes A and B: that with the port, or \
            the one that carried most
            resume A B                      let the stalled ones go on
            reset A B [port=P]              end one connection with a TCP reset at both ends
            stats                           what each link carried, lost and dropped
            """)

    @Option(help: "The lab's process id; not needed if only one runs, or inside a lab.")
    var lab: Int32?

    @Argument(help: "The command.")
    var words: [String]

    func run() throws {
        let lines = try ControlSocket.ask(try path(), words.joined(separator: " "))
        guard let last = lines.last, last.hasPrefix("ok") else {
            throw LabError(String(lines.last?.dropFirst("error ".count) ?? "no answer"))
        }
        for line in lines where line != "ok" { writeAll(line + "\n", to: STDOUT_FILENO) }
    }

    private func path() throws -> String {
        if let lab { return LabRegistry.controlPath(of: lab) }
        if let own = getenv("PCCL_LAB_CONTROL") { return String(cString: own) }
        let running = LabRegistry.running()
        guard running.count == 1, let only = running.first else {
            let which = running.isEmpty ? "none runs" : "these run: \(running.map { "\($0)" }.joined(separator: ", "))"
            throw LabError("which lab? --lab PID says; \(which)")
        }
        return LabRegistry.controlPath(of: only)
    }
}

extension String {
    func padded(to width: Int) -> String { self + String(repeating: " ", count: max(0, width - count)) }
}

/// A whole file as text; nil, with the reason in errno, if it cannot be read.
func contents(of path: String) -> String? {
    let descriptor = open(path, O_RDONLY | O_CLOEXEC)
    guard descriptor >= 0 else { return nil }
    defer { close(descriptor) }
    var bytes: [UInt8] = []
    var block = [UInt8](repeating: 0, count: 1 << 16)
    while true {
        let count = read(descriptor, &block, block.count)
        if count < 0 && errno == EINTR { continue }
        guard count >= 0 else { return nil }
        if count == 0 { return String(decoding: bytes, as: UTF8.self) }
        bytes += block[..<count]
    }
}
