import Glibc
import PCCLBase
import PCCLCompute

/// Outer parameters that are synchronised together, one tensor after the other, and what travels of them.
final class Fragment {
    /// What a contribution ends with: as many copies of its weight as the largest block of a codec has elements. The block
    /// that ends there has nothing else in it, so that the average of the weights is as exact as a codec can be, and of the
    /// same members as that of all else.
    private static let weightCopies = Codec.blockSizes.last ?? 1

    let tensors: [DiLoCo.Tensor]
    /// By tensor: its first element.
    let offsets: [Int]
    let count: Int
    let outer: UnsafeMutablePointer<Float>
    let momentum: UnsafeMutablePointer<Float>?
    private let contribution: UnsafeMutablePointer<Float>
    private let average: UnsafeMutablePointer<Float>
    /// The outer parameters at the launch, where it matters how far they have moved since.
    private let base: UnsafeMutablePointer<Float>?
    /// How far that is, when the result is there.
    private var moved = 0.0
    /// Inner steps since the last contribution, or since outer parameters were adopted.
    var steps = 0

    /// What is on its way.
    struct Flight {
        var handle: OperationHandle?
        /// The step at which its result is due.
        var due: Int
    }
    var flight: Flight?

    /// The outer parameters are what the tensors hold. Throws `.internalError` when there is no memory.
    init(_ tensors: [DiLoCo.Tensor], hasMomentum: Bool, hasBase: Bool) throws(PCCLError) {
        self.tensors = tensors
        var offsets: [Int] = []
        var count = 0
        for tensor in tensors {
            offsets.append(count)
            count += tensor.count
        }
        self.offsets = offsets
        self.count = count
        let whole = count + Fragment.weightCopies
        let arrays = [count, whole, whole, hasMomentum ? count : 0, hasBase ? count : 0].map { size in
            // Pages that nobody touches cost nothing.
            calloc(max(size, 1), MemoryLayout<Float>.stride)?.assumingMemoryBound(to: Float.self)
        }
        guard let outer = arrays[0], let contribution = arrays[1], let average = arrays[2], let momentum = arrays[3],
            let base = arrays[4]
        else {
            for array in arrays { free(array) }
            throw PCCLError(.internalError, "no memory for the outer state of \(count) parameters")
        }
        self.outer = outer
        self.contribution = contribution
        self.average = average
        self.momentum = hasMomentum ? momentum : nil
        self.base = hasBase ? base : nil
        if !hasMomentum { free(momentum) }
        if !hasBase { free(base) }
        takeOver()
    }

    deinit {
        free(outer)
        free(contribution)
        free(average)
        free(momentum)
        free(base)
    }

    /// Nobody takes in what is on its way, but it is written to this memory all the same: it is kept until that has ended,
    /// which the communicator's end sees to in any case.
    func abandon() {
        guard let handle = flight?.handle, !handle.isDone else { return }
        flight = nil
        let keeper = Unmanaged.passRetained(Keeper(fragment: self, handle: handle))
        var thread = pthread_t()
        // Without a thread it is kept for ever.
        if pthread_create(&thread, nil, keepUntilEnded, keeper.toOpaque()) == 0 { pthread_detach(thread) }
    }

    private func forEachTensor(_ body: (DiLoCo.Tensor, _ offset: Int) -> Void) {
        for (tensor, offset) in zip(tensors, offsets) { body(tensor, offset) }
    }

    /// outer ← local
    private func takeOver() {
        forEachTensor { tensor, offset in
            OuterArithmetic.load(tensor.local, into: outer + offset, count: tensor.count)
        }
    }

    /// local ← mixing × local + (1 - mixing) × outer
    func merge(mixing: Float) {
        forEachTensor { tensor, offset in
            OuterArithmetic.mix(outer + offset, into: tensor.local, mixing: mixing, count: tensor.count)
        }
    }

    /// Makes this peer's contribution: how far it has come, with the sign turned, as often as it weighs. False if that is
    /// no number, which would make everybody's no number: then it contributes nothing.
    func contribute(weight: Float) -> Bool {
        var weight = steps > 0 ? weight : 0
        forEachTensor { tensor, offset in
            OuterArithmetic.difference(
                of: outer + offset, and: tensor.local, times: weight, into: contribution + offset,
                count: tensor.count)
        }
        let isNumber = OuterArithmetic.squares(of: contribution, count: count).isFinite
        if !isNumber || weight == 0 {
            weight = 0
            contribution.update(repeating: 0, count: count)
        }
        (contribution + count).update(repeating: weight, count: Fragment.weightCopies)
        base?.update(from: outer, count: count)
        steps = 0
        return isNumber
    }

