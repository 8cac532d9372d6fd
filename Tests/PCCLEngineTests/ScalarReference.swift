import PCCLBase
import PCCLSchedule

/// What an all-reduce must give, bit for bit, one element at a time.
struct ScalarReference {
    var type: DataType
    var operation: ReduceOperation
    var algorithm: Algorithm
    var sites: [UInt16] = []
    /// It is slow: of long buffers only so many-th elements are made, the others left zero.
    var stride = 1

    /// `inputs`: the bytes of each rank, in rank order.
    func result(_ inputs: [[UInt8]]) -> [UInt8] {
        switch type {
        case .uint8: integers(inputs, UInt8.self)
        case .int8: integers(inputs, Int8.self)
        case .uint16: integers(inputs, UInt16.self)
        case .int16: integers(inputs, Int16.self)
        case .uint32: integers(inputs, UInt32.self)
        case .int32: integers(inputs, Int32.self)
        case .uint64: integers(inputs, UInt64.self)
        case .int64: integers(inputs, Int64.self)
        case .float16: floats(inputs, load: { (x: Float16) in Float(x) }, store: { Float16($0) })
        case .bfloat16:
            floats(
                inputs, load: { (bits: UInt16) in Float(bitPattern: UInt32(bits) << 16) },
                store: { sum -> UInt16 in
                    let bits = sum.bitPattern
                    return UInt16((bits &+ 0x7fff &+ (bits >> 16 & 1)) >> 16)
                })
        case .float32: floats(inputs, load: { (x: Float) in x }, store: { $0 })
        case .float64: floats(inputs, load: { (x: Double) in x }, store: { $0 })
        }
    }

    private func integers<T: FixedWidthInteger>(_ inputs: [[UInt8]], _: T.Type) -> [UInt8] {
        let count = inputs.count
        return reduce(
            inputs, load: { (x: T) in Int128(x) },
            combine: { a, b in
                switch operation {
                case .sum: Int128(T(truncatingIfNeeded: a + b))
                case .average: a + b
                case .product: Int128(T(truncatingIfNeeded: a) &* T(truncatingIfNeeded: b))
                case .maximum: max(a, b)
                case .minimum: min(a, b)
                }
            }, store: { T(operation == .average ? $0 / Int128(count) : $0) })
    }

    private func floats<T, A: BinaryFloatingPoint>(
        _ inputs: [[UInt8]], load: (T) -> A, store: (A) -> T
    ) -> [UInt8] {
        let count = A(inputs.count)
        return reduce(
            inputs, load: load,
            combine: { a, b in
                switch operation {
                case .sum, .average: a + b
                case .product: a * b
                case .maximum: a < b ? b : a
                case .minimum: b < a ? b : a
                }
            }, store: { store(operation == .average ? $0 / count : $0) })
    }

    private func reduce<T, A>(
        _ inputs: [[UInt8]], load: (T) -> A, combine: (A, A) -> A, store: (A) -> T
    ) -> [UInt8] {
        let size = MemoryLayout<T>.size
        let elementCount = inputs[0].count / size
        var result = [UInt8](repeating: 0, count: inputs[0].count)
        for element in Swift.stride(from: 0, to: elementCount, by: stride) {
            let sums = order(element, of: elementCount, ranks: inputs.count).map { ranks in
                let values = ranks.map { rank in
                    inputs[rank].withUnsafeBytes { load($0.loadUnaligned(fromByteOffset: element * size, as: T.self)) }
                }
                return values.dropFirst().reduce(values[0], combine)
            }
            let sum = sums.dropFirst().reduce(sums[0], combine)
            result.withUnsafeMutableBytes { $0.storeBytes(of: store(sum), toByteOffset: element * size, as: T.self) }
        }
        return result
    }

    /// In which order the ranks' contributions to an element are combined. In the ring there are two chunks for each rank;
    /// they differ by one element at most, the larger ones come first. Chunk c of the first half begins at rank c + 1 and
    /// goes up to rank c, that of the second half begins at rank c - 1 and goes down to rank c. With sites, what is
    /// combined first is in a list of its own, as the schedule's own tests prove it.
    private func order(_ element: Int, of count: Int, ranks: Int) -> [[Int]] {
        if algorithm == .twoLevel {
            let layout = AllReduceSchedule.layout(
                algorithm, elementCount: count, worldSize: ranks, shares: [], sites: sites)
            let chunk = (0..<ranks).first { layout.elements(ofChunk: $0).contains(element) } ?? 0
            return AllReduceSchedule.foldOrder(algorithm, chunk: chunk, worldSize: ranks, sites: sites)
        }
        guard algorithm == .ring else { return (0..<ranks).map { [$0] } }
        let (base, larger) = (count / (2 * ranks), count % (2 * ranks))
        let inLarger = larger * (base + 1)
        let chunk = element < inLarger ? element / (base + 1) : larger + (element - inLarger) / base
        let goesUp = chunk < ranks
        return (1...ranks).map { [goesUp ? (chunk + $0) % ranks : (chunk + ranks - $0) % ranks] }
    }
}

extension DataType {
    /// Elements whose sums and products need rounding, and that are never zero or NaN if they are floats.
    func elements(_ count: Int, seed: UInt64) -> [UInt8] {
        var source = RandomSource(seed: seed &* 1_000_003 &+ UInt64(rawValue))
        // Long buffers repeat themselves, but never at a boundary of chunks or segments.
        let period = 10_007
        guard count <= period else {
            let some = elements(period, seed: seed)
            let wholes = (0..<count / period).flatMap { _ in some }
            return wholes + some[..<(count % period * byteCount)]
        }
        var bytes: [UInt8] = []
        bytes.reserveCapacity(count * byteCount)
        func append<T>(_ value: T) { withUnsafeBytes(of: value) { bytes.append(contentsOf: $0) } }
        for _ in 0..<count {
            let random = source.next()
            // From 1/16 to 8, with a full significand.
            let magnitude = Float(bitPattern: (123 + UInt32(random % 7)) << 23 | UInt32(random >> 40) & 0x7f_ffff)
            let signed = random >> 63 == 0 ? magnitude : -magnitude
            switch self {
            case .uint8, .int8: append(UInt8(truncatingIfNeeded: random))
            case .uint16, .int16: append(UInt16(truncatingIfNeeded: random))
            case .uint32, .int32: append(UInt32(truncatingIfNeeded: random))
            case .uint64, .int64: append(random)
            case .float16: append(Float16(signed))
            case .bfloat16: append(UInt16(signed.bitPattern >> 16))
            case .float32: append(signed)
            case .float64: append(Double(signed) + Double(random & 0xffff) * 0x1p-50)
            }
        }
        return bytes
    }
}
