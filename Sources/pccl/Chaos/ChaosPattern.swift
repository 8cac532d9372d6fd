import PCCL

/// Places of peers in a chaos run. A peer keeps its slot as long as its process lives, and contributes what no other slot
/// does, so that each element of a result tells whose contributions are in it.
struct Slots: OptionSet, Hashable, Sendable {
    /// Seven powers of two: their sum is at most 127, which every type holds exactly.
    static let count = 7

    let rawValue: UInt8
    init(rawValue: UInt8) { self.rawValue = rawValue }
    init(slot: Int) { rawValue = 1 << slot }

    var members: [Int] { (0..<Self.count).filter { contains(Slots(slot: $0)) } }
    var size: Int { rawValue.nonzeroBitCount }

    static let all = (0..<UInt8(1 << count)).map(Slots.init(rawValue:))
}

/// What the slots contribute to one operation, and what must come of it: whole numbers, so that the result is exact in
/// every type, in an irregular pattern that repeats after a prime number of elements and begins elsewhere in each
/// operation. A chunk in another's place, one of an earlier operation, one added twice or left out: each shows.
struct ChaosPattern {
    static let period = 1021

    let type: DataType
    let operation: ReduceOperation
    /// Where the pattern begins.
    let salt: UInt64

    func contribution(of slot: Int, count: Int) -> RepeatedBlock {
        block(count) { type.bytes(Double(value($0, slot))) }
    }

    func result(of contributors: Slots, count: Int) -> RepeatedBlock {
        let members = contributors.members
        return block(count) { index in result(index, members) }
    }

    /// Whose contributions make this result; nil if it is no result at all. Where several sets fit (maxima of few elements
    /// do not show everybody), one of them. Of so many members if that is known, and `member` is one of them.
    func contributors(
        in memory: UnsafeRawBufferPointer, worldSize: Int?, member: Int
    ) -> Slots? {
        let count = memory.count / type.byteCount
        return Slots.all.first { candidate in
            candidate.contains(Slots(slot: member)) && (worldSize ?? candidate.size) == candidate.size
                && beginsRight(memory, candidate.members)
                && result(of: candidate, count: count).firstDifference(in: memory) == nil
        }
    }

    /// Of elements that begin here in the buffer.
    func beginning(at element: Int) -> ChaosPattern {
        // The sum would pass the end of the numbers, where the period breaks.
        ChaosPattern(type: type, operation: operation, salt: (salt % UInt64(Self.period)) + UInt64(element))
    }

    /// Whether each element is what some set of two or more members makes, one after the other in stretches; `member` is
    /// one of each set.
    func isMadeInParts(_ memory: UnsafeRawBufferPointer, member: Int) -> Bool {
        let width = type.byteCount
        var element = 0
        while element < memory.count / width {
            let rest = UnsafeRawBufferPointer(rebasing: memory[(element * width)...])
            let pattern = beginning(at: element)
            let stretches = Slots.all.filter { $0.contains(Slots(slot: member)) && $0.size > 1 }.map { candidate in
                guard pattern.result(0, candidate.members).elementsEqual(rest[..<width]) else { return 0 }
                let end = pattern.result(of: candidate, count: rest.count / width).firstDifference(in: rest)
                return (end ?? rest.count) / width
            }
            guard let longest = stretches.max(), longest > 0 else { return false }
            element += longest
        }
        return true
    }

    // MARK: - Values

    /// Enough elements to rule out most wrong candidates, for a whole block takes long to make.
    private static let elementsOfFirstLook = 8

    private func beginsRight(_ memory: UnsafeRawBufferPointer, _ members: [Int]) -> Bool {
        let width = type.byteCount
        for index in 0..<min(Self.elementsOfFirstLook, memory.count / width)
        where !result(index, members).elementsEqual(memory[index * width..<(index + 1) * width]) {
            return false
        }
        return true
    }

    private func block(_ count: Int, _ element: (Int) -> [UInt8]) -> RepeatedBlock {
        RepeatedBlock(bytes: (0..<min(count, Self.period)).flatMap(element))
    }

    /// Which of seven values a slot contributes at an index; each slot another one.
    private func turn(_ index: Int, _ slot: Int) -> Int {
        let place = (UInt64(index) &+ salt % UInt64(Self.period)) % UInt64(Self.period) &+ 1
        return (Int(place &* 0x9e37_79b9_7f4a_7c15 >> 40) + slot) % Slots.count
    }

    private func value(_ index: Int, _ slot: Int) -> Int {
        let turn = turn(index, slot)
        switch operation {
        case .sum, .average: return 1 << turn
        // One two, so that no product leaves the range of a type.
        case .product: return turn == 0 ? 2 : 1
        case .maximum, .minimum: return type.isSigned ? turn - 3 : turn
        }
    }

    private func result(_ index: Int, _ members: [Int]) -> [UInt8] {
        let values = members.map { value(index, $0) }
        let sum = values.reduce(0, +)
        switch operation {
        case .sum: return type.bytes(whole: sum, orElse: Double(sum))
        case .average:
            let count = max(1, values.count)
            return type.bytes(whole: sum / count, orElse: Double(sum) / Double(count))
        case .product:
            let product = values.reduce(1, *)
            return type.bytes(whole: product, orElse: Double(product))
        case .maximum: return type.bytes(Double(values.max() ?? 0))
        case .minimum: return type.bytes(Double(values.min() ?? 0))
        }
    }
}

extension DataType {
    /// The whole number in an integer type, the other in a floating-point one.
    fileprivate func bytes(whole: Int, orElse value: Double) -> [UInt8] {
        largestFinite == nil ? bytes(whole: whole) : bytes(value)
    }
}

/// To tell results apart by their bits: FNV-1a over words of eight bytes, with a shift, for by multiplication alone the
/// highest bit of a word would touch no other.
func digest(of memory: UnsafeRawBufferPointer) -> UInt64 {
    var value: UInt64 = 0xCBF2_9CE4_8422_2325
    func add(_ word: UInt64) {
        value = (value ^ word) &* 0x0000_0100_0000_01B3
        value ^= value >> 32
    }
    let whole = memory.count & ~7
    for offset in stride(from: 0, to: whole, by: 8) {
        add(memory.loadUnaligned(fromByteOffset: offset, as: UInt64.self))
    }
    for byte in memory[whole...] { add(UInt64(byte)) }
    return value
}
