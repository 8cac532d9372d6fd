import CCUDA
import PCCLBase

/// A reduction by a device: of any number of inputs at once, with the bits of `Reducer`.
package struct DeviceReducer: Sendable {
    private let function: DeviceFunction
    private let elementBytes: Int
    private let worldSize: UInt32

    private static let mostTeams = 4096
    /// What a thread loads and stores at once.
    private static let packBytes = 16

    /// Loads the kernels into the context of this memory, unless that was done: a device's driver compiles them then, which
    /// may take seconds the first time. An old device does not run them, and the error says so.
    package static func load(at location: DeviceLocation) throws(DeviceError) {
        _ = try DeviceModule(pccl_cuda_reduce, at: location)
    }

    /// `worldSize`: by which an average divides.
    package init(
        type: DataType, operation: ReduceOperation, worldSize: Int, at location: DeviceLocation
    ) throws(DeviceError) {
        function = try DeviceModule(pccl_cuda_reduce, at: location).function(
            "reduce_" + DeviceReducer.name(type, operation))
        elementBytes = type.byteCount
        self.worldSize = UInt32(worldSize)
    }

    /// As REDUCTIONS of Sources/CKernels/elements.h names them: sums and products of integers are the same with and without a
    /// sign.
    package static func name(_ type: DataType, _ operation: ReduceOperation) -> String {
        let bits = type.byteCount * 8
        let kind =
            switch type {
            case .float16, .float32, .float64: "f\(bits)"
            case .bfloat16: "bf\(bits)"
            case .uint8, .uint16, .uint32, .uint64: "u\(bits)"
            case .int8, .int16, .int32, .int64: "i\(bits)"
            }
        return switch operation {
        case .sum: type.isFloat ? "sum_\(kind)" : "sum_\(bits)"
        case .product: type.isFloat ? "product_\(kind)" : "product_\(bits)"
        case .average: "average_\(kind)"
        case .maximum: "maximum_\(kind)"
        case .minimum: "minimum_\(kind)"
        }
    }

    /// The context is current. Addresses are of the device; `inputs` is that of a table of them.
    func launch(
        _ out: pccl_cuda_pointer, _ inputs: pccl_cuda_pointer, _ inputCount: Int, _ count: Int,
        _ stream: OpaquePointer
    ) -> CInt {
        let threads = pccl_cuda_threads_of_team
        let perTeam = Int(threads) * max(DeviceReducer.packBytes / elementBytes, 1)
        let teams = min(max((count + perTeam - 1) / perTeam, 1), DeviceReducer.mostTeams)
        var (out, inputs, inputCount, count, worldSize) = (
            out, inputs, UInt32(inputCount), UInt64(count), worldSize
        )
        return withUnsafeMutablePointer(to: &out) { out in
            withUnsafeMutablePointer(to: &inputs) { inputs in
                withUnsafeMutablePointer(to: &inputCount) { inputCount in
                    withUnsafeMutablePointer(to: &count) { count in
                        withUnsafeMutablePointer(to: &worldSize) { worldSize in
                            var parameters = [
                                UnsafeMutableRawPointer(out), UnsafeMutableRawPointer(inputs),
                                UnsafeMutableRawPointer(inputCount), UnsafeMutableRawPointer(count),
                                UnsafeMutableRawPointer(worldSize),
                            ]
                            return pccl_cuda_launch(
                                function.pointer, UInt32(teams), 1, 1, UInt32(threads), 1, 1, 0, stream, &parameters,
                                nil)
                        }
                    }
                }
            }
        }
    }
}
