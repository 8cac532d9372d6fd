import PCCLBase
import PCCLSchedule
import Testing

@Suite("All-reduce schedules, proved by running all ranks")
struct AllReduceScheduleTests {
    static let worldSizes = Array(2...16) + [32]

    private func run(_ algorithm: Algorithm, _ worldSize: Int) throws -> Interpreter {
        try Interpreter(worldSize) { AllReduceSchedule.steps(algorithm, rank: $0, worldSize: worldSize) }
    }

    @Test(
        "every rank ends with every contribution once, and all ranks with the same result",
        arguments: Algorithm.allCases, worldSizes)
    func complete(algorithm: Algorithm, worldSize: Int) throws {
        let all = try run(algorithm, worldSize)
        for chunk in 0..<worldSize {
            for rank in 0..<worldSize {
                #expect(all.results[rank][chunk]?.sorted() == Array(0..<worldSize))
                #expect(all.results[rank][chunk] == all.results[0][chunk])
            }
        }
    }

    @Test("direct folds in rank order", arguments: worldSizes)
    func directOrder(worldSize: Int) throws {
        let all = try run(.direct, worldSize)
        for chunk in 0..<worldSize { #expect(all.results[0][chunk] == Array(0..<worldSize)) }
    }

    @Test("the ring folds chunk c in the order c+1, c+2, …, c", arguments: worldSizes)
    func ringOrder(worldSize: Int) throws {
        let all = try run(.ring, worldSize)
        for chunk in 0..<worldSize {
            #expect(all.results[0][chunk] == (1...worldSize).map { (chunk + $0) % worldSize })
        }
    }

    @Test("each rank sends 2 (P-1) chunks", arguments: Algorithm.allCases, worldSizes)
    func cost(algorithm: Algorithm, worldSize: Int) throws {
        let all = try run(algorithm, worldSize)
        #expect(all.chunksSent == Array(repeating: 2 * (worldSize - 1), count: worldSize))
    }

    @Test("in the ring a rank sends to its successor and hears its predecessor only", arguments: worldSizes)
    func neighbours(worldSize: Int) {
        for rank in 0..<worldSize {
            let next = (rank + 1) % worldSize
            let previous = (rank + worldSize - 1) % worldSize
            for step in AllReduceSchedule.steps(.ring, rank: rank, worldSize: worldSize) {
                switch step {
                case .sendInput(_, let to), .sendResult(_, let to): #expect(to == next)
                case .receiveResult(_, let from): #expect(from == previous)
                case .fold(_, let operands, let target):
                    for case .input(let from) in operands { #expect(from == previous) }
                    for case .partial(let from) in operands { #expect(from == previous) }
                    if case .partial(let to) = target { #expect(to == next) }
                }
            }
        }
    }
}

@Suite("The interpreter finds what is wrong")
struct InterpreterTests {
    private func broken(_ change: @escaping (inout [Step], Int) -> Void) -> Interpreter.Problem? {
        do {
            _ = try Interpreter(3) { rank in
                var steps = AllReduceSchedule.steps(.direct, rank: rank, worldSize: 3)
                change(&steps, rank)
                return steps
            }
            return nil
        } catch {
            return error as? Interpreter.Problem
        }
    }

    @Test("an untouched schedule has no problem")
    func control() { #expect(broken { _, _ in } == nil) }

    @Test("a missing send leaves its receiver waiting")
    func missingSend() {
        let found = broken { steps, rank in if rank == 1 { steps.removeAll { $0 == .sendResult(chunk: 1, to: 2) } } }
        #expect(found == .stuck([2]))
    }

    @Test("a missing receive leaves a message that nobody reads")
    func missingReceive() {
        let found = broken { steps, rank in
            if rank == 2 { steps.removeAll { $0 == .receiveResult(chunk: 1, from: 1) } }
        }
        #expect(found == .neverRead(Interpreter.Channel(from: 1, to: 2, chunk: 1, isResult: true)))
    }

    @Test("a second send of the same, and one to oneself, are found")
    func doubles() {
        let twice = broken { steps, rank in if rank == 0 { steps.append(.sendInput(chunk: 1, to: 1)) } }
        #expect(twice == .sentTwice(Interpreter.Channel(from: 0, to: 1, chunk: 1, isResult: false)))
        let selfish = broken { steps, rank in if rank == 0 { steps.append(.sendInput(chunk: 0, to: 0)) } }
        #expect(selfish == .toOneself(rank: 0, .sendInput(chunk: 0, to: 0)))
    }
}
