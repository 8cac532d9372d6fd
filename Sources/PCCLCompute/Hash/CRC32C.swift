import CKernels

/// CRC-32C (Castagnoli) of bytes that come one after the other, as iSCSI has it (RFC 3720). It finds what went wrong by
/// accident, and withstands nobody.
package struct CRC32C: Hashable, Sendable {
    /// Of all bytes so far; 0 of none.
    package private(set) var value: UInt32 = 0

    package init() {}
    package init(_ bytes: UnsafeRawBufferPointer) { add(bytes) }

    package mutating func add(_ bytes: UnsafeRawBufferPointer) {
        value = pccl_crc32c(value, bytes.baseAddress, bytes.count)
    }

    /// Copies them on the way, which costs less than to do one after the other. `target` has room for as many, elsewhere.
    package mutating func add(_ bytes: UnsafeRawBufferPointer, copyingTo target: UnsafeMutableRawPointer) {
        value = pccl_copy_crc32c(value, target, bytes.baseAddress, bytes.count)
    }
}
