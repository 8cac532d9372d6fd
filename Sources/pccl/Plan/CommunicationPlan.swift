import PCCLBase
import PCCLMembership
import PCCLWire

/// How peers exchange what they have learnt, from the mildest change of training to the boldest.
enum PlanMode: CaseIterable {
    /// Gradients are averaged in every step, and waited for.
    case everyStep
    /// DiLoCo (arXiv 2311.08105): deltas of all parameters once a round, waited for.
    case synchronous
    /// Streaming DiLoCo (arXiv 2501.18512): one fragment after the other, each while some more steps are made.
    case streaming
    /// Deltas of all parameters once a round, while the next round is made: a result is a whole round old.
    case delayed

    var name: String {
        switch self {
        case .everyStep: "every-step"
        case .synchronous: "synchronous"
        case .streaming: "streaming"
        case .delayed: "delayed"
        }
    }
}

/// What a training run over slow lines waits for, by arithmetic alone: nothing is measured, sent or read here.
///
/// A call takes what the library's cost model says of the direct algorithm. A round is `syncEvery` inner steps, whatever
/// the mode, so that modes can be compared. docs/diloco.md says what the model leaves out.
struct CommunicationPlan: Equatable {
    var parameters: Int
    var peers: Int
    /// Of one peer's line, each way.
    var bitsPerSecond: Double
    var roundTripSeconds: Double
    /// Of one inner step, communication aside.
    var stepSeconds: Double
    /// Inner steps in a round.
    var syncEvery: Int
    /// In streaming: into how many parts the parameters are divided.
    var fragments: Int
    /// In streaming: how many inner steps a fragment may be on its way before it is waited for.
    var overlapSteps: Int
    var assumptions = PlanAssumptions()

    struct Forecast: Equatable {
        var mode: PlanMode
        var codec: Codec
        /// Of a parameter, headers of the codec included.
        var bitsPerValue: Double
        /// By each peer, in a round.
        var bytesSent: Double
        /// Of one call, from the first byte until all know that all have the result.
        var callSeconds: Double
        /// In a round: for calls, and for the outer step.
        var waitedSeconds: Double
        /// The share of the time in which inner steps are made, from 0 to 1.
        var utilisation: Double
    }

    func forecast(_ mode: PlanMode, _ codec: Codec) -> Forecast {
        let rhythm = rhythm(of: mode)
        let call = call(elements: rhythm.elements, codec)
        let late = max(
            0, call.seconds - rhythm.allowedSteps * stepSeconds,
            // Calls that may overlap share the line, which must be through with one when the next begins.
            call.lineSeconds - rhythm.stepsBetweenCalls * stepSeconds)
        let outer = mode == .everyStep ? 0 : outerStepSeconds
        let waited = Double(rhythm.calls) * late + outer
        let computed = Double(syncEvery) * stepSeconds
        return Forecast(
            mode: mode, codec: codec, bitsPerValue: 8 * call.bytes / Double(rhythm.elements),
            bytesSent: Double(rhythm.calls) * call.bytes * busFactor, callSeconds: call.seconds,
            waitedSeconds: waited, utilisation: computed / (computed + waited))
    }

    /// Of the outer optimiser, in a round.
    var outerStepSeconds: Double {
        Double(parameters) * assumptions.outerBytesPerParameter / assumptions.memoryBytesPerSecond
    }

    // MARK: - What would be needed

    /// The slowest line with which that share of the time is computed, rounded up to three digits, so that it still does
    /// as it is written; nil where no line would do.
    func leastBitsPerSecond(reaching goal: Double, _ mode: PlanMode, _ codec: Codec) -> Double? {
        func reaches(_ bits: Double) -> Bool {
            var plan = self
            plan.bitsPerSecond = bits
            return plan.forecast(mode, codec).utilisation >= goal
        }
        var (low, high) = (PlanAssumptions.lineLimits.lowerBound, PlanAssumptions.lineLimits.upperBound)
        guard reaches(high) else { return nil }
        guard !reaches(low) else { return low }
        // Half of the way on a scale of ratios, until a thousandth is left.
        while high > low * 1.001 {
            let middle = (low * high).squareRoot()
            if reaches(middle) { high = middle } else { low = middle }
        }
        var digit = 1.0
        while high / digit >= 1000 { digit *= 10 }
        return (high / digit).rounded(.up) * digit
    }

