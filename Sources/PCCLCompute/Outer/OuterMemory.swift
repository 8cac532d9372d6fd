import Glibc

/// Floats of an outer state, zeros at first, on the host or on a device; freed with the last reference. Of a device the
/// address is of no use to the host but as a number.
package final class OuterMemory: @unchecked Sendable {
    package let floats: UnsafeMutablePointer<Float>
    private let owner: Owner

    private enum Owner: ~Copyable {
        case host(UnsafeMutableRawPointer)
        case device(DeviceMemory)
    }

    /// Nil if the host has no memory.
    init?(onHost count: Int) {
        // Pages that nobody touches cost nothing.
        guard let memory = calloc(max(count, 1), MemoryLayout<Float>.stride) else { return nil }
        floats = memory.assumingMemoryBound(to: Float.self)
        owner = .host(memory)
    }

    /// What is in it is undefined.
    init(_ memory: consuming DeviceMemory) {
        floats = memory.pointer.assumingMemoryBound(to: Float.self)
        owner = .device(memory)
    }

    deinit {
        switch owner {
        case .host(let memory): free(memory)
        case .device: break
        }
    }
}
