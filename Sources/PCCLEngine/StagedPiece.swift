import PCCLCompute

/// A slab of staging memory with one segment in it. Goes back to its pool with the last reference.
final class StagedPiece {
    let base: UnsafeMutableRawPointer
    private var slab: StagingSlab?
    private let pool: StagingPool

    /// Nil when there is no memory.
    init?(_ pool: StagingPool, byteCount: Int) {
        guard let slab = pool.take(byteCount: byteCount) else { return nil }
        base = slab.base
        self.slab = consume slab
        self.pool = pool
    }

    deinit {
        if let slab = slab.take() { pool.give(back: slab) }
    }
}
