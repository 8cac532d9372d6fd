import CCUDA
import Synchronization

/// What copies between one device and the host while operations are under way, and codes and folds there: a thread with a
/// stream for each kind of work, so that all go on at once. Of one context; kept for as long as the process lives.
final class DevicePassage: Sendable {
    /// To the host.
    let outward: DeviceWorker
    /// To the device.
    let inward: DeviceWorker
    let folding: DeviceWorker
    let outwardScratch: DeviceScratch
    let inwardScratch: DeviceScratch
    let foldingScratch: DeviceScratch

    private let location: DeviceLocation
    private let spare = Mutex<[DeviceMemoryBox]>([])
    private static let mostSpareBytes = 1 << 30

    private static let known = Mutex<[UInt: DevicePassage]>([:])

    /// That of the context which this memory is of.
    static func of(_ location: DeviceLocation) throws(DeviceError) -> DevicePassage {
        let number = try location.contextNumber()
        // Under the lock: each that is made has threads, and streams of the driver.
        let result: Result<DevicePassage, DeviceError> = known.withLock { known in
            if let passage = known[number] { return .success(passage) }
            let made = Result { () throws(DeviceError) in try DevicePassage(location) }
            if case .success(let passage) = made { known[number] = passage }
            return made
        }
        return try result.get()
    }

    private init(_ location: DeviceLocation) throws(DeviceError) {
        outward = try DeviceWorker(at: location, name: "pccl-outward")
        inward = try DeviceWorker(at: location, name: "pccl-inward")
        folding = try DeviceWorker(at: location, name: "pccl-folding")
        outwardScratch = DeviceScratch(location)
        inwardScratch = DeviceScratch(location)
        foldingScratch = DeviceScratch(location)
        self.location = location
        // One that gets no stream from the driver says so now, and not to an operation.
        for worker in [outward, inward, folding] { try worker.perform { (_) throws(DeviceError) in } }
    }

    /// Sees to it that each worker has so much scratch. False if the device has no more memory.
    func reserve(_ bytes: Int) -> Bool {
        let all = [(outward, outwardScratch), (inward, inwardScratch), (folding, foldingScratch)]
        return all.allSatisfy { worker, scratch in
            if scratch.has(bytes) { return true }
            do throws(DeviceError) {
                try worker.perform { (_) throws(DeviceError) in _ = try scratch.address(bytes) }
                return true
            } catch {
                return false
            }
        }
    }

    // MARK: memory of the device that an operation needs for a while

    /// Nil if there is none.
    func takeSpare(_ bytes: Int) -> DeviceMemoryBox? {
        let found: DeviceMemoryBox? = spare.withLock { spare in
            let fits = spare.indices.filter { spare[$0].byteCount >= bytes && spare[$0].byteCount <= 2 * bytes }
            return fits.min { spare[$0].byteCount < spare[$1].byteCount }.map { spare.remove(at: $0) }
        }
        return found ?? (try? DeviceMemoryBox(DeviceMemory(byteCount: bytes, at: location)))
    }

    /// The oldest are freed that exceed what is kept.
    func giveBack(spare memory: DeviceMemoryBox) {
        let surplus = spare.withLock { spare in
            spare.append(memory)
            var surplus: [DeviceMemoryBox] = []
            while spare.reduce(0, { $0 + $1.byteCount }) > DevicePassage.mostSpareBytes {
                surplus.append(spare.removeFirst())
            }
            return surplus
        }
        withExtendedLifetime(surplus) {}
    }
}

/// Memory of a device that several hold.
final class DeviceMemoryBox: Sendable {
    private let memory: DeviceMemory
    init(_ memory: consuming DeviceMemory) { self.memory = memory }
    var address: UInt { UInt(bitPattern: memory.pointer) }
    var byteCount: Int { memory.byteCount }
}

/// Memory of a device that one worker uses from one piece of work to the next. It grows.
final class DeviceScratch: Sendable {
    private let location: DeviceLocation
    private let memory = Mutex<DeviceMemoryBox?>(nil)

    init(_ location: DeviceLocation) { self.location = location }

    func has(_ bytes: Int) -> Bool { memory.withLock { $0?.byteCount ?? 0 >= bytes } }

    /// For the worker alone, which has no work under way.
    func address(_ bytes: Int) throws(DeviceError) -> UInt {
        let result: Result<UInt, DeviceError> = memory.withLock { memory in
            if let memory, memory.byteCount >= bytes { return .success(memory.address) }
            return Result { () throws(DeviceError) in
                let made = DeviceMemoryBox(try DeviceMemory(byteCount: bytes, at: location))
                memory = made
                return made.address
            }
        }
        return try result.get()
    }
}
