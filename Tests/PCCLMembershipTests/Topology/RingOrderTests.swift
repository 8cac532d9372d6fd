import PCCLBase
import Testing

@testable import PCCLMembership

@Suite("The order of the ring")
struct RingOrderTests {
    /// All rings through 0..<size, each in one direction only.
    private static func rings(_ size: Int) -> [[Int]] {
        func permutations(_ rest: [Int]) -> [[Int]] {
            guard rest.count > 1 else { return [rest] }
            return rest.indices.flatMap { i in
                var others = rest
                let first = others.remove(at: i)
                return permutations(others).map { [first] + $0 }
            }
        }
        return permutations(Array(1..<size)).filter { $0[0] <= $0[$0.count - 1] }.map { [0] + $0 }
    }

    @Test("the exact order is that of brute force, on 10,000 random and clustered matrices")
    func bruteForce() {
        var random = RandomSource(seed: 1)
        let rings = (0...8).map { $0 < 4 ? [] : RingOrderTests.rings($0) }
        var solved = 0
        for size in 4...8 {
            for _ in 0..<[4: 4_000, 5: 3_500, 6: 1_800, 7: 600, 8: 150][size, default: 0] {
                let matrix = Matrices.any(size, &random)
                let ring = RingOrder(matrix)
                let best = rings[size].map { ring.quality(of: $0) }.max()
                let exact = ring.exact()
                guard exact.sorted() == Array(0..<size), ring.quality(of: exact) == best else {
                    Issue.record("size \(size), matrix \(solved): \(exact) is not as good as brute force")
                    return
                }
                solved += 1
            }
        }
        #expect(solved >= 10_000)
    }

    @Test("never worse than the present order, whatever that is, and the first member stays the first")
    func neverWorse() {
        var random = RandomSource(seed: 2)
        for size in [1, 2, 3, 4, 5, 8, 13, 20] {
            for _ in 0..<(size > 12 ? 5 : 40) {
                let ring = RingOrder(Matrices.any(size, &random))
                let current = Array(0..<size).shuffled(using: &random)
                let best = ring.best(from: current, effort: .quick, random: &random)
                #expect(best.sorted() == Array(0..<size))
                #expect(best[0] == current[0])
                #expect(ring.quality(of: best) >= ring.quality(of: current))
            }
        }
    }

    @Test("what cannot be bettered stays as it is, to the last place")
    func stays() {
        var random = RandomSource(seed: 3)
        let ring = RingOrder(BandwidthMatrix(size: 9))
        let current = [3, 1, 4, 0, 5, 8, 2, 6, 7]
        #expect(ring.best(from: current, effort: .quick, random: &random) == current)
    }

    @Test("members of two sites are put side by side, so that only two edges cross")
    func twoSites() {
        var matrix = BandwidthMatrix(size: 8)
        for from in 0..<8 {
            for to in 0..<8 where from != to {
                let isNear = from % 2 == to % 2
                matrix.note(
                    from: from, to: to, bytesPerSecond: isNear ? 1_000_000_000 : 10_000_000,
                    latencyNanoseconds: isNear ? 50_000 : 50_000_000)
            }
        }
        var random = RandomSource(seed: 4)
        let order = RingOrder(matrix).best(from: Array(0..<8), effort: .quick, random: &random)
        let crossings = order.indices.filter { order[$0] % 2 != order[($0 + 1) % 8] % 2 }
        #expect(crossings.count == 2)
    }

    @Test("the local search comes within a hundredth of the exact answer where both can be had")
    func quality() {
        var random = RandomSource(seed: 5)
        var (same, sameRate, worst) = (0, 0, 1.0)
        let trials = 24
        for _ in 0..<trials {
            let ring = RingOrder(Matrices.any(12, &random))
            let exact = ring.quality(of: ring.exact())
            let found = ring.quality(
                of: ring.search(
                    from: Array(0..<12), effort: RingOrder.Effort(randomStarts: 2, kicksPerStart: 6), random: &random))
            #expect(found <= exact)
            if found == exact { same += 1 }
            if found.bytesPerSecond == exact.bytesPerSecond { sameRate += 1 }
            worst = min(worst, Double(found.bytesPerSecond) / Double(exact.bytesPerSecond))
        }
        print(
            "local search, 12 members, \(trials) matrices: \(same) exact, \(sameRate) with the exact slowest edge, "
                + "slowest edge at worst \(worst) of it")
        #expect(sameRate * 10 >= trials * 9)
        #expect(worst >= 0.9)
    }
}

@Suite("What was measured between members")
struct BandwidthMatrixTests {
    @Test("an absent direction is taken from the other, an absent pair from the middle of all")
    func completion() {
        var matrix = BandwidthMatrix(size: 4)
        matrix.note(from: 0, to: 1, bytesPerSecond: 10, latencyNanoseconds: 7)
        matrix.note(from: 0, to: 2, bytesPerSecond: 20)
        matrix.note(from: 2, to: 0, bytesPerSecond: 30)
        let full = matrix.completed
        #expect(full.bytesPerSecond(from: 1, to: 0) == 10)
        #expect(full.bytesPerSecond(from: 0, to: 2) == 20)
        #expect(full.bytesPerSecond(from: 3, to: 1) == 20)
        #expect(full.latencyNanoseconds(from: 3, to: 2) == 7)
        #expect(matrix.bytesPerSecond(from: 1, to: 0) == nil)
    }

    @Test("another order has the same figures at other places")
    func reordering() {
        var random = RandomSource(seed: 6)
        let matrix = Matrices.random(5, &random)
        let order = [4, 2, 0, 1, 3]
        let other = matrix.reordered(order)
        for a in 0..<5 {
            for b in 0..<5 where a != b {
                #expect(
                    other.bytesPerSecond(from: a, to: b) == matrix.bytesPerSecond(from: order[a], to: order[b]))
            }
        }
    }

    @Test("figures beyond all measure overflow nothing")
    func lies() {
        var matrix = BandwidthMatrix(size: 5)
        for from in 0..<5 {
            for to in 0..<5 { matrix.note(from: from, to: to, bytesPerSecond: .max, latencyNanoseconds: .max) }
        }
        matrix.note(from: 0, to: 1, bytesPerSecond: 1, latencyNanoseconds: 0)
        let ring = RingOrder(matrix)
        #expect(ring.quality(of: ring.exact()).bytesPerSecond == 1 << 50)
    }
}
