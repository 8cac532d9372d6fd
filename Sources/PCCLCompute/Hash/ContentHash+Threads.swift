import PCCLBase

extension ContentHash {
    /// The hashes of all chunks of these tensors, worked out by as many threads as there are processors and work for them.
    /// Blocks until they are done; the memory is only read.
    package static func ofChunks(
        of tensors: [UnsafeRawBufferPointer], by function: HashFunction = .xxh3
    ) -> [[ContentHash]] {
        let work = ChunkWork(tensors, function)
        Pieces.run(work.pieces.count, threads: work.byteCount / ChunkWork.bytesPerThread) { work.hash(piece: $0) }
        return work.hashes()
    }
}

/// Pieces of tensors to be hashed.
private final class ChunkWork: @unchecked Sendable {
    struct Piece {
        var tensor: Int
        var chunks: Range<Int>
        /// Of its first hash.
        var place: Int
    }

    /// Takes about as long as starting a thread costs.
    static let bytesPerThread = 4 << 20
    private static let chunksPerPiece = 16

    let byteCount: Int
    let pieces: [Piece]
    private let tensors: [UnsafeRawBufferPointer]
    private let function: HashFunction
    /// Each written by one thread, and read when all have ended.
    private let results: UnsafeMutableBufferPointer<ContentHash>

    init(_ tensors: [UnsafeRawBufferPointer], _ function: HashFunction) {
        self.function = function
        self.tensors = tensors
        byteCount = tensors.reduce(0) { $0 + $1.count }
        var pieces: [Piece] = []
        var place = 0
        for (tensor, bytes) in tensors.enumerated() {
            let count = ContentHash.chunkCount(of: bytes.count)
            for start in stride(from: 0, to: count, by: ChunkWork.chunksPerPiece) {
                let end = min(start + ChunkWork.chunksPerPiece, count)
                pieces.append(Piece(tensor: tensor, chunks: start..<end, place: place + start))
            }
            place += count
        }
        self.pieces = pieces
        results = .allocate(capacity: place)
        results.initialize(repeating: ContentHash(high: 0, low: 0))
    }

    deinit { results.deallocate() }

    func hash(piece index: Int) {
        let piece = pieces[index]
        let hashes = ContentHash.ofChunks(piece.chunks, of: tensors[piece.tensor], by: function)
        for (i, hash) in hashes.enumerated() { results[piece.place + i] = hash }
    }

    func hashes() -> [[ContentHash]] {
        var place = 0
        return tensors.map { bytes in
            let count = ContentHash.chunkCount(of: bytes.count)
            defer { place += count }
            return Array(results[place..<place + count])
        }
    }
}
