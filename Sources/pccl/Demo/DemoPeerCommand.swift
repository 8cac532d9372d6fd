import ArgumentParser
import DigitsTraining
import Glibc

/// One peer of `pccl demo`, as a process of its own. Only the demo starts it.
struct DemoPeerCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "demo-peer", abstract: "One peer of the demo.", shouldDisplay: false)

    @Option var peer: Int
    @Option var peers: Int
    @Option var steps: Int
    @Option var pace: Int
    @Option(name: .customLong("hold-at-step")) var holdAtStep: Int
    @Option var port: UInt16
    @Option var data: String
    @OptionGroup var roundsOptions: DemoRoundsOptions

    func run() throws {
        // A report to a parent that is gone must fail, not kill: the thread on standard input ends this process.
        signal(SIGPIPE, SIG_IGN)
        let parent = DemoParent()
        do {
            let options = DemoPeer.Options(
                peer: peer, peers: peers, steps: steps, paceMilliseconds: pace, holdAtStep: holdAtStep,
                masterPort: port)
            let dataset = try DigitsFile.read(data)
            if let rounds = try roundsOptions.rounds() {
                try DiLoCoDemoPeer(options: options, rounds: rounds, dataset: dataset, parent: parent).run()
            } else {
                try DemoPeer(options: options, dataset: dataset, parent: parent).run()
            }
        } catch {
            parent.report(.failure(oneLine(error)))
            throw ExitCode(1)
        }
    }
}
