import PCCLBase
import PCCLCompute
import Testing

@Suite("The width of sums")
struct PartialSizeTests {
    @Test("what the cost model reckons with is what the kernels have", arguments: DataType.allCases)
    func partialSize(type: DataType) {
        for operation in ReduceOperation.allCases {
            let reducer = Reducer(type: type, operation: operation, worldSize: 2)
            #expect(type.partialByteCount(operation) == reducer.accumulatorBytes)
            #expect(type.byteCount == reducer.elementBytes)
        }
    }
}
