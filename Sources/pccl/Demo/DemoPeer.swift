import DigitsTraining
import Glibc
import PCCL

/// The training loop of one peer.
///
/// Every decision of the loop is made from values that all members of the group hold alike: answers of joint calls,
/// the world size that an all-reduce was made with, and the counters handed over with the weights. An attribute read
/// in passing would not do: two members may read it on different sides of a loss, take different branches, and wait
/// for each other in different calls.
///
///     connect ──▶ hand-over ──▶ ┌─▶ peers pending? ── yes ──▶ update topology ──▶ hand-over ─┐
///                               │         │ no                                               │
///                               │         ▼                                                  │
///                               ├── not complete yet, or held: pause                         │
///                               ├── train one step                                           │
///                               └────────────────────────────────────────────────────────────┘
///
/// A newcomer enters at its own hand-over, which is the one that the members do after the join point that admitted it.
final class DemoPeer {
    struct Options {
        let peer: Int
        let peers: Int
        /// Or rounds, in a run that has them.
        let steps: Int
        let paceMilliseconds: Int
        let holdAtStep: Int
        let masterPort: UInt16
    }

    private enum Tag {
        static let hiddenLayer: UInt64 = 1
        static let outputLayer: UInt64 = 2
        static let state: UInt64 = 3
        static let presence: UInt64 = 4
    }

    /// A pass over the held-out images costs more than a step: not every step.
    private static let stepsPerEvaluation = 10

    /// Between two looks for newcomers, while there is nothing to train.
    private static let idleMilliseconds = 5

    private let options: Options
    private let parent: DemoParent
    private let communicator: Communicator
    private let training: DigitsDataset
    private let heldOut: DigitsDataset
    private let plan = TrainingPlan()
    private let samples: SampleStream

    private var model = Perceptron(seed: TrainingPlan.seed)
    private var progress = PeerReport.Progress()
    private var holdsState = false

    // Lent to the communicator while an all-reduce runs, so they keep their place as long as this object lives.
    private let gradient = UnsafeMutableBufferPointer<Float>.allocate(capacity: Perceptron.weightCount)
    private let state = UnsafeMutableBufferPointer<Int32>.allocate(capacity: StateWords.count)
    private let presence = UnsafeMutableBufferPointer<Int32>.allocate(capacity: 1)

    init(options: Options, dataset: DigitsDataset, parent: DemoParent) throws {
        self.options = options
        self.parent = parent
        samples = SampleStream(peer: options.peer)
        (training, heldOut) = dataset.split()
        communicator = try Communicator(
            Communicator.Configuration(master: SocketAddress(host: "127.0.0.1", port: options.masterPort)))
        gradient.initialize(repeating: 0)
        state.initialize(repeating: 0)
        presence.initialize(repeating: 0)
    }

    deinit {
        gradient.deallocate()
        state.deallocate()
        presence.deallocate()
    }

    func run() throws {
        try communicator.connect()
        report(.connected)
        try handOver()
        while progress.step < options.steps {
            if try arePeersPending() {
                try updateTopology()
                try handOver()
            } else if progress.step == 0 && progress.worldSize < options.peers {
                sleep(milliseconds: Self.idleMilliseconds)
            } else if progress.step == options.holdAtStep && progress.joins == 0 {
                try showPresence()
                report(.waiting)
                sleep(milliseconds: Self.idleMilliseconds)
            } else {
                try trainOneStep()
                sleep(milliseconds: options.paceMilliseconds)
            }
        }
        progress.worldSize = try communicator.attributes().worldSize
        report(.finished)
        // All stay until the demo has heard from all, so that it can ask every one of them for the world size.
        parent.awaitLeave()
        communicator.destroy()
    }

    private func report(_ moment: PeerReport.Moment) {
        progress.weights = model.fingerprint.value
        parent.report(.progress(moment, progress))
    }

    // MARK: - Joint calls

    /// Makes the call again for as long as it fails for a lost peer.
    private func untilComplete<Result>(_ call: () throws(PCCLError) -> Result) throws(PCCLError) -> Result {
        while true {
            do {
                return try call()
            } catch {
                guard error.code == .rankConnectionLost else { throw error }
                progress.retries += 1
            }
        }
    }

    private func arePeersPending() throws(PCCLError) -> Bool {
        try untilComplete { () throws(PCCLError) in try communicator.arePeersPending() }
    }

    private func updateTopology() throws(PCCLError) {
        try untilComplete { () throws(PCCLError) in try communicator.updateTopology() }
    }

    /// The maximum over all members, in place; `nil` if this peer is alone.
    private func maximum(
        of words: UnsafeMutableBufferPointer<Int32>, tag: UInt64
    ) throws(PCCLError) -> ReduceInfo? {
        do {
            let info = try untilComplete { () throws(PCCLError) in
                try communicator.allReduce(words, .maximum, tag: tag)
            }
            count(info)
            return info
        } catch {
            guard error.code == .tooFewPeers else { throw error }
            return nil
        }
    }

    private func count(_ info: ReduceInfo) {
        progress.sentBytes += info.sentBytes
        progress.receivedBytes += info.receivedBytes
    }

