import PCCLBase
import PCCLSchedule
import Testing

@Suite("How an all-reduce goes on, proved by running all ranks")
struct ResumedScheduleTests {
    /// Parts drawn at random, each held by some ranks.
    private func drawn(_ r: inout RandomSource, elementCount: Int, worldSize: Int) -> Resumption {
        var kept: [KeptPart] = []
        var start = r.below(3)
        while start < elementCount, kept.count < 40 {
            let end = min(start + 1 + r.below(max(elementCount / 6, 1)), elementCount)
            let holders = (0..<worldSize).filter { _ in r.oneIn(2) }
            kept.append(
                KeptPart(
                    ResultPart(elements: start..<end, worldSize: worldSize + 1),
                    holders: holders.isEmpty ? [r.below(worldSize)] : holders))
            start = end + (r.oneIn(2) ? 0 : 1 + r.below(9))
        }
        return Resumption(number: 1, kept: kept)
    }

    @Test("every chunk becomes whole at every rank, once, and chunks are all elements, once", arguments: 2...12)
    func complete(worldSize: Int) throws {
        var r = RandomSource(seed: UInt64(worldSize))
        for elementCount in [1, 2, worldSize - 1, worldSize, 50, 1000] {
            for _ in 0..<10 {
                let resumption = drawn(&r, elementCount: elementCount, worldSize: worldSize)
                #expect(resumption.isValid(elementCount: elementCount, worldSize: worldSize))
                let schedule = ResumedSchedule(resumption, elementCount: elementCount, worldSize: worldSize)
                let layout = schedule.layout
                let covered = (0..<layout.chunkCount).flatMap { Array(layout.elements(ofChunk: $0)) }
                #expect(covered.sorted() == Array(0..<elementCount))
                let held = (0..<worldSize).map { schedule.held(by: $0) }
                let all = try Interpreter(worldSize, chunkCount: layout.chunkCount, held: held) {
                    schedule.steps(rank: $0)
                }
                for chunk in 0..<layout.chunkCount {
                    let value = schedule.isKept(chunk: chunk) ? Interpreter.kept : schedule.foldOrder
                    for rank in 0..<worldSize { #expect(all.results[rank][chunk] == value) }
                }
            }
        }
    }

    @Test("ranks reduce equal shares of what is left, wherever it lies")
    func shares() {
        let kept = [KeptPart(ResultPart(elements: 10..<90, worldSize: 4), holders: [0])]
        let schedule = ResumedSchedule(Resumption(number: 1, kept: kept), elementCount: 100, worldSize: 3)
        var owned = [0, 0, 0]
        for rank in 0..<3 {
            for case .fold(let chunk, _, .result) in schedule.steps(rank: rank) {
                owned[rank] += schedule.layout.elements(ofChunk: chunk).count
            }
        }
        #expect(owned == [7, 7, 6])
    }

    @Test("those who hold a part share the sending, and send it to nobody who has it")
    func sources() {
        let kept = [KeptPart(ResultPart(elements: 0..<8, worldSize: 6), holders: [1, 3])]
        let schedule = ResumedSchedule(Resumption(number: 1, kept: kept), elementCount: 8, worldSize: 5)
        #expect(
            schedule.steps(rank: 1) == [
                .sendResult(chunk: 0, to: 2), .sendResult(chunk: 0, to: 4), .sendResult(chunk: 0, to: 0),
            ])
        #expect(schedule.steps(rank: 3) == [])
        #expect(schedule.steps(rank: 0) == [.receiveResult(chunk: 0, from: 1)])
    }
}
