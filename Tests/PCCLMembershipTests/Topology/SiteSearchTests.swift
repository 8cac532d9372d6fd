import PCCLBase
import PCCLWire
import Testing

@testable import PCCLMembership

@Suite("The search for sites")
struct SiteSearchTests {
    /// Members of the same number near each other; what lies between two sites is shared by all its ways.
    private func matrix(_ sites: [Int], near: UInt64 = 1_000_000_000, between: UInt64) -> BandwidthMatrix {
        var matrix = BandwidthMatrix(size: sites.count)
        for from in sites.indices {
            for to in sites.indices {
                let isNear = sites[from] == sites[to]
                let ways = sites.count { $0 == sites[from] } * sites.count { $0 == sites[to] }
                matrix.note(
                    from: from, to: to, bytesPerSecond: isNear ? near : between / UInt64(ways),
                    latencyNanoseconds: isNear ? 150_000 : 40_000_000)
            }
        }
        return matrix
    }

    /// The solution for members that are known to each other by these figures.
    private func solution(_ matrix: BandwidthMatrix) -> TopologySolution {
        let members = (0..<matrix.size).map { PeerID(UInt64($0)) }
        let figures = members.map { from in
            members.filter { $0 != from }.map { to in
                LinkFigure(
                    peer: to,
                    bytesPerSecond: matrix.bytesPerSecond(from: Int(from.value), to: Int(to.value)),
                    latencyNanoseconds: matrix.latencyNanoseconds(from: Int(from.value), to: Int(to.value)))
            }
        }
        return TopologyProblem(members: members, figures: figures).solved(effort: .quick, seed: 1)
    }

    @Test(
        "members around two pipes or three are found, in whatever order they stand",
        arguments: [
            [0, 0, 1, 1], [0, 1, 0, 1, 0, 1], [2, 0, 1, 1, 0, 2, 0], [1, 1, 1, 1, 0, 0, 0, 0],
        ])
    func found(sites: [Int]) {
        let solution = solution(matrix(sites, between: 25_000_000))
        let found = solution.arrangement.sites
        #expect(found.count == sites.count)
        for a in found.indices {
            for b in found.indices {
                let (x, y) = (Int(solution.members[a].value), Int(solution.members[b].value))
                #expect((found[a] == found[b]) == (sites[x] == sites[y]), "\(found)")
            }
        }
        let figures = solution.arrangement.figures
        #expect(figures?.twoLevelBytesPerSecond ?? 0 > figures?.directBytesPerSecond ?? .max)
        #expect(100_000...200_000 ~= figures?.localNanoseconds ?? 0)
    }

    @Test("what two levels are expected to give: all of the pipe, where direct has a part for each pair")
    func gain() {
        let search = SiteSearch(matrix([0, 0, 1, 1], between: 25_000_000))
        // One buffer each way.
        #expect(abs(search.secondsPerByte([0, 0, 1, 1]) * 25_000_000 - 1) < 1e-6)
        #expect(search.best(against: 2 / 25_000_000.0) == [0, 0, 1, 1])
        #expect(search.best(against: 1.1 / 25_000_000.0) == [], "a gain within the noise is none")
        // Slow within the sites: two halves go both ways there.
        let slow = SiteSearch(matrix([0, 0, 1, 1], near: 5_000_000, between: 25_000_000))
        #expect(abs(slow.secondsPerByte([0, 0, 1, 1]) * 5_000_000 - 1) < 1e-6)
    }

    @Test("no sites: all alike, all different, two members, one slow member whom smaller chunks serve as well")
    func none() {
        #expect(solution(matrix([0, 0, 0, 0], between: 1)).arrangement.sites == [])
        #expect(solution(matrix([0, 1, 2, 3], between: 25_000_000)).arrangement.sites == [])
        #expect(solution(matrix([0, 1], between: 25_000_000)).arrangement.sites == [])
        var asymmetric = BandwidthMatrix(size: 4)
        for from in 0..<4 {
            for to in 0..<4 {
                asymmetric.note(
                    from: from, to: to, bytesPerSecond: from == 3 || to == 3 ? 4_000_000 : 20_000_000,
                    latencyNanoseconds: 20_000_000)
            }
        }
        let solution = solution(asymmetric)
        #expect(solution.arrangement.sites == [])
        #expect(solution.arrangement.shares.last ?? .max < 100)
    }

    @Test("whatever is measured: sites are those of all members, several, and expected to pay")
    func anything() {
        var random = RandomSource(seed: 3)
        var foundSome = 0
        for round in 0..<400 {
            let matrix = Matrices.any(2 + round % 15, &random)
            let solution = solution(matrix)
            let sites = solution.arrangement.sites
            guard !sites.isEmpty, let figures = solution.arrangement.figures else { continue }
            foundSome += 1
            #expect(sites.count == matrix.size && 2..<matrix.size ~= Set(sites).count)
            #expect(figures.twoLevelBytesPerSecond > figures.directBytesPerSecond)
            #expect(figures.twoLevelBytesPerSecond > figures.ringBytesPerSecond)
        }
        #expect(foundSome > 50)
    }
}
