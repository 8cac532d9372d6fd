import PCCLCompute

/// Memory of a CUDA device, for programs that have no CUDA of their own: it is there from the `init` on, and freed when the
/// value ends. Its `pointer` goes wherever the library takes the address of a buffer.
///
/// Nothing that it is lent to keeps it alive: do not let it end before the outcome of an operation is known. Any thread may
/// copy to and from it, but not while it is lent.
public struct DeviceBuffer: ~Copyable, Sendable {
    private let memory: DeviceMemory
    /// Which of the devices that the driver shows, from 0.
    public let device: Int

    /// The content is undefined. Loads the driver, unless that was done.
    ///
    /// Throws `.invalidArgument` for a count below 1 and a device that is not there; `.invalidUsage` if there is no driver that
    /// can be used, with the reason; `.internalError` with the driver's own error, when there is no memory left, say.
    public init(byteCount: Int, device: Int = 0) throws(PCCLError) {
        guard byteCount > 0 else { throw PCCLError(.invalidArgument, "a buffer of \(byteCount) bytes") }
        let status = CUDAStatus.current
        if let obstacle = status.obstacle {
            throw PCCLError(.invalidUsage, "no buffer on CUDA device \(device): \(obstacle)")
        }
        guard (0..<status.deviceCount).contains(device) else {
            throw PCCLError(
                .invalidArgument, "there is no CUDA device \(device); there are \(status.deviceCount), from 0")
        }
        do throws(DeviceError) {
            memory = try DeviceMemory(byteCount: byteCount, device: device)
        } catch {
            throw PCCLError(error)
        }
        self.device = device
    }

    /// An address of the device. The host must neither read nor write there.
    public var pointer: UnsafeMutableRawPointer { memory.pointer }
    public var byteCount: Int { memory.byteCount }

    /// Copies bytes of the host to `offset` and after. When it returns they are there, and what was put on the default stream
    /// before it was called is done.
    ///
    /// Throws `.invalidArgument`, before anything is copied, where there is no room for them; `.internalError` with the
    /// driver's own error.
    public func copyIn(from bytes: UnsafeRawBufferPointer, at offset: Int = 0) throws(PCCLError) {
        try check(offset, bytes.count)
        do { try memory.write(bytes, at: offset) } catch { throw PCCLError(error) }
    }

    /// Fills memory of the host with the bytes at `offset` and after. As `copyIn` else.
    public func copyOut(into bytes: UnsafeMutableRawBufferPointer, at offset: Int = 0) throws(PCCLError) {
        try check(offset, bytes.count)
        do { try memory.read(into: bytes, at: offset) } catch { throw PCCLError(error) }
    }

    private func check(_ offset: Int, _ count: Int) throws(PCCLError) {
        guard offset >= 0, offset <= byteCount, count <= byteCount - offset else {
            throw PCCLError(.invalidArgument, "\(count) bytes at \(offset) of a buffer of \(byteCount)")
        }
    }
}

extension PCCLError {
    fileprivate init(_ error: DeviceError) { self.init(.internalError, error.description) }
}
