import ArgumentParser
import DigitsTraining
import Glibc
import PCCL

/// `pccl demo`: a run that loses a peer and gains another, watched from outside and checked at the end.
struct DemoCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "demo",
        abstract: "Train on several peers, kill one, let a new one join, and check the result.",
        discussion: """
            Starts a master in this process and peers as processes of their own, all on this machine. They train a \
            small classifier of handwritten digits, each on its own samples, and average their gradients with \
            all-reduce. At a third of the steps one peer is killed with SIGKILL; the others go on. At half of the \
            steps a new one joins and takes over the weights. In the end all peers must hold the same bits.

            With --diloco each peer takes --sync-every steps by itself between two averages, of how far all have come. \
            A third and a half are then of the rounds, and peers must hold the same bits after each of them.

            The last line begins with "demo: ok", or with "demo: FAILED" and the reason; the exit status says the same.
            """)

    @Option(help: "Number of peers, 2 to 16.")
    var peers = 4

    @Option(help: "Number of training steps, at least \(DemoPlan.fewestSteps).")
    var steps = 400

    @Option(help: "Milliseconds that each peer rests after a step, so that one can watch.")
    var pace = 25

    @Option(help: "Seconds after which the demo gives up.")
    var timeout = 120

    @Option(help: "The file digits.csv, where it is not found by itself.")
    var data: String?

    @OptionGroup var roundsOptions: DemoRoundsOptions

    @Flag(name: .customLong("no-color"), help: "Plain lines instead of a live table.")
    var noColor = false

    func validate() throws {
        guard (2...16).contains(peers) else { throw ValidationError("--peers must be from 2 to 16") }
        guard (DemoPlan.fewestSteps...1_000_000).contains(steps) else {
            throw ValidationError(
                "--steps must be at least \(DemoPlan.fewestSteps): fewer do not reach the accuracy that is asked for")
        }
        guard (0...10_000).contains(pace) else { throw ValidationError("--pace must be from 0 to 10000") }
        guard (1...86_400).contains(timeout) else { throw ValidationError("--timeout must be from 1 to 86400") }
        if let reason = try roundsOptions.rounds()?.reasonAgainst(steps: steps) { throw ValidationError(reason) }
    }

    func run() throws {
        let screen = DemoScreen(plain: noColor)
        // Children get the environment as the user set it. In this process warnings about the peer that the demo kills
        // would run across the table.
        let environment = currentEnvironment()
        setenv("PCCL_LOG_LEVEL", "ERROR", 0)
        do {
            let result = try run(on: screen, environment: environment)
            screen.print(result)
        } catch {
            screen.print("demo: FAILED \(oneLine(error))")
            throw ExitCode(1)
        }
    }

    private func run(on screen: DemoScreen, environment: [String]) throws -> String {
        keepStandardStreamsOpen()
        DemoSignals.install(giveUpAfterSeconds: timeout + DemoPlan.secondsToClose)

        let dataPath = try DigitsFile.find(given: data)
        let (training, heldOut) = try DigitsFile.read(dataPath).split()
        let master = try Master(listen: SocketAddress(host: "127.0.0.1", port: 0))
        try master.run()
        let plan = DemoPlan(
            peers: peers, innerSteps: steps, rounds: try roundsOptions.rounds(), paceMilliseconds: pace,
            timeoutSeconds: timeout, dataPath: dataPath,
            masterPort: master.port, environment: environment, trainingImages: training.count,
            heldOutImages: heldOut.count)
        let director = DemoDirector(plan: plan, screen: screen)
        defer { director.endChildren() }
        let result = try director.direct()
        try master.interrupt()
        try master.awaitTermination()
        master.destroy()
        return result.line
    }
}

/// What the demo is going to do, decided before it begins.
struct DemoPlan {
    /// After these the accuracy has passed `lowestAccuracy`, with some room.
    static let fewestSteps = 80
    static let lowestAccuracy = 0.90

    /// The same where peers take most steps by themselves.
    static let fewestStepsInRounds = 200

    /// So many that the kill, the join and what comes after them are in different ones.
    static let fewestRounds = 8

    /// Beyond the time-out: closing the master and the children should take no time, but must not hang for ever.
    static let secondsToClose = 10

    let peers: Int
    let innerSteps: Int
    let rounds: DemoRounds?
    let paceMilliseconds: Int
    let timeoutSeconds: Int
    let dataPath: String
    let masterPort: UInt16
    let environment: [String]
    let trainingImages: Int
    let heldOutImages: Int

    /// What the peers do together, and report: steps, or rounds.
    var steps: Int { rounds.map { innerSteps / $0.syncEvery } ?? innerSteps }
    var unit: String { rounds == nil ? "step" : "round" }

    /// A run in rounds goes on until the newcomer has come; one in steps waits for it.
    func isEnd(_ step: Int) -> Bool { rounds == nil ? step == steps : step >= steps }

    /// A peer's group hands the count over to a newcomer, together with the weights. DiLoCo knows none.
    func lossesSeen(by peer: Int) -> Int { rounds != nil && peer == newcomer ? 0 : 1 }

    var killStep: Int { steps / 3 }
    var joinStep: Int { steps / 2 }

    /// A fast machine would be through before the newcomer has started: here the peers wait until it has joined.
    var holdStep: Int { steps * 3 / 4 }

    /// Neither the first nor the last, for no peer has a special place.
    var victim: Int { peers / 2 }
    var newcomer: Int { peers }
}

struct DemoFailure: Error, CustomStringConvertible {
    let description: String

    init(_ description: String) {
        self.description = description
    }
}

/// The last line of the output must stay one line.
func oneLine(_ error: any Error) -> String {
    String(String(describing: error).map { $0.isNewline ? " " : $0 })
}
