import CKernels
import PCCLBase

/// A tensor in the memory of a device: hashed where it lies, read and written by pieces. What writes it has ended when it is
/// made. The memory is the caller's.
package final class DeviceTensor: Sendable {
    private nonisolated(unsafe) let base: UnsafeMutableRawPointer
    package let byteCount: Int
    private let queue: DeviceQueue

    /// Nil if it is memory of the host. Waits for what was put on the default stream.
    package init?(_ base: UnsafeMutableRawPointer, byteCount: Int) throws(DeviceError) {
        guard byteCount > 0, let location = try DeviceLocation(of: UnsafeRawPointer(base)) else { return nil }
        self.base = base
        self.byteCount = byteCount
        queue = try DeviceQueue.of(location)
        try location.waitForDefaultStream()
    }

    /// Blocks until the bytes are there.
    package func read(_ range: Range<Int>, into memory: UnsafeMutableRawPointer) throws(DeviceError) {
        try queue.read(memory, from: base + range.lowerBound, range.count)
    }

    /// Blocks until they are in place.
    package func write(_ bytes: UnsafeRawBufferPointer, at offset: Int) throws(DeviceError) {
        guard let from = bytes.baseAddress else { return }
        try queue.write(base + offset, from: from, bytes.count)
    }

    /// The longest of which the whole hash is made in another way: those are read and hashed here.
    private static let longestShort = 240
    private static let wordBytes = 8

    /// The same as those of the same bytes on the host.
    package func chunkHashes(by function: HashFunction = .xxh3) throws(DeviceError) -> [ContentHash] {
        let chunks = ContentHash.chunkCount(of: byteCount)
        let ranges = (0..<chunks).map { ContentHash.range(ofChunk: $0, byteCount: byteCount) }
        var lanes: [UInt64]?
        if function == .xxh3, UInt(bitPattern: base) % UInt(DeviceTensor.wordBytes) == 0 {
            lanes = try queue.hashLanes(base, byteCount, chunkBytes: ContentHash.chunkBytes)
        }
        var hashes: [ContentHash] = []
        hashes.reserveCapacity(chunks)
        for (chunk, range) in ranges.enumerated() {
            if let lanes, range.count > DeviceTensor.longestShort {
                let own = lanes[chunk * DeviceQueue.laneCount..<(chunk + 1) * DeviceQueue.laneCount]
                let hash = own.withUnsafeBufferPointer { lanes in
                    pccl_kernel_xxh3_of_lanes(lanes.baseAddress.unsafelyUnwrapped, range.count)
                }
                hashes.append(ContentHash(high: hash.high, low: hash.low))
            } else {
                hashes.append(try hashOnHost(range, function))
            }
        }
        return hashes
    }

    private func hashOnHost(_ range: Range<Int>, _ function: HashFunction) throws(DeviceError) -> ContentHash {
        let bytes = UnsafeMutableRawBufferPointer.allocate(byteCount: range.count, alignment: 64)
        defer { bytes.deallocate() }
        try read(range, into: bytes.baseAddress.unsafelyUnwrapped)
        return ContentHash(ofChunk: UnsafeRawBufferPointer(bytes), by: function)
    }
}
