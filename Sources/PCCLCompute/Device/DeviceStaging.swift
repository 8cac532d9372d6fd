import CCUDA
import Glibc
import Synchronization

/// The memory of the host that stands for buffers of a device while an operation works on them.
///
/// What is sent comes before the operation begins, what is received goes back only if it succeeds: the device's memory is
/// as it was until then, so an input is whole after a failure whatever happened. Buffers that overlap, as those of an
/// operation in place do, stand in the same relation here.
package final class DeviceStaging: Sendable {
    /// For the engine.
    package nonisolated(unsafe) let send: UnsafeRawPointer
    package nonisolated(unsafe) let receive: UnsafeMutableRawPointer

    private struct Target: @unchecked Sendable {
        var location: DeviceLocation
        var pointer: UnsafeMutableRawPointer
        var count: Int
    }
    /// Nil: the caller receives into memory of the host.
    private let target: Target?
    private let memory: [PinnedMemory]
    /// Once it is known how the way back went.
    private let outcome = Mutex<Result<Void, DeviceError>?>(nil)

    /// Nil if both are memory of the host. `stream`: what writes the input is on it, or was there before; nil is the default
    /// stream. Blocks until the input is here.
    package init?(
        send: UnsafeRawPointer, sendCount: Int, receive: UnsafeMutableRawPointer, receiveCount: Int,
        stream: OpaquePointer? = nil
    ) throws(DeviceError) {
        let source = sendCount > 0 ? try DeviceLocation(of: send) : nil
        let goal = receiveCount > 0 ? try DeviceLocation(of: UnsafeRawPointer(receive)) : nil
        guard source != nil || goal != nil else { return nil }
        let (first, second) = (UInt(bitPattern: send), UInt(bitPattern: receive))
        var memory: [PinnedMemory] = []
        if let source, goal != nil, first < second + UInt(receiveCount), second < first + UInt(sendCount) {
            let start = min(first, second)
            let end = max(first + UInt(sendCount), second + UInt(receiveCount))
            let whole = try PinnedMemory(count: Int(end - start), near: source)
            memory.append(whole)
            self.send = UnsafeRawPointer(whole.start + Int(first - start))
            self.receive = whole.start + Int(second - start)
        } else {
            if let source {
                memory.append(try PinnedMemory(count: sendCount, near: source))
                self.send = UnsafeRawPointer(memory[0].start)
            } else {
                self.send = send
            }
            if let goal {
                memory.append(try PinnedMemory(count: receiveCount, near: goal))
                self.receive = memory[memory.count - 1].start
            } else {
                self.receive = receive
            }
        }
        self.memory = memory
        target = goal.map { Target(location: $0, pointer: receive, count: receiveCount) }
        guard let source else { return }
        do throws(DeviceError) {
            try DeviceStaging.fetch(
                UnsafeMutableRawPointer(mutating: self.send), from: send, sendCount, source, stream)
        } catch {
            abandon()
            throw error
        }
    }

    /// A copy that was asked for may be under way still, and come to memory that somebody else has by then.
    private func abandon() { for memory in memory { memory.abandon() } }

    private static func fetch(
        _ to: UnsafeMutableRawPointer, from: UnsafeRawPointer, _ count: Int, _ source: DeviceLocation,
        _ stream: OpaquePointer?
    ) throws(DeviceError) {
        try source.inContext { () throws(DeviceError) in
            if let stream {
                var capture: CInt = 0
                try DeviceDriver.check(
                    pccl_cuda_stream_is_capturing(stream, &capture), "cuStreamIsCapturing", device: source.device)
                // An operation that may have to be repeated cannot be recorded.
                try DeviceDriver.check(
                    capture == 0 ? CInt(pccl_cuda_success) : CInt(pccl_cuda_stream_capture_unsupported),
                    "a stream that is captured",
                    device: source.device)
                try DeviceDriver.check(
                    pccl_cuda_stream_synchronize(stream), "cuStreamSynchronize", device: source.device)
            }
            let pointer = pccl_cuda_pointer(UInt(bitPattern: from))
            try DeviceDriver.check(
                pccl_cuda_copy_to_host(to, pointer, count, nil), "cuMemcpyDtoHAsync", device: source.device)
            try DeviceDriver.check(pccl_cuda_stream_synchronize(nil), "cuStreamSynchronize", device: source.device)
        }
    }

    /// After a success: the result is in the caller's memory when this returns. Once, whoever asks; others wait for it and
    /// are told the same.
    package func bringBack() throws(DeviceError) {
        guard let target else { return }
        let outcome: Result<Void, DeviceError> = outcome.withLock { known in
            if let known { return known }
            let outcome = Result { () throws(DeviceError) in
                try target.location.inContext { () throws(DeviceError) in
                    let device = target.location.device
                    let pointer = pccl_cuda_pointer(UInt(bitPattern: target.pointer))
                    try DeviceDriver.check(
                        pccl_cuda_copy_to_device(pointer, receive, target.count, nil), "cuMemcpyHtoDAsync",
                        device: device)
                    try DeviceDriver.check(pccl_cuda_stream_synchronize(nil), "cuStreamSynchronize", device: device)
                }
            }
            if case .failure = outcome { abandon() }
            known = outcome
            return outcome
        }
        try outcome.get()
    }
}

