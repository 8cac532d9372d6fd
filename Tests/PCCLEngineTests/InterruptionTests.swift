import PCCLBase
import PCCLTestSupport
import PCCLTransport
import PCCLWire
import Testing

@testable import PCCLEngine

@Suite("Operations that are early, late or interrupted", .timeLimit(.minutes(3)))
struct InterruptionTests {
    private func isData(_ event: Node.Event) -> Bool { if case .copied = event { true } else { false } }

    @Test("what comes before the call waits, within the eager allowance, and counts once the call is there")
    func lateCall() throws {
        var configuration = EngineConfiguration()
        configuration.segmentBytes = 1024
        configuration.eagerBytesPerOperation = 4096
        let cluster = try Cluster(3, configuration)
        try cluster.log()
        let reduction = Reduction(tag: 9, .float32, .sum, .direct, count: 9000, isInPlace: true, worldSize: 3)
        let early = try (0..<2).map { try reduction.start(cluster.nodes[$0], rank: $0) }
        // All that two ranks may send eagerly lies there, and not a byte more comes.
        try cluster.nodes[2].events.waitUntil { $0.count { isData($0) } == 8 }
        #expect(early.allSatisfy { $0.current == nil })
        let late = try reduction.start(cluster.nodes[2], rank: 2)
        for completion in early + [late] { _ = try completion.value() }
        #expect(reduction.mistake() == nil)
        #expect(cluster.nodes[2].events.all.count { isData($0) } >= 8)
        #expect(cluster.violations == [])
        try cluster.stop()
    }

