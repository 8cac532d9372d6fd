import PCCLCompute
import Testing

/// Counts what is lent by the system, and refuses when told to.
private final class CountingMemory: @unchecked Sendable {
    private(set) var allocations = 0
    private(set) var releases = 0
    private(set) var bytesOut = 0
    var refusals = 0

    var memory: StagingMemory {
        let system = StagingMemory.system
        return StagingMemory(
            allocate: { byteCount in
                if self.refusals > 0 {
                    self.refusals -= 1
                    return nil
                }
                guard let base = system.allocate(byteCount) else { return nil }
                self.allocations += 1
                self.bytesOut += byteCount
                return base
            },
            release: { base, byteCount in
                self.releases += 1
                self.bytesOut -= byteCount
                system.release(base, byteCount)
            })
    }
}

@Suite("StagingPool")
struct StagingPoolTests {
    @Test(
        "a slab is a power of two that is large enough, page-aligned and writable",
        arguments: [
            (0, 4096), (1, 4096), (4096, 4096), (4097, 8192), (65536, 65536), ((1 << 20) - 1, 1 << 20),
            (1 << 20, 1 << 20), ((1 << 20) + 1, 2 << 20), (5 << 20, 8 << 20),
        ])
    func sizes(asked: Int, given: Int) throws {
        let pool = StagingPool()
        let slab = try pool.taken(asked)
        #expect(slab.byteCount == given)
        #expect(Int(bitPattern: slab.base) % 4096 == 0)
        slab.base.initializeMemory(as: UInt8.self, repeating: 0x5a, count: slab.byteCount)
        #expect(slab.base.load(fromByteOffset: slab.byteCount - 1, as: UInt8.self) == 0x5a)
        pool.give(back: slab)
        #expect(pool.keptBytes == given)
    }

    @Test("what is given back is lent again, the newest first")
    func reuse() throws {
        let counting = CountingMemory()
        let pool = StagingPool(keptBytesLimit: 1 << 20, memory: counting.memory)
        let first = try pool.taken(8192)
        let second = try pool.taken(8192)
        let newest = second.base
        #expect(first.base != newest)
        pool.give(back: first)
        pool.give(back: second)
        let again = try pool.taken(5000)
        #expect(again.base == newest)
        #expect(counting.allocations == 2)
        #expect(pool.keptBytes == 8192)
    }

    @Test("a slab of another size class is not lent")
    func classesAreApart() throws {
        let counting = CountingMemory()
        let pool = StagingPool(keptBytesLimit: 1 << 20, memory: counting.memory)
        pool.give(back: try pool.taken(16384))
        let small = try pool.taken(4096)
        #expect(small.byteCount == 4096)
        #expect(counting.allocations == 2)
        #expect(pool.keptBytes == 16384)
    }

    @Test("beyond the limit a slab given back is freed")
    func limit() throws {
        let counting = CountingMemory()
        let pool = StagingPool(keptBytesLimit: 12288, memory: counting.memory)
        let first = try pool.taken(8192)
        let second = try pool.taken(8192)
        pool.give(back: first)
        pool.give(back: second)
        #expect(pool.keptBytes == 8192)
        #expect(counting.releases == 1)
        #expect(counting.bytesOut == 8192)
    }

    @Test("a slab that is dropped goes back to the system")
    func dropped() throws {
        let counting = CountingMemory()
        let pool = StagingPool(keptBytesLimit: 1 << 20, memory: counting.memory)
        _ = try pool.taken(2 << 20)
        #expect(counting.releases == 1)
        #expect(counting.bytesOut == 0)
        #expect(pool.keptBytes == 0)
    }

    @Test("a pool that ends frees what it keeps; a lent slab outlives it")
    func ending() throws {
        let counting = CountingMemory()
        func lentByAPoolThatEnds() throws -> StagingSlab {
            let pool = StagingPool(keptBytesLimit: 8 << 20, memory: counting.memory)
            let small = try pool.taken(4096)
            let mapped = try pool.taken(4 << 20)
            let lent = try pool.taken(4096)
            pool.give(back: small)
            pool.give(back: mapped)
            #expect(counting.releases == 0)
            return lent
        }
        let lent = try lentByAPoolThatEnds()
        #expect(counting.releases == 2)
        #expect(counting.bytesOut == 4096)
        lent.base.storeBytes(of: 7, as: UInt8.self)
        #expect(lent.base.load(as: UInt8.self) == 7)
    }

    @Test("a system without memory gives nil, not a trap")
    func noMemory() {
        let counting = CountingMemory()
        let pool = StagingPool(keptBytesLimit: 1 << 20, memory: counting.memory)
        counting.refusals = 2
        #expect(pool.refuses(4096))
        #expect(counting.refusals == 0)
        #expect(!pool.refuses(4096))
    }

    @Test("more than an address space holds gives nil", arguments: [1 << 50, (1 << 62) - 1, 1 << 62, Int.max])
    func tooMuch(byteCount: Int) {
        #expect(StagingPool().refuses(byteCount))
    }

    @Test("when memory is short, what is kept is freed before giving up")
    func keptIsFreedFirst() throws {
        let counting = CountingMemory()
        let pool = StagingPool(keptBytesLimit: 1 << 20, memory: counting.memory)
        pool.give(back: try pool.taken(65536))
        counting.refusals = 1
        let slab = try pool.taken(4096)
        #expect(slab.byteCount == 4096)
        #expect(counting.releases == 1)
        #expect(counting.bytesOut == 4096)
        #expect(pool.keptBytes == 0)
    }
}

private struct NoMemory: Error {}

extension StagingPool {
    /// `#require` cannot carry a noncopyable value.
    fileprivate func taken(_ byteCount: Int) throws -> StagingSlab {
        guard let slab = take(byteCount: byteCount) else { throw NoMemory() }
        return slab
    }

    fileprivate func refuses(_ byteCount: Int) -> Bool {
        let slab = take(byteCount: byteCount)
        return slab == nil
    }
}
