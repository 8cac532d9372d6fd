import ArgumentParser
import Glibc
import PCCL
import Synchronization

/// One peer of `pccl chaos`, as a process of its own. Only that command starts it.
struct ChaosPeerCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "chaos-peer", abstract: "One peer of a chaos run.", shouldDisplay: false)

    @Option var slot: Int
    @Option var incarnation: UInt64
    @Option var seed: UInt64
    @Option var host: String
    @Option var port: UInt16

    func run() throws {
        // The first use makes the global, and must not be inside the handler.
        leaveAsked.store(false, ordering: .relaxed)
        signal(SIGTERM) { _ in leaveAsked.store(true, ordering: .relaxed) }
        signal(SIGINT, SIG_IGN)
        do {
            let peer = try ChaosPeer(
                ChaosPeer.Options(
                    slot: slot, incarnation: incarnation, seed: seed,
                    masters: [SocketAddress(host: host, port: port)]),
                shouldLeave: { leaveAsked.load(ordering: .relaxed) })
            try peer.run()
        } catch let broken as ChaosPeer.BrokenPromise {
            let report = ChaosReport.violation(broken.violation, text: broken.text)
            writeAll(report.line + "\n", to: STDOUT_FILENO)
            throw ExitCode(1)
        }
    }
}

private let leaveAsked = Atomic<Bool>(false)
