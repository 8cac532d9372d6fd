import PCCL
import Testing

@testable import pccl

@Suite("What peers of a chaos run contribute, and the results that tell of them")
struct ChaosPatternTests {
    /// Elements that do not fill whole periods.
    static let count = ChaosPattern.period * 2 + 17
    static let someSets: [Slots] = [[], Slots(rawValue: 1), Slots(rawValue: 0b101_1010), Slots(rawValue: 0b111_1111)]
        .filter { $0.size > 0 }

    private func contribution<T: BitwiseCopyable>(_ pattern: ChaosPattern, _ slot: Int, zero: T) -> [T] {
        var values = [T](repeating: zero, count: Self.count)
        values.withUnsafeMutableBytes { pattern.contribution(of: slot, count: Self.count).fill($0) }
        return values
    }

    /// Folds the contributions with the language's own arithmetic, and asks whose they are.
    private func contributors<T: BitwiseCopyable>(
        _ pattern: ChaosPattern, _ slots: Slots, zero: T, worldSize: Int? = nil, _ combine: (T, T) -> T,
        finish: (T) -> T = { $0 }
    ) -> Slots? {
        let all = slots.members.map { contribution(pattern, $0, zero: zero) }
        var result = all.dropFirst().reduce(all[0]) { sum, one in zip(sum, one).map(combine) }.map(finish)
        return result.withUnsafeMutableBytes {
            pattern.contributors(in: UnsafeRawBufferPointer($0), worldSize: worldSize, member: slots.members[0])
        }
    }

    private func pattern(_ type: DataType, _ operation: ReduceOperation, salt: UInt64 = 5) -> ChaosPattern {
        ChaosPattern(type: type, operation: operation, salt: salt)
    }

    @Test(
        "a sum is known for the sum of its contributors, in narrow types and in floating-point ones",
        arguments: someSets)
    func sums(slots: Slots) {
        #expect(contributors(pattern(.int8, .sum), slots, zero: Int8(0), +) == slots)
        #expect(contributors(pattern(.uint16, .sum), slots, zero: UInt16(0), +) == slots)
        #expect(contributors(pattern(.float16, .sum), slots, zero: Float16(0), +) == slots)
        #expect(contributors(pattern(.float64, .sum), slots, zero: Double(0), +) == slots)
    }

    @Test("so are extremes, products and averages", arguments: someSets)
    func others(slots: Slots) {
        #expect(contributors(pattern(.int32, .maximum), slots, zero: Int32(0), max) == slots)
        #expect(contributors(pattern(.uint8, .minimum), slots, zero: UInt8(0), min) == slots)
        #expect(contributors(pattern(.float32, .product), slots, zero: Float(0), *) == slots)
        let size = slots.size
        #expect(contributors(pattern(.float32, .average), slots, zero: Float(0), +) { $0 / Float(size) } == slots)
        #expect(contributors(pattern(.int64, .average), slots, zero: Int64(0), +) { $0 / Int64(size) } == slots)
    }

    @Test("of each type and operation the result is known for its contributors'", arguments: DataType.allCases)
    func allTypes(type: DataType) {
        let slots = Slots(rawValue: 0b010_0110)
        for operation in ReduceOperation.allCases {
            let pattern = pattern(type, operation)
            var memory = [UInt8](repeating: 0, count: Self.count * type.byteCount)
            memory.withUnsafeMutableBytes { pattern.result(of: slots, count: Self.count).fill($0) }
            let found = memory.withUnsafeBytes { pattern.contributors(in: $0, worldSize: 3, member: 1) }
            #expect(found == slots, "\(operation)")
        }
    }

    @Test("a single element tells who is in its sum")
    func oneElement() {
        let pattern = pattern(.float16, .sum)
        for slots in Slots.all where slots.contains(Slots(slot: 2)) {
            let bytes = pattern.result(of: slots, count: 1).bytes
            #expect(bytes.withUnsafeBytes { pattern.contributors(in: $0, worldSize: nil, member: 2) } == slots)
        }
    }

