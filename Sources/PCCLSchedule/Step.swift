/// One thing that a rank does in a collective. A schedule is a plain list of them.
///
/// The list says what, not when: a step on one segment may run as soon as the segments it reads are there, so that all
/// steps of a schedule run side by side, segment by segment. Between two ranks a chunk travels at most once in each
/// phase, so (chunk, phase) is all that a frame needs to name.
package enum Step: Hashable, Sendable {
    /// Reduce phase: send this rank's own contribution, as the caller gave it.
    case sendInput(chunk: Int, to: Int)
    /// Reduce phase: fold contributions, strictly in this order, whatever order they arrive in. Sums (`partial`) come before
    /// contributions, so that a result is always ended by one of these.
    case fold(chunk: Int, operands: [Operand], into: FoldTarget)
    /// Gather phase: receive the result.
    case receiveResult(chunk: Int, from: Int)
    /// Gather phase: send the result, folded or received here, byte for byte.
    case sendResult(chunk: Int, to: Int)

    package enum Operand: Hashable, Sendable {
        /// This rank's own contribution.
        case own
        /// The contribution of another rank, as its caller gave it.
        case input(from: Int)
        /// The sum so far, in accumulators.
        case partial(from: Int)
    }

    package enum FoldTarget: Hashable, Sendable {
        /// The sum so far goes on to another rank.
        case partial(to: Int)
        /// The last contribution was folded in: this is the result.
        case result
    }
}
