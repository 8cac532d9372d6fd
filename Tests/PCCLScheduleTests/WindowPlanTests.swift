import PCCLBase
import Testing

@testable import PCCLSchedule

/// All members of a collective, with memory that is written at once and told of later, in an order that a seed decides.
private struct Interpretation {
    let worldSize: Int
    let plans: [WindowPlan]
    var progress: [WindowProgress]
    /// One element of a sum has one contribution of each member, so elements are sets of them, as bits.
    var send: [[UInt64]]
    var receive: [[UInt64]]
    var regions: [[UInt64]]
    var working: [(rank: Int, step: WindowProgress.Step)] = []
    var told: [(from: Int, to: Int, counters: WindowCounters)] = []
    var random: RandomSource
    var steps = 0

    static let elementBytes = 8

    init(_ collective: Collective, count: Int, worldSize: Int, isInPlace: Bool, roundBytes: Int, seed: UInt64) throws {
        self.worldSize = worldSize
        random = RandomSource(seed: seed)
        plans = try (0..<worldSize).map {
            try #require(
                WindowPlan(
                    collective, count: count, elementBytes: Self.elementBytes, rank: $0, worldSize: worldSize,
                    isInPlace: isInPlace, roundBytes: roundBytes))
        }
        progress = plans.enumerated().map { WindowProgress($0.element, rank: $0.offset, worldSize: worldSize) }
        let sent = collective == .allGather ? count / worldSize : count
        let received = collective == .reduceScatter ? count / worldSize : count
        send = (0..<worldSize).map { rank in (0..<sent).map { UInt64($0) << 32 | 1 << UInt64(rank) } }
        receive = Array(repeating: Array(repeating: 0, count: received), count: worldSize)
        // Nothing is where nothing was written.
        regions = plans.map { Array(repeating: .max, count: $0.regionBytes / Self.elementBytes) }
    }

    private func elements(_ bytes: Int) -> Int {
        precondition(bytes % Self.elementBytes == 0)
        return bytes / Self.elementBytes
    }

    /// What the device does, at the latest moment: what somebody overwrites too early is seen.
    private mutating func perform(_ step: WindowProgress.Step, _ rank: Int) {
        let plan = plans[rank]
        switch step {
        case .fill(let round):
            for copy in plan.fill(round) {
                let (from, to) = (elements(copy.from), elements(copy.to))
                for i in 0..<elements(copy.count) { regions[rank][to + i] = send[rank][from + i] }
            }
        case .fold(let round):
            guard let fold = plan.fold(round) else { return }
            let (input, output) = (elements(fold.input), elements(fold.output))
            for i in 0..<fold.elementCount {
                regions[rank][output + i] = regions.reduce(0) { $0 | $1[input + i] }
            }
        case .take(let round):
            for take in plan.take(round) {
                let (from, to) = (elements(take.copy.from), elements(take.copy.to))
                for i in 0..<elements(take.copy.count) { receive[rank][to + i] = regions[take.rank][from + i] }
            }
        }
    }

    mutating func run() -> Bool {
        while true {
            for rank in 0..<worldSize {
                while let step = progress[rank].next() { working.append((rank, step)) }
            }
            guard !(working.isEmpty && told.isEmpty) else { return progress.allSatisfy(\.isWhole) }
            steps += 1
            let choice = Int.random(in: 0..<working.count + told.count, using: &random)
            if choice < working.count {
                // Those of one kind and member end in their order.
                let (rank, chosen) = working[choice]
                let first = working.firstIndex { $0.rank == rank && $0.step.isSameKind(as: chosen) }!
                let step = working.remove(at: first).step
                perform(step, rank)
                progress[rank].ended(step)
                for other in 0..<worldSize where other != rank { told.append((rank, other, progress[rank].own)) }
            } else {
                let message = told.remove(at: choice - working.count)
                progress[message.to].heard(message.counters, from: message.from)
            }
        }
    }
}

extension WindowProgress.Step {
    fileprivate func isSameKind(as other: Self) -> Bool {
        switch (self, other) {
        case (.fill, .fill), (.fold, .fold), (.take, .take): true
        default: false
        }
    }
}

@Suite("Collectives through windows, proved by running all ranks")
struct WindowPlanTests {
    static let worldSizes = Array(1...9) + [16]
    /// Of a member's block; one round, several, and many, of which the last is not whole.
    static let counts = [1, 3, 64, 100, 515]

    private func all(
        _ collective: Collective, _ worldSize: Int, isInPlace: Bool = false,
        _ check: (Interpretation, Int) -> Void
    ) throws {
        for (seed, block) in Self.counts.enumerated() {
            for roundBytes in [512, 2048, 1 << 20] {
                var all = try Interpretation(
                    collective, count: block * worldSize, worldSize: worldSize, isInPlace: isInPlace,
                    roundBytes: roundBytes, seed: UInt64(seed * 100 + worldSize))
                let isWhole = all.run()
                #expect(isWhole, "\(collective) of \(block) × \(worldSize) stands still")
                check(all, block)
            }
        }
    }

