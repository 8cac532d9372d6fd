import PCCLBase
import PCCLCompute

/// Outer parameters that are synchronised together, one tensor after the other, and what travels of them.
final class Fragment {
    /// What a contribution ends with: as many copies of its weight as the largest block of a codec has elements. The block
    /// that ends there has nothing else in it, so that the average of the weights is as exact as a codec can be, and of the
    /// same members as that of all else.
    private static let weightCopies = Codec.blockSizes.last ?? 1

    let tensors: [DiLoCo.Tensor]
    let count: Int
    private let parts: [OuterPart]
    /// Where all of these are.
    private let place: OuterPlace
    private let outerMemory: OuterMemory
    private let momentumMemory: OuterMemory?
    private let contribution: OuterMemory
    private let average: OuterMemory
    /// The outer parameters at the launch, where it matters how far they have moved since.
    private let base: OuterMemory?
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

    /// The outer parameters are what the tensors hold, and where the tensors are. Throws `.invalidArgument` if these are not all
    /// in one place; `.internalError` when there is no memory, or with the driver's own error.
    init(_ tensors: [DiLoCo.Tensor], hasMomentum: Bool, hasBase: Bool) throws(PCCLError) {
        var parts: [OuterPart] = []
        var count = 0
        for tensor in tensors {
            parts.append(
                OuterPart(
                    OuterArithmetic.Local(tensor.memory, tensor.type), offset: count, count: tensor.count))
            count += tensor.count
        }
        let location = try Fragment.location(of: tensors)
        let whole = count + Fragment.weightCopies
        let arrays: [OuterMemory?]
        do throws(DeviceError) {
            place =
                try location.map { (location) throws(DeviceError) in
                    .device(try DeviceOuterArithmetic(at: location, largestCount: count))
                } ?? .host
            arrays = try [count, whole, whole, hasMomentum ? count : 0, hasBase ? count : 0].map {
                [place] (size) throws(DeviceError) in try place.memory(size)
            }
            if let outer = arrays[0] { try place.load(parts, into: outer.floats) }
        } catch {
            throw PCCLError(.internalError, "the outer state of \(count) parameters: \(error)")
        }
        guard let outer = arrays[0], let contribution = arrays[1], let average = arrays[2],
            let momentum = arrays[3], let base = arrays[4]
        else { throw PCCLError(.internalError, "no memory for the outer state of \(count) parameters") }
        outerMemory = outer
        self.contribution = contribution
        self.average = average
        momentumMemory = hasMomentum ? momentum : nil
        self.base = hasBase ? base : nil
        self.tensors = tensors
        self.parts = parts
        self.count = count
    }

    /// Nil: on the host. Throws `.invalidArgument`.
    private static func location(of tensors: [DiLoCo.Tensor]) throws(PCCLError) -> DeviceLocation? {
        var first: (name: String, location: DeviceLocation?)?
        for tensor in tensors {
            let location: DeviceLocation?
            do { location = try DeviceLocation(of: tensor.memory) } catch {
                throw PCCLError(.internalError, "\"\(tensor.name)\": \(error)")
            }
            guard let known = first else {
                first = (tensor.name, location)
                continue
            }
            let isSame =
                switch (known.location, location) {
                case (nil, nil): true
                case (let one?, let other?): one.isSameContext(as: other)
                case (nil, _?), (_?, nil): false
                }
            guard isSame else {
                throw PCCLError(
                    .invalidArgument,
                    "\"\(known.name)\" is \(text(known.location)), and \"\(tensor.name)\", of the same fragment, "
                        + "\(text(location)): tensors of one fragment are all on the host, or all on one device in one context"
                )
            }
        }
        guard let location = first?.location else { return nil }
        for tensor in tensors where UInt(bitPattern: tensor.memory) % UInt(tensor.type.byteCount) != 0 {
            throw PCCLError(
                .invalidArgument,
                "\"\(tensor.name)\" is \(text(location)), at an address that is no multiple of \(tensor.type.byteCount)"
            )
        }
        return location
    }

    private static func text(_ location: DeviceLocation?) -> String {
        location.map { "on CUDA device \($0.device)" } ?? "on the host"
    }

    deinit {
        // Let go of without `end`, or after an error: the operation reads and writes them until it ends, which may be when
        // the communicator does. To wait for that here might be to wait for peers that wait for this one.
        guard let handle = flight?.handle else { return }
        let lent = (contribution, average)
        handle.whenDone { withExtendedLifetime(lent) {} }
    }

