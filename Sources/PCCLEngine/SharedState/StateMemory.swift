import PCCLBase
import PCCLCompute

/// The caller's tensors, lent for a synchronisation, and what they hold. In the order of the offer's entries.
///
/// Made by the caller, which hashes; from when it is lent until the end of the call only the loop's thread uses it.
package final class StateMemory: @unchecked Sendable {
    package struct Tensor {
        /// Nil if there are no bytes.
        package let base: UnsafeMutableRawPointer?
        package let byteCount: Int
        /// What its chunks hold; none if it is not shared.
        package fileprivate(set) var chunks: [ContentHash]
        /// Of all of it; nil while it is being received, or if it is not shared.
        package fileprivate(set) var hash: ContentHash?

        /// `chunks`: as many as `ContentHash.chunkCount` says; nil if it is not shared.
        package init(base: UnsafeMutableRawPointer?, byteCount: Int, chunks: [ContentHash]?, by function: HashFunction)
        {
            self.base = base
            self.byteCount = byteCount
            self.chunks = chunks ?? []
            hash = chunks.map { ContentHash(ofChunks: $0, byteCount: byteCount, by: function) }
        }

        func bytes(ofChunk chunk: Int) -> UnsafeMutableRawBufferPointer {
            let range = ContentHash.range(ofChunk: chunk, byteCount: byteCount)
            return UnsafeMutableRawBufferPointer(start: base.map { $0 + range.lowerBound }, count: range.count)
        }
    }

    package let function: HashFunction
    package private(set) var tensors: [Tensor]
    /// In the end: what the synchronisation has moved.
    package internal(set) var traffic = Traffic()

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
        tensors[entry].bytes(ofChunk: chunk).copyMemory(from: source)
        tensors[entry].chunks[chunk] = hash
    }
}
