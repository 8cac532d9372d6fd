import Synchronization

/// What copies between one device and the host while operations are under way: a thread with a stream for each direction, so
/// that both go on at once. Of one context; kept for as long as the process lives.
final class DevicePassage: Sendable {
    /// To the host.
    let outward: DeviceWorker
    /// To the device.
    let inward: DeviceWorker

    private static let known = Mutex<[UInt: DevicePassage]>([:])

    /// That of the context which this memory is of.
    static func of(_ location: DeviceLocation) throws(DeviceError) -> DevicePassage {
        let number = try location.contextNumber()
        if let passage = known.withLock({ $0[number] }) { return passage }
        let made = try DevicePassage(location)
        // Two threads may have made one; the second one's has done nothing yet.
        return known.withLock { known in
            let passage = known[number] ?? made
            known[number] = passage
            return passage
        }
    }

    private init(_ location: DeviceLocation) throws(DeviceError) {
        outward = try DeviceWorker(at: location, name: "pccl-outward")
        inward = try DeviceWorker(at: location, name: "pccl-inward")
        // One that gets no stream from the driver says so now, and not to an operation.
        for worker in [outward, inward] { try worker.perform { (_) throws(DeviceError) in } }
    }
}