    /// The shortest round, in inner steps, with which that share of the time is computed; nil where a million would not do.
    func leastSyncEvery(reaching goal: Double, _ mode: PlanMode, _ codec: Codec) -> Int? {
        func reaches(_ steps: Int) -> Bool {
            var plan = self
            plan.syncEvery = steps
            return plan.forecast(mode, codec).utilisation >= goal
        }
        // Fewer steps than fragments, or than a fragment may take, are no streaming.
        var low = mode == .streaming ? max(fragments, overlapSteps, 1) : 1
        var high = PlanAssumptions.longestRound
        guard low < high, reaches(high) else { return nil }
        guard !reaches(low) else { return low }
        while high > low + 1 {
            let middle = low + (high - low) / 2
            if reaches(middle) { high = middle } else { low = middle }
        }
        return high
    }

    // MARK: - One call

    struct Call: Equatable {
        /// Of all elements as they travel.
        var bytes: Double
        var seconds: Double
        /// Thereof the line is busy; the rest are delays.
        var lineSeconds: Double
    }

    /// An all-reduce of so many float32.
    func call(elements: Int, _ codec: Codec) -> Call {
        let bytes = codec.layout(of: .float32).byteCount(elements)
        let line = bitsPerSecond / 8 * assumptions.lineShare
        let processor =
            PlanAssumptions.busBytesPerSecond(codec.format) * Double(bytes)
            / Double(elements * DataType.float32.byteCount)
        // What goes through a peer is `busFactor` times the buffer.
        let rate = max(1, min(line, processor) / busFactor)
        let delay = UInt64(roundTripSeconds / 2 * 1e9)
        let figures = SharedFigures(
            latencyNanoseconds: delay, hopNanoseconds: delay, oneShotBytesPerSecond: 0,
            directBytesPerSecond: UInt64(rate), ringBytesPerSecond: 0)
        let result = CostModel.nanoseconds(
            .direct, byteCount: UInt64(bytes), partialByteCount: UInt64(bytes), worldSize: peers, figures: figures)
        // The cost model leaves out what all algorithms have: one delay more, until everybody has heard that all have it.
        return Call(
            bytes: Double(bytes), seconds: Double(result) / 1e9 + roundTripSeconds / 2,
            lineSeconds: Double(bytes) / rate)
    }

    /// How often a buffer's bytes pass each peer, each way, in the direct algorithm.
    private var busFactor: Double { 2 * Double(peers - 1) / Double(peers) }

    /// When a mode calls, and how long it does not have to wait.
    private struct Rhythm {
        /// In a round.
        var calls: Int
        /// Of one call.
        var elements: Int
        var allowedSteps: Double
        var stepsBetweenCalls: Double
    }

    private func rhythm(of mode: PlanMode) -> Rhythm {
        let round = Double(syncEvery)
        return switch mode {
        case .everyStep: Rhythm(calls: syncEvery, elements: parameters, allowedSteps: 0, stepsBetweenCalls: 1)
        case .synchronous: Rhythm(calls: 1, elements: parameters, allowedSteps: 0, stepsBetweenCalls: round)
        case .streaming:
            // The largest fragment stands for all; they differ by one parameter at most.
            Rhythm(
                calls: fragments, elements: (parameters + fragments - 1) / fragments,
                allowedSteps: Double(overlapSteps), stepsBetweenCalls: round / Double(fragments))
        case .delayed: Rhythm(calls: 1, elements: parameters, allowedSteps: round, stepsBetweenCalls: round)
        }
    }
}
