import PCCLBase
import Testing

@testable import PCCLEngine

@Suite("The memory of a window")
struct WindowMemoryTests {
    @Test("the first place that fits is taken, at a multiple of the grain")
    func firstFit() {
        var regions = RegionAllocator(byteCount: 1000, grain: 100)
        #expect(regions.take(150) == 0)
        #expect(regions.take(1) == 200)
        #expect(regions.take(700) == 300)
        #expect(regions.take(1) == nil)
        regions.giveBack(0)
        #expect(regions.largest == 200)
        #expect(regions.take(201) == nil)
        #expect(regions.take(100) == 0)
        #expect(regions.take(100) == 100)
        regions.giveBack(300)
        regions.giveBack(200)
        #expect(regions.largest == 800)
    }

    @Test("a region that is not there is given back to nobody")
    func strangers() {
        var regions = RegionAllocator(byteCount: 300, grain: 100)
        #expect(regions.take(300) == 0)
        regions.giveBack(100)
        #expect(regions.largest == 0)
    }

    @Test("nothing is taken twice, and what is said to be there can be had", arguments: 0..<20)
    func random(seed: UInt64) {
        var random = RandomSource(seed: seed)
        var regions = RegionAllocator(byteCount: 4096, grain: 16)
        var taken: [Int: Range<Int>] = [:]
        for _ in 0..<500 {
            if Bool.random(using: &random), let offset = taken.keys.randomElement(using: &random) {
                regions.giveBack(offset)
                taken[offset] = nil
                continue
            }
            let largest = regions.largest
            let bytes = Int.random(in: 1...600, using: &random)
            guard let offset = regions.take(bytes) else {
                #expect((bytes + 15) / 16 * 16 > largest)
                continue
            }
            let range = offset..<offset + (bytes + 15) / 16 * 16
            #expect(bytes <= largest && range.upperBound <= 4096)
            #expect(taken.values.allSatisfy { !$0.overlaps(range) })
            taken[offset] = range
        }
    }
}

@Suite("Going to windows in vain")
struct WindowPatienceTests {
    /// How many operations expect a no, one after the other.
    private func pause(_ patience: inout WindowPatience) -> Int {
        var count = 0
        while patience.isWaiting {
            patience.pass()
            count += 1
        }
        return count
    }

    @Test("after each no twice as many operations expect one, and after a yes none")
    func doubling() {
        var patience = WindowPatience()
        #expect(pause(&patience) == 0)
        let pauses = (0..<12).map { _ in
            patience.refused()
            return pause(&patience)
        }
        #expect(pauses == [1, 3, 7, 15, 31, 63, 127, 255, 511, 1023, 1023, 1023])
        patience.refused()
        patience.succeeded()
        #expect(!patience.isWaiting)
        patience.refused()
        #expect(pause(&patience) == 1)
    }
}
