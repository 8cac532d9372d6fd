import CKernels
import PCCLBase
import PCCLCompute
import Testing

/// Memory at an odd distance from any alignment, with a fence on either side.
private final class Buffer {
    private static let fenceBytes = 64
    private static let fence: UInt8 = 0xa5

    let byteCount: Int
    private let memory: UnsafeMutableRawBufferPointer
    private let offset: Int

    var base: UnsafeMutableRawPointer { memory.baseAddress! + offset }
    var bytes: [UInt8] { [UInt8](UnsafeRawBufferPointer(start: base, count: byteCount)) }

    init(byteCount: Int, misalignment: Int = 0) {
        self.byteCount = byteCount
        offset = Self.fenceBytes + misalignment
        memory = .allocate(byteCount: byteCount + 2 * Self.fenceBytes + misalignment, alignment: 64)
        memory.initializeMemory(as: UInt8.self, repeating: Self.fence)
    }

    convenience init(_ elements: [UInt64], elementBytes: Int, misalignment: Int = 0) {
        self.init(byteCount: elements.count * elementBytes, misalignment: misalignment)
        fill(elements, elementBytes: elementBytes)
    }

    deinit {
        memory.deallocate()
    }

    func fill(_ elements: [UInt64], elementBytes: Int) {
        for (index, element) in elements.enumerated() {
            withUnsafeBytes(of: element.littleEndian) { bytes in
                (base + index * elementBytes).copyMemory(from: bytes.baseAddress!, byteCount: elementBytes)
            }
        }
    }

    func elements(elementBytes: Int) -> [UInt64] {
        stride(from: 0, to: byteCount, by: elementBytes).map { start in
            var element: UInt64 = 0
            withUnsafeMutableBytes(of: &element) { bytes in
                bytes.baseAddress!.copyMemory(from: base + start, byteCount: elementBytes)
            }
            return UInt64(littleEndian: element)
        }
    }

    var isFenceWhole: Bool {
        memory[..<offset].allSatisfy { $0 == Self.fence }
            && memory[(offset + byteCount)...].allSatisfy { $0 == Self.fence }
    }
}

/// One (type, operation) and what the scalar reference says about it.
struct Case: CustomTestStringConvertible, Sendable {
    let type: DataType
    let operation: ReduceOperation

    static let all = DataType.allCases.flatMap { type in
        ReduceOperation.allCases.map { Case(type: type, operation: $0) }
    }

    var testDescription: String { "\(type) \(operation)" }

    /// One reducer per level that this machine has, and the one that users get.
    func reducers(worldSize: Int) -> [Reducer] {
        let levels = [pccl_kernel_level_plain, pccl_kernel_level_avx2, pccl_kernel_level_avx512]
        let leveled = levels.compactMap {
            Reducer(type: type, operation: operation, worldSize: worldSize, level: $0)
        }
        return leveled + [Reducer(type: type, operation: operation, worldSize: worldSize)]
    }

    func contributions(_ contributors: Int, count: Int) -> [[UInt64]] {
        var source = HardElements(seed: UInt64(type.rawValue * 100 + operation.rawValue) << 32 | UInt64(count))
        return (0..<contributors).map { _ in source.array(of: type, count: count) }
    }

    func expected(_ contributions: [[UInt64]], worldSize: Int? = nil) -> [UInt64] {
        contributions[0].indices.map { index in
            ScalarReference.reduce(
                contributions.map { $0[index] }, type: type, operation: operation,
                worldSize: worldSize ?? contributions.count)
        }
    }
}

private let counts = [0, 1, 3, 7, 31, 1000, 4097]

@Suite("Reducer")
struct ReducerTests {
    @Test("one contribution comes out as it is, but for NaNs, which become canonical", arguments: Case.all)
    func oneContribution(_ subject: Case) {
        for count in counts {
            let input = subject.contributions(1, count: count)
            let expected = subject.expected(input)
            for reducer in subject.reducers(worldSize: 1) {
                let first = Buffer(input[0], elementBytes: reducer.elementBytes, misalignment: 1)
                let accumulator = Buffer(byteCount: count * reducer.accumulatorBytes, misalignment: 3)
                let out = Buffer(byteCount: count * reducer.elementBytes, misalignment: 5)
                reducer.load(first.base, into: accumulator.base, count: count)
                reducer.finish(accumulator.base, into: out.base, count: count)
                #expect(out.elements(elementBytes: reducer.elementBytes) == expected)
                #expect(out.isFenceWhole && accumulator.isFenceWhole)
            }
        }
    }

