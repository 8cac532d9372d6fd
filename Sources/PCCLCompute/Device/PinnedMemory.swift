import CCUDA
import Glibc
import Synchronization

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

extension StagingMemory {
    /// The system's, registered with the driver. What cannot be registered is taken as it is: it is slower, and does as well.
    package static func pinned(near location: DeviceLocation) -> StagingMemory {
        let system = StagingMemory.system
        let pinned = PinnedSlabs()
        return StagingMemory(
            allocate: { byteCount in
                guard let base = system.allocate(byteCount) else { return nil }
                let code = try? location.inContext {
                    pccl_cuda_host_register(base, byteCount, UInt32(pccl_cuda_host_register_portable))
                }
                if let code, code == pccl_cuda_success { pinned.note(base) }
                return base
            },
            release: { base, byteCount in
                if pinned.forget(base) {
                    // If it cannot be taken back, the driver may still use it.
                    let code = try? location.inContext { pccl_cuda_host_unregister(base) }
                    guard let code, code == pccl_cuda_success else { return }
                }
                system.release(base, byteCount)
            })
    }
}

/// Which of them are registered.
private final class PinnedSlabs: Sendable {
    private let addresses = Mutex<Set<UInt>>([])

    func note(_ base: UnsafeMutableRawPointer) { addresses.withLock { _ = $0.insert(UInt(bitPattern: base)) } }
    func forget(_ base: UnsafeMutableRawPointer) -> Bool {
        addresses.withLock { $0.remove(UInt(bitPattern: base)) } != nil
    }
}
