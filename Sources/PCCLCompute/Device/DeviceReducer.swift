import CCUDA
import PCCLBase
import Synchronization

/// A reduction by a device: of any number of inputs at once, with the bits of `Reducer`.
package struct DeviceReducer: Sendable {
    private let function: Function
    private let elementBytes: Int
    private let worldSize: UInt32

    private struct Function: @unchecked Sendable { var pointer: OpaquePointer }
    /// By context. Kept for as long as the process lives.
    private static let modules = Mutex<[UInt: Function]>([:])

    private static let mostTeams = 4096
    /// What a thread loads and stores at once.
    private static let packBytes = 16

    /// Loads the kernels into the context of this memory, unless that was done: a device's driver compiles them then, which
    /// may take seconds the first time. An old device does not run them, and the error says so.
    package static func load(at location: DeviceLocation) throws(DeviceError) { _ = try module(at: location) }

    private static func module(at location: DeviceLocation) throws(DeviceError) -> Function {
        let context = try location.contextNumber()
        let result: Result<Function, DeviceError> = modules.withLock { modules in
            if let known = modules[context] { return .success(known) }
            let loaded = Result { () throws(DeviceError) in
                try location.inContext { () throws(DeviceError) in
                    var module: OpaquePointer?
                    let code = pccl_cuda_module_load(&module, pccl_cuda_ptx(pccl_cuda_reduce))
                    guard code == pccl_cuda_success, let module else {
                        throw DeviceError("cuModuleLoadData", code: code, device: location.device)
                    }
                    return Function(pointer: module)
                }
            }
            if case .success(let module) = loaded { modules[context] = module }
            return loaded
        }
        return try result.get()
    }

    /// `worldSize`: by which an average divides.
    package init(
        type: DataType, operation: ReduceOperation, worldSize: Int, at location: DeviceLocation
    ) throws(DeviceError) {
        let module = try DeviceReducer.module(at: location).pointer
        let name = "reduce_" + DeviceReducer.name(type, operation)
        function = try location.inContext { () throws(DeviceError) in
            var function: OpaquePointer?
            let code = pccl_cuda_module_function(&function, module, name)
            guard code == pccl_cuda_success, let function else {
                throw DeviceError("cuModuleGetFunction of \(name)", code: code, device: location.device)
            }
            return Function(pointer: function)
        }
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
