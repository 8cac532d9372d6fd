import PCCL
import Testing

@testable import pccl

@Suite("The numbers that are reduced in a measurement")
struct ReductionPatternTests {
    /// Elements that do not fill whole periods.
    static let count = ReductionPattern.period * 2 + 17

    /// A buffer of one type, filled as a peer does.
    private func contribution<T: BitwiseCopyable>(
        _ pattern: ReductionPattern, _ rank: Int, as type: T.Type, zero: T
    ) -> [T] {
        var values = [T](repeating: zero, count: Self.count)
        values.withUnsafeMutableBytes { pattern.fill($0, rank: rank) }
        return values
    }

    private func wrong<T>(_ pattern: ReductionPattern, _ values: [T], afterCalls calls: Int = 1) -> Int {
        values.withUnsafeBytes { pattern.wrongElements(in: $0, afterCalls: calls) }
    }

    private func floatSum(_ pattern: ReductionPattern) -> [Float] {
        (0..<pattern.peers).map { contribution(pattern, $0, as: Float.self, zero: 0) }
            .reduce([Float](repeating: 0, count: Self.count)) { sum, one in zip(sum, one).map(+) }
    }

    @Test("a right sum is right, over and over in place")
    func rightSum() {
        let pattern = ReductionPattern(type: .float32, operation: .sum, peers: 3)
        var sum = floatSum(pattern)
        #expect(wrong(pattern, sum) == 0)
        sum = sum.map { $0 * 3 }
        #expect(wrong(pattern, sum, afterCalls: 2) == 0)
        #expect(wrong(pattern, sum, afterCalls: 1) > Self.count / 2)
    }

    @Test("one element that is off by one is found")
    func oneWrongElement() {
        let pattern = ReductionPattern(type: .float32, operation: .sum, peers: 3)
        var sum = floatSum(pattern)
        sum[Self.count - 1] += 1
        #expect(wrong(pattern, sum) == 1)
    }

    @Test("a contribution that is missing, counted twice or put in another's place shows")
    func misplacedContributions() {
        let pattern = ReductionPattern(type: .float32, operation: .sum, peers: 2)
        let (first, second) = (
            contribution(pattern, 0, as: Float.self, zero: 0), contribution(pattern, 1, as: Float.self, zero: 0)
        )
        #expect(wrong(pattern, first) > Self.count / 2)
        #expect(wrong(pattern, zip(first, first).map(+)) > Self.count / 2)
        let shifted = Array(second[1024...] + second[..<1024])
        #expect(wrong(pattern, zip(first, shifted).map(+)) > Self.count / 2)
    }

    @Test("floats may round their partial sums, but not by more than rounding explains")
    func rounding() {
        let pattern = ReductionPattern(type: .float32, operation: .average, peers: 3)
        let means = floatSum(ReductionPattern(type: .float32, operation: .sum, peers: 3)).map { $0 / 3 }
        #expect(wrong(pattern, means) == 0)
        #expect(wrong(pattern, means.map { $0 == 0 ? 0 : $0.nextUp }) == 0)
        #expect(wrong(pattern, means.map { $0 + 1e-4 }) == Self.count)
    }

    @Test("integers wrap around, also when they are summed in place many times")
    func wrapping() {
        let pattern = ReductionPattern(type: .int8, operation: .sum, peers: 60)
        var sum = [Int8](repeating: 0, count: Self.count)
        for rank in 0..<60 { sum = zip(sum, contribution(pattern, rank, as: Int8.self, zero: 0)).map { $0 &+ $1 } }
        #expect(wrong(pattern, sum) == 0)
        sum = sum.map { $0 &* 60 &* 60 }
        #expect(wrong(pattern, sum, afterCalls: 3) == 0)
    }

    @Test("integer means are truncated, also below zero")
    func truncating() {
        let pattern = ReductionPattern(type: .int32, operation: .average, peers: 3)
        let sums = (0..<3).map { contribution(pattern, $0, as: Int32.self, zero: 0) }
            .reduce([Int32](repeating: 0, count: Self.count)) { zip($0, $1).map(+) }
        #expect(sums.contains { $0 < 0 && $0 % 3 != 0 })
        #expect(wrong(pattern, sums.map { $0 / 3 }) == 0)
    }

    @Test("extremes and products are what they say")
    func otherOperations() {
        let peers = 5
        func fold(_ operation: ReduceOperation, _ combine: (UInt64, UInt64) -> UInt64) -> Int {
            let pattern = ReductionPattern(type: .uint64, operation: operation, peers: peers)
            let all = (0..<peers).map { contribution(pattern, $0, as: UInt64.self, zero: 0) }
            return wrong(pattern, all.dropFirst().reduce(all[0]) { zip($0, $1).map(combine) })
        }
        #expect(fold(.maximum, max) == 0)
        #expect(fold(.minimum, min) == 0)
        #expect(fold(.product, &*) == 0)
        #expect(fold(.product, &+) > 0)
    }

    @Test("16-bit floats are written as they are read", arguments: [DataType.float16, .bfloat16])
    func halves(type: DataType) {
        let pattern = ReductionPattern(type: type, operation: .maximum, peers: 2)
        var first = contribution(pattern, 0, as: UInt16.self, zero: 0)
        let second = contribution(pattern, 1, as: UInt16.self, zero: 0)
        func value(_ bits: UInt16) -> Float {
            type == .float16 ? Float(Float16(bitPattern: bits)) : Float(bitPattern: UInt32(bits) << 16)
        }
        #expect(Set(first.map(value)) == Set((-5...5).map(Float.init)))
        first = zip(first, second).map { value($0) > value($1) ? $0 : $1 }
        #expect(wrong(pattern, first) == 0)
    }

    @Test("a filling lasts only as many calls in place as the type can count", arguments: DataType.allCases)
    func fillings(type: DataType) {
        #expect(ReductionPattern.callsPerFill(type: type, operation: .maximum, peers: 4) == 0)
        #expect(ReductionPattern.callsPerFill(type: type, operation: .product, peers: 4) == 1)
        let sums = ReductionPattern.callsPerFill(type: type, operation: .sum, peers: 4)
        switch type {
        case .uint8, .int8: #expect(sums == 1)
        case .float16: #expect(sums == 5)
        case .int32: #expect(sums == 12)
        default: #expect(sums >= 4)
        }
        #expect(ReductionPattern.callsPerFill(type: type, operation: .sum, peers: 64) >= 1)
    }

    @Test("what a peer sent is known again anywhere in the buffer")
    func contributionsAtAnOffset() {
        let pattern = ReductionPattern(type: .int16, operation: .sum, peers: 2)
        let values = contribution(pattern, 1, as: Int16.self, zero: 0)
        let tail = Array(values[1500...])
        let wrong = tail.withUnsafeBytes { pattern.wrongElements(in: $0, at: 3000, ofContribution: 1) }
        let other = tail.withUnsafeBytes { pattern.wrongElements(in: $0, at: 3000, ofContribution: 0) }
        #expect(wrong == 0)
        #expect(other > 0)
    }
}
