import CCUDA
import Synchronization

/// Buffers of an operation of which one at least is memory of a device.
///
/// An operation between peers that share a device's memory works on them where they lie (`useDevice`). Any other works on
/// memory of the host that stands for them (`useHost`): what is sent comes before the operation begins, what is received goes
/// back only if it succeeds, so that the device's memory is as it was until then. Buffers that overlap, as those of an
/// operation in place do, stand in the same relation there.
package final class DeviceBuffers: Sendable {
    private struct Buffer: @unchecked Sendable {
        var pointer: UnsafeMutableRawPointer
        var count: Int
        /// Nil: it is memory of the host.
        var location: DeviceLocation?
        var range: Range<UInt> { UInt(bitPattern: pointer)..<UInt(bitPattern: pointer) + UInt(count) }
    }
    private let send: Buffer
    private let receive: Buffer

    /// What stands for them on the host.
    package struct Staged: @unchecked Sendable {
        package fileprivate(set) var send: UnsafeRawPointer
        package fileprivate(set) var receive: UnsafeMutableRawPointer
        fileprivate var memory: [PinnedMemory] = []
    }
    private struct State {
        var staged: Staged?
        /// The result is there, and not on the device.
        var usesHost = false
    }
    private let state = Mutex(State())
    /// Once it is known how the way back went.
    private let outcome = Mutex<Result<Void, DeviceError>?>(nil)

    /// Nil if both are memory of the host. `stream`: what writes the input is on it, or was there before; nil is the default
    /// stream. Blocks until that is done.
    package init?(
        send: UnsafeRawPointer, sendCount: Int, receive: UnsafeMutableRawPointer, receiveCount: Int,
        stream: OpaquePointer? = nil
    ) throws(DeviceError) {
        let source = sendCount > 0 ? try DeviceLocation(of: send) : nil
        let goal = receiveCount > 0 ? try DeviceLocation(of: UnsafeRawPointer(receive)) : nil
        guard source != nil || goal != nil else { return nil }
        self.send = Buffer(
            pointer: UnsafeMutableRawPointer(mutating: send), count: sendCount, location: source)
        self.receive = Buffer(pointer: receive, count: receiveCount, location: goal)
        if let source { try DeviceBuffers.wait(for: stream, at: source) }
    }

    private static func wait(for stream: OpaquePointer?, at source: DeviceLocation) throws(DeviceError) {
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
            // What is done next is done on streams that do not wait for it.
            try DeviceDriver.check(pccl_cuda_stream_synchronize(nil), "cuStreamSynchronize", device: source.device)
        }
    }

    /// Where both are, if that is one device.
    package var location: DeviceLocation? {
        guard let first = send.location, let second = receive.location, first.isSameContext(as: second) else {
            return nil
        }
        return first
    }

    /// Where one of them is.
    package var anyLocation: DeviceLocation? { send.location ?? receive.location }

    // MARK: on the host

    /// From now on the operation works on the device.
    package func useDevice() { state.withLock { $0.usesHost = false } }

    /// From now on the operation works on this. Blocks until the input is there, unless `stage` was called before.
    package func useHost() throws(DeviceError) -> Staged {
        let staged = try stage()
        state.withLock { $0.usesHost = true }
        return staged
    }

    /// Blocks until the input is on the host, in case that is where the operation goes. Once.
    @discardableResult
    package func stage() throws(DeviceError) -> Staged {
        let result: Result<Staged, DeviceError> = state.withLock { state in
            if let staged = state.staged { return .success(staged) }
            let result = Result { () throws(DeviceError) in try makeStaged() }
            if case .success(let staged) = result { state.staged = staged }
            return result
        }
        return try result.get()
    }

    private func makeStaged() throws(DeviceError) -> Staged {
        var staged = Staged(send: UnsafeRawPointer(send.pointer), receive: receive.pointer)
        if let source = send.location, receive.location != nil, send.range.overlaps(receive.range) {
            let start = min(send.range.lowerBound, receive.range.lowerBound)
            let end = max(send.range.upperBound, receive.range.upperBound)
            let whole = try PinnedMemory(count: Int(end - start), near: source)
            staged.memory.append(whole)
            staged.send = UnsafeRawPointer(whole.start + Int(send.range.lowerBound - start))
            staged.receive = whole.start + Int(receive.range.lowerBound - start)
        } else {
            if let source = send.location {
                let memory = try PinnedMemory(count: send.count, near: source)
                staged.memory.append(memory)
                staged.send = UnsafeRawPointer(memory.start)
            }
            if let goal = receive.location {
                let memory = try PinnedMemory(count: receive.count, near: goal)
                staged.memory.append(memory)
                staged.receive = memory.start
            }
        }
        guard let source = send.location else { return staged }
        do throws(DeviceError) {
            // On a stream of its own: it waits for nothing that the caller has put on its streams since.
            try DeviceQueue.of(source).read(
                UnsafeMutableRawPointer(mutating: staged.send), from: send.pointer, send.count)
        } catch {
            // The copy may be under way still, and come to memory that somebody else has by then.
            staged.abandon()
            throw error
        }
        return staged
    }

    /// After a success: the result is in the caller's memory when this returns. Once, whoever asks; others wait for it and
    /// are told the same.
    package func bringBack() throws(DeviceError) {
        guard let goal = receive.location,
            let staged = state.withLock({ $0.usesHost ? $0.staged : nil })
        else { return }
        let outcome: Result<Void, DeviceError> = outcome.withLock { known in
            if let known { return known }
            let outcome = Result { () throws(DeviceError) in
                try goal.inContext { () throws(DeviceError) in
                    let to = pccl_cuda_pointer(receive.range.lowerBound)
                    try DeviceDriver.check(
                        pccl_cuda_copy_to_device(to, staged.receive, receive.count, nil), "cuMemcpyHtoDAsync",
                        device: goal.device)
                    try DeviceDriver.check(
                        pccl_cuda_stream_synchronize(nil), "cuStreamSynchronize", device: goal.device)
                }
            }
            if case .failure = outcome { staged.abandon() }
            known = outcome
            return outcome
        }
        try outcome.get()
    }
}

extension DeviceBuffers.Staged {
    fileprivate func abandon() { for memory in memory { memory.abandon() } }
}