    @Test("two contributions give the same bits in one pass and in every pair of passes", arguments: Case.all)
    func twoContributions(_ subject: Case) {
        for count in counts {
            let input = subject.contributions(2, count: count)
            let expected = subject.expected(input)
            for (index, reducer) in subject.reducers(worldSize: 2).enumerated() {
                let misalignment = index % 2
                let size = reducer.elementBytes
                let first = Buffer(input[0], elementBytes: size, misalignment: misalignment)
                let second = Buffer(input[1], elementBytes: size, misalignment: 3 * misalignment)
                let accumulator = Buffer(byteCount: count * reducer.accumulatorBytes, misalignment: 5 * misalignment)
                let out = Buffer(byteCount: count * size, misalignment: 7 * misalignment)

                reducer.whole(first.base, second.base, into: out.base, count: count)
                #expect(out.elements(elementBytes: size) == expected)

                out.fill([UInt64](repeating: 0, count: count), elementBytes: size)
                reducer.start(first.base, second.base, into: accumulator.base, count: count)
                reducer.finish(accumulator.base, into: out.base, count: count)
                #expect(out.elements(elementBytes: size) == expected)

                out.fill([UInt64](repeating: 0, count: count), elementBytes: size)
                reducer.load(first.base, into: accumulator.base, count: count)
                reducer.end(accumulator.base, second.base, into: out.base, count: count)
                #expect(out.elements(elementBytes: size) == expected)
                #expect(out.isFenceWhole && accumulator.isFenceWhole)
                #expect(first.elements(elementBytes: size) == input[0])
                #expect(second.elements(elementBytes: size) == input[1])
            }
        }
    }

    @Test("many contributions are folded in the order of the calls", arguments: Case.all, [3, 5])
    func manyContributions(_ subject: Case, contributors: Int) {
        for count in counts {
            let input = subject.contributions(contributors, count: count)
            let expected = subject.expected(input)
            for reducer in subject.reducers(worldSize: contributors) {
                let size = reducer.elementBytes
                let buffers = input.map { Buffer($0, elementBytes: size, misalignment: 1) }
                let accumulator = Buffer(byteCount: count * reducer.accumulatorBytes, misalignment: 1)
                let out = Buffer(byteCount: count * size, misalignment: 1)

                reducer.start(buffers[0].base, buffers[1].base, into: accumulator.base, count: count)
                for buffer in buffers.dropFirst(2).dropLast() {
                    reducer.more(buffer.base, into: accumulator.base, count: count)
                }
                reducer.end(accumulator.base, buffers[contributors - 1].base, into: out.base, count: count)
                #expect(out.elements(elementBytes: size) == expected)

                out.fill([UInt64](repeating: 0, count: count), elementBytes: size)
                reducer.load(buffers[0].base, into: accumulator.base, count: count)
                for buffer in buffers.dropFirst() {
                    reducer.more(buffer.base, into: accumulator.base, count: count)
                }
                reducer.finish(accumulator.base, into: out.base, count: count)
                #expect(out.elements(elementBytes: size) == expected)
                #expect(out.isFenceWhole && accumulator.isFenceWhole)
            }
        }
    }

