import CCUDA
import Synchronization

/// The library's own stream in one context, and what is loaded there. Work on it does not wait for work on other streams, nor
/// they for it: who hands it memory waits for what writes that memory before. Kept for as long as the process lives.
///
/// Every function blocks until its work is done, and may be called from any thread.
final class DeviceQueue: Sendable {
    private let location: DeviceLocation
    private let stream: Handle

    private struct Handle: @unchecked Sendable { var pointer: OpaquePointer }

    private static let known = Mutex<[UInt: DeviceQueue]>([:])

    /// That of the context which this memory is of.
    static func of(_ location: DeviceLocation) throws(DeviceError) -> DeviceQueue {
        let number = try location.contextNumber()
        if let queue = known.withLock({ $0[number] }) { return queue }
        let made = try DeviceQueue(location)
        // Two threads may have made one; the second one's has done nothing yet.
        return known.withLock { known in
            let queue = known[number] ?? made
            known[number] = queue
            return queue
        }
    }

    private init(_ location: DeviceLocation) throws(DeviceError) {
        self.location = location
        stream = try location.inContext { () throws(DeviceError) in
            var stream: OpaquePointer?
            let code = pccl_cuda_stream_create(&stream, UInt32(pccl_cuda_stream_non_blocking))
            guard code == pccl_cuda_success, let stream else {
                throw DeviceError("cuStreamCreate", code: code, device: location.device)
            }
            return Handle(pointer: stream)
        }
    }

    private func check(_ code: CInt, _ call: String) throws(DeviceError) {
        try DeviceDriver.check(code, call, device: location.device)
    }

    private func finish() throws(DeviceError) {
        try check(pccl_cuda_stream_synchronize(stream.pointer), "cuStreamSynchronize")
    }

    /// What is enqueued has ended when this returns. After an error the first parts of it may be at work, on memory that
    /// somebody else has by then: so they are waited for as well, as far as the driver does.
    private func settled(_ enqueue: () throws(DeviceError) -> Void) throws(DeviceError) {
        try location.inContext { () throws(DeviceError) in
            do throws(DeviceError) {
                try enqueue()
                try finish()
            } catch {
                try? finish()
                throw error
            }
        }
    }

    func read(_ to: UnsafeMutableRawPointer, from: UnsafeRawPointer, _ count: Int) throws(DeviceError) {
        try settled { () throws(DeviceError) in
            let pointer = pccl_cuda_pointer(UInt(bitPattern: from))
            try check(pccl_cuda_copy_to_host(to, pointer, count, stream.pointer), "cuMemcpyDtoHAsync")
        }
    }

    func write(_ to: UnsafeMutableRawPointer, from: UnsafeRawPointer, _ count: Int) throws(DeviceError) {
        try settled { () throws(DeviceError) in
            let pointer = pccl_cuda_pointer(UInt(bitPattern: to))
            try check(pccl_cuda_copy_to_device(pointer, from, count, stream.pointer), "cuMemcpyHtoDAsync")
        }
    }

    /// Both are of the device.
    func copy(_ to: UnsafeMutableRawPointer, from: UnsafeRawPointer, _ count: Int) throws(DeviceError) {
        try settled { () throws(DeviceError) in
            let (to, from) = (pccl_cuda_pointer(UInt(bitPattern: to)), pccl_cuda_pointer(UInt(bitPattern: from)))
            try check(pccl_cuda_copy_on_device(to, from, count, stream.pointer), "cuMemcpyDtoDAsync")
        }
    }

    // MARK: - Hashes

    private struct Hashing: @unchecked Sendable {
        /// Nil before it is loaded, or if it cannot be.
        var function: DeviceFunction?
        var hasTried = false
        /// Of the device, for the lanes.
        var scratch: pccl_cuda_pointer = 0
        var scratchBytes = 0
    }
    private let hashing = Mutex(Hashing())

    static let laneCount = 8
    private static let warpThreads = 32
    private static let mostTeams = 4096

