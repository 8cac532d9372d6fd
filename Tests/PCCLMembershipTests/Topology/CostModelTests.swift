import PCCLBase
import PCCLWire
import Testing

@testable import PCCLMembership

@Suite("The choice of an algorithm")
struct CostModelTests {
    private func choice(
        _ bytes: UInt64, _ worldSize: Int, _ figures: SharedFigures? = nil, partial: UInt64? = nil, sites: [UInt16] = []
    ) -> Algorithm {
        CostModel.algorithm(
            byteCount: bytes, partialByteCount: partial ?? bytes, worldSize: worldSize,
            arrangement: Arrangement(sites: sites, figures: figures))
    }

    @Test("unmeasured: one-shot for little, direct up to 32 members, the ring beyond")
    func unmeasured() {
        for worldSize in [2, 4, 8, 32] {
            #expect(choice(8, worldSize) == .oneShot)
            #expect(choice(1 << 20, worldSize) == .direct)
            #expect(choice(1 << 30, worldSize) == .direct)
        }
        #expect(choice(1 << 20, 33) == .ring)
        #expect(choice(1 << 30, 1024) == .ring)
    }

    @Test("the further apart members are, the more is sent in one step, up to what may be sent unasked")
    func latency() {
        func crossover(_ latency: UInt64) -> UInt64 {
            let figures = SharedFigures(
                latencyNanoseconds: latency, hopNanoseconds: latency, oneShotBytesPerSecond: 300_000_000,
                directBytesPerSecond: 700_000_000, ringBytesPerSecond: 700_000_000)
            return (0...40).map { UInt64(1) << $0 }.last { choice($0, 4, figures) == .oneShot } ?? 0
        }
        #expect(crossover(10_000) < crossover(100_000))
        #expect(crossover(50_000_000) == CostModel.largestOneShotBytes)
    }

    @Test("a ring is taken where it is measured to be faster, and only for what is worth its many steps")
    func ring() {
        let figures = SharedFigures(
            latencyNanoseconds: 20_000_000, hopNanoseconds: 10_000_000, oneShotBytesPerSecond: 1_000_000,
            directBytesPerSecond: 10_000_000, ringBytesPerSecond: 100_000_000)
        #expect(choice(1 << 26, 8, figures) == .ring)
        #expect(choice(200_000, 8, figures) == .direct)
    }

    @Test(
        "two levels are taken where there are sites, for what is worth the steps within them, and sums at their width")
    func twoLevel() {
        let figures = SharedFigures(
            latencyNanoseconds: 40_000_000, hopNanoseconds: 20_000_000, localNanoseconds: 100_000,
            oneShotBytesPerSecond: 1_000_000, directBytesPerSecond: 10_000_000, ringBytesPerSecond: 10_000_000,
            twoLevelBytesPerSecond: 14_000_000)
        #expect(choice(1 << 26, 4, figures, sites: [0, 0, 1, 1]) == .twoLevel)
        #expect(choice(1 << 26, 64, figures, sites: Array(repeating: 1, count: 64)) == .twoLevel)
        #expect(choice(1 << 26, 4, figures) == .direct)
        #expect(choice(8, 4, figures, sites: [0, 0, 1, 1]) == .oneShot)
        // Contributions of 2 bytes and sums of 4 make it three halves of the size.
        #expect(choice(1 << 26, 4, figures, partial: 1 << 27, sites: [0, 0, 1, 1]) == .direct)
    }

    @Test("extreme figures overflow nothing")
    func extremes() {
        for value in [UInt64(0), 1, .max] {
            let figures = SharedFigures(
                latencyNanoseconds: value, hopNanoseconds: value, oneShotBytesPerSecond: value,
                directBytesPerSecond: value, ringBytesPerSecond: value, twoLevelBytesPerSecond: value)
            for bytes in [UInt64(1), .max] {
                _ = choice(bytes, 1024, figures, sites: [1, 2])
            }
        }
        #expect(
            CostModel.nanoseconds(.direct, byteCount: .max, partialByteCount: .max, worldSize: 2, figures: nil)
                > 1_000_000_000)
    }
}

