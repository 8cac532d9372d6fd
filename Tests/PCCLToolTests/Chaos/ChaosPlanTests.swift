import PCCLBase
import Testing

@testable import pccl

@Suite("The plan of a chaos run")
struct ChaosPlanTests {
    private static let options = ChaosPlan.Options()

    /// Draws, and lets the population follow: what dies or leaves is gone, who joins is there.
    private func draws(
        _ count: Int, seed: UInt64, _ options: ChaosPlan.Options = options,
        check: (ChaosPlan.Population, ChaosPlan.Draw) -> Void = { _, _ in }
    ) -> [ChaosPlan.Draw] {
        var plan = ChaosPlan(seed: seed, options: options)
        var population = ChaosPlan.Population(
            living: Array(0..<options.peers), free: Array(options.peers..<Slots.count))
        return (0..<count).compactMap { _ in
            guard let draw = plan.next(population) else { return nil }
            check(population, draw)
            switch draw.fault {
            case .kill(let slot), .leave(let slot):
                population.living.removeAll { $0 == slot }
                population.free.append(slot)
            case .join(let slot):
                population.free.removeAll { $0 == slot }
                population.living = (population.living + [slot]).sorted()
            case .stop, .cut, .oneway, .delay, .master: break
            }
            return draw
        }
    }

    @Test("the same seed draws the same faults with the same pauses, another one others")
    func seeds() {
        #expect(draws(200, seed: 7) == draws(200, seed: 7))
        #expect(draws(200, seed: 7) != draws(200, seed: 8))
    }

    @Test(
        "of the kinds that were asked for each comes, and no other",
        arguments: [FaultKind.standard, [.kill, .join, .stop]])
    func kinds(wanted: [FaultKind]) {
        var options = Self.options
        options.kinds = wanted
        #expect(Set(draws(500, seed: 1, options).map(\.fault.kind)) == Set(wanted))
    }

    @Test("whom a fault is for is there, and who joins takes the slot that was free the longest")
    func targets() {
        _ = draws(2000, seed: 3) { population, draw in
            switch draw.fault {
            case .kill(let slot), .leave(let slot), .stop(let slot, _): #expect(population.living.contains(slot))
            case .join(let slot): #expect(slot == population.free.first)
            case .cut(let pair, _), .oneway(let pair, _), .delay(let pair, _, _):
                #expect(pair.a != pair.b)
                for case .slot(let slot) in [pair.a, pair.b] { #expect(population.living.contains(slot)) }
            case .master(let time): #expect(time < Self.options.deadTime)
            }
        }
    }

    @Test("no loss leaves fewer than two, and the group keeps about its size")
    func sizes() {
        var total = 0
        let all = draws(2000, seed: 4) { population, draw in
            total += population.living.count
            switch draw.fault {
            case .kill, .leave: #expect(population.living.count > 2)
            case .stop, .join, .cut, .oneway, .delay, .master: break
            }
        }
        #expect(all.count == 2000)
        #expect((3 * 2000...5 * 2000).contains(total))
    }

    @Test("two faults may come at once, three never do")
    func atOnce() {
        let atOnce = draws(2000, seed: 5).map(\.isFollowedAtOnce)
        #expect(atOnce.contains(true))
        #expect(!zip(atOnce, atOnce.dropFirst()).contains { $0 && $1 })
    }

    @Test("what lasts is over before the dead time about as often as after it")
    func durations() {
        var options = Self.options
        options.kinds = [.stop]
        let times = draws(1000, seed: 6, options).map(\.fault.duration)
        #expect(times.allSatisfy { $0 < options.deadTime + options.deadTime })
        #expect((400...600).contains(times.filter { $0 < options.deadTime }.count))
    }

    @Test("without a kind that is possible nothing is drawn")
    func nothingPossible() {
        var options = Self.options
        options.kinds = [.kill]
        var plan = ChaosPlan(seed: 1, options: options)
        #expect(plan.next(ChaosPlan.Population(living: [0, 1], free: [])) == nil)
    }
}

@Suite("The load of a chaos run")
struct ChaosWorkTests {
    private let rounds = (0..<2000).map { ChaosWork(seed: 9, round: $0) }

    @Test("a round's work follows from the seed and its number")
    func sameEverywhere() {
        #expect(rounds == (0..<2000).map { ChaosWork(seed: 9, round: $0) })
        #expect(rounds != (0..<2000).map { ChaosWork(seed: 10, round: $0) })
        #expect(Set(rounds.flatMap(\.operations).map(\.salt)).count == rounds.map(\.operations.count).reduce(0, +))
    }

    @Test("each type, operation, style and meeting comes, in place and not, with tags that differ within a round")
    func everything() {
        let operations = rounds.flatMap(\.operations)
        for type in 0..<12 { #expect(operations.contains { $0.type.rawValue == UInt32(type) }) }
        for operation in 0..<5 { #expect(operations.contains { $0.operation.rawValue == UInt32(operation) }) }
        for isInPlace in [false, true] { #expect(operations.contains { $0.isInPlace == isInPlace }) }
        for style in [ChaosWork.Style.blocking, .concurrent(asking: true), .concurrent(asking: false)] {
            #expect(rounds.contains { $0.style == style })
        }
        for onLoss in [nil, LossPolicy.abort, .resume, .resumeWhole] {
            #expect(rounds.contains { $0.style == .retried(maxInFlight: 2, onLoss: onLoss) })
        }
        for onLoss in LossPolicy.allCases { #expect(operations.contains { $0.onLoss == onLoss }) }
        for meeting in [ChaosWork.Meeting.none, .askFirst, .updateTopology, .optimizeTopology] {
            #expect(rounds.contains { $0.meeting == meeting })
        }
        #expect(rounds.allSatisfy { Set($0.operations.map(\.tag)).count == $0.operations.count })
    }

    @Test("sizes go from one element to some megabytes")
    func sizes() {
        let operations = rounds.flatMap(\.operations)
        #expect(operations.allSatisfy { $0.count >= 1 && $0.byteCount <= 1 << 22 })
        #expect(operations.contains { $0.count == 1 })
        #expect(operations.contains { $0.byteCount > 1 << 21 })
    }
}
