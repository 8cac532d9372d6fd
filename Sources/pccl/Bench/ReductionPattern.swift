import Glibc
import PCCL

/// What peers contribute to a measured reduction, and what must come of it.
///
/// Small whole numbers, different at each peer, in a pattern that repeats after a prime number of elements: a chunk that
/// was put in another's place, added twice or left out shows.
struct ReductionPattern {
    static let period = 1021

    let type: DataType
    let operation: ReduceOperation
    let peers: Int
    let codec: Codec

    init(type: DataType, operation: ReduceOperation, peers: Int, codec: Codec = .none) {
        self.type = type
        self.operation = operation
        self.peers = peers
        self.codec = codec
    }

    func fill(_ memory: UnsafeMutableRawBufferPointer, rank: Int) {
        RepeatedBlock(bytes: contribution(of: rank)).fill(memory)
    }

    /// How many elements differ from the result. `calls` counts the reductions of the same memory in place since it was
    /// filled; for reductions from one buffer into another it is 1.
    func wrongElements(in memory: UnsafeRawBufferPointer, afterCalls calls: Int) -> Int {
        let expected = block(after: calls)
        if codec != .none { return wrongElements(in: memory, of: expected, within: codingError(calls)) }
        return wrongElements(in: memory, at: 0, of: expected) { found, wanted, index in
            isClose(found, wanted, index: index, calls)
        }
    }

    /// How many elements are not what this rank contributes; the memory begins so many bytes into the buffer.
    func wrongElements(in memory: UnsafeRawBufferPointer, at offset: Int, ofContribution rank: Int) -> Int {
        wrongElements(in: memory, at: offset, of: contribution(of: rank)) { _, _, _ in false }
    }

    /// How many calls in place one filling lasts; 0 for any number. Sums grow with each call, and must not overflow:
    /// floats would be infinite, and of integers Open MPI's do not wrap around in every type.
    static func callsPerFill(type: DataType, operation: ReduceOperation, peers: Int) -> Int {
        switch operation {
        case .average, .maximum, .minimum: return 0
        case .product: return 1
        case .sum:
            let room = log2(type.largestFinite ?? type.largestInteger) - log2(Double(largestValue * peers))
            return max(1, Int(room / log2(Double(peers))))
        }
    }

    // MARK: - Values

    private static let largestValue = 10

    private func value(_ index: Int, _ rank: Int) -> Int {
        let mixed = (index * 7 + rank * 13 + index / 11) % (Self.largestValue + 1)
        switch operation {
        // Ones and twos: the product stays a power of two, which every float holds exactly.
        case .product: return mixed == 0 ? 2 : 1
        case .sum, .average, .maximum, .minimum: return type.isSigned ? mixed - 5 : mixed
        }
    }

    /// The result at an index after one call, before it is put into the type; and its divisor, which is 1 but for means.
    private func result(_ values: [Int]) -> (numerator: Int, divisor: Int) {
        switch operation {
        case .sum: (values.reduce(0, +), 1)
        case .average: (values.reduce(0, +), values.count)
        case .product: (values.reduce(1, &*), 1)
        case .maximum: (values.max() ?? 0, 1)
        case .minimum: (values.min() ?? 0, 1)
        }
    }

    /// One period of the result. Only sums go on growing when their result is reduced again.
    private func block(after calls: Int) -> [UInt8] {
        var growth = 1.0
        var exactGrowth = 1
        if operation == .sum {
            for _ in 1..<calls {
                growth *= Double(peers)
                exactGrowth &*= peers
            }
        }
        return (0..<Self.period).flatMap { index -> [UInt8] in
            let (numerator, divisor) = result((0..<peers).map { value(index, $0) })
            if type.largestFinite == nil {
                // Division truncates in every integer type; all else wraps around.
                let whole = divisor == 1 ? numerator &* exactGrowth : numerator / divisor
                return type.bytes(whole: whole)
            }
            return type.bytes(Double(numerator) / Double(divisor) * growth)
        }
    }