    /// Of no use to the host but as a number if it is on a device.
    private var outer: UnsafeMutablePointer<Float> { outerMemory.floats }

    var isOnDevice: Bool {
        switch place {
        case .host: false
        case .device: true
        }
    }

    /// Whether it is of what all peers hold alike.
    func holds(_ memory: UnsafeRawPointer) -> Bool {
        [outer, momentumMemory?.floats].contains { start in
            start.map { UnsafeRawPointer($0)..<UnsafeRawPointer($0 + count) ~= memory } ?? false
        }
    }

    /// local ← mixing × local + (1 - mixing) × outer
    func merge(mixing: Float) throws(DeviceError) { try place.mix(outer, into: parts, mixing: mixing) }

    /// Makes this peer's contribution: how far it has come, with the sign turned, as often as it weighs. False if that is
    /// no number, which would make everybody's no number: then it contributes nothing.
    func contribute(weight: Float) throws(DeviceError) -> Bool {
        var weight = steps > 0 ? weight : 0
        let floats = contribution.floats
        try place.difference(of: outer, and: parts, times: weight, into: floats)
        let isNumber = try place.areFinite(floats, count: count)
        if !isNumber || weight == 0 {
            weight = 0
            try place.fill(floats, with: 0, count: count)
        }
        try place.fill(floats + count, with: weight, count: Fragment.weightCopies)
        if let base { try place.copy(outer, into: base.floats, count: count) }
        steps = 0
        return isNumber
    }

    func operand(tag: UInt64, _ configuration: DiLoCo.Configuration) -> ReduceOperand {
        ReduceOperand(
            send: UnsafeRawPointer(contribution.floats), receive: UnsafeMutableRawPointer(average.floats),
            count: count + Fragment.weightCopies, type: .float32, operation: .average, tag: tag,
            codec: configuration.codec,
            errorFeedback: configuration.hasErrorFeedback && configuration.codec.format != .none)
    }

    /// To be called when the result is there: the next contribution, which may be made before it is applied, has another
    /// base.
    func noteMove() throws(DeviceError) {
        guard let base else { return }
        moved = try place.squares(of: outer, minus: base.floats, count: count).squareRoot()
    }

    /// Of a peer that is alone.
    func averageAlone() throws(DeviceError) {
        try place.copy(contribution.floats, into: average.floats, count: count + Fragment.weightCopies)
    }

    /// Does the outer step with the average, which is there; none if nobody has contributed anything.
    func step(_ optimizer: OuterOptimizer, stalenessPenalty: Float) throws(DeviceError) {
        let average = average.floats
        let weight = try place.value(at: average + (count + Fragment.weightCopies - 1))
        guard weight > 0, weight.isFinite else { return }
        if weight != 1 { try place.divide(average, by: weight, count: count) }
        if stalenessPenalty > 0 {
            let length = try place.squares(of: average, count: count).squareRoot()
            if length > 0, moved > 0 {
                let divisor = Float(1 + Double(stalenessPenalty) * moved / length)
                try place.divide(average, by: divisor, count: count)
            }
        }
        try optimizer.step(outer, momentumMemory?.floats, average, count: count, at: place)
    }

    /// The outer parameters of each tensor, and their momentum.
    func entries() -> [SharedState.Entry] {
        zip(tensors, parts).flatMap { tensor, part in
            let parameters = SharedState.Entry(
                "outer/\(tensor.name)", outer + part.offset, count: part.count, type: .float32)
            let momentum = momentumMemory.map {
                SharedState.Entry(
                    "momentum/\(tensor.name)", $0.floats + part.offset, count: part.count, type: .float32)
            }
            return [parameters] + (momentum.map { [$0] } ?? [])
        }
    }

    /// A hash of the outer parameters.
    func parametersHash() throws(DeviceError) -> ContentHash {
        let bytes = UnsafeRawBufferPointer(start: outer, count: count * MemoryLayout<Float>.stride)
        let onDevice = isOnDevice ? try DeviceTensor(outer, byteCount: bytes.count) : nil
        let chunks = try onDevice?.chunkHashes() ?? ContentHash.ofChunks(of: [bytes])[0]
        return ContentHash(ofChunks: chunks, byteCount: bytes.count)
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
