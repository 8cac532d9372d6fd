/// How the elements of a buffer are divided among the ranks: one chunk each, sizes that differ by one element at most,
/// larger chunks first. A chunk is empty where there are fewer elements than ranks.
package struct ChunkLayout: Hashable, Sendable {
    package let elementCount: Int
    package let chunkCount: Int

    package init(elementCount: Int, chunkCount: Int) {
        self.elementCount = elementCount
        self.chunkCount = chunkCount
    }

    /// The elements of one chunk.
    package func elements(ofChunk chunk: Int) -> Range<Int> {
        let base = elementCount / chunkCount
        let larger = elementCount % chunkCount
        let start = chunk * base + min(chunk, larger)
        return start..<start + base + (chunk < larger ? 1 : 0)
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
