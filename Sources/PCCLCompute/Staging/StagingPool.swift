import Glibc

/// Page-aligned memory lent by a `StagingPool`. Its contents are whatever was there before.
///
/// It belongs to whoever holds this value, until it is given back to the pool; a slab that is merely dropped goes back
/// to the system, so none can leak.
package struct StagingSlab: ~Copyable {
    package let base: UnsafeMutableRawPointer
    /// The size class: at least what was asked for.
    package let byteCount: Int

    private let memory: StagingMemory
    private var isOwner = true

    init(base: UnsafeMutableRawPointer, byteCount: Int, memory: StagingMemory) {
        self.base = base
        self.byteCount = byteCount
        self.memory = memory
    }

    deinit {
        if isOwner {
            memory.release(base, byteCount)
        }
    }

    /// The memory passes to the pool.
    consuming func surrender() -> UnsafeMutableRawPointer {
        isOwner = false
        return base
    }
}

/// Where slabs come from; tests put another source in its place to run out of memory when they want.
package struct StagingMemory: Sendable {
    /// Page-aligned memory of that many bytes, a power of two; nil when there is none.
    package var allocate: @Sendable (Int) -> UnsafeMutableRawPointer?
    package var release: @Sendable (UnsafeMutableRawPointer, Int) -> Void

    package init(
        allocate: @escaping @Sendable (Int) -> UnsafeMutableRawPointer?,
        release: @escaping @Sendable (UnsafeMutableRawPointer, Int) -> Void
    ) {
        self.allocate = allocate
        self.release = release
    }

    /// From here on the kernel is asked directly: what is released goes back to it at once, and pages that nobody
    /// touched cost nothing, so that the rounding up to a power of two is free.
    private static let mappedFromBytes = 1 << 20

    package static var system: StagingMemory {
        StagingMemory(
            allocate: { byteCount in
                if byteCount >= mappedFromBytes {
                    let base = mmap(nil, byteCount, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
                    return base == MAP_FAILED ? nil : base
                }
                var base: UnsafeMutableRawPointer?
                return posix_memalign(&base, Int(getpagesize()), byteCount) == 0 ? base : nil
            },
            release: { base, byteCount in
                if byteCount >= mappedFromBytes {
                    munmap(base, byteCount)
                } else {
                    free(base)
                }
            })
    }
}

/// A pool of staging memory in sizes that are powers of two, at least 4 KiB.
///
/// It belongs to one thread (an event loop): nothing here is locked. Slabs given back are kept for the next taker up to
/// a limit and freed beyond it; the newest is lent first, for it is the likeliest to be in cache.
package final class StagingPool {
    /// Enough for 64 segments of 1 MiB in flight, and small beside the user's own buffers.
    package static let defaultKeptBytesLimit = 64 << 20

    package static let smallestSlabBytes = 4096

    /// Bytes of the slabs that are free and kept.
    package private(set) var keptBytes = 0

    private let keptBytesLimit: Int
    private let memory: StagingMemory
    // By size class: index k holds slabs of smallestSlabBytes << k.
    private var kept: [[UnsafeMutableRawPointer]] = []

    package convenience init(keptBytesLimit: Int = StagingPool.defaultKeptBytesLimit) {
        self.init(keptBytesLimit: keptBytesLimit, memory: .system)
    }

    package init(keptBytesLimit: Int, memory: StagingMemory) {
        self.keptBytesLimit = keptBytesLimit
        self.memory = memory
    }

    deinit {
        freeKept()
    }

    /// A slab of at least `byteCount` bytes; nil when the system has no memory, also after all that is kept was freed.
    package func take(byteCount: Int) -> StagingSlab? {
        guard let sizeClass = Self.sizeClass(of: byteCount) else { return nil }
        let slabBytes = Self.smallestSlabBytes << sizeClass
        if sizeClass < kept.count, let base = kept[sizeClass].popLast() {
            keptBytes -= slabBytes
            return StagingSlab(base: base, byteCount: slabBytes, memory: memory)
        }
        if let base = memory.allocate(slabBytes) {
            return StagingSlab(base: base, byteCount: slabBytes, memory: memory)
        }
        freeKept()
        guard let base = memory.allocate(slabBytes) else { return nil }
        return StagingSlab(base: base, byteCount: slabBytes, memory: memory)
    }

    /// The slab may be lent again, to anyone: no pointer into it may be used after this.
    package func give(back slab: consuming StagingSlab) {
        let slabBytes = slab.byteCount
        guard keptBytes + slabBytes <= keptBytesLimit, let sizeClass = Self.sizeClass(of: slabBytes) else { return }
        while kept.count <= sizeClass {
            kept.append([])
        }
        kept[sizeClass].append(slab.surrender())
        keptBytes += slabBytes
    }

    private func freeKept() {
        for (sizeClass, slabs) in kept.enumerated() {
            for base in slabs {
                memory.release(base, Self.smallestSlabBytes << sizeClass)
            }
        }
        kept.removeAll()
        keptBytes = 0
    }

    /// nil for more bytes than any power of two that an Int holds.
    private static func sizeClass(of byteCount: Int) -> Int? {
        precondition(byteCount >= 0, "a slab has no negative size")
        guard byteCount > smallestSlabBytes else { return 0 }
        let bitWidth = Int.bitWidth - (byteCount - 1).leadingZeroBitCount
        return bitWidth < Int.bitWidth - 1 ? bitWidth - smallestSlabBytes.trailingZeroBitCount : nil
    }
}