    /// The memory of a good result, spoilt.
    private func isResult(after spoil: (inout [Int32]) -> Void) -> Bool {
        let pattern = pattern(.int32, .sum)
        let slots = Slots(rawValue: 0b1110)
        var result = [Int32](repeating: 0, count: Self.count)
        result.withUnsafeMutableBytes { pattern.result(of: slots, count: Self.count).fill($0) }
        spoil(&result)
        return result.withUnsafeBytes { pattern.contributors(in: $0, worldSize: nil, member: 1) } != nil
    }

    @Test("one bit of one element, the last one too, makes it no result")
    func oneBit() {
        #expect(isResult { _ in })
        #expect(!isResult { $0[0] ^= 1 })
        #expect(!isResult { $0[Self.count - 1] ^= 1 << 20 })
    }

    @Test("chunks that changed places, are a contribution short or have one twice make it no result")
    func chunks() {
        let pattern = pattern(.int32, .sum)
        let third = contribution(pattern, 3, zero: Int32(0))
        #expect(!isResult { $0[600..<700] = $0[500..<600] })
        #expect(!isResult { result in for index in 900..<1000 { result[index] -= third[index] } })
        #expect(!isResult { result in for index in 900..<1000 { result[index] += third[index] } })
    }

    @Test("a result that several sets have made is known as such, and not taken for that of one")
    func parts() {
        let pattern = pattern(.float32, .average)
        let (before, after) = (Slots(rawValue: 0b1110), Slots(rawValue: 0b0110))
        var result = pattern.result(of: before, count: Self.count).bytes
        let later = pattern.result(of: after, count: Self.count).bytes
        result[400..<2400] = later[400..<2400]
        result.withUnsafeBytes { memory in
            #expect(pattern.contributors(in: memory, worldSize: nil, member: 1) == nil)
            #expect(pattern.isMadeInParts(memory, member: 1))
            // The third slot is not in all of it.
            #expect(!pattern.isMadeInParts(memory, member: 3))
            let part = UnsafeRawBufferPointer(rebasing: memory[400..<2400])
            #expect(pattern.beginning(at: 100).contributors(in: part, worldSize: 2, member: 1) == after)
            #expect(pattern.beginning(at: 101).contributors(in: part, worldSize: 2, member: 1) == nil)
        }
        result[1000] ^= 1
        result.withUnsafeBytes { #expect(!pattern.isMadeInParts($0, member: 1)) }
    }

    @Test("the result of another operation is none of this one")
    func otherOperation() {
        let slots = Slots(rawValue: 0b11)
        let bytes = pattern(.float32, .sum, salt: 6).result(of: slots, count: Self.count).bytes
        let mine = pattern(.float32, .sum, salt: 7)
        #expect(bytes.withUnsafeBytes { mine.contributors(in: $0, worldSize: nil, member: 0) } == nil)
    }

    @Test("a result without the member that asks, or of another number of members, is none")
    func otherMembers() {
        let pattern = pattern(.uint64, .sum)
        let bytes = pattern.result(of: Slots(rawValue: 0b110), count: 40).bytes
        #expect(bytes.withUnsafeBytes { pattern.contributors(in: $0, worldSize: nil, member: 0) } == nil)
        #expect(bytes.withUnsafeBytes { pattern.contributors(in: $0, worldSize: 3, member: 1) } == nil)
        #expect(bytes.withUnsafeBytes { pattern.contributors(in: $0, worldSize: 2, member: 1) } != nil)
    }

    @Test("an input that has changed is found, wherever")
    func inputs() {
        let block = pattern(.float32, .sum).contribution(of: 4, count: Self.count)
        var values = contribution(pattern(.float32, .sum), 4, zero: Float(0))
        #expect(values.withUnsafeBytes { block.firstDifference(in: $0) } == nil)
        values[1500] += 1
        let found = values.withUnsafeBytes { block.firstDifference(in: $0) }
        #expect(found.map { $0 / 4 } == 1500)
    }

    @Test("digests differ by one bit in any byte")
    func digests() {
        let bytes = [UInt8](repeating: 7, count: 21)
        let digests = bytes.indices.map { index in
            var other = bytes
            other[index] ^= 0x80
            return other.withUnsafeBytes { digest(of: $0) }
        }
        #expect(Set(digests + [bytes.withUnsafeBytes { digest(of: $0) }]).count == 22)
    }
}
