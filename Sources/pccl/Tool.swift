import ArgumentParser
import Glibc
import PCCL

/// The tool beside the library.
@main
struct Tool: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "pccl",
        abstract: "Shows, tests and measures fault-tolerant collectives.",
        version: Release.version,
        subcommands: [
            DemoCommand.self, BenchCommand.self, BenchStateCommand.self, PlanCommand.self, DoctorCommand.self,
            StatusCommand.self, TopCommand.self, TraceCommand.self, KeysCommand.self, WANLabCommand.self,
            SimulateCommand.self, ChaosCommand.self, DemoPeerCommand.self, BenchPeerCommand.self, ChaosPeerCommand.self,
            DoctorHelperCommand.self,
        ])

    /// Of `doctor` 1 is a finding, and wrong options are 2, as monitoring has it; of all else they are 64.
    static func main() {
        do {
            var command = try parseAsRoot()
            try command.run()
        } catch {
            let isDoctor = CommandLine.arguments.dropFirst().first == DoctorCommand.configuration.commandName
            guard isDoctor, exitCode(for: error) == .validationFailure else { exit(withError: error) }
            writeAll(fullMessage(for: error) + "\n", to: STDERR_FILENO)
            Glibc.exit(2)
        }
    }
}
