/// Which parts of a window are taken: first fit, for few at a time.
struct RegionAllocator {
    private let byteCount: Int
    private let grain: Int
    /// By offset.
    private var taken: [Range<Int>] = []

    init(byteCount: Int, grain: Int) {
        self.byteCount = byteCount
        self.grain = grain
    }

    /// Nil when there is no room for it.
    mutating func take(_ bytes: Int) -> Int? {
        let bytes = (bytes + grain - 1) / grain * grain
        var start = 0
        var place = 0
        while place < taken.count, taken[place].lowerBound - start < bytes {
            start = taken[place].upperBound
            place += 1
        }
        guard byteCount - start >= bytes else { return nil }
        taken.insert(start..<start + bytes, at: place)
        return start
    }

    var largest: Int {
        var start = 0
        var largest = 0
        for range in taken {
            largest = max(largest, range.lowerBound - start)
            start = range.upperBound
        }
        return max(largest, byteCount - start)
    }

    mutating func giveBack(_ offset: Int) { taken.removeAll { $0.lowerBound == offset } }
}