    @Test("a sum that somebody else began is joined as if its contributions had come one by one", arguments: Case.all)
    func merged(_ subject: Case) {
        for count in counts {
            let input = subject.contributions(3, count: count)
            let expected = subject.expected(input)
            for reducer in subject.reducers(worldSize: 3) {
                let size = reducer.elementBytes
                let buffers = input.map { Buffer($0, elementBytes: size, misalignment: 1) }
                let sum = Buffer(byteCount: count * reducer.accumulatorBytes, misalignment: 3)
                let other = Buffer(byteCount: count * reducer.accumulatorBytes, misalignment: 5)
                let out = Buffer(byteCount: count * size, misalignment: 1)

                // One contribution only, so that floats are added in the reference's order.
                reducer.load(buffers[1].base, into: other.base, count: count)
                reducer.load(buffers[0].base, into: sum.base, count: count)
                reducer.merge(other.base, into: sum.base, count: count)
                reducer.end(sum.base, buffers[2].base, into: out.base, count: count)
                #expect(out.elements(elementBytes: size) == expected)

                reducer.start(buffers[0].base, buffers[1].base, into: sum.base, count: count)
                reducer.load(buffers[2].base, into: other.base, count: count)
                reducer.merge(other.base, into: sum.base, count: count)
                reducer.finish(sum.base, into: out.base, count: count)
                #expect(out.elements(elementBytes: size) == expected)
                #expect(out.isFenceWhole && sum.isFenceWhole && other.isFenceWhole)
            }
        }
    }

    @Test("a destination may be exactly a source", arguments: Case.all, [0, 1])
    func aliasing(_ subject: Case, misalignment: Int) {
        for count in counts {
            let input = subject.contributions(2, count: count)
            let expected = subject.expected(input)
            for reducer in subject.reducers(worldSize: 2) {
                let size = reducer.elementBytes
                func buffers() -> (Buffer, Buffer) {
                    (
                        Buffer(input[0], elementBytes: size, misalignment: misalignment),
                        Buffer(input[1], elementBytes: size, misalignment: misalignment)
                    )
                }

                var (first, second) = buffers()
                reducer.whole(first.base, second.base, into: second.base, count: count)
                #expect(second.elements(elementBytes: size) == expected)

                (first, second) = buffers()
                reducer.whole(first.base, second.base, into: first.base, count: count)
                #expect(first.elements(elementBytes: size) == expected)

                (first, second) = buffers()
                let accumulator = Buffer(byteCount: count * reducer.accumulatorBytes)
                reducer.load(first.base, into: accumulator.base, count: count)
                reducer.end(accumulator.base, second.base, into: second.base, count: count)
                #expect(second.elements(elementBytes: size) == expected)

                guard reducer.accumulatorBytes == size else { continue }

                (first, second) = buffers()
                reducer.load(first.base, into: first.base, count: count)
                reducer.end(first.base, second.base, into: first.base, count: count)
                #expect(first.elements(elementBytes: size) == expected)

                (first, second) = buffers()
                reducer.start(first.base, second.base, into: second.base, count: count)
                reducer.finish(second.base, into: second.base, count: count)
                #expect(second.elements(elementBytes: size) == expected)
            }
        }
    }

    @Test("one buffer may be both contributions", arguments: Case.all)
    func sameSourceTwice(_ subject: Case) {
        let input = subject.contributions(1, count: 1000)
        let expected = subject.expected([input[0], input[0]])
        for reducer in subject.reducers(worldSize: 2) {
            let first = Buffer(input[0], elementBytes: reducer.elementBytes)
            reducer.whole(first.base, first.base, into: first.base, count: 1000)
            #expect(first.elements(elementBytes: reducer.elementBytes) == expected)
        }
    }

    @Test("every float16 and bfloat16 value survives the accumulator", arguments: [DataType.float16, .bfloat16])
    func exhaustiveRoundTrip(_ type: DataType) {
        let values = (0...UInt64(UInt16.max)).map { $0 }
        let infinity: UInt64 = type == .float16 ? 0x7c00 : 0x7f80
        let canonical: UInt64 = type == .float16 ? 0x7e00 : 0x7fc0
        let expected = values.map { $0 & 0x7fff > infinity ? canonical : $0 }
        for operation in ReduceOperation.allCases {
            for reducer in Case(type: type, operation: operation).reducers(worldSize: 1) {
                let first = Buffer(values, elementBytes: 2)
                let accumulator = Buffer(byteCount: values.count * reducer.accumulatorBytes)
                let out = Buffer(byteCount: values.count * 2)
                reducer.load(first.base, into: accumulator.base, count: values.count)
                reducer.finish(accumulator.base, into: out.base, count: values.count)
                #expect(out.elements(elementBytes: 2) == expected)
            }
        }
    }

