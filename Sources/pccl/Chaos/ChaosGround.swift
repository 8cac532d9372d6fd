import Glibc
import WANLab

/// Where a chaos run takes place: the loopback device, or a lab in which each slot has a node, and the master one.
struct ChaosGround {
    let lab: Lab?
    /// Of the master's journal.
    private let folder: String

    static func onLoopback() throws -> ChaosGround { try ChaosGround(lab: nil) }

    /// Of the lab's links when nothing is wrong with them, as in the preset `lan`.
    private static let usualDelay = "0.05"
    private static let masterNode = 0

    private init(lab: Lab?) throws {
        guard let folder = makeTemporaryFolder("pccl-chaos") else {
            let reason = systemError()
            lab?.close()
            throw LabError("cannot make a temporary folder for the journal: \(reason)")
        }
        (self.lab, self.folder) = (lab, folder)
    }

    /// To be made before this process has a second thread.
    static func inLab() throws -> ChaosGround {
        guard let configuration = try LabConfiguration(preset: "lan", nodeCount: Slots.count + 1) else {
            throw LabError("there is no preset \"lan\"")
        }
        return try ChaosGround(lab: try Lab(configuration, offload: true))
    }

    func close() {
        lab?.close()
        unlink(journal)
        unlink(journal + ".new")
        rmdir(folder)
    }

    private var journal: String { folder + "/journal" }

    // MARK: - Processes

    /// Port 0 lets the system choose; a lab has a port for its master.
    func startMaster(port: UInt16) throws -> NodeProcess {
        let command = [Lab.toolFolder + "/pccl-master", "--journal", journal, "--listen", masterHost, "--port"]
        guard let lab else { return try startHere(command + ["\(port)"], slot: 0) }
        return try lab.start(command + ["\(Lab.masterPort)"], in: Self.masterNode)
    }

    func startPeer(_ arguments: [String], slot: Int) throws -> NodeProcess {
        let command = ["/proc/self/exe"] + arguments
        guard let lab else { return try startHere(command, slot: slot) }
        return try lab.start(command, in: node(slot))
    }

    var masterHost: String { lab == nil ? "127.0.0.1" : LabAddress.v4Text(node: Self.masterNode) }

    private func startHere(_ command: [String], slot: Int) throws -> NodeProcess {
        try NodeProcess(node: slot, namespace: nil, command: command, environment: currentEnvironment())
    }

    // MARK: - Links

    /// Makes the links as the fault says; what is no fault of links changes nothing.
    func begin(_ fault: Fault) throws {
        switch fault {
        case .cut(let pair, _): try set("path:\(node(pair.a))-\(node(pair.b))", "loss_percent=100")
        case .oneway(let pair, _): try set("path:\(node(pair.a))>\(node(pair.b))", "loss_percent=100")
        case .delay(let pair, let milliseconds, _):
            try set("path:\(node(pair.a))-\(node(pair.b))", "delay_ms=\(milliseconds)")
        case .kill, .stop, .leave, .join, .master: break
        }
    }

    /// Two faults of one pair end together: the second one's end finds nothing to mend.
    func end(_ fault: Fault) throws {
        switch fault {
        case .cut(let pair, _), .oneway(let pair, _), .delay(let pair, _, _):
            try set("path:\(node(pair.a))-\(node(pair.b))", "loss_percent=0 delay_ms=\(Self.usualDelay)")
        case .kill, .stop, .leave, .join, .master: break
        }
    }

    private func node(_ slot: Int) -> Int { slot + 1 }

    private func node(_ end: LinkEnd) -> Int {
        switch end {
        case .slot(let slot): node(slot)
        case .master: Self.masterNode
        }
    }

    private func set(_ link: String, _ figures: String) throws {
        guard let lab else { return }
        let answer = try ControlSocket.ask(LabRegistry.controlPath(of: lab.pid), "set \(link) \(figures)")
        guard let last = answer.last, last.hasPrefix("ok") else {
            throw LabError("set \(link) \(figures): \(answer.joined(separator: "; "))")
        }
    }
}