@Suite("The answer to an optimise call")
struct TopologyProblemTests {
    private func problem(_ matrix: BandwidthMatrix, suggestion: [PeerID]? = nil) -> TopologyProblem {
        let members = (0..<matrix.size).map { PeerID(UInt64(10 + $0)) }
        return TopologyProblem(
            members: members,
            figures: members.indices.map { from in
                members.indices.filter { $0 != from }.map {
                    LinkFigure(
                        peer: members[$0], bytesPerSecond: matrix.bytesPerSecond(from: from, to: $0),
                        latencyNanoseconds: matrix.latencyNanoseconds(from: from, to: $0))
                }
            }, suggestion: suggestion)
    }

    @Test("nothing measured: the order stays, chunks are equal and there are no figures")
    func nothing() {
        let empty = problem(BandwidthMatrix(size: 6))
        let solution = empty.solved(effort: .quick, seed: 1)
        #expect(solution == TopologySolution(members: empty.members, arrangement: .plain))
    }

    @Test("the answer has the same members, and asked again about its own order it changes nothing")
    func stable() {
        var random = RandomSource(seed: 7)
        for size in [2, 3, 6, 9] {
            let first = problem(Matrices.any(size, &random))
            let solution = first.solved(effort: .quick, seed: 1)
            #expect(solution.members.sorted() == first.members)
            var again = first
            again.figures = solution.members.map { first.figures[first.members.firstIndex(of: $0) ?? 0] }
            again.members = solution.members
            #expect(again.solved(effort: .quick, seed: 2) == solution)
        }
    }

    @Test("latencies without rates: an order, equal chunks, and a cost model that knows the distance")
    func latencyOnly() {
        var matrix = BandwidthMatrix(size: 6)
        for a in 0..<6 {
            for b in 0..<6 { matrix.note(from: a, to: b, latencyNanoseconds: a % 2 == b % 2 ? 100_000 : 60_000_000) }
        }
        let solution = problem(matrix).solved(effort: .quick, seed: 1)
        #expect(solution.arrangement.shares == [])
        #expect(solution.members.map { $0.value % 2 } == [0, 0, 0, 1, 1, 1])
        #expect(solution.arrangement.figures?.latencyNanoseconds ?? 0 > 50_000_000)
        #expect(solution.arrangement.figures?.directBytesPerSecond == 0)
    }

    @Test("a suggestion counts if it is of the same members and better")
    func suggestion() {
        var random = RandomSource(seed: 8)
        let matrix = Matrices.clustered(16, sites: 3, &random)
        let plain = problem(matrix)
        let ring = RingOrder(matrix)
        let long = RingOrder.Effort(randomStarts: 3, kicksPerStart: 5)
        let better = ring.search(from: Array(0..<16), effort: long, random: &random)
        let solution = problem(matrix, suggestion: better.map { plain.members[$0] })
            .solved(effort: RingOrder.Effort(randomStarts: 0, kicksPerStart: 0), seed: 1)
        let reached = solution.members.compactMap { plain.members.firstIndex(of: $0) }
        #expect(ring.quality(of: reached) >= ring.quality(of: better))
        let stale = problem(matrix, suggestion: (0..<16).map { PeerID(UInt64($0)) })
        #expect(stale.solved(effort: .quick, seed: 1).members.sorted() == plain.members)
    }

    @Test("figures are rounded to three bits, so that noise seldom changes them")
    func rounding() {
        #expect([1, 7, 8, 9, 15, 1_000, 1_023].map(TopologyProblem.rounded) == [1, 7, 8, 10, 16, 1_024, 1_024])
        #expect(TopologyProblem.rounded(0) == 1)
    }
}
