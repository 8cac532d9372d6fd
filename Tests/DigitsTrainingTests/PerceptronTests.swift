import DigitsTraining
import Testing

@Suite("the perceptron")
struct PerceptronTests {
    private func gradient(_ model: Perceptron, _ dataset: DigitsDataset, _ samples: [Int]) -> ([Float], Double) {
        var values = [Float](repeating: .nan, count: Perceptron.weightCount)
        let loss = values.withUnsafeMutableBufferPointer { model.gradient(on: dataset, samples: samples, into: $0) }
        return (values, loss)
    }

    @Test("the layers cover all weights, once")
    func layout() {
        #expect(Perceptron.hiddenLayer == 0..<2080)
        #expect(Perceptron.outputLayer == 2080..<2410)
        #expect(Perceptron(seed: 1).weights.count == 2410)
    }

    @Test("the seed decides the initial weights")
    func seeds() {
        #expect(Perceptron(seed: 1).fingerprint == Perceptron(seed: 1).fingerprint)
        #expect(Perceptron(seed: 1).fingerprint != Perceptron(seed: 2).fingerprint)
    }

    @Test("the gradient agrees with finite differences of the loss")
    func finiteDifferences() throws {
        let dataset = try shippedDigits()
        let samples = [0, 7, 19, 101, 555]
        let model = Perceptron(seed: 3)
        let (exact, _) = gradient(model, dataset, samples)
        // Float holds the loss to about 1e-6, the middle difference is off by about step squared: 1e-2 balances the two.
        let step: Float = 1e-2
        var largest: Float = 0
        for index in stride(from: 0, to: Perceptron.weightCount, by: 7) {
            func loss(_ change: Float) -> Double {
                var weights = model.weights
                weights[index] += change
                return gradient(Perceptron(weights: weights), dataset, samples).1
            }
            let slope = Float((loss(step) - loss(-step)) / Double(2 * step))
            #expect(abs(slope - exact[index]) < 5e-4, "weight \(index): slope \(slope), gradient \(exact[index])")
            largest = max(largest, abs(exact[index]))
        }
        #expect(largest > 0.05, "gradients this small would prove nothing")
    }

    @Test("the mean of the shards' gradients is the gradient of the whole batch")
    func shards() throws {
        let dataset = try shippedDigits()
        let model = Perceptron(seed: 5)
        let (first, firstLoss) = gradient(model, dataset, [1, 2, 3, 4])
        let (second, secondLoss) = gradient(model, dataset, [5, 6, 7, 8])
        let (whole, loss) = gradient(model, dataset, [1, 2, 3, 4, 5, 6, 7, 8])
        #expect(abs((firstLoss + secondLoss) / 2 - loss) < 1e-6)
        for index in whole.indices {
            #expect(abs((first[index] + second[index]) / 2 - whole[index]) < 1e-6)
        }
    }

    @Test("untrained it guesses; trained alone it reads nine digits of ten")
    func training() throws {
        let (training, heldOut) = try shippedDigits().split()
        var model = Perceptron(seed: TrainingPlan.seed)
        #expect(model.accuracy(on: heldOut) < 0.4)
        let plan = TrainingPlan()
        let stream = SampleStream(peer: 0)
        var values = [Float](repeating: 0, count: Perceptron.weightCount)
        values.withUnsafeMutableBufferPointer { values in
            for step in 0..<400 {
                let samples = stream.samples(step: step, count: plan.samplesPerStep, population: training.count)
                _ = model.gradient(on: training, samples: samples, into: values)
                model.descend(along: values, rate: plan.learningRate)
            }
        }
        #expect(model.accuracy(on: heldOut) >= 0.92)
    }

    @Test("weights in memory of the caller's are trained to the same bits")
    func lentMemory() throws {
        let dataset = try shippedDigits()
        var model = Perceptron(seed: 7)
        var lent = model.weights
        var values = [Float](repeating: 0, count: Perceptron.weightCount)
        values.withUnsafeMutableBufferPointer { values in
            lent.withUnsafeMutableBufferPointer { lent in
                for step in 0..<3 {
                    let samples = [step, step + 40, step + 200]
                    let loss = model.gradient(on: dataset, samples: samples, into: values)
                    model.descend(along: values, rate: 0.3)
                    #expect(
                        Perceptron.gradient(of: UnsafeBufferPointer(lent), on: dataset, samples: samples, into: values)
                            == loss)
                    Perceptron.descend(lent, along: values, rate: 0.3)
                }
            }
        }
        #expect(Fingerprint(lent) == model.fingerprint)
    }
}

@Suite("sampling")
struct SampleStreamTests {
    @Test("peer and step alone decide the samples")
    func repeatable() {
        let drawn = SampleStream(peer: 2).samples(step: 9, count: 32, population: 1438)
        #expect(drawn == SampleStream(peer: 2).samples(step: 9, count: 32, population: 1438))
        #expect(drawn != SampleStream(peer: 3).samples(step: 9, count: 32, population: 1438))
        #expect(drawn != SampleStream(peer: 2).samples(step: 10, count: 32, population: 1438))
    }

    @Test("the samples spread over the whole population and stay inside it")
    func spread() {
        let stream = SampleStream(peer: 0)
        var seen = Set<Int>()
        for step in 0..<400 {
            for sample in stream.samples(step: step, count: 32, population: 100) {
                #expect((0..<100).contains(sample))
                seen.insert(sample)
            }
        }
        #expect(seen.count == 100)
    }
}

@Suite("fingerprints")
struct FingerprintTests {
    @Test("the published FNV-1a vectors")
    func vectors() {
        func fingerprint(_ text: String) -> String {
            var result = Fingerprint()
            for byte in text.utf8 { result.add(byte) }
            return result.hexadecimal
        }
        #expect(fingerprint("") == "cbf29ce484222325")
        #expect(fingerprint("a") == "af63dc4c8601ec8c")
        #expect(fingerprint("foobar") == "85944171f73967e8")
    }

    @Test("bits count, not values")
    func bits() {
        #expect(Fingerprint([0.0]) != Fingerprint([-0.0]))
        #expect(Fingerprint([1, 2]) != Fingerprint([2, 1]))
    }
}