    private func everyone(_ worldSize: Int) -> UInt64 { (1 << UInt64(worldSize)) - 1 }

    @Test("an all-reduce gives every member every contribution to every element", arguments: worldSizes)
    func allReduce(worldSize: Int) throws {
        try all(.allReduce, worldSize) { all, block in
            let expected = (0..<block * worldSize).map { UInt64($0) << 32 | everyone(worldSize) }
            #expect(all.receive.allSatisfy { $0 == expected })
        }
    }

    @Test("a reduce-scatter gives every member all contributions to its block", arguments: worldSizes)
    func reduceScatter(worldSize: Int) throws {
        try all(.reduceScatter, worldSize) { all, block in
            for rank in 0..<worldSize {
                let expected = (0..<block).map { UInt64(rank * block + $0) << 32 | everyone(worldSize) }
                #expect(all.receive[rank] == expected)
            }
        }
    }

    @Test("an all-gather brings the blocks in the order of ranks", arguments: worldSizes)
    func allGather(worldSize: Int) throws {
        try all(.allGather, worldSize) { all, block in
            let expected = (0..<worldSize).flatMap { rank in (0..<block).map { UInt64($0) << 32 | 1 << UInt64(rank) } }
            #expect(all.receive.allSatisfy { $0 == expected })
        }
    }

    @Test("an all-gather in place leaves its own block alone", arguments: worldSizes)
    func inPlace(worldSize: Int) throws {
        try all(.allGather, worldSize, isInPlace: true) { all, block in
            for rank in 0..<worldSize { #expect(all.receive[rank][rank * block..<(rank + 1) * block].max() == 0) }
        }
    }

    @Test("a broadcast brings what the root has", arguments: worldSizes)
    func broadcast(worldSize: Int) throws {
        let root = worldSize / 2
        try all(.broadcast(root: UInt16(root)), worldSize) { all, block in
            for rank in 0..<worldSize where rank != root { #expect(all.receive[rank] == all.send[root]) }
        }
    }

    @Test("elements of any size have room, and places are what a device likes", arguments: [1, 2, 4, 8], worldSizes)
    func room(elementBytes: Int, worldSize: Int) throws {
        for (count, roundBytes) in [(worldSize, 1), (1000, 4096), (100_003, 65_536), (7, 1 << 20)] {
            var reduced = 0
            for rank in 0..<worldSize {
                let plan = try #require(
                    WindowPlan(
                        .allReduce, count: count, elementBytes: elementBytes, rank: rank, worldSize: worldSize,
                        isInPlace: false, roundBytes: roundBytes))
                for round in 0..<plan.roundCount {
                    guard let fold = plan.fold(round) else { continue }
                    #expect(fold.input % WindowPlan.grain == 0 && fold.output % WindowPlan.grain == 0)
                    let end = fold.output + fold.elementCount * elementBytes
                    #expect(end <= plan.regionBytes / plan.halves * (round % plan.halves + 1))
                    reduced += fold.elementCount
                }
            }
            #expect(reduced == count)
        }
    }

    @Test("nothing to do is no plan")
    func nothing() {
        #expect(
            WindowPlan(
                .barrier, count: 0, elementBytes: 1, rank: 0, worldSize: 2, isInPlace: true, roundBytes: 1) == nil)
        #expect(
            WindowPlan(
                .allReduce, count: 0, elementBytes: 4, rank: 0, worldSize: 2, isInPlace: true, roundBytes: 1) == nil)
    }

    @Test("what is told late, twice or of nobody changes nothing")
    func late() throws {
        let plan = try #require(
            WindowPlan(
                .allReduce, count: 64, elementBytes: 8, rank: 0, worldSize: 2, isInPlace: false, roundBytes: 128))
        var progress = WindowProgress(plan, rank: 0, worldSize: 2)
        func begun() -> [WindowProgress.Step] { Array(sequence(state: ()) { _ in progress.next() }) }
        #expect(begun() == [.fill(0), .fill(1)])
        progress.ended(.fill(0))
        progress.heard(WindowCounters(filled: 1), from: 1)
        progress.heard(WindowCounters(), from: 1)
        progress.heard(WindowCounters(filled: 9, folded: 9, taken: 9), from: 0)
        progress.heard(WindowCounters(filled: 9, folded: 9, taken: 9), from: 2)
        #expect(begun() == [.fold(0)])
        #expect(progress.own == WindowCounters(filled: 1))
        #expect(progress.isWorking)
    }
}
