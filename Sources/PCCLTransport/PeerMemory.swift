import CShims
import Glibc
import PCCLBase
import PCCLWire
import Synchronization

/// A number in this process' memory that nobody guesses: who can say it has read it. As long as it stands there, what was
/// offered stays as it is: so whoever has fetched something looks again, and needs no word from here.
final class MemoryProof {
    private let number: UnsafeMutablePointer<(high: UInt64, low: UInt64)>

    init() {
        number = .allocate(capacity: 1)
        number.initialize(to: (.random(in: .min ... .max), .random(in: .min ... .max)))
    }
    deinit { number.deallocate() }

    var description: LocalMemory {
        LocalMemory(
            process: UInt32(getpid()), address: UInt64(UInt(bitPattern: number)), proof: number.pointee)
    }

    /// What was offered may change from now on.
    func takeBack() {
        number.pointee = (0, 0)
        // Nobody may see memory that has changed and a proof that stands.
        atomicMemoryFence(ordering: .sequentiallyConsistent)
    }
}

/// The memory of another process of this host, read with `process_vm_readv`: one copy, from where the bytes lie to where they
/// are wanted, and nothing that could outlive either process.
///
/// The kernel allows it to processes of one user, unless a security module or a container's profile forbids it.
final class PeerMemory {
    private let process: pid_t
    private let description: LocalMemory

    private init(process: pid_t, _ description: LocalMemory) {
        self.process = process
        self.description = description
    }

    /// Fails when the memory cannot be read, or is not that of the process that described it.
    static func open(_ description: LocalMemory) -> Result<PeerMemory, SystemError> {
        guard let process = pid_t(exactly: description.process) else {
            return .failure(SystemError(code: ESRCH, doing: "looking for process \(description.process)"))
        }
        let memory = PeerMemory(process: process, description)
        guard let found = memory.proof else {
            return .failure(SystemError(doing: "reading the memory of process \(description.process)"))
        }
        guard found == description.proof else {
            return .failure(SystemError(code: ESRCH, doing: "reading the proof of process \(description.process)"))
        }
        return .success(memory)
    }

    /// Nil if it cannot be read.
    private var proof: (high: UInt64, low: UInt64)? {
        var found: (high: UInt64, low: UInt64) = (0, 0)
        let isRead = withUnsafeMutableBytes(of: &found) { bytes in
            bytes.baseAddress.map { read(description.address, into: $0, byteCount: bytes.count) } ?? false
        }
        return isRead ? found : nil
    }

    /// Whether all that was read before was as its owner had offered it: it has not closed the link, let alone ended.
    var stood: Bool {
        // The reading was in the kernel, and for this processor.
        atomicMemoryFence(ordering: .sequentiallyConsistent)
        return proof.map { $0 == description.proof } ?? false
    }

    /// Whether others can read so many bytes of this process: at their ends.
    static func canBeRead(_ memory: UnsafeRawPointer, byteCount: Int) -> Bool {
        byteCount == 0 || pccl_shim_can_be_read(memory, byteCount) == 1
    }

    /// False when not all could be read.
    func read(_ address: UInt64, into target: UnsafeMutableRawPointer, byteCount: Int) -> Bool {
        pccl_shim_read_process(process, address, target, byteCount) == byteCount
    }
}
