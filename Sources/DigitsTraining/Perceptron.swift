#if canImport(Glibc)
    import Glibc
#elseif canImport(Darwin)
    import Darwin
#endif

/// A classifier with one hidden layer: 64 pixels, 32 tanh units, softmax over 10 digits, cross-entropy loss.
///
/// All weights lie in one flat array, hidden layer first; in each layer a row of weights for every unit, then the
/// biases. Sums run in a fixed order, so the same weights and samples give the same bits.
package struct Perceptron: Sendable {
    package static let inputs = DigitsDataset.pixelsPerImage
    package static let hiddenUnits = 32
    package static let outputs = DigitsDataset.classes

    /// Where each layer's weights and biases lie in the flat array, and in a gradient.
    package static let hiddenLayer = 0..<(hiddenUnits * (inputs + 1))
    package static let outputLayer = hiddenLayer.upperBound..<(hiddenLayer.upperBound + outputs * (hiddenUnits + 1))
    package static let weightCount = outputLayer.upperBound

    package private(set) var weights: [Float]

    package init(weights: [Float]) {
        precondition(weights.count == Self.weightCount, "a perceptron has \(Self.weightCount) weights")
        self.weights = weights
    }

    /// Glorot and Bengio's uniform initialisation (AISTATS 2010), biases zero.
    package init(seed: UInt64) {
        var generator = SplitMix(state: seed)
        var weights = [Float](repeating: 0, count: Self.weightCount)
        let hiddenLimit = (Float(6) / Float(Self.inputs + Self.hiddenUnits)).squareRoot()
        for index in 0..<(Self.hiddenUnits * Self.inputs) {
            weights[Self.hiddenLayer.lowerBound + index] = generator.symmetric(hiddenLimit)
        }
        let outputLimit = (Float(6) / Float(Self.hiddenUnits + Self.outputs)).squareRoot()
        for index in 0..<(Self.outputs * Self.hiddenUnits) {
            weights[Self.outputLayer.lowerBound + index] = generator.symmetric(outputLimit)
        }
        self.weights = weights
    }

    package var fingerprint: Fingerprint { Fingerprint(weights) }

    /// Writes the mean gradient over `samples` (indices into `dataset`), in the order of `weights`, and returns the
    /// mean loss.
    package func gradient(
        on dataset: DigitsDataset, samples: [Int], into gradient: UnsafeMutableBufferPointer<Float>
    ) -> Double {
        weights.withUnsafeBufferPointer { weights in
            Self.gradient(of: weights, on: dataset, samples: samples, into: gradient)
        }
    }

    /// The same of weights that lie in memory of the caller's.
    package static func gradient(
        of weights: UnsafeBufferPointer<Float>, on dataset: DigitsDataset, samples: [Int],
        into gradient: UnsafeMutableBufferPointer<Float>
    ) -> Double {
        precondition(weights.count == weightCount, "a perceptron has \(weightCount) weights")
        precondition(gradient.count == weightCount, "the gradient has as many elements as there are weights")
        precondition(!samples.isEmpty, "a mean needs samples")
        gradient.update(repeating: 0)
        let scale = 1 / Float(samples.count)
        var loss = 0.0
        withScratch(weights, over: dataset) { weights, pixels, scratch in
            for sample in samples {
                let label = Int(dataset.labels[sample])
                let image = pixels + sample * inputs
                scratch.forward(weights, image)
                loss -= Double(logf(max(scratch.probabilities[label], Float.leastNormalMagnitude)))
                scratch.backward(weights, image, label: label, scale: scale, into: gradient.baseAddress!)
            }
        }
        return loss / Double(samples.count)
    }

    package mutating func descend(along gradient: UnsafeMutableBufferPointer<Float>, rate: Float) {
        weights.withUnsafeMutableBufferPointer { Self.descend($0, along: gradient, rate: rate) }
    }

    package static func descend(
        _ weights: UnsafeMutableBufferPointer<Float>, along gradient: UnsafeMutableBufferPointer<Float>, rate: Float
    ) {
        precondition(gradient.count == weights.count, "the gradient has as many elements as there are weights")
        for index in weights.indices { weights[index] -= rate * gradient[index] }
    }

    /// The share of images whose most probable digit is the right one.
    package func accuracy(on dataset: DigitsDataset) -> Double {
        var right = 0
        weights.withUnsafeBufferPointer { weights in
            Self.withScratch(weights, over: dataset) { weights, pixels, scratch in
                for sample in 0..<dataset.count {
                    scratch.forward(weights, pixels + sample * Self.inputs)
                    if scratch.mostProbable == Int(dataset.labels[sample]) { right += 1 }
                }
            }
        }
        return Double(right) / Double(dataset.count)
    }

    /// Lends the weights, the pixels and the activations as plain memory, so that the loops are fast even in a debug
    /// build, where the demo would crawl otherwise.
    private static func withScratch(
        _ weights: UnsafeBufferPointer<Float>, over dataset: DigitsDataset,
        _ body: (UnsafePointer<Float>, UnsafePointer<Float>, Scratch) -> Void
    ) {
        dataset.pixels.withUnsafeBufferPointer { pixels in
            withUnsafeTemporaryAllocation(of: Float.self, capacity: hiddenUnits + 2 * outputs) { memory in
                memory.initialize(repeating: 0)
                guard let weights = weights.baseAddress, let pixels = pixels.baseAddress else { return }
                body(weights, pixels, Scratch(memory: memory.baseAddress!))
            }
        }
    }
}