    @Test(
        "around the middle of every two neighbours a float32 sum rounds to nearest, ties to even",
        arguments: [DataType.float16, .bfloat16])
    func exhaustiveRounding(_ type: DataType) {
        let largest: UInt16 = type == .float16 ? 0x7bff : 0x7f7f
        var sums: [Float] = [.infinity, .nan, .signalingNaN, .leastNonzeroMagnitude, .greatestFiniteMagnitude]
        for bits in 0...largest {
            let low = type == .float16 ? Float(Float16(bitPattern: bits)) : Float(bitPattern: UInt32(bits) << 16)
            // Beyond the largest value is infinity, and the tie is where the next value would have been.
            let middle: Float
            if type == .bfloat16 {
                middle = Float(bitPattern: UInt32(bits) << 16 | 0x8000)
            } else if bits == largest {
                middle = 65520
            } else {
                middle = (low + Float(Float16(bitPattern: bits + 1))) / 2
            }
            sums += [low, low.nextUp, middle.nextDown, middle, middle.nextUp]
        }
        sums += sums.map { -$0 }
        let expected = sums.map {
            UInt64(type == .float16 ? ScalarReference.float16(of: $0) : ScalarReference.bfloat16(of: $0))
        }
        for reducer in Case(type: type, operation: .sum).reducers(worldSize: 1) {
            let accumulator = Buffer(sums.map { UInt64($0.bitPattern) }, elementBytes: 4)
            let out = Buffer(byteCount: sums.count * 2)
            reducer.finish(accumulator.base, into: out.base, count: sums.count)
            #expect(out.elements(elementBytes: 2) == expected)
        }
    }

    @Test(
        "an integer average truncates towards zero beside every multiple of the world size",
        arguments: [DataType.uint8, .int8, .uint16, .int16, .uint32, .int32, .uint64, .int64],
        // The borders between the ways of dividing; and 41 and 49, for 41 * (1 / 41) < 1 in float32, 49 in float64.
        [1, 2, 3, 5, 7, 41, 49, 63, 64, 65, 1000, 16384, 16385, 65535, 65536])
    func averageQuotients(_ type: DataType, worldSize: Int) {
        let (lowest, highest) = Self.range(of: type)
        let world = Int128(worldSize)
        var source = HardElements(seed: UInt64(worldSize))
        var sums: [Int128] = []
        for _ in 0..<500 {
            var quotient = Int128(source.next(of: type)) % (highest + 1)
            if lowest < 0, source.next(of: .uint8) % 2 == 0 { quotient = -quotient }
            sums += [quotient * world - 1, quotient * world, quotient * world + 1]
        }
        sums += [lowest * world, lowest * world + 1, highest * world - 1, highest * world]
        sums = sums.filter { lowest * world <= $0 && $0 <= highest * world }
        let expected = sums.map { UInt64(truncatingIfNeeded: $0 / world) & (UInt64.max >> (64 - 8 * type.byteCount)) }
        for reducer in Case(type: type, operation: .average).reducers(worldSize: worldSize) {
            let accumulator = Buffer(byteCount: sums.count * reducer.accumulatorBytes)
            for (index, sum) in sums.enumerated() {
                withUnsafeBytes(of: sum.littleEndian) { bytes in
                    (accumulator.base + index * reducer.accumulatorBytes).copyMemory(
                        from: bytes.baseAddress!, byteCount: reducer.accumulatorBytes)
                }
            }
            let out = Buffer(byteCount: sums.count * reducer.elementBytes)
            reducer.finish(accumulator.base, into: out.base, count: sums.count)
            #expect(out.elements(elementBytes: reducer.elementBytes) == expected)
        }
    }

    @Test(
        "32-bit averages stay exact on both sides of the world size where the way of dividing changes",
        arguments: [DataType.uint32, .int32], [1 << 19, (1 << 19) + 1, 1 << 24])
    func largeWorldQuotients(_ type: DataType, worldSize: Int) {
        averageQuotients(type, worldSize: worldSize)
    }

