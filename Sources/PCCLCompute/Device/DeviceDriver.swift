import CCUDA
import Glibc
import Synchronization

/// What the CUDA driver says when it does not do what it is asked for.
package struct DeviceError: Error, Hashable, Sendable, CustomStringConvertible {
    package var call: String
    package var code: CInt
    package var name: String
    /// Nil: of none in particular.
    package var device: Int?

    init(_ call: String, code: CInt, device: Int?) {
        self.call = call
        self.code = code
        self.device = device
        var text: UnsafePointer<CChar>?
        let isNamed = pccl_cuda_error_name(code, &text) == pccl_cuda_success
        name = isNamed ? text.map { String(cString: $0) } ?? "an unknown error" : "an unknown error"
    }

    package var isOutOfMemory: Bool { code == pccl_cuda_out_of_memory }

    package var description: String {
        "\(call)\(device.map { " on CUDA device \($0)" } ?? ""): \(name) (\(code))"
    }
}

/// The CUDA driver of this process, if there is one.
package enum DeviceDriver {
    package struct Status: Hashable, Sendable {
        /// Nil: it can be used.
        package var obstacle: String?
        /// Major and minor number in one: 12040 is 12.4.
        package var version: Int
        package var deviceCount: Int
    }

    /// Loads and initialises it, unless that was done.
    package static var status: Status {
        let native = pccl_cuda_load()
        let reason = withUnsafeBytes(of: native.reason) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
        return Status(
            obstacle: native.state == pccl_cuda_ready ? nil : reason, version: Int(native.driver_version),
            deviceCount: Int(native.device_count))
    }

    /// Whether it can be used, and somebody in this process uses it: otherwise no address can be a device's. Touches nothing
    /// where nobody does.
    static var isInUse: Bool { pccl_cuda_is_in_process() && pccl_cuda_load().state == pccl_cuda_ready }

    static func check(_ code: CInt, _ call: String, device: Int? = nil) throws(DeviceError) {
        if code != pccl_cuda_success { throw DeviceError(call, code: code, device: device) }
    }
}

/// Memory of a device, as the driver knows it by its address.
package struct DeviceLocation: Sendable {
    package var device: Int
    /// The one that the memory is of; memory of several contexts is none's.
    private let context: SendableContext?

    private struct SendableContext: @unchecked Sendable { var pointer: pccl_cuda_context }

    /// Where this address is; nil if it is the host's, as far as the driver knows.
    package init?(of address: UnsafeRawPointer) throws(DeviceError) {
        guard DeviceDriver.isInUse else { return nil }
        let pointer = pccl_cuda_pointer(UInt(bitPattern: address))
        var type: UInt32 = 0
        let code = DeviceLocation.inAnyContext {
            pccl_cuda_pointer_attribute(&type, CInt(pccl_cuda_pointer_memory_type), pointer)
        }
        // What the driver has never heard of is memory of the host. Without any context there is no memory of a device.
        if code == pccl_cuda_invalid_value || code == pccl_cuda_invalid_context { return nil }
        try DeviceDriver.check(code, "cuPointerGetAttribute")
        guard type == pccl_cuda_memory_of_device else { return nil }
        var ordinal: CInt = 0
        try DeviceDriver.check(
            DeviceLocation.inAnyContext {
                pccl_cuda_pointer_attribute(&ordinal, CInt(pccl_cuda_pointer_device_ordinal), pointer)
            }, "cuPointerGetAttribute")
        device = Int(ordinal)
        var context: pccl_cuda_context?
        _ = DeviceLocation.inAnyContext {
            pccl_cuda_pointer_attribute(&context, CInt(pccl_cuda_pointer_context), pointer)
        }
        self.context = context.map(SendableContext.init)
    }

    /// Where memory is that is made in the primary context of a device.
    init(primaryOf device: Int) throws(DeviceError) {
        self.device = device
        context = SendableContext(pointer: try DeviceLocation.primary(device))
    }

    /// The question needs some context. This thread may have none; then any that lives will do. None is made for it: that
    /// would take memory of a device that nobody uses.
    private static func inAnyContext(_ body: () -> CInt) -> CInt {
        let code = body()
        guard code == pccl_cuda_invalid_context else { return code }
        for ordinal in 0..<pccl_cuda_load().device_count {
            var (device, flags, isActive): (pccl_cuda_device, UInt32, CInt) = (0, 0, 0)
            guard pccl_cuda_device_get(&device, ordinal) == pccl_cuda_success,
                pccl_cuda_primary_state(device, &flags, &isActive) == pccl_cuda_success, isActive != 0,
                let context = try? primary(Int(ordinal))
            else { continue }
            // A context that is lost: whose memory it is nobody can say, and the host's is not to be guessed.
            let pushed = pccl_cuda_context_push(context)
            guard pushed == pccl_cuda_success else { return pushed }
            defer { pop() }
            return body()
        }
        return code
    }

    /// Kept for as long as the process lives, once it is used.
    private static let primaries = Mutex<[Int: SendableContext]>([:])

    private static func primary(_ ordinal: Int) throws(DeviceError) -> pccl_cuda_context {
        let result: Result<SendableContext, DeviceError> = primaries.withLock { primaries in
            if let known = primaries[ordinal] { return .success(known) }
            var (device, context): (pccl_cuda_device, pccl_cuda_context?) = (0, nil)
            var code = pccl_cuda_device_get(&device, CInt(ordinal))
            if code == pccl_cuda_success { code = pccl_cuda_primary_retain(&context, device) }
            guard code == pccl_cuda_success, let context else {
                return .failure(DeviceError("cuDevicePrimaryCtxRetain", code: code, device: ordinal))
            }
            primaries[ordinal] = SendableContext(pointer: context)
            return .success(SendableContext(pointer: context))
        }
        return try result.get().pointer
    }

    private static func pop() {
        var ignored: pccl_cuda_context?
        pccl_cuda_context_pop(&ignored)
    }

    /// Its context, or the primary one of its device, as a number that no other living one has.
    func contextNumber() throws(DeviceError) -> UInt { UInt(bitPattern: try contextPointer()) }

    package func isSameContext(as other: DeviceLocation) -> Bool {
        guard device == other.device, let mine = try? contextNumber(), let its = try? other.contextNumber() else {
            return false
        }
        return mine == its
    }

    private func contextPointer() throws(DeviceError) -> pccl_cuda_context {
        if let context { context.pointer } else { try DeviceLocation.primary(device) }
    }

    /// Calls the driver in the context of this memory; whatever this thread had current is current again afterwards.
    func inContext<T>(_ body: () throws(DeviceError) -> T) throws(DeviceError) -> T {
        let context = try contextPointer()
        try DeviceDriver.check(pccl_cuda_context_push(context), "cuCtxPushCurrent", device: device)
        defer { DeviceLocation.pop() }
        return try body()
    }

    func waitForDefaultStream() throws(DeviceError) {
        try inContext { () throws(DeviceError) in
            try DeviceDriver.check(pccl_cuda_stream_synchronize(nil), "cuStreamSynchronize", device: device)
        }
    }
}
