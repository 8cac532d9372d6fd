import CCUDA

/// Memory of a device that this value owns: made in the device's primary context, which is the one of all who do not ask for
/// another, or in that of other memory, and freed there with the value. Any thread may copy to and from it.
package struct DeviceMemory: ~Copyable, @unchecked Sendable {
    /// Of no use to the host but as a number.
    package let pointer: UnsafeMutableRawPointer
    package let byteCount: Int
    private let location: DeviceLocation
    private let queue: DeviceQueue

    /// What is in it is undefined. `byteCount` is above 0.
    package init(byteCount: Int, device: Int) throws(DeviceError) {
        try self.init(byteCount: byteCount, at: DeviceLocation(primaryOf: device))
    }

    /// In the context of other memory.
    init(byteCount: Int, at location: DeviceLocation) throws(DeviceError) {
        // First what can fail: once there is memory there must be a value that frees it.
        let queue = try DeviceQueue.of(location)
        let pointer = try location.inContext { () throws(DeviceError) in
            var address: pccl_cuda_pointer = 0
            try DeviceDriver.check(pccl_cuda_device_alloc(&address, byteCount), "cuMemAlloc", device: location.device)
            guard let pointer = UnsafeMutableRawPointer(bitPattern: UInt(address)) else {
                throw DeviceError("cuMemAlloc", code: CInt(pccl_cuda_out_of_memory), device: location.device)
            }
            return pointer
        }
        self.pointer = pointer
        self.byteCount = byteCount
        self.location = location
        self.queue = queue
    }

    /// There is nobody to tell of an error: then the context is lost, and its memory with it. The driver itself waits for
    /// what the device still does with the memory.
    deinit { _ = try? location.inContext { pccl_cuda_device_free(pccl_cuda_pointer(UInt(bitPattern: pointer))) } }

    /// Blocks until the bytes are in place; what was put on the default stream before comes before.
    package func write(_ bytes: UnsafeRawBufferPointer, at offset: Int) throws(DeviceError) {
        guard let from = bytes.baseAddress, !bytes.isEmpty else { return }
        try location.waitForDefaultStream()
        try queue.write(pointer + offset, from: from, bytes.count)
    }

    /// Blocks until the bytes are there; what was put on the default stream before comes before.
    package func read(into bytes: UnsafeMutableRawBufferPointer, at offset: Int) throws(DeviceError) {
        guard let to = bytes.baseAddress, !bytes.isEmpty else { return }
        try location.waitForDefaultStream()
        try queue.read(to, from: pointer + offset, bytes.count)
    }
}
