import PCCLBase
import PCCLCompute

/// The caller's tensors, lent for a synchronisation, and what they hold. In the order of the offer's entries.
///
/// Made by the caller, which hashes; from when it is lent until the end of the call only the loop's thread uses it.
package final class StateMemory: @unchecked Sendable {
    package struct Tensor {
        package enum Place {
            /// Nil if there are no bytes.
            case host(UnsafeMutableRawPointer?)
            case device(DeviceTensor)
        }
        package let place: Place
        package let byteCount: Int
        /// What its chunks hold; none if it is not shared.
        package fileprivate(set) var chunks: [ContentHash]
        /// Of all of it; nil while it is being received, or if it is not shared.
        package fileprivate(set) var hash: ContentHash?

        /// `chunks`: as many as `ContentHash.chunkCount` says; nil if it is not shared.
        package init(_ place: Place, byteCount: Int, chunks: [ContentHash]?, by function: HashFunction) {
            self.place = place
            self.byteCount = byteCount
            self.chunks = chunks ?? []
            hash = chunks.map { ContentHash(ofChunks: $0, byteCount: byteCount, by: function) }
        }

        func range(ofChunk chunk: Int) -> Range<Int> { ContentHash.range(ofChunk: chunk, byteCount: byteCount) }
    }

    package let function: HashFunction
    package private(set) var tensors: [Tensor]
    /// In the end: what the synchronisation has moved.
    package internal(set) var traffic = Traffic()
    /// What a device did not do: then a tensor does not hold what is said here. The first time.
    package private(set) var failure: (entry: Int, error: DeviceError)?

    /// All of their hashes are by this function.
    package init(_ tensors: [Tensor], by function: HashFunction) {
        self.tensors = tensors
        self.function = function
    }

    /// For tests: says of a chunk what is not so.
    func pretendHash(of entry: Int, chunk: Int) { tensors[entry].chunks[chunk] = ContentHash(high: 0, low: 0) }

    func beginReceiving(_ entry: Int) { tensors[entry].hash = nil }

    func endReceiving(_ entry: Int, _ hash: ContentHash) { tensors[entry].hash = hash }

    func write(_ source: UnsafeRawBufferPointer, toChunk chunk: Int, of entry: Int, _ hash: ContentHash) {
        let range = tensors[entry].range(ofChunk: chunk)
        switch tensors[entry].place {
        case .host(let base):
            UnsafeMutableRawBufferPointer(start: base.map { $0 + range.lowerBound }, count: range.count)
                .copyMemory(from: source)
        case .device(let tensor):
            do { try tensor.write(source, at: range.lowerBound) } catch { note(error, entry) }
        }
        tensors[entry].chunks[chunk] = hash
    }

    /// False if a device does not give it.
    func read(_ chunk: Int, of tensor: DeviceTensor, _ entry: Int, into memory: UnsafeMutableRawPointer) -> Bool {
        do {
            try tensor.read(tensors[entry].range(ofChunk: chunk), into: memory)
            return true
        } catch {
            note(error, entry)
            return false
        }
    }

    private func note(_ error: DeviceError, _ entry: Int) { failure = failure ?? (entry, error) }
}