/// The activations of one image, in memory lent by `withScratch`.
private struct Scratch {
    let hidden: UnsafeMutablePointer<Float>
    let probabilities: UnsafeMutablePointer<Float>
    let errors: UnsafeMutablePointer<Float>

    init(memory: UnsafeMutablePointer<Float>) {
        hidden = memory
        probabilities = memory + Perceptron.hiddenUnits
        errors = probabilities + Perceptron.outputs
    }

    private static let hiddenBiases = Perceptron.hiddenUnits * Perceptron.inputs
    private static let outputWeights = Perceptron.outputLayer.lowerBound
    private static let outputBiases = outputWeights + Perceptron.outputs * Perceptron.hiddenUnits

    var mostProbable: Int {
        var best = 0
        for digit in 1..<Perceptron.outputs where probabilities[digit] > probabilities[best] { best = digit }
        return best
    }

    func forward(_ weights: UnsafePointer<Float>, _ image: UnsafePointer<Float>) {
        for unit in 0..<Perceptron.hiddenUnits {
            let row = weights + unit * Perceptron.inputs
            hidden[unit] = tanhf(weights[Self.hiddenBiases + unit] + dot(row, image, Perceptron.inputs))
        }
        var highest = -Float.infinity
        for digit in 0..<Perceptron.outputs {
            let row = weights + Self.outputWeights + digit * Perceptron.hiddenUnits
            probabilities[digit] = weights[Self.outputBiases + digit] + dot(row, hidden, Perceptron.hiddenUnits)
            highest = max(highest, probabilities[digit])
        }
        // The highest score is taken off first: exp of what is left cannot overflow.
        var total: Float = 0
        for digit in 0..<Perceptron.outputs {
            probabilities[digit] = expf(probabilities[digit] - highest)
            total += probabilities[digit]
        }
        for digit in 0..<Perceptron.outputs { probabilities[digit] /= total }
    }

    /// Needs `forward` of the same image before it.
    func backward(
        _ weights: UnsafePointer<Float>, _ image: UnsafePointer<Float>, label: Int, scale: Float,
        into gradient: UnsafeMutablePointer<Float>
    ) {
        for digit in 0..<Perceptron.outputs {
            errors[digit] = (probabilities[digit] - (digit == label ? 1 : 0)) * scale
            addScaled(
                errors[digit], hidden, to: gradient + Self.outputWeights + digit * Perceptron.hiddenUnits,
                Perceptron.hiddenUnits)
            gradient[Self.outputBiases + digit] += errors[digit]
        }
        for unit in 0..<Perceptron.hiddenUnits {
            var error: Float = 0
            for digit in 0..<Perceptron.outputs {
                error += errors[digit] * weights[Self.outputWeights + digit * Perceptron.hiddenUnits + unit]
            }
            error *= 1 - hidden[unit] * hidden[unit]
            addScaled(error, image, to: gradient + unit * Perceptron.inputs, Perceptron.inputs)
            gradient[Self.hiddenBiases + unit] += error
        }
    }
}

private func dot(_ left: UnsafePointer<Float>, _ right: UnsafePointer<Float>, _ count: Int) -> Float {
    var sum: Float = 0
    var index = 0
    while index < count {
        sum += left[index] * right[index]
        index += 1
    }
    return sum
}

private func addScaled(
    _ factor: Float, _ source: UnsafePointer<Float>, to target: UnsafeMutablePointer<Float>, _ count: Int
) {
    var index = 0
    while index < count {
        target[index] += factor * source[index]
        index += 1
    }
}
