/// The numbers of the demonstration's training, alike on all peers.
package struct TrainingPlan: Sendable {
    /// Decides the initial weights.
    package static let seed: UInt64 = 1998

    /// Drawn by each peer for each step: four peers make a batch of 128, and all 1,438 images pass every eleven steps.
    package var samplesPerStep = 32

    /// Large, for there is no momentum. 0.92 of the held-out images are right after about a hundred steps.
    package var learningRate: Float = 0.3

    package init() {}
}