    private static func range(of type: DataType) -> (lowest: Int128, highest: Int128) {
        switch type {
        case .uint8: (0, Int128(UInt8.max))
        case .int8: (Int128(Int8.min), Int128(Int8.max))
        case .uint16: (0, Int128(UInt16.max))
        case .int16: (Int128(Int16.min), Int128(Int16.max))
        case .uint32: (0, Int128(UInt32.max))
        case .int32: (Int128(Int32.min), Int128(Int32.max))
        case .uint64: (0, Int128(UInt64.max))
        case .int64, .float16, .bfloat16, .float32, .float64: (Int128(Int64.min), Int128(Int64.max))
        }
    }

    @Test("float averages are one true division", arguments: [DataType.float16, .bfloat16, .float32, .float64])
    func floatAverages(_ type: DataType) {
        let subject = Case(type: type, operation: .average)
        let input = subject.contributions(2, count: 1000)
        for worldSize in [1, 2, 3, 4, 6, 7, 8, 10, 1024, 1_000_003] {
            let expected = subject.expected(input, worldSize: worldSize)
            for reducer in subject.reducers(worldSize: worldSize) {
                let first = Buffer(input[0], elementBytes: reducer.elementBytes)
                let second = Buffer(input[1], elementBytes: reducer.elementBytes)
                let out = Buffer(byteCount: first.byteCount)
                reducer.whole(first.base, second.base, into: out.base, count: 1000)
                #expect(out.elements(elementBytes: reducer.elementBytes) == expected)
            }
        }
    }

    @Test("which NaN came first does not show", arguments: [DataType.float16, .bfloat16, .float32, .float64])
    func nanOrder(_ type: DataType) {
        let bits = 8 * UInt64(type.byteCount)
        // All ones below and with the sign: two NaNs that differ in sign and in payload.
        let input = [[UInt64.max >> (64 - bits)], [UInt64.max >> (65 - bits) ^ 2]]
        let canonical: UInt64 =
            switch type {
            case .float16: 0x7e00
            case .bfloat16: 0x7fc0
            case .float32: 0x7fc0_0000
            default: 0x7ff8_0000_0000_0000
            }
        for operation in ReduceOperation.allCases {
            for reducer in Case(type: type, operation: operation).reducers(worldSize: 2) {
                let first = Buffer(input[0], elementBytes: reducer.elementBytes)
                let second = Buffer(input[1], elementBytes: reducer.elementBytes)
                let out = Buffer(byteCount: reducer.elementBytes)
                reducer.whole(first.base, second.base, into: out.base, count: 1)
                #expect(out.elements(elementBytes: reducer.elementBytes) == [canonical])
                reducer.whole(second.base, first.base, into: out.base, count: 1)
                #expect(out.elements(elementBytes: reducer.elementBytes) == [canonical])
            }
        }
    }

    @Test("accumulators have the documented widths", arguments: Case.all)
    func accumulatorWidths(_ subject: Case) {
        let expected: Int
        switch (subject.type, subject.operation) {
        case (.uint8, .average), (.int8, .average), (.uint16, .average), (.int16, .average): expected = 4
        case (.uint32, .average), (.int32, .average): expected = 8
        case (.uint64, .average), (.int64, .average): expected = 16
        case (.float16, .sum), (.float16, .average), (.float16, .product): expected = 4
        case (.bfloat16, .sum), (.bfloat16, .average), (.bfloat16, .product): expected = 4
        default: expected = subject.type.byteCount
        }
        #expect(pccl_kernel_accumulator_bytes(subject.type.rawValue, subject.operation.rawValue) == expected)
        for reducer in subject.reducers(worldSize: 2) {
            #expect(reducer.accumulatorBytes == expected)
            #expect(reducer.elementBytes == subject.type.byteCount)
        }
    }

    @Test("an unknown type or operation has no kernel")
    func unknown() {
        #expect(pccl_kernel_accumulator_bytes(12, 0) == 0)
        #expect(pccl_kernel_accumulator_bytes(0, 5) == 0)
        #expect(pccl_kernel_reduction_for(.max, 0) == nil)
        #expect(pccl_kernel_reduction_for(0, .max) == nil)
        #expect(pccl_kernel_reduction_at(pccl_kernel_level(rawValue: 3), 0, 0) == nil)
    }
}
