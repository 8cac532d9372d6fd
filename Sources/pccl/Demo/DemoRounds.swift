import ArgumentParser
import PCCL

/// How the demo's peers train where they do so in rounds, alike on all of them.
struct DemoRounds: Equatable {
    enum Mode: String, CaseIterable, ExpressibleByArgument {
        case synchronous, delayed, streaming
    }

    /// The hidden layer and the output layer, one after the other.
    private static let fragments = 2

    let mode: Mode
    let codec: Codec
    let syncEvery: Int

    /// Where the last of a run's rounds is over, `end` takes in so many more.
    var roundsOnTheirWay: Int { mode == .delayed ? 1 : 0 }

    /// With a peer lost the others train on.
    func configuration(peers: Int) -> DiLoCo.Configuration {
        var configuration = DiLoCo.Configuration(dilocoMode, syncEvery: syncEvery)
        configuration.codec = codec
        configuration.hasErrorFeedback = codec != .none
        configuration.minimumPeers = peers - 1
        // The demo itself compares what the peers hold. A repair would hide what it looks for.
        configuration.checkEvery = 0
        // A round of these inner steps all but solves the problem, and its result comes a round late: momentum on top of it
        // would swing further from round to round.
        if mode == .delayed { configuration.optimizer = OuterOptimizer(.descent, learningRate: 0.7) }
        return configuration
    }

    private var dilocoMode: DiLoCo.Mode {
        switch mode {
        case .synchronous: .synchronous
        case .delayed: .delayed()
        // Half of the steps between two launches, so that nothing is on its way where a round is over: what the peers
        // report then is what they end with.
        case .streaming: .streaming(fragments: Self.fragments, overlap: syncEvery / (2 * Self.fragments))
        }
    }

    /// What a run of so many steps would need that these do not have; nil if it can be.
    func reasonAgainst(steps: Int) -> String? {
        if codec != .none && !codec.canCode(.float32) { return "--codec \(codec) cannot code float32 in fewer bytes" }
        if mode == .streaming && syncEvery < Self.fragments {
            return "--sync-every must be at least \(Self.fragments) where \(Self.fragments) fragments travel"
        }
        if steps < DemoPlan.fewestStepsInRounds {
            return "--steps must be at least \(DemoPlan.fewestStepsInRounds) with --diloco:"
                + " fewer do not reach the accuracy that is asked for"
        }
        if syncEvery < 1 || steps / syncEvery < DemoPlan.fewestRounds {
            return "--sync-every must be from 1 to \(steps / DemoPlan.fewestRounds) with \(steps) steps:"
                + " a peer is killed and another joins between two rounds"
        }
        return nil
    }
}

/// The options that say so, to the demo and from it to its peers.
struct DemoRoundsOptions: ParsableArguments {
    @Option(help: "Train with DiLoCo: synchronous, delayed or streaming.")
    var diloco: DemoRounds.Mode?

    @Option(help: "With --diloco: as what the averages travel, such as e3m0, int4 or min-max8.")
    var codec: String?

    @Option(name: .customLong("sync-every"), help: "With --diloco: inner steps of a round. (default: 10)")
    var syncEvery: Int?

    init() {}

    init(_ rounds: DemoRounds?) {
        diloco = rounds?.mode
        codec = rounds.map { "\($0.codec)" }
        syncEvery = rounds?.syncEvery
    }

    /// Nil where peers average in each step.
    func rounds() throws -> DemoRounds? {
        guard let diloco else {
            guard codec == nil, syncEvery == nil else {
                throw ValidationError("--codec and --sync-every are for --diloco")
            }
            return nil
        }
        guard let codec = Codec(codec ?? "none") else {
            let names = Codec.Format.allCases.map { "\(Codec($0))" }.joined(separator: ", ")
            throw ValidationError("--codec \(codec ?? ""): it knows \(names), with /32 to /256 and +stochastic")
        }
        return DemoRounds(mode: diloco, codec: codec, syncEvery: syncEvery ?? 10)
    }

    /// To be read by another process's.
    var arguments: [String] {
        [
            ("--diloco", diloco?.rawValue), ("--codec", codec), ("--sync-every", syncEvery.map { "\($0)" }),
        ].flatMap { name, value in value.map { [name, $0] } ?? [] }
    }
}