    /// One period.
    private func contribution(of rank: Int) -> [UInt8] {
        (0..<Self.period).flatMap { type.bytes(Double(value($0, rank))) }
    }

    // MARK: - Comparison

    /// Compares with the repeated block, a period at a time; what differs is looked at element by element.
    private func wrongElements(
        in memory: UnsafeRawBufferPointer, at start: Int, of block: [UInt8],
        unless isClose: (_ found: [UInt8], _ wanted: [UInt8], _ index: Int) -> Bool
    ) -> Int {
        let width = type.byteCount
        var wrong = 0
        var offset = 0
        while offset < memory.count {
            let place = (start + offset) % block.count
            let length = min(block.count - place, memory.count - offset)
            let isSame = block.withUnsafeBytes { block in
                memcmp(block.baseAddress! + place, memory.baseAddress! + offset, length) == 0
            }
            for element in stride(from: 0, to: isSame ? 0 : length, by: width) {
                let found = Array(memory[offset + element..<offset + element + width])
                let wanted = Array(block[place + element..<place + element + width])
                if found != wanted && !isClose(found, wanted, (place + element) / width) { wrong += 1 }
            }
            offset += length
        }
        return wrong
    }

    /// Compares values, none of which is likely to be exact.
    private func wrongElements(in memory: UnsafeRawBufferPointer, of block: [UInt8], within error: Double) -> Int {
        let width = type.byteCount
        let expected = (0..<Self.period).map { type.double(Array(block[$0 * width..<($0 + 1) * width])) }
        var wrong = 0
        for i in 0..<memory.count / width {
            let found =
                type == .float32
                ? Double(memory.loadUnaligned(fromByteOffset: i * width, as: Float.self))
                : type.double(Array(memory[i * width..<(i + 1) * width]))
            if !(abs(found - expected[i % Self.period]) <= error) { wrong += 1 }
        }
        return wrong
    }

    /// Bits that differ may still be right: a library may round each partial sum to the type.
    private func isClose(_ found: [UInt8], _ wanted: [UInt8], index: Int, _ calls: Int) -> Bool {
        guard let epsilon = type.epsilon, operation == .sum || operation == .average else { return false }
        let magnitude = (0..<peers).reduce(0) { $0 + abs(value(index, $1)) }
        var scale = Double(magnitude) / (operation == .average ? Double(peers) : 1)
        if operation == .sum { for _ in 1..<max(calls, 1) { scale *= Double(peers) } }
        let difference = abs(type.double(found) - type.double(wanted))
        return difference <= epsilon * Double(peers + calls) * scale
    }

    /// How far from the result what was coded may be: contributions and the result, and sums on their way where an algorithm
    /// codes these, each as far as docs/collectives.md says for the largest value that a block of it may have.
    private func codingError(_ calls: Int) -> Double {
        let nearest =
            switch codec.format {
            case .none: 0.0
            case .minMax8: 1.0 / 255
            case .zeroPoint8: 2.0 / 255
            case .minMax16, .zeroPoint16, .minMax32, .zeroPoint32: 2.0 / 65535
            case .int4: 1.0 / 14
            case .int4PowerScale: 1.0 / 7
            case .e3m0, .e3m0PowerScale: 1.0 / 3
            case .e4m3, .e4m3PowerScale: 1.0 / 16
            case .float16: 1.0 / 2048
            case .bfloat16: 1.0 / 256
            }
        let worst = (codec.rounding == .stochastic ? 2 : 1) * nearest + 0x1p-20
        let (largest, count) = (Double(Self.largestValue / 2), Double(peers))
        // Whatever the algorithm: sums of one member to those of all but one, and the result.
        let ofSum = worst * largest * (count * (count - 1) / 2 + count)
        switch operation {
        case .sum: return ofSum * Double(calls) * pow(count, Double(calls - 1))
        case .average: return ofSum / count * Double(calls)
        case .maximum, .minimum: return 2 * worst * largest * Double(calls)
        case .product: return worst * 2 * (count + 1) * pow(2 * (1 + worst), count)
        }
    }
}
