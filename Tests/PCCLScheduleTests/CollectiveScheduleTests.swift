import PCCLBase
import PCCLSchedule
import Testing

@Suite("Schedules of the other collectives, proved by running all ranks")
struct CollectiveScheduleTests {
    private func run(_ collective: Collective, _ algorithm: Algorithm, _ worldSize: Int) throws -> Interpreter {
        let schedules = (0..<worldSize).map {
            CollectiveSchedule(collective, algorithm, elementCount: 12 * worldSize, rank: $0, worldSize: worldSize)
        }
        return try Interpreter(
            worldSize, chunkCount: schedules[0].layout.chunkCount, held: schedules.map(\.held),
            isWholeEverywhere: collective.hasOneResult
        ) { schedules[$0].steps }
    }

    @Test(
        "an all-gather brings each chunk to each rank once, from the rank whose block it is of",
        arguments: AllReduceScheduleTests.worldSizes, [Algorithm.direct, .ring])
    func allGather(worldSize: Int, algorithm: Algorithm) throws {
        let all = try run(.allGather, algorithm, worldSize)
        for rank in 0..<worldSize {
            for chunk in all.results[rank].indices {
                #expect(all.results[rank][chunk] == Interpreter.kept)
                #expect(all.origins[rank][chunk] == chunk % worldSize)
            }
        }
        let chunks = algorithm == .ring ? 2 : 1
        #expect(all.chunksSent == Array(repeating: chunks * (worldSize - 1), count: worldSize))
    }

    @Test(
        "a reduce-scatter makes the block of each rank whole there, folded in the order of the all-reduce",
        arguments: AllReduceScheduleTests.worldSizes, [Algorithm.direct, .ring])
    func reduceScatter(worldSize: Int, algorithm: Algorithm) throws {
        let all = try run(.reduceScatter, algorithm, worldSize)
        for rank in 0..<worldSize {
            for chunk in all.results[rank].indices {
                let order = AllReduceSchedule.foldOrder(algorithm, chunk: chunk, worldSize: worldSize, sites: [])
                #expect(all.results[rank][chunk] == (chunk % worldSize == rank ? order.flatMap { $0 } : nil))
            }
        }
    }

    @Test(
        "a broadcast brings every chunk from the root to everybody, whoever is the root",
        arguments: AllReduceScheduleTests.worldSizes, [Algorithm.direct, .oneShot])
    func broadcast(worldSize: Int, algorithm: Algorithm) throws {
        for root in 0..<worldSize {
            let all = try run(.broadcast(root: UInt16(root)), algorithm, worldSize)
            for rank in 0..<worldSize {
                for chunk in all.results[rank].indices { #expect(all.origins[rank][chunk] == root) }
            }
            // Of P-1 chunks the root sends each once, and the others theirs P-2 times; or of one, the root all.
            let others = algorithm == .oneShot ? 0 : worldSize - 2
            for rank in 0..<worldSize { #expect(all.chunksSent[rank] == (rank == root ? worldSize - 1 : others)) }
        }
    }

    @Test("blocks are chunks, or two chunks that go either way", arguments: [1, 2, 7, 12])
    func blocks(block: Int) {
        for worldSize in [2, 3, 5] {
            for collective in [Collective.allGather, .reduceScatter] {
                for algorithm in [Algorithm.direct, .ring] {
                    let layout = CollectiveSchedule.layout(
                        collective, algorithm, elementCount: block * worldSize, worldSize: worldSize,
                        shares: (0..<worldSize).map { UInt16($0) }, sites: [])
                    for chunk in 0..<layout.chunkCount {
                        let rank = chunk % worldSize
                        for element in layout.elements(ofChunk: chunk) { #expect(element / block == rank) }
                    }
                    let all = (0..<layout.chunkCount).flatMap { Array(layout.elements(ofChunk: $0)) }
                    #expect(all.sorted() == Array(0..<block * worldSize))
                }
            }
        }
    }

    @Test("what goes on goes on from who has it: from the rank of the block, from the root, or from who has kept it")
    func resumed() throws {
        var r = RandomSource(seed: 4)
        for worldSize in 2...6 {
            let count = 10 * worldSize
            for collective in [Collective.allGather, .broadcast(root: UInt16(worldSize - 1))] {
                let holder = r.below(worldSize)
                let kept = KeptPart(
                    ResultPart(elements: 3..<3 + r.below(count - 4) + 1, worldSize: worldSize), holders: [holder])
                let schedule = ResumedSchedule(
                    Resumption(number: 1, kept: [kept]), of: collective, elementCount: count, worldSize: worldSize)
                let all = try Interpreter(
                    worldSize, chunkCount: schedule.layout.chunkCount,
                    held: (0..<worldSize).map { schedule.held(by: $0) }
                ) { schedule.steps(rank: $0) }
                let chunks = schedule.layout.chunkCount
                #expect(
                    (0..<chunks).flatMap { Array(schedule.layout.elements(ofChunk: $0)) }.sorted() == Array(0..<count))
                for chunk in 0..<chunks {
                    let first = schedule.layout.elements(ofChunk: chunk).lowerBound
                    let owner = collective == .allGather ? first / 10 : worldSize - 1
                    for rank in 0..<worldSize where !schedule.isKept(chunk: chunk) {
                        #expect(all.origins[rank][chunk] == owner)
                    }
                }
            }
        }
    }
}
