import CShims
import Glibc
import WANLab

/// A lab that stands: namespaces, devices, the relay. `close` takes all of it away again.
final class Lab {
    let configuration: LabConfiguration
    let relay: Relay
    let namespaces: LabNamespaces
    private let registry: LabRegistry

    var pid: CInt { registry.lab }

    /// To be made before this process has a second thread.
    init(_ configuration: LabConfiguration, offload: Bool) throws(LabError) {
        if let obstacle = LabNamespaces.obstacle() { throw LabError("wanlab \(obstacle)") }
        self.configuration = configuration
        for stale in LabRegistry.clean() {
            writeAll("wanlab: removed what lab \(stale) had left behind\n", to: STDERR_FILENO)
        }
        registry = try LabRegistry()
        var namespaces = LabNamespaces()
        do throws(LabError) {
            try namespaces.make(configuration, lab: registry.lab, offload: offload)
            relay = try Relay(
                configuration, tuns: namespaces.nodes.map(\.tun), control: ControlSocket(path: registry.controlPath))
            try relay.start()
        } catch {
            registry.remove()
            throw error
        }
        self.namespaces = namespaces
    }

    func close() {
        relay.stopAndWait()
        for node in namespaces.nodes {
            Glibc.close(node.tun)
            Glibc.close(node.namespace)
        }
        registry.remove()
    }

    static let masterPort = 48148

    /// Starts a program in a node, with the lab's variables in its environment.
    func start(_ command: [String], in node: Int) throws(LabError) -> NodeProcess {
        let variables = [
            "PCCL_LAB_NODE": "\(node)", "PCCL_LAB_NODES": "\(configuration.nodeCount)",
            "PCCL_LAB_ADDRESS": LabAddress.v4Text(node: node), "PCCL_LAB_ADDRESS6": LabAddress.v6Text(node: node),
            "PCCL_LAB_MASTER": "\(LabAddress.v4Text(node: 0)):\(Self.masterPort)",
            "PCCL_LAB_INTERFACE": LabNamespaces.interface, "PCCL_LAB_CONTROL": registry.controlPath,
            // The tools of this build are found without being installed.
            "PATH": "\(Self.toolFolder):\(getenv("PATH").map { String(cString: $0) } ?? "/usr/bin:/bin")",
        ]
        let inherited = currentEnvironment().filter { entry in
            variables[String(entry.prefix { $0 != "=" })] == nil
        }
        let own = variables.sorted { $0.key < $1.key }.map { "\($0.key)=\($0.value)" }
        return try NodeProcess(
            node: node, namespace: namespaces.nodes[node].namespace,
            command: command.map { Self.filled($0, node: node, configuration: configuration) },
            environment: inherited + own)
    }

    /// `{node}`, `{nodes}`, `{address}` and `{master}` in a command's words.
    private static func filled(_ word: String, node: Int, configuration: LabConfiguration) -> String {
        var word = word
        for (name, value) in [
            ("{node}", "\(node)"), ("{nodes}", "\(configuration.nodeCount)"),
            ("{address}", LabAddress.v4Text(node: node)), ("{master}", "\(LabAddress.v4Text(node: 0)):\(masterPort)"),
        ] {
            while let place = word.firstRange(of: name) { word.replaceSubrange(place, with: value) }
        }
        return word
    }

    /// The folder of this very program.
    static var toolFolder: String {
        var path = [CChar](repeating: 0, count: Int(PATH_MAX))
        let count = readlink("/proc/self/exe", &path, path.count - 1)
        guard count > 0 else { return "/usr/local/bin" }
        let text = String(decoding: path[..<count].map { UInt8(bitPattern: $0) }, as: UTF8.self)
        return text.lastIndex(of: "/").map { String(text[..<$0]) } ?? "."
    }
}

/// The signals that end a lab, as something to poll.
struct LabSignals {
    let descriptor: CInt

    /// From here on they are only received through the descriptor, by all threads that are started later as well.
    init() {
        var set = sigset_t()
        sigemptyset(&set)
        for number in [SIGINT, SIGTERM, SIGHUP, SIGCHLD] { sigaddset(&set, number) }
        pthread_sigmask(SIG_BLOCK, &set, nil)
        signal(SIGPIPE, SIG_IGN)
        descriptor = signalfd(-1, &set, CInt(SFD_CLOEXEC | SFD_NONBLOCK))
    }

    /// The first that asks to end, if one came. Does not wait.
    func termination() -> CInt? {
        var information = signalfd_siginfo()
        while read(descriptor, &information, MemoryLayout<signalfd_siginfo>.size) > 0 {
            if CInt(information.ssi_signo) != SIGCHLD { return CInt(information.ssi_signo) }
        }
        return nil
    }
}