    /// The lanes of XXH3 of each chunk of `chunkBytes`, eight of each, as `hash_chunks` in Sources/CCUDA/kernels says. Nil if
    /// this device does not run the kernel, or has no memory for them. The address and `chunkBytes` are multiples of 8.
    func hashLanes(_ from: UnsafeRawPointer, _ count: Int, chunkBytes: Int) throws(DeviceError) -> [UInt64]? {
        let result: Result<[UInt64]?, DeviceError> = hashing.withLock { hashing in
            Result { () throws(DeviceError) in
                try location.inContext { () throws(DeviceError) in
                    guard let function = loadedFunction(&hashing) else { return nil }
                    let chunks = (count + chunkBytes - 1) / chunkBytes
                    let lanes = chunks * DeviceQueue.laneCount
                    let bytes = lanes * MemoryLayout<UInt64>.stride
                    guard try reserve(bytes, &hashing) else { return nil }
                    let arguments = [
                        hashing.scratch, UInt64(UInt(bitPattern: from)), UInt64(count), UInt64(chunkBytes),
                    ]
                    try enqueue(
                        Launch(
                            function: function, arguments: arguments, threads: chunks * DeviceQueue.warpThreads))
                    let read = UnsafeMutableBufferPointer<UInt64>.allocate(capacity: lanes)
                    defer { read.deallocate() }
                    let to = UnsafeMutableRawPointer(read.baseAddress.unsafelyUnwrapped)
                    try check(
                        pccl_cuda_copy_to_host(to, hashing.scratch, bytes, stream.pointer), "cuMemcpyDtoHAsync")
                    try finish()
                    return Array(read)
                }
            }
        }
        return try result.get()
    }

    /// An old device, or one that a new driver no longer serves, is no error: the host hashes then.
    private func loadedFunction(_ hashing: inout Hashing) -> DeviceFunction? {
        guard !hashing.hasTried else { return hashing.function }
        hashing.hasTried = true
        hashing.function = try? DeviceModule(pccl_cuda_hash, at: location).function("hash_chunks")
        return hashing.function
    }

    /// False if the device has no more memory.
    private func reserve(_ bytes: Int, _ hashing: inout Hashing) throws(DeviceError) -> Bool {
        guard bytes > hashing.scratchBytes else { return true }
        var memory: pccl_cuda_pointer = 0
        let code = pccl_cuda_device_alloc(&memory, bytes)
        guard code != pccl_cuda_out_of_memory else { return false }
        try check(code, "cuMemAlloc")
        // Nobody uses the one before: each call waits for its end.
        if hashing.scratchBytes > 0 { pccl_cuda_device_free(hashing.scratch) }
        (hashing.scratch, hashing.scratchBytes) = (memory, bytes)
        return true
    }

    // MARK: - Kernels

    /// A kernel, and what it is called with: numbers of up to 64 bits, each in the first bytes of its own word. Addresses are
    /// of the device.
    struct Launch: Sendable {
        var function: DeviceFunction
        var arguments: [UInt64]
        /// That it has work for.
        var threads: Int

        /// The context is current.
        func enqueue(on stream: OpaquePointer) -> CInt {
            let ofTeam = Int(pccl_cuda_threads_of_team)
            let teams = min(max((threads + ofTeam - 1) / ofTeam, 1), DeviceQueue.mostTeams)
            // The arguments, and where each of them is.
            return arguments.withUnsafeBytes { bytes in
                let places = bytes.indices.filter { $0 % MemoryLayout<UInt64>.stride == 0 }
                var addresses = places.map {
                    UnsafeMutableRawPointer(mutating: bytes.baseAddress.unsafelyUnwrapped + $0)
                }
                return pccl_cuda_launch(
                    function.pointer, UInt32(teams), 1, 1, UInt32(ofTeam), 1, 1, 0, stream, &addresses, nil)
            }
        }
    }

    /// One after the other. Blocks until all are done.
    func run(_ launches: [Launch]) throws(DeviceError) {
        try settled { () throws(DeviceError) in for launch in launches { try enqueue(launch) } }
    }

    private func enqueue(_ launch: Launch) throws(DeviceError) {
        try check(launch.enqueue(on: stream.pointer), "cuLaunchKernel")
    }
}
