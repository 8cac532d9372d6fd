import PCCLBase
import Testing

@testable import PCCLMembership

@Suite("Chunk shares where links are unequal")
struct ChunkSharesTests {
    /// The least time by trying every vertex of the feasible set: an independent, slow way to solve the programme.
    ///
    /// Variables are z and the answer is their sum; a vertex is where as many constraints as there are variables hold
    /// with equality.
    private static func bestByVertices(_ shares: ChunkShares, _ matrix: BandwidthMatrix) -> Double {
        let n = shares.size
        var rows: [(row: [Double], bound: Double)] = []
        for i in 0..<n {
            var row = Array(repeating: 0.0, count: n)
            row[i] = -1
            rows.append((row, 0))
            if let limit = shares.limits[i] {
                rows.append(((0..<n).map { $0 == i ? Double(n - 1) : 1 }, limit))
            }
            for j in 0..<i {
                let rate = min(
                    matrix.bytesPerSecond(from: i, to: j) ?? 1, matrix.bytesPerSecond(from: j, to: i) ?? 1)
                rows.append(((0..<n).map { $0 == i || $0 == j ? 1 : 0 }, Double(rate)))
            }
        }
        let scale = rows.map(\.bound).max() ?? 1
        rows = rows.map { ($0.row, $0.bound / scale) }
        var best = 0.0
        func choose(_ from: Int, _ chosen: [Int]) {
            if chosen.count == n {
                guard let z = solve(chosen.map { rows[$0] }),
                    rows.allSatisfy({ zip($0.row, z).reduce(0) { $0 + $1.0 * $1.1 } <= $0.bound + 1e-9 })
                else { return }
                best = max(best, z.reduce(0, +))
                return
            }
            guard from < rows.count else { return }
            choose(from + 1, chosen + [from])
            choose(from + 1, chosen)
        }
        choose(0, [])
        return 1 / (best * scale)
    }

    private static func solve(_ system: [(row: [Double], bound: Double)]) -> [Double]? {
        var rows = system.map { $0.row + [$0.bound] }
        let n = rows.count
        for i in 0..<n {
            guard let pivot = (i..<n).max(by: { abs(rows[$0][i]) < abs(rows[$1][i]) }), abs(rows[pivot][i]) > 1e-12
            else { return nil }
            rows.swapAt(i, pivot)
            for k in 0..<n where k != i {
                let factor = rows[k][i] / rows[i][i]
                for j in i...n { rows[k][j] -= factor * rows[i][j] }
            }
        }
        return (0..<n).map { rows[$0][n] / rows[$0][$0] }
    }

    @Test("the time is that of brute force over all vertices", arguments: [3, 4])
    func bruteForce(size: Int) {
        var random = RandomSource(seed: UInt64(size))
        for trial in 0..<(size == 3 ? 300 : 30) {
            let matrix = Matrices.random(size, &random)
            let limits = (0..<size).map { _ -> UInt64? in
                random.oneIn(3) ? nil : UInt64(1 + random.below(2_000)) * 1_000_000
            }
            let shares = ChunkShares(matrix, bytesPerSecondOfMember: limits)
            let time = shares.secondsPerByte(shares.fastest())
            let exact = ChunkSharesTests.bestByVertices(shares, matrix)
            #expect(abs(time / exact - 1) < 1e-6, "trial \(trial): \(time), not \(exact)")
        }
    }

    @Test("where only members are limited the time is that of water-filling", arguments: [3, 5, 8, 16, 32])
    func waterFilling(size: Int) {
        var random = RandomSource(seed: UInt64(size))
        for _ in 0..<(size > 8 ? 3 : 20) {
            let limits = (0..<size).map { _ in UInt64(50 + random.below(950)) * 1_000_000 }
            var matrix = BandwidthMatrix(size: size)
            for i in 0..<size {
                for j in 0..<size { matrix.note(from: i, to: j, bytesPerSecond: 1 << 49) }
            }
            let shares = ChunkShares(matrix, bytesPerSecondOfMember: limits)
            // The least T at which what each can take adds up to everything.
            var (low, high) = (1 / Double(limits.min() ?? 1), 2 * Double(size) / Double(limits.min() ?? 1))
            func room(_ seconds: Double) -> Double {
                limits.reduce(0) { $0 + max(seconds * Double($1) - 1, 0) / Double(size - 2) }
            }
            if room(low) >= 1 { high = low }
            for _ in 0..<100 {
                let middle = (low + high) / 2
                if room(middle) >= 1 { high = middle } else { low = middle }
            }
            let time = shares.secondsPerByte(shares.fastest())
            #expect(abs(time / high - 1) < 1e-6)
        }
    }

