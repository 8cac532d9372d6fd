import CKernels
import COpenSSL
import PCCLBase

/// A tree of two levels. The bytes are cut into chunks of 1 MiB, and each has a hash of its own, so that of two tensors that
/// differ it is seen where. With one chunk, its hash is that of the tensor; with several, the tensor's is the hash of
/// their hashes and the number of bytes. docs/shared-state.md is the specification.
extension ContentHash {
    /// Of all bytes of a tensor.
    package init(_ bytes: UnsafeRawBufferPointer, by function: HashFunction = .xxh3) {
        let chunks = 0..<ContentHash.chunkCount(of: bytes.count)
        self.init(
            ofChunks: ContentHash.ofChunks(chunks, of: bytes, by: function), byteCount: bytes.count, by: function)
    }

    /// Of the bytes of one chunk.
    package init(ofChunk bytes: UnsafeRawBufferPointer, by function: HashFunction = .xxh3) {
        switch function {
        case .xxh3:
            let hash = pccl_kernel_xxh3_best()(bytes.baseAddress, bytes.count)
            self.init(high: hash.high, low: hash.low)
        case .sha256:
            var digest: (UInt64, UInt64, UInt64, UInt64) = (0, 0, 0, 0)
            let isMade = withUnsafeMutableBytes(of: &digest) {
                EVP_Digest(
                    bytes.baseAddress, bytes.count, $0.baseAddress?.assumingMemoryBound(to: UInt8.self), nil,
                    EVP_sha256(), nil)
            }
            precondition(isMade == 1, "OpenSSL has no SHA-256, or no memory for its state")
            self.init(
                high: UInt64(bigEndian: digest.0), low: UInt64(bigEndian: digest.1),
                further: UInt64(bigEndian: digest.2),
                last: UInt64(bigEndian: digest.3))
        }
    }

    /// Of a tensor, from the hashes of its chunks in order: as many as `chunkCount` says. Of hashes that a peer sent, the
    /// caller checks the number first.
    package init(ofChunks hashes: [ContentHash], byteCount: Int, by function: HashFunction = .xxh3) {
        precondition(hashes.count == ContentHash.chunkCount(of: byteCount), "each chunk has one hash")
        if hashes.count == 1 {
            self = hashes[0]
        } else {
            let words = hashes.flatMap { $0.words(of: function) } + [UInt64(byteCount).littleEndian]
            self = words.withUnsafeBytes { ContentHash(ofChunk: $0, by: function) }
        }
    }

    /// In canonical form.
    private func words(of function: HashFunction) -> [UInt64] {
        switch function {
        case .xxh3: [high.bigEndian, low.bigEndian]
        case .sha256: [high.bigEndian, low.bigEndian, further.bigEndian, last.bigEndian]
        }
    }
}

extension ContentHash {
    package static let chunkBytes = 1 << 20

    /// At least one: where there are no bytes there is a chunk without bytes.
    package static func chunkCount(of byteCount: Int) -> Int {
        max(1, byteCount / chunkBytes + (byteCount % chunkBytes == 0 ? 0 : 1))
    }

    /// Where the chunk lies in a tensor of that many bytes. The last chunk is what is left.
    package static func range(ofChunk chunk: Int, byteCount: Int) -> Range<Int> {
        let start = chunk * chunkBytes
        return start..<start + min(chunkBytes, byteCount - start)
    }

    /// The hashes of some chunks of the tensor that has these bytes. Threads that divide the chunks divide the work.
    package static func ofChunks(
        _ chunks: Range<Int>, of bytes: UnsafeRawBufferPointer, by function: HashFunction = .xxh3
    ) -> [ContentHash] {
        chunks.map { chunk in
            let range = range(ofChunk: chunk, byteCount: bytes.count)
            return ContentHash(ofChunk: UnsafeRawBufferPointer(rebasing: bytes[range]), by: function)
        }
    }
}
