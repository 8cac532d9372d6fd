import PCCLBase
import PCCLSchedule
import Testing

@Suite("All-reduce schedules, proved by running all ranks")
struct AllReduceScheduleTests {
    static let worldSizes = Array(2...16) + [32]

    private func chunkCount(_ algorithm: Algorithm, _ worldSize: Int) -> Int {
        AllReduceSchedule.chunkCount(algorithm, worldSize: worldSize)
    }

    private func run(_ algorithm: Algorithm, _ worldSize: Int) throws -> Interpreter {
        try Interpreter(worldSize, chunkCount: chunkCount(algorithm, worldSize)) {
            AllReduceSchedule.steps(algorithm, rank: $0, worldSize: worldSize)
        }
    }

    @Test(
        "every rank ends with every contribution once, and all ranks with the same result",
        arguments: Algorithm.allCases, worldSizes)
    func complete(algorithm: Algorithm, worldSize: Int) throws {
        let all = try run(algorithm, worldSize)
        for chunk in 0..<chunkCount(algorithm, worldSize) {
            for rank in 0..<worldSize {
                #expect(all.results[rank][chunk]?.sorted() == Array(0..<worldSize))
                #expect(all.results[rank][chunk] == all.results[0][chunk])
            }
        }
    }

    @Test("contributions are folded in the order that is promised", arguments: Algorithm.allCases, worldSizes)
    func order(algorithm: Algorithm, worldSize: Int) throws {
        let all = try run(algorithm, worldSize)
        for chunk in 0..<chunkCount(algorithm, worldSize) {
            #expect(
                all.results[0][chunk]
                    == AllReduceSchedule.foldOrder(algorithm, chunk: chunk, worldSize: worldSize))
        }
    }

    @Test("direct and one-shot fold in rank order, so that they give the same bits", arguments: worldSizes)
    func rankOrder(worldSize: Int) throws {
        let direct = try run(.direct, worldSize)
        for chunk in 0..<worldSize { #expect(direct.results[0][chunk] == Array(0..<worldSize)) }
        #expect(try run(.oneShot, worldSize).results[0] == [Array(0..<worldSize)])
    }

    @Test(
        "upwards the ring folds chunk c in the order c+1, c+2, …, c; downwards in the order c-1, c-2, …, c",
        arguments: worldSizes)
    func ringOrder(worldSize: Int) throws {
        let all = try run(.ring, worldSize)
        for chunk in 0..<worldSize {
            let upwards: [Int] = (1...worldSize).map { hops in (chunk + hops) % worldSize }
            let downwards: [Int] = (1...worldSize).map { hops in (chunk + worldSize - hops) % worldSize }
            #expect(all.results[0][chunk] == upwards)
            #expect(all.results[0][worldSize + chunk] == downwards)
        }
    }

    @Test("direct sends 2 (P-1) chunks of P, the ring 4 (P-1) of 2 P, one-shot all P-1 times", arguments: worldSizes)
    func cost(worldSize: Int) throws {
        let factors: [(Algorithm, Int)] = [(.direct, 2), (.ring, 4), (.oneShot, 1)]
        for (algorithm, factor) in factors {
            #expect(
                try run(algorithm, worldSize).chunksSent
                    == Array(repeating: factor * (worldSize - 1), count: worldSize))
        }
    }

    @Test("chunk numbers fit into a frame for the largest run")
    func chunkNumbers() {
        for algorithm in Algorithm.allCases { #expect(chunkCount(algorithm, 1024) <= Int(UInt16.max) + 1) }
    }

    @Test("each way of the ring carries one half, to one neighbour, and hears the other only", arguments: worldSizes)
    func neighbours(worldSize: Int) {
        for rank in 0..<worldSize {
            func towards(_ chunk: Int) -> Int { (rank + (chunk < worldSize ? 1 : worldSize - 1)) % worldSize }
            func origin(_ chunk: Int) -> Int { (rank + (chunk < worldSize ? worldSize - 1 : 1)) % worldSize }
            for step in AllReduceSchedule.steps(.ring, rank: rank, worldSize: worldSize) {
                switch step {
                case .sendInput(let chunk, let to), .sendResult(let chunk, let to): #expect(to == towards(chunk))
                case .receiveResult(let chunk, let from): #expect(from == origin(chunk))
                case .fold(let chunk, let operands, let target):
                    for case .input(let from) in operands { #expect(from == origin(chunk)) }
                    for case .partial(let from) in operands { #expect(from == origin(chunk)) }
                    if case .partial(let to) = target { #expect(to == towards(chunk)) }
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
