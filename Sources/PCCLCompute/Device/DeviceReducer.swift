import CCUDA
import PCCLBase
import Synchronization

/// A reduction by a device: of any number of inputs at once, with the bits of `Reducer`.
package struct DeviceReducer: Sendable {
    private let function: DeviceFunction
    private let elementBytes: Int
    private var worldSize: UInt32

    /// By context, and then by name. Kept for as long as the process lives.
    private static let loaded = Mutex<[UInt: [String: DeviceFunction]]>([:])

    private static let mostTeams = 4096
    /// What a thread loads and stores at once.
    private static let packBytes = 16

    /// Loads the kernels into the context of this memory, unless that was done: a device's driver compiles them then, which
    /// may take seconds the first time. An old device does not run them, and the error says so.
    package static func load(at location: DeviceLocation) throws(DeviceError) {
        let context = try location.contextNumber()
        guard loaded.withLock({ $0[context] }) == nil else { return }
        let module = try DeviceModule(pccl_cuda_reduce, at: location)
        var functions: [String: DeviceFunction] = [:]
        for type in DataType.allCases {
            for operation in ReduceOperation.allCases {
                let name = name(type, operation)
                functions[name] = try module.function(name)
            }
        }
        loaded.withLock { [functions] loaded in loaded[context] = functions }
    }

    /// Nil where the kernels were not loaded. `worldSize`: by which an average divides.
    package init?(type: DataType, operation: ReduceOperation, worldSize: Int, at location: DeviceLocation) {
        guard let context = try? location.contextNumber(),
            let function = DeviceReducer.loaded.withLock({ $0[context]?[DeviceReducer.name(type, operation)] })
        else { return nil }
        self.function = function
        elementBytes = type.byteCount
        self.worldSize = UInt32(worldSize)
    }

    /// The same for another number of members.
    func dividing(by worldSize: Int) -> DeviceReducer {
        var other = self
        other.worldSize = UInt32(worldSize)
        return other
    }

    /// As REDUCTIONS of Sources/CKernels/elements.h has them after `reduce_`: sums and products of integers are the same with
    /// and without a sign.
    private static func name(_ type: DataType, _ operation: ReduceOperation) -> String {
        let bits = type.byteCount * 8
        let kind =
            switch type {
            case .float16, .float32, .float64: "f\(bits)"
            case .bfloat16: "bf\(bits)"
            case .uint8, .uint16, .uint32, .uint64: "u\(bits)"
            case .int8, .int16, .int32, .int64: "i\(bits)"
            }
        return switch operation {
        case .sum: type.isFloat ? "reduce_sum_\(kind)" : "reduce_sum_\(bits)"
        case .product: type.isFloat ? "reduce_product_\(kind)" : "reduce_product_\(bits)"
        case .average: "reduce_average_\(kind)"
        case .maximum: "reduce_maximum_\(kind)"
        case .minimum: "reduce_minimum_\(kind)"
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