    /// Takes note of the world size that a joint call was made with.
    private func noteWorldSize(_ worldSize: Int) {
        if worldSize < progress.worldSize { progress.losses += progress.worldSize - worldSize }
        progress.worldSize = worldSize
    }

    // MARK: - Hand-over

    /// Gives newcomers the state: the maximum over its bit patterns. All who hold the state hold the same bits, and who
    /// does not contributes the smallest number there is, so the maximum is the state, bit by bit, whoever dies
    /// meanwhile, as long as one holder lives. If none does, all begin at the beginning.
    private func handOver() throws {
        let held = holdsState ? StateWords.encode(progress, model) : nil
        if let held {
            _ = state.update(fromContentsOf: held)
        } else {
            state.update(repeating: .min)
        }
        guard let info = try maximum(of: state, tag: Tag.state) else {
            holdsState = true
            noteWorldSize(1)
            return
        }
        if StateWords.isEmpty(state) {
            holdsState = true
            progress.worldSize = info.worldSize
            return
        }
        if let held, !state.elementsEqual(held) {
            throw DemoFailure("the hand-over at step \(progress.step) changed the state of a peer that held it")
        }
        model = StateWords.decode(state, into: &progress)
        holdsState = true
        if progress.step > 0 { progress.joins += max(0, info.worldSize - progress.worldSize) }
        noteWorldSize(info.worldSize)
        if held == nil { progress.accuracy = model.accuracy(on: heldOut) }
        report(.state)
    }

    /// While the group waits, no step would tell it of a loss.
    private func showPresence() throws {
        noteWorldSize(try maximum(of: presence, tag: Tag.presence)?.worldSize ?? 1)
    }

    // MARK: - Training

    private func trainOneStep() throws {
        let drawn = samples.samples(
            step: progress.step, count: plan.samplesPerStep, population: training.count)
        progress.loss = model.gradient(on: training, samples: drawn, into: gradient)
        let start = monotonicNanoseconds()
        try averageGradient()
        progress.allReduceNanoseconds = monotonicNanoseconds() - start
        model.descend(along: gradient, rate: plan.learningRate)
        progress.step += 1
        if progress.step % Self.stepsPerEvaluation == 0 || progress.step == options.steps {
            progress.accuracy = model.accuracy(on: heldOut)
        }
        report(.step)
    }

    /// Averages both layers at once, one tag each. After a loss the layers that failed are averaged again, among those
    /// who are left; the outcome of each tag is the same on all of them, so all try the same ones again. A peer that is
    /// alone keeps its own gradient.
    private func averageGradient() throws {
        var unfinished = [
            (tag: Tag.hiddenLayer, part: UnsafeMutableBufferPointer(rebasing: gradient[Perceptron.hiddenLayer])),
            (tag: Tag.outputLayer, part: UnsafeMutableBufferPointer(rebasing: gradient[Perceptron.outputLayer])),
        ]
        var smallestWorldSize = progress.worldSize
        while !unfinished.isEmpty {
            var launched: [(index: Int, handle: OperationHandle)] = []
            var lost: [Int] = []
            var fatal: PCCLError?
            func judge(_ error: PCCLError, _ index: Int) {
                switch error.code {
                case .rankConnectionLost: lost.append(index)
                case .tooFewPeers: smallestWorldSize = 1
                default: fatal = error
                }
            }
            for (index, layer) in unfinished.enumerated() {
                do {
                    launched.append(
                        (index, try communicator.allReduceAsync(layer.part, .average, tag: layer.tag)))
                } catch {
                    judge(error, index)
                }
            }
            // Every handle is awaited, whatever became of the others: the communicator writes to the buffers until then.
            for (index, handle) in launched {
                do {
                    let info = try handle.wait()
                    count(info)
                    smallestWorldSize = min(smallestWorldSize, info.worldSize)
                } catch {
                    judge(error, index)
                }
            }
            if let fatal { throw fatal }
            progress.retries += lost.count
            unfinished = lost.sorted().map { unfinished[$0] }
        }
        noteWorldSize(smallestWorldSize)
    }
}

/// The state of the training as 32-bit words: counters, then the bit patterns of the weights.
private enum StateWords {
    static let counters = 4
    static let count = counters + Perceptron.weightCount

    static func encode(_ progress: PeerReport.Progress, _ model: Perceptron) -> [Int32] {
        let counters = [progress.step, progress.losses, progress.joins, progress.worldSize]
        return counters.map { Int32($0) } + model.weights.map { Int32(bitPattern: $0.bitPattern) }
    }

    /// Nobody held a state.
    static func isEmpty(_ words: UnsafeMutableBufferPointer<Int32>) -> Bool {
        words[0] == .min
    }

    static func decode(
        _ words: UnsafeMutableBufferPointer<Int32>, into progress: inout PeerReport.Progress
    ) -> Perceptron {
        progress.step = Int(words[0])
        progress.losses = Int(words[1])
        progress.joins = Int(words[2])
        progress.worldSize = Int(words[3])
        return Perceptron(weights: words[counters...].map { Float(bitPattern: UInt32(bitPattern: $0)) })
    }
}
