import PCCLBase
import PCCLSchedule
import Testing

@Suite("All-reduce schedules, proved by running all ranks")
struct AllReduceScheduleTests {
    static let worldSizes = Array(2...16) + [32]

    private func chunkCount(_ algorithm: Algorithm, _ worldSize: Int) -> Int {
        AllReduceSchedule.chunkCount(algorithm, worldSize: worldSize)
    }

    private func run(_ algorithm: Algorithm, _ worldSize: Int, sites: [UInt16] = []) throws -> Interpreter {
        try Interpreter(worldSize, chunkCount: chunkCount(algorithm, worldSize)) {
            AllReduceSchedule.steps(algorithm, rank: $0, worldSize: worldSize, sites: sites)
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
                    == AllReduceSchedule.foldOrder(algorithm, chunk: chunk, worldSize: worldSize, sites: [])
                    .flatMap { $0 })
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
        let factors: [(Algorithm, Int)] = [(.direct, 2), (.ring, 4), (.oneShot, 1), (.twoLevel, 2)]
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
            for step in AllReduceSchedule.steps(.ring, rank: rank, worldSize: worldSize, sites: []) {
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

@Suite("Two levels, proved by running all ranks")
struct TwoLevelTests {
    /// Every world of up to seven ranks in up to three sites, and some larger ones.
    static let worlds: [[UInt16]] = {
        var worlds: [[UInt16]] = []
        for size in 2...7 {
            var sites = [UInt16](repeating: 0, count: size)
            var isDone = false
            while !isDone {
                worlds.append(sites)
                var digit = size - 1
                while digit >= 0, sites[digit] == 2 {
                    sites[digit] = 0
                    digit -= 1
                }
                if digit < 0 { isDone = true } else { sites[digit] += 1 }
            }
        }
        var random = RandomSource(seed: 1)
        for size in [12, 16, 33] {
            worlds.append((0..<size).map { UInt16($0 % 4) })
            worlds.append((0..<size).map { _ in UInt16(random.below(5)) })
        }
        return worlds
    }()

    private func run(_ sites: [UInt16]) throws -> Interpreter {
        try Interpreter(sites.count) {
            AllReduceSchedule.steps(.twoLevel, rank: $0, worldSize: sites.count, sites: sites)
        }
    }

    @Test("every rank ends with every contribution once, the same everywhere, in the order that is promised")
    func complete() throws {
        for sites in Self.worlds {
            let all = try run(sites)
            for chunk in sites.indices {
                let order = AllReduceSchedule.foldOrder(.twoLevel, chunk: chunk, worldSize: sites.count, sites: sites)
                #expect(all.results[0][chunk] == order.flatMap { $0 }, "\(sites)")
                #expect(all.results[0][chunk]?.sorted() == Array(sites.indices), "\(sites)")
                #expect(all.results.allSatisfy { $0[chunk] == all.results[0][chunk] }, "\(sites)")
            }
        }
    }

    @Test("each chunk crosses between two sites once as a sum and once as a result, if one of them owns it")
    func crossings() throws {
        for sites in Self.worlds {
            var crossings = Set<[Int]>()
            for rank in sites.indices {
                for step in AllReduceSchedule.steps(.twoLevel, rank: rank, worldSize: sites.count, sites: sites) {
                    let (chunk, to, phase): (Int, Int, Int)
                    switch step {
                    case .sendInput(let c, let t), .fold(let c, _, .partial(let t)): (chunk, to, phase) = (c, t, 0)
                    case .sendResult(let c, let t): (chunk, to, phase) = (c, t, 1)
                    case .fold(_, _, .result), .receiveResult: continue
                    }
                    guard sites[rank] != sites[to] else { continue }
                    #expect(sites[chunk] == (phase == 0 ? sites[to] : sites[rank]), "\(sites)")
                    let isNew = crossings.insert([chunk, phase, Int(sites[rank]), Int(sites[to])]).inserted
                    #expect(isNew, "\(sites): chunk \(chunk) twice from \(sites[rank]) to \(sites[to])")
                }
            }
            let others = Set(sites).count - 1
            #expect(crossings.count == 2 * others * sites.count)
        }
    }

    @Test("sums come before contributions, and the last to be folded into a result is one")
    func sumsFirst() {
        for sites in Self.worlds {
            for rank in sites.indices {
                for step in AllReduceSchedule.steps(.twoLevel, rank: rank, worldSize: sites.count, sites: sites) {
                    guard case .fold(_, let operands, _) = step else { continue }
                    let isSum = operands.map { if case .partial = $0 { true } else { false } }
                    #expect(isSum == isSum.filter { $0 } + isSum.filter { !$0 } && isSum.last == false, "\(sites)")
                }
            }
        }
    }

    @Test("each site owns an equal part, whatever the number of its members")
    func parts() {
        for sites in Self.worlds {
            let layout = AllReduceSchedule.layout(
                .twoLevel, elementCount: 1_000_000, worldSize: sites.count, shares: [], sites: sites)
            let count = Set(sites).count
            for site in Set(sites) {
                let part = sites.indices.filter { sites[$0] == site }
                    .reduce(0) { $0 + layout.elements(ofChunk: $1).count }
                #expect(abs(part - 1_000_000 / count) < 1_000, "\(sites)")
            }
        }
    }

    @Test("numbers that are not those of the world make every rank a site of its own")
    func otherSize() {
        let lonely = Sites([], worldSize: 3)
        #expect(lonely.ranks == [[0], [1], [2]])
        #expect(Sites([7, 7], worldSize: 3) == lonely)
        #expect(Sites([7, .max, 7], worldSize: 3).ranks == [[0, 2], [1]])
    }
}

@Suite("The interpreter finds what is wrong")
struct InterpreterTests {
    private func broken(_ change: @escaping (inout [Step], Int) -> Void) -> Interpreter.Problem? {
        do {
            _ = try Interpreter(3) { rank in
                var steps = AllReduceSchedule.steps(.direct, rank: rank, worldSize: 3, sites: [])
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
