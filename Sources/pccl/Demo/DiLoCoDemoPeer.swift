import DigitsTraining
import PCCL

/// The training loop of one peer that trains in rounds: many steps by itself, then one with all others.
///
/// Who comes and who goes is the business of `DiLoCo`. The loop knows no world size, makes no other joint call, and cannot be
/// held at a step: where the newcomer is late, all go on until it has come.
///
/// A report follows each round. `step` is then the number of the round, and weights and accuracy are those of the outer
/// parameters, which all peers hold alike, not of this peer's model, which may have gone on from there.
final class DiLoCoDemoPeer {
    private let options: DemoPeer.Options
    private let parent: DemoParent
    private let communicator: Communicator
    private let diloco: DiLoCo
    private let training: DigitsDataset
    private let heldOut: DigitsDataset
    private let plan = TrainingPlan()
    private let samples: SampleStream

    private var ledger: RoundLedger
    private var progress = PeerReport.Progress()
    private var innerSteps = 0

    // `diloco` reads and writes the weights where they lie, so they keep their place as long as this object lives.
    private let weights = UnsafeMutableBufferPointer<Float>.allocate(capacity: Perceptron.weightCount)
    private let gradient = UnsafeMutableBufferPointer<Float>.allocate(capacity: Perceptron.weightCount)

    init(options: DemoPeer.Options, rounds: DemoRounds, dataset: DigitsDataset, parent: DemoParent) throws {
        self.options = options
        self.parent = parent
        samples = SampleStream(peer: options.peer)
        (training, heldOut) = dataset.split()
        ledger = RoundLedger(
            peers: options.peers, lastRound: options.steps - rounds.roundsOnTheirWay,
            isNewcomer: options.peer >= options.peers)
        _ = weights.initialize(fromContentsOf: Perceptron(seed: TrainingPlan.seed).weights)
        gradient.initialize(repeating: 0)
        communicator = try Communicator(
            Communicator.Configuration(master: SocketAddress(host: "127.0.0.1", port: options.masterPort)))
        diloco = try DiLoCo(
            communicator,
            [
                DiLoCo.Tensor("hidden", UnsafeMutableBufferPointer(rebasing: weights[Perceptron.hiddenLayer])),
                DiLoCo.Tensor("output", UnsafeMutableBufferPointer(rebasing: weights[Perceptron.outputLayer])),
            ],
            rounds.configuration(peers: options.peers))
    }

    deinit {
        weights.deallocate()
        gradient.deallocate()
    }

    func run() throws {
        try diloco.begin()
        report(.connected)
        while !ledger.isOver {
            trainOneStep()
            let round = diloco.round
            note(try diloco.step())
            if diloco.round > round { reportRound() }
            sleep(milliseconds: options.paceMilliseconds)
        }
        note(try diloco.end())
        evaluate()
        report(.finished)
        // Nobody leaves while another one still waits for what is on its way.
        parent.awaitLeave()
        communicator.destroy()
    }

    /// This peer's own, with its own samples.
    private func trainOneStep() {
        let drawn = samples.samples(step: innerSteps, count: plan.samplesPerStep, population: training.count)
        progress.loss = Perceptron.gradient(
            of: UnsafeBufferPointer(weights), on: training, samples: drawn, into: gradient)
        Perceptron.descend(weights, along: gradient, rate: plan.learningRate)
        innerSteps += 1
    }

    private func note(_ outerSteps: [DiLoCo.RoundInfo]) {
        for info in outerSteps {
            ledger.note(worldSize: info.worldSize)
            progress.sentBytes += info.sentBytes
            progress.receivedBytes += info.receivedBytes
            progress.allReduceNanoseconds = UInt64(info.secondsWaited * 1e9)
        }
    }

    private func reportRound() {
        let isFirst = progress.step == 0
        ledger.end(round: Int(diloco.round))
        evaluate()
        // What a newcomer was given shows when it has made a round with the others: then it must hold what they do.
        report(isFirst && options.peer >= options.peers ? .state : .step)
    }

    private func evaluate() {
        let outer = Perceptron(weights: outerParameters)
        progress.step = Int(diloco.round)
        progress.weights = outer.fingerprint.value
        progress.accuracy = outer.accuracy(on: heldOut)
    }

    /// Hidden layer first, as in the model.
    private var outerParameters: [Float] {
        diloco.sharedState.entries.filter { $0.name.hasPrefix("outer/") }.flatMap { entry in
            UnsafeBufferPointer(start: entry.memory.assumingMemoryBound(to: Float.self), count: entry.count)
        }
    }

    private func report(_ moment: PeerReport.Moment) {
        progress.worldSize = ledger.worldSize
        progress.losses = ledger.losses
        progress.joins = ledger.joins
        parent.report(.progress(moment, progress))
    }
}
