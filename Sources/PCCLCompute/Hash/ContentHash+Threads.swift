import Glibc
import PCCLBase
import Synchronization

extension ContentHash {
    /// The hashes of all chunks of these tensors, worked out by as many threads as there are processors and work for them.
    /// Blocks until they are done; the memory is only read.
    package static func ofChunks(
        of tensors: [UnsafeRawBufferPointer], by function: HashFunction = .xxh3
    ) -> [[ContentHash]] {
        let work = ChunkWork(tensors, function)
        let threads = (1..<max(1, min(sysconf(CInt(_SC_NPROCESSORS_ONLN)), work.byteCount / ChunkWork.bytesPerThread)))
            .compactMap { _ in start(work) }
        work.run()
        for thread in threads { pthread_join(thread, nil) }
        return work.hashes()
    }

    /// Nil if there are no more threads: then the others do its part.
    private static func start(_ work: ChunkWork) -> pthread_t? {
        var thread = pthread_t()
        let context = Unmanaged.passRetained(work)
        let result = pthread_create(
            &thread, nil,
            { context in
                guard let context else { return nil }
                // Signals belong to the host process' threads.
                var all = sigset_t()
                sigfillset(&all)
                pthread_sigmask(SIG_BLOCK, &all, nil)
                Unmanaged<ChunkWork>.fromOpaque(context).takeRetainedValue().run()
                return nil
            }, context.toOpaque())
        guard result == 0 else {
            context.release()
            return nil
        }
        return thread
    }
}

/// Pieces of tensors to be hashed; whichever thread is free takes the next one.
private final class ChunkWork: @unchecked Sendable {
    private struct Piece {
        var tensor: Int
        var chunks: Range<Int>
        /// Of its first hash.
        var place: Int
    }

    /// Takes about as long as starting a thread costs.
    static let bytesPerThread = 4 << 20
    private static let chunksPerPiece = 16

    let byteCount: Int
    private let tensors: [UnsafeRawBufferPointer]
    private let function: HashFunction
    private let pieces: [Piece]
    private let next = Atomic(0)
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

    func run() {
        while true {
            let index = next.add(1, ordering: .relaxed).oldValue
            guard index < pieces.count else { return }
            let piece = pieces[index]
            let hashes = ContentHash.ofChunks(piece.chunks, of: tensors[piece.tensor], by: function)
            for (i, hash) in hashes.enumerated() { results[piece.place + i] = hash }
        }
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
