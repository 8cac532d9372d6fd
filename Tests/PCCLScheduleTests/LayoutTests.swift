import PCCLBase
import PCCLSchedule
import Testing

@Suite("Chunks and segments")
struct LayoutTests {
    @Test("chunks cover all elements once, in order, and differ by one element at most", arguments: 1...33)
    func chunks(chunkCount: Int) {
        for elementCount in Array(0...100) + [1_000, 65_537, 1 << 40] {
            let layout = ChunkLayout(elementCount: elementCount, chunkCount: chunkCount)
            let ranges = (0..<chunkCount).map { layout.elements(ofChunk: $0) }
            #expect(ranges[0].lowerBound == 0)
            #expect(ranges[chunkCount - 1].upperBound == elementCount)
            for (one, next) in zip(ranges, ranges.dropFirst()) {
                #expect(one.upperBound == next.lowerBound)
                #expect(one.count == next.count || one.count == next.count + 1)
            }
            #expect(ranges[0].count - ranges[chunkCount - 1].count <= 1)
        }
    }

    @Test("with fewer elements than ranks the first ranks have one each and the others none")
    func fewElements() {
        let layout = ChunkLayout(elementCount: 3, chunkCount: 5)
        #expect((0..<5).map { layout.elements(ofChunk: $0) } == [0..<1, 1..<2, 2..<3, 3..<3, 3..<3])
    }

    @Test(
        "weighted chunks cover all elements once, in order, each within one element of its part",
        arguments: [
            [1], [1, 1], [3, 0, 1], [0, 0, 7], [0, 5, 0, 5], [4096, 1, 65_535, 0, 12], Array(repeating: 127, count: 33),
            Array(repeating: UInt16.max, count: 1024),
        ] as [[UInt16]])
    func weights(weights: [UInt16]) {
        let total = weights.reduce(0.0) { $0 + Double($1) }
        for elementCount in Array(0...60) + [4_096, 65_537, 1_000_003, 1 << 40, Int.max] {
            let layout = ChunkLayout(elementCount: elementCount, weights: weights)
            #expect(layout.chunkCount == weights.count)
            var next = 0
            for (chunk, weight) in weights.enumerated() {
                let elements = layout.elements(ofChunk: chunk)
                #expect(elements.lowerBound == next)
                if weight == 0 { #expect(elements.isEmpty) }
                if elementCount <= 1 << 40 {
                    #expect(abs(Double(elements.count) - Double(elementCount) * Double(weight) / total) <= 1)
                }
                next = elements.upperBound
            }
            #expect(next == elementCount)
        }
    }

    @Test("shares are those of the direct algorithm; others divide equally, and so does it without any")
    func layouts() {
        func counts(_ algorithm: Algorithm, _ shares: [UInt16], sites: [UInt16] = []) -> [Int] {
            let layout = AllReduceSchedule.layout(
                algorithm, elementCount: 12, worldSize: 3, shares: shares, sites: sites)
            return (0..<layout.chunkCount).map { layout.elements(ofChunk: $0).count }
        }
        #expect(counts(.direct, [0, 1, 2]) == [0, 4, 8])
        #expect(counts(.direct, []) == [4, 4, 4])
        #expect(counts(.direct, [0, 0, 0]) == [4, 4, 4])
        #expect(counts(.direct, [1, 2]) == [4, 4, 4])
        #expect(counts(.ring, [0, 1, 2]) == [2, 2, 2, 2, 2, 2])
        #expect(counts(.oneShot, [0, 1, 2]) == [12])
        #expect(counts(.twoLevel, [0, 1, 2]) == [4, 4, 4])
        #expect(counts(.twoLevel, [0, 1, 2], sites: [5, 5, 9]) == [3, 3, 6])
        #expect(counts(.direct, [], sites: [5, 5, 9]) == [4, 4, 4])
    }

    @Test("segments cover a chunk once, in order, all of one size but the last", arguments: [1, 2, 3, 7, 64, 1000])
    func segments(elementsPerSegment: Int) {
        for elementCount in Array(0...130) + [999, 1000, 1001, 1_000_003] {
            let layout = SegmentLayout(elementCount: elementCount, elementsPerSegment: elementsPerSegment)
            var next = 0
            for segment in 0..<layout.segmentCount {
                let elements = layout.elements(ofSegment: segment)
                #expect(elements.lowerBound == next)
                #expect(!elements.isEmpty)
                #expect(elements.count == elementsPerSegment || segment == layout.segmentCount - 1)
                next = elements.upperBound
            }
            #expect(next == elementCount)
        }
    }

    @Test("an empty chunk has no segments")
    func nothing() {
        #expect(SegmentLayout(elementCount: 0, elementsPerSegment: 64).segmentCount == 0)
    }
}