    func operand(tag: UInt64, _ configuration: DiLoCo.Configuration) -> ReduceOperand {
        ReduceOperand(
            send: UnsafeRawPointer(contribution), receive: UnsafeMutableRawPointer(average),
            count: count + Fragment.weightCopies, type: .float32, operation: .average, tag: tag,
            codec: configuration.codec,
            errorFeedback: configuration.hasErrorFeedback && configuration.codec.format != .none)
    }

    /// To be called when the result is there: the next contribution, which may be made before it is applied, has another
    /// base.
    func noteMove() {
        guard let base else { return }
        moved = OuterArithmetic.squares(of: outer, minus: base, count: count).squareRoot()
    }

    /// Of a peer that is alone.
    func averageAlone() { average.update(from: contribution, count: count + Fragment.weightCopies) }

    /// Does the outer step with the average, which is there; none if nobody has contributed anything.
    func step(_ optimizer: OuterOptimizer, stalenessPenalty: Float) {
        let weight = average[count + Fragment.weightCopies - 1]
        guard weight > 0, weight.isFinite else { return }
        if weight != 1 { OuterArithmetic.divide(average, by: weight, count: count) }
        if stalenessPenalty > 0 {
            let length = OuterArithmetic.squares(of: average, count: count).squareRoot()
            if length > 0, moved > 0 {
                let divisor = Float(1 + Double(stalenessPenalty) * moved / length)
                OuterArithmetic.divide(average, by: divisor, count: count)
            }
        }
        optimizer.step(outer, momentum, average, count: count)
    }

    /// The outer parameters of each tensor, and their momentum.
    func entries() -> [SharedState.Entry] {
        zip(tensors, offsets).flatMap { tensor, offset in
            let parameters = SharedState.Entry(
                "outer/\(tensor.name)", outer + offset, count: tensor.count, type: .float32)
            let momentum = momentum.map {
                SharedState.Entry("momentum/\(tensor.name)", $0 + offset, count: tensor.count, type: .float32)
            }
            return [parameters] + (momentum.map { [$0] } ?? [])
        }
    }

    /// Deals tensors out to fragments: as they say, or so that all are about equally large.
    static func deal(_ tensors: [DiLoCo.Tensor], into fragmentCount: Int) throws(PCCLError) -> [[DiLoCo.Tensor]] {
        var fragments: [[DiLoCo.Tensor]] = Array(repeating: [], count: fragmentCount)
        let total = tensors.reduce(0) { $0 + $1.count }
        var before = 0
        for (index, tensor) in tensors.enumerated() {
            let middle = before + tensor.count / 2
            var place = tensor.fragment ?? min(middle * fragmentCount / max(total, 1), fragmentCount - 1)
            if tensor.fragment == nil {
                // None stays empty: neither one that was passed over nor those that the tensors left are needed for.
                let used = fragments.lastIndex { !$0.isEmpty } ?? -1
                place = min(place, used + 1)
                place = max(place, fragmentCount - (tensors.count - index))
            }
            guard (0..<fragmentCount).contains(place) else {
                throw PCCLError(.invalidArgument, "\"\(tensor.name)\" is of fragment \(place) of \(fragmentCount)")
            }
            fragments[place].append(tensor)
            before += tensor.count
        }
        if let empty = fragments.firstIndex(where: \.isEmpty) {
            throw PCCLError(.invalidArgument, "fragment \(empty) of \(fragmentCount) has no tensor")
        }
        return fragments
    }
}

private final class Keeper {
    private let fragment: Fragment
    let handle: OperationHandle
    init(fragment: Fragment, handle: OperationHandle) {
        self.fragment = fragment
        self.handle = handle
    }
}

private func keepUntilEnded(_ keeper: UnsafeMutableRawPointer?) -> UnsafeMutableRawPointer? {
    // Signals belong to the host process' threads.
    var all = sigset_t()
    sigfillset(&all)
    pthread_sigmask(SIG_BLOCK, &all, nil)
    guard let keeper else { return nil }
    // An object may end after its last use, which would be before the wait.
    withExtendedLifetime(Unmanaged<Keeper>.fromOpaque(keeper).takeRetainedValue()) { _ = $0.handle.result() }
    return nil
}

extension DiLoCo.Tensor {
    fileprivate var local: OuterArithmetic.Local { OuterArithmetic.Local(memory, type) }
}