    @Test("the eager allowance of a link is given back by operations that end without their partner")
    func eagerAllowanceComesBack() throws {
        var configuration = EngineConfiguration()
        configuration.segmentBytes = 1024
        configuration.eagerBytesPerOperation = 2048
        configuration.eagerBytesPerLink = 4096
        let cluster = try Cluster(2, configuration)
        try cluster.log()
        var sent = 0
        for round in 0..<5 {
            let reductions = (0..<4).map {
                Reduction(
                    tag: UInt64(round * 4 + $0), .float32, .sum, .direct, count: 4000, isInPlace: true, worldSize: 2)
            }
            for reduction in reductions { _ = try reduction.start(cluster.nodes[0], rank: 0) }
            sent += 4
            try cluster.nodes[1].events.waitUntil { $0.count { isData($0) } == sent }
            // Ended one by one, as after a mismatch, and not by a new epoch.
            try cluster.nodes[0].onLoop { node in
                for launch in node.launches { _ = node.engine.finish(launch, succeeded: false) }
                node.forgetOperations()
            }
            try cluster.nodes[1].onLoop { node in node.ignoreAllEntries(of: 1) }
            for reduction in reductions { #expect(reduction.targets[0].bytes == reduction.inputs[0]) }
        }
        try cluster.stop()
    }

    @Test(
        "an operation that is stopped half-way leaves its input whole, and runs again from there",
        arguments: [2, 3, 5],
        Algorithm.allCases)
    func stoppedHalfWay(worldSize: Int, algorithm: Algorithm) throws {
        var configuration = EngineConfiguration()
        configuration.segmentBytes = 256
        configuration.stagingBytesPerOperation = 1
        let cluster = try Cluster(worldSize, stripes: 2, configuration)
        try cluster.log()
        var epoch: UInt32 = 1
        for allowance in [1, 12, 40] {
            let first = UInt64(epoch) * 10
            let reductions = (0..<3).map {
                Reduction(
                    tag: first + UInt64($0), [.float32, .bfloat16, .int8][$0], .average, algorithm, count: 30_000,
                    isInPlace: $0 != 1, worldSize: worldSize)
            }
            // The last rank falls silent after a few segments, so that nobody can come to an end.
            try cluster.nodes[worldSize - 1].allowSending(allowance)
            for rank in 0..<worldSize {
                for reduction in reductions { _ = try reduction.start(cluster.nodes[rank], rank: rank) }
            }
            let tags = Set(reductions.map(\.tag))
            try cluster.nodes[worldSize - 1].events.waitUntil { events in
                events.count { if case .sending(_, let header) = $0 { tags.contains(header.tag.value) } else { false } }
                    == allowance
            }
            // One after the other, while the others go on to send.
            for node in cluster.nodes { try node.abandonAll() }
            for reduction in reductions {
                for rank in 0..<worldSize {
                    #expect(reduction.sources[rank].bytes == reduction.inputs[rank])
                    #expect(reduction.targets[rank].isIntactAround)
                }
            }
            try cluster.nodes[worldSize - 1].allowSending(.max)
            epoch += 1
            try cluster.adopt(epoch)
            // The memory of before is not theirs any more: it stays as it is while the same runs again elsewhere.
            for memory in reductions.flatMap({ $0.targets + $0.sources }) { memory.fill(0x5a) }
            let again = reductions.map {
                Reduction(
                    tag: $0.tag, $0.descriptor.type, $0.descriptor.operation, algorithm, count: 30_000,
                    isInPlace: $0.isInPlace, worldSize: worldSize)
            }
            _ = try cluster.run(again)
            for reduction in again { #expect(reduction.mistake() == nil) }
            for memory in reductions.flatMap({ $0.targets + $0.sources }) { #expect(memory.holds(only: 0x5a)) }
        }
        #expect(cluster.violations == [])
        try cluster.stop()
    }

    @Test("in place, a result that was written already is undone")
    func writtenResultsAreUndone() throws {
        var configuration = EngineConfiguration()
        configuration.segmentBytes = 256
        let cluster = try Cluster(2, configuration)
        try cluster.log()
        let reduction = Reduction(tag: 1, .float32, .sum, .direct, count: 20_000, isInPlace: true, worldSize: 2)
        try cluster.nodes[1].allowSending(30)
        for rank in 0..<2 { _ = try reduction.start(cluster.nodes[rank], rank: rank) }
        // The second rank has received and written results of the first.
        try cluster.nodes[1].events.waitUntil { events in
            events.contains { if case .placed(_, let header) = $0 { header.phase == .gather } else { false } }
        }
        #expect(try cluster.nodes[1].onLoop { _ in reduction.targets[1].bytes } != reduction.inputs[1])
        for node in cluster.nodes { try node.abandonAll() }
        for rank in 0..<2 { #expect(reduction.targets[rank].bytes == reduction.inputs[rank]) }
        try cluster.stop()
    }

    @Test("frames of an epoch to come wait for it; those of an old one are dropped")
    func epochs() throws {
        let cluster = try Cluster(3)
        try cluster.log()
        let members = cluster.nodes.map(\.id)
        for node in cluster.nodes { try node.abandonAll() }
        // Two are ahead of the third.
        for node in cluster.nodes[..<2] { try node.adopt(2, members) }
        let reduction = Reduction(tag: 4, .int16, .sum, .ring, count: 5000, isInPlace: true, worldSize: 3)
        let ahead = try (0..<2).map { try reduction.start(cluster.nodes[$0], rank: $0) }
        // In the ring the second rank's neighbour is the third.
        try cluster.nodes[2].events.waitUntil { $0.contains { isData($0) } }
        #expect(!cluster.nodes[2].events.all.contains { if case .entered = $0 { true } else { false } })
        try cluster.nodes[2].adopt(2, members)
        try cluster.nodes[2].events.waitUntil { events in
            events.contains(.entered(1, epoch: 2, tag: 4)) && events.contains(.entered(2, epoch: 2, tag: 4))
        }
        let late = try reduction.start(cluster.nodes[2], rank: 2)
        for completion in ahead + [late] { _ = try completion.value() }
        #expect(reduction.mistake() == nil)

        // Now the third stays behind with an operation of its own.
        for node in cluster.nodes[..<2] { try node.adopt(3, members) }
        let old = Reduction(tag: 5, .int16, .sum, .direct, count: 5000, isInPlace: true, worldSize: 3)
        _ = try old.start(cluster.nodes[2], rank: 2)
        try cluster.nodes[2].events.waitUntil { events in
            events.count { if case .sending(_, let header) = $0 { header.tag.value == 5 } else { false } } == 2
        }
        try cluster.nodes[2].abandonAll()
        #expect(old.targets[2].bytes == old.inputs[2])
        try cluster.nodes[2].adopt(3, members)
        let new = Reduction(tag: 5, .int16, .maximum, .direct, count: 700, isInPlace: true, worldSize: 3)
        _ = try cluster.run([new])
        #expect(new.mistake() == nil)
        for node in cluster.nodes[..<2] {
            #expect(!node.events.all.contains(.entered(3, epoch: 1, tag: 5)))
            #expect(!node.events.all.contains(.entered(3, epoch: 2, tag: 5)))
        }
        #expect(cluster.violations == [])
        try cluster.stop()
    }

    @Test("frames that are held are not taken for those of another run, and epochs may begin again below")
    func anotherRun() throws {
        let cluster = try Cluster(2)
        try cluster.log()
        let (first, second) = (cluster.nodes[0], cluster.nodes[1])
        func dataArrived(_ epoch: UInt32) throws {
            try second.events.waitUntil { events in
                events.contains { if case .copied(_, let header) = $0 { header.epoch.value == epoch } else { false } }
            }
        }
        // The first is ahead when both become peers of another run, which has the same ids.
        try first.abandonAll()
        try first.adopt(7, [1, 2])
        let old = Reduction(tag: 4, .int16, .sum, .direct, count: 5000, isInPlace: true, worldSize: 2)
        _ = try old.start(first, rank: 0)
        try dataArrived(7)
        for node in cluster.nodes { try node.forget() }
        try second.adopt(7, [1, 2])
        #expect(!second.events.all.contains(.entered(1, epoch: 7, tag: 4)))

        // Once more, and the next run is in an epoch that was long past in this one.
        for node in cluster.nodes { try node.forget() }
        try first.adopt(2, [1, 2])
        let new = Reduction(tag: 5, .int16, .sum, .direct, count: 5000, isInPlace: true, worldSize: 2)
        let ahead = try new.start(first, rank: 0)
        try dataArrived(2)
        try second.adopt(2, [1, 2])
        #expect(second.events.all.contains(.entered(1, epoch: 2, tag: 5)), "it was taken for an old one")
        let late = try new.start(second, rank: 1)
        for completion in [ahead, late] { _ = try completion.value() }
        #expect(new.mistake() == nil)
        #expect(cluster.violations == [])
        try cluster.stop()
    }

    struct Lie: Sendable, CustomStringConvertible {
        var description: String
        var change: @Sendable (inout FrameHeader) -> Void
    }
    static let lies: [Lie] = [
        Lie(description: "a chunk that there is not") { $0.chunk = 2 },
        Lie(description: "the greatest chunk") { $0.chunk = .max },
        Lie(description: "a chunk that another rank reduces") { $0.chunk = 1 },
        Lie(description: "a result of a chunk that we reduce") { $0.phase = .gather },
        Lie(description: "an offset within a segment") { $0.offset = 4 },
        Lie(description: "an offset within an element") {
            $0.offset = 2
            $0.payloadBytes = 512
        },
        Lie(description: "an offset behind the end") { $0.offset = 4096 },
        Lie(description: "the greatest offset") { $0.offset = .max },
        Lie(description: "the greatest offset that fits") { $0.offset = .max - 1023 },
        Lie(description: "a shorter payload") { $0.payloadBytes -= 1 },
        Lie(description: "a longer payload") { $0.payloadBytes += 1 },
        Lie(description: "no payload") { $0.payloadBytes = 0 },
    ]

    @Test("a data frame that lies is a violation, and touches nothing", arguments: lies)
    func lyingFrames(lie: Lie) throws {
        var configuration = EngineConfiguration()
        configuration.segmentBytes = 1024
        let cluster = try Cluster(2, configuration)
        // The second rank enters, and sends nothing by itself.
        try cluster.nodes[1].allowSending(0)
        let reduction = Reduction(tag: 1, .float32, .sum, .direct, count: 1500, isInPlace: true, worldSize: 2)
        try cluster.log()
        for rank in 0..<2 { _ = try reduction.start(cluster.nodes[rank], rank: rank) }
        try cluster.nodes[0].events.waitUntil { $0.contains(.entered(2, epoch: 1, tag: 1)) }
        let verdicts = try cluster.nodes[0].onLoop { node -> [String] in
            guard let link = node.links[2], let theirs = node.theirLaunch(of: 2) else { return [] }
            let honest = FrameHeader(
                kind: .data, chunk: 0, epoch: Epoch(1), launch: theirs, tag: PCCLBase.Tag(1), payloadBytes: 1024)
            var lying = honest
            lie.change(&lying)
            // The lie, the truth, and the truth a second time.
            return [lying, honest, honest].map { "\(node.engine.link(link, placementFor: $0))" }
        }
        #expect(verdicts.count == 3)
        #expect(verdicts.first?.hasPrefix("violation") == true)
        #expect(verdicts.dropFirst().first?.hasPrefix("into") == true)
        #expect(verdicts.last == "violation(\"a segment that came before\")")
        for node in cluster.nodes { try node.abandonAll() }
        #expect(reduction.targets[0].bytes == reduction.inputs[0])
        try cluster.stop()
    }

    @Test("far away more may leave before the call, but what a late member has to hold stays bounded")
    func eagerAllowance() {
        let configuration = EngineConfiguration()
        #expect(configuration.eagerBytes(isFarAway: false, worldSize: 2) == 256 << 10)
        #expect(configuration.eagerBytes(isFarAway: true, worldSize: 2) == 9 << 20)
        #expect(configuration.eagerBytes(isFarAway: true, worldSize: 33) == 1 << 20)
        #expect(configuration.eagerBytes(isFarAway: true, worldSize: 1000) == 256 << 10)
    }

    @Test("more than the eager allowance before a call is a violation")
    func tooEager() throws {
        var configuration = EngineConfiguration()
        configuration.eagerBytesPerLink = 1000
        let node = try Node(1, configuration: configuration)
        let (a, b) = socketPair()
        makeBlocking(b)
        let raw = RawSocket(owning: b)
        try node.adopt(1, [1, 2])
        try node.connect(to: 2, [a])
        var frame = [UInt8](repeating: 0, count: FrameHeader.byteCount + 700)
        for launch in 1...3 as ClosedRange<UInt32> {
            let header = FrameHeader(
                kind: .data, epoch: Epoch(1), launch: LaunchNumber(launch), tag: PCCLBase.Tag(1), payloadBytes: 700,
                serial: UInt64(launch))
            frame.withUnsafeMutableBytes { header.store(to: $0.baseAddress!) }
            try raw.write(frame)
        }
        #expect(try node.events.take() == .violation(2, "more than the eager allowance before the call"))
        #expect(try raw.read(1) == [])
        try node.stop()
    }

    @Test("a link that comes during operations carries their entries, and they run to their end")
    func lateLink() throws {
        let nodes = try [1, 2].map { try Node($0, configuration: EngineConfiguration()) }
        for node in nodes { try node.adopt(1, [1, 2]) }
        let reductions = (0..<3).map {
            Reduction(tag: UInt64($0), .float64, .sum, .direct, count: 4000, isInPlace: true, worldSize: 2)
        }
        var completions: [Completion<Traffic>] = []
        for reduction in reductions {
            for (rank, node) in nodes.enumerated() { completions.append(try reduction.start(node, rank: rank)) }
        }
        let (a, b) = socketPair()
        try nodes[0].connect(to: 2, [a])
        try nodes[1].connect(to: 1, [b])
        for completion in completions { _ = try completion.value() }
        for reduction in reductions { #expect(reduction.mistake() == nil) }
        for node in nodes { try node.stop() }
    }

    @Test("a link that breaks in mid-operation leaves the memory alone, and the engine in order")
    func linkBreaks() throws {
        var configuration = EngineConfiguration()
        configuration.segmentBytes = 512
        let cluster = try Cluster(3, stripes: 2, configuration)
        try cluster.log()
        let reduction = Reduction(tag: 1, .float32, .sum, .ring, count: 60_000, isInPlace: true, worldSize: 3)
        try cluster.nodes[2].allowSending(20)
        for rank in 0..<3 { _ = try reduction.start(cluster.nodes[rank], rank: rank) }
        try cluster.nodes[2].events.waitUntil { events in
            events.count { if case .sending = $0 { true } else { false } } == 20
        }
        try cluster.nodes[2].stop()
        for node in cluster.nodes[..<2] {
            try node.onLoop { $0.dropLink(to: 3) }
            try node.abandonAll()
        }
        for rank in 0..<2 { #expect(reduction.targets[rank].bytes == reduction.inputs[rank]) }
        for node in cluster.nodes[..<2] { try node.adopt(2, [1, 2]) }
        let again = Reduction(tag: 1, .float32, .sum, .ring, count: 60_000, isInPlace: true, worldSize: 2)
        let completions = try (0..<2).map { try again.start(cluster.nodes[$0], rank: $0) }
        for completion in completions { _ = try completion.value() }
        #expect(again.mistake() == nil)
        for node in cluster.nodes[..<2] { try node.stop() }
    }
}