    @Test("whole shares add up to the total and cost at most a twentieth more than the best", arguments: 3...10)
    func rounding(size: Int) {
        var random = RandomSource(seed: UInt64(100 + size))
        var unequal = 0
        for _ in 0..<20 {
            let shares = ChunkShares(Matrices.any(size, &random))
            let rounded = shares.rounded()
            let best = shares.secondsPerByte(shares.fastest())
            #expect(shares.secondsPerByte(rounded) <= best * ChunkShares.noise * 1.05)
            guard !rounded.isEmpty else { continue }
            unequal += 1
            #expect(rounded.count == size)
            #expect(rounded.reduce(0) { $0 + Int($1) } == ChunkShares.total)
            #expect(shares.secondsPerByte(rounded) <= best * 1.05)
        }
        #expect(unequal > 0)
    }

    @Test("rates that are equal within the noise give equal shares", arguments: [2, 3, 8, 32])
    func noise(size: Int) {
        var random = RandomSource(seed: UInt64(size))
        for _ in 0..<5 {
            var matrix = BandwidthMatrix(size: size)
            for i in 0..<size {
                for j in 0..<size {
                    matrix.note(from: i, to: j, bytesPerSecond: 1_000_000 + UInt64(random.below(150_000)))
                }
            }
            #expect(ChunkShares(matrix).rounded() == [])
        }
    }

    @Test(
        "one slow member of eight reduces next to nothing, the others the same each, and the call is 1.7 times as fast")
    func oneSlowMember() {
        var matrix = BandwidthMatrix(size: 8)
        for i in 0..<8 {
            for j in 0..<8 { matrix.note(from: i, to: j, bytesPerSecond: i == 3 || j == 3 ? 7_000_000 : 70_000_000) }
        }
        let shares = ChunkShares(matrix)
        let rounded = shares.rounded()
        #expect(rounded[3] < 20)
        let others = rounded.enumerated().filter { $0.offset != 3 }.map(\.element)
        #expect((others.max() ?? 0) - (others.min() ?? 0) <= 8)
        #expect(shares.secondsPerByte([UInt16]()) / shares.secondsPerByte(rounded) > 1.7)
    }

    @Test("a slow pair takes from the two of them only")
    func oneSlowPair() {
        var matrix = BandwidthMatrix(size: 6)
        for i in 0..<6 {
            for j in 0..<6 { matrix.note(from: i, to: j, bytesPerSecond: i + j == 1 ? 1_000_000 : 10_000_000) }
        }
        let shares = ChunkShares(matrix).rounded()
        #expect(shares[0] + shares[1] < 300)
        #expect(shares[2...].allSatisfy { abs(Int($0) - 4096 / 4) < 100 })
    }
}

@Suite("Packing programmes")
struct PackingProgrammeTests {
    @Test("what nothing bounds has no answer")
    func unbounded() {
        var programme = PackingProgramme(variableCount: 2)
        programme.add([1, 0], atMost: 3)
        #expect(programme.solve() == nil)
    }

    @Test("bounds of zero, and the same bound many times, end nowhere but at the answer")
    func degenerate() {
        var programme = PackingProgramme(variableCount: 3)
        for _ in 0..<5 { programme.add([1, 1, 0], atMost: 0) }
        for _ in 0..<5 { programme.add([0, 1, 1], atMost: 2) }
        #expect(programme.solve() == [0, 0, 2])
    }
}
