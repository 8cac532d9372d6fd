/// How the elements of a buffer are divided into chunks, one after the other.
///
/// Without weights sizes differ by one element at most, larger chunks first, and a chunk is empty where there are fewer
/// elements than chunks. With weights each chunk has its part of the elements, to the element below or above; a chunk of
/// weight 0 is empty. Or chunks lie where they are said to.
package struct ChunkLayout: Hashable, Sendable {
    package let elementCount: Int
    package let chunkCount: Int
    /// Of all chunks before, by chunk, and at the end of all; none when chunks are equal.
    private let weightsBefore: [UInt64]
    /// By chunk; none when they lie one after the other.
    private let ranges: [Range<Int>]

    package init(elementCount: Int, chunkCount: Int) {
        self.elementCount = elementCount
        self.chunkCount = chunkCount
        weightsBefore = []
        ranges = []
    }

    package init(elementCount: Int, ranges: [Range<Int>]) {
        self.elementCount = elementCount
        chunkCount = ranges.count
        weightsBefore = []
        self.ranges = ranges
    }

    /// One weight at least is not 0.
    package init(elementCount: Int, weights: [UInt16]) {
        self.elementCount = elementCount
        chunkCount = weights.count
        var sums: [UInt64] = [0]
        for weight in weights { sums.append((sums.last ?? 0) + UInt64(weight)) }
        weightsBefore = sums
        ranges = []
    }

    /// The elements of one chunk.
    package func elements(ofChunk chunk: Int) -> Range<Int> {
        guard ranges.isEmpty else { return ranges[chunk] }
        guard weightsBefore.isEmpty else { return boundary(chunk)..<boundary(chunk + 1) }
        let base = elementCount / chunkCount
        let larger = elementCount % chunkCount
        let start = chunk * base + min(chunk, larger)
        return start..<start + base + (chunk < larger ? 1 : 0)
    }

    /// Rounded down, from the exact product: the same on every machine.
    private func boundary(_ chunk: Int) -> Int {
        let total = weightsBefore[chunkCount]
        let product = UInt64(elementCount).multipliedFullWidth(by: weightsBefore[chunk])
        return Int(total.dividingFullWidth(product).quotient)
    }
}

/// How the elements of one chunk are divided into segments, the pieces that travel: all of one size but the last.
package struct SegmentLayout: Hashable, Sendable {
    package let elementCount: Int
    package let elementsPerSegment: Int

    package init(elementCount: Int, elementsPerSegment: Int) {
        self.elementCount = elementCount
        self.elementsPerSegment = elementsPerSegment
    }

    package var segmentCount: Int { (elementCount + elementsPerSegment - 1) / elementsPerSegment }

    /// The elements of one segment, counted from the start of the chunk.
    package func elements(ofSegment segment: Int) -> Range<Int> {
        let start = segment * elementsPerSegment
        return start..<min(start + elementsPerSegment, elementCount)
    }
}
