import ArgumentParser

/// The tool beside the library.
@main
struct Tool: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "pccl",
        abstract: "Shows, tests and measures fault-tolerant collectives.",
        subcommands: [
            DemoCommand.self, BenchCommand.self, BenchStateCommand.self, PlanCommand.self, WANLabCommand.self,
            SimulateCommand.self, ChaosCommand.self,
            DemoPeerCommand.self, BenchPeerCommand.self, ChaosPeerCommand.self,
        ])
}