/// Memory of the host that a device copies to and from at full speed. Pinning it is slow, so a few are kept.
///
/// It is the system's memory, registered with the driver, and not the driver's own: peers of one host read each other's
/// memory through the kernel, which may not be able to read what a driver has mapped.
final class PinnedMemory: Sendable {
    nonisolated(unsafe) let start: UnsafeMutableRawPointer
    private let capacity: Int
    private let isPinned: Bool
    /// In whose context it is registered.
    private let location: DeviceLocation
    private let isAbandoned = Atomic(false)

    private struct Idle: @unchecked Sendable {
        var start: UnsafeMutableRawPointer
        var capacity: Int
        var location: DeviceLocation

        /// If it cannot be taken back, the driver may still use it.
        func release() {
            if let code = try? location.inContext({ pccl_cuda_host_unregister(start) }), code == pccl_cuda_success {
                free(start)
            }
        }
    }
    private static let idle = Mutex<[Idle]>([])
    private static let kept = 8
    private static let granule = 2 << 20
    private static let alignment = 4096

    /// If the driver has no more to pin, memory that is not: it is slower, and does as well.
    init(count: Int, near location: DeviceLocation) throws(DeviceError) {
        let capacity = (count + PinnedMemory.granule - 1) / PinnedMemory.granule * PinnedMemory.granule
        let found: Idle? = PinnedMemory.idle.withLock { idle in
            let fits = idle.indices.filter { idle[$0].capacity >= capacity && idle[$0].capacity <= 2 * capacity }
            return fits.min { idle[$0].capacity < idle[$1].capacity }.map { idle.remove(at: $0) }
        }
        if let found {
            (start, self.capacity, isPinned) = (found.start, found.capacity, true)
            self.location = found.location
            return
        }
        self.capacity = capacity
        self.location = location
        guard let memory = aligned_alloc(PinnedMemory.alignment, capacity) else {
            throw DeviceError("aligned_alloc", code: CInt(pccl_cuda_out_of_memory), device: location.device)
        }
        start = memory
        do throws(DeviceError) {
            let code = try location.inContext {
                pccl_cuda_host_register(memory, capacity, UInt32(pccl_cuda_host_register_portable))
            }
            isPinned = code == pccl_cuda_success
        } catch {
            free(memory)
            throw error
        }
    }

    /// It is never given back nor used again.
    func abandon() { isAbandoned.store(true, ordering: .relaxed) }

    deinit {
        guard !isAbandoned.load(ordering: .relaxed) else { return }
        guard isPinned else { return free(start) }
        let mine = Idle(start: start, capacity: capacity, location: location)
        let surplus: Idle? = PinnedMemory.idle.withLock { idle in
            idle.append(mine)
            // The least of them has been of no use to anybody who asks for more.
            guard idle.count > PinnedMemory.kept,
                let least = idle.indices.min(by: { idle[$0].capacity < idle[$1].capacity })
            else { return nil }
            return idle.remove(at: least)
        }
        surplus?.release()
    }
}
