import CCUDA
import Synchronization

/// Kernels of the library, loaded into a context. Kept for as long as the process lives.
struct DeviceModule: Sendable {
    private let module: Handle
    private let location: DeviceLocation

    private struct Handle: @unchecked Sendable { var pointer: OpaquePointer }
    private struct Key: Hashable {
        var context: UInt
        var kernels: UInt32
    }
    private static let known = Mutex<[Key: Handle]>([:])

    /// Loads them into the context of this memory, unless that was done: the device's driver compiles them then, which may take
    /// seconds the first time. An old device does not run them, and the error says so.
    init(_ kernels: pccl_cuda_kernels, at location: DeviceLocation) throws(DeviceError) {
        let key = Key(context: try location.contextNumber(), kernels: kernels.rawValue)
        let result: Result<Handle, DeviceError> = DeviceModule.known.withLock { known in
            if let module = known[key] { return .success(module) }
            let loaded = Result { () throws(DeviceError) in try DeviceModule.load(kernels, at: location) }
            if case .success(let module) = loaded { known[key] = module }
            return loaded
        }
        module = try result.get()
        self.location = location
    }

    private static func load(_ kernels: pccl_cuda_kernels, at location: DeviceLocation) throws(DeviceError) -> Handle {
        try location.inContext { () throws(DeviceError) in
            var module: OpaquePointer?
            let code = pccl_cuda_module_load(&module, pccl_cuda_ptx(kernels))
            guard code == pccl_cuda_success, let module else {
                throw DeviceError("cuModuleLoadData", code: code, device: location.device)
            }
            return Handle(pointer: module)
        }
    }

    func function(_ name: String) throws(DeviceError) -> DeviceFunction {
        try location.inContext { () throws(DeviceError) in
            var function: OpaquePointer?
            let code = pccl_cuda_module_function(&function, module.pointer, name)
            guard code == pccl_cuda_success, let function else {
                throw DeviceError("cuModuleGetFunction of \(name)", code: code, device: location.device)
            }
            return DeviceFunction(pointer: function)
        }
    }
}

/// A kernel.
struct DeviceFunction: @unchecked Sendable { var pointer: OpaquePointer }
