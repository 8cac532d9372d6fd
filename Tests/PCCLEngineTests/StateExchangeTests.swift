import Glibc
import PCCLBase
import PCCLCompute
import PCCLTestSupport
import PCCLTransport
import PCCLWire
import Testing

@testable import PCCLEngine

/// The tensors of one node, lent to its engine.
private final class Tensors: @unchecked Sendable {
    let memories: [Memory]
    let state: StateMemory

    /// One off an aligned address each.
    init(_ contents: [[UInt8]]) {
        memories = contents.map { Memory($0, misalignment: 1) }
        let chunks = ContentHash.ofChunks(
            of: memories.map { UnsafeRawBufferPointer(start: $0.base, count: $0.byteCount) })
        state = StateMemory(
            zip(memories, chunks).map {
                StateMemory.Tensor(.host($0.base), byteCount: $0.byteCount, chunks: $1, by: .xxh3)
            },
            by: .xxh3)
    }

    var keys: [StateDecision.Key] {
        state.tensors.enumerated().compactMap { entry, tensor in tensor.hash.map { .init(entry: entry, hash: $0) } }
    }
    func hold(_ contents: [[UInt8]]) -> Bool { memories.map(\.bytes) == contents }
    var areIntactAround: Bool { memories.allSatisfy(\.isIntactAround) }
}

extension Node {
    fileprivate func lend(_ tensors: Tensors) throws {
        try onLoop { $0.engine.lendState(tensors.state, owner: LaunchNumber(70)) }
    }

    /// What is wrong in the end, or nil.
    fileprivate func fetch(
        _ keys: [StateDecision.Key], from sources: [UInt64], owner: UInt32 = 71
    ) throws -> Mailbox<String?> {
        let ended = Mailbox<String?>("the end of a fetch")
        try onLoop { node in
            node.engine.fetchState(keys, from: sources.map { PeerID($0) }, owner: LaunchNumber(owner)) { ended.put($0) }
        }
        return ended
    }

    fileprivate func returnState() throws { try onLoop { $0.engine.returnState() } }

    fileprivate static func receivedPieces(_ events: [Event]) -> [FrameHeader] {
        events.compactMap { if case .placed(_, let header) = $0, header.phase == .state { header } else { nil } }
    }
}

@Suite("Shared state over real links", .timeLimit(.minutes(3)))
struct StateExchangeTests {
    private static let mebibyte = 1 << 20

    /// Three tensors: chunks and a bit, one chunk, a few bytes.
    private func contents(_ seed: Int) -> [[UInt8]] {
        [
            pattern(5 * Self.mebibyte + 77, seed: seed), pattern(Self.mebibyte, seed: seed + 1),
            pattern(3, seed: seed + 2),
        ]
    }

    private func configuration(_ change: (inout StateConfiguration) -> Void = { _ in }) -> EngineConfiguration {
        var configuration = EngineConfiguration()
        change(&configuration.state)
        return configuration
    }

    @Test(
        "all of it comes, from all sources at once, over several stripes; compressed or not", arguments: [1, 3],
        [false, true])
    func everything(stripes: Int, isCompressed: Bool) throws {
        let cluster = try Cluster(
            4, stripes: stripes,
            configuration {
                $0.compression = isCompressed ? .always : .never
                $0.firstWindowBytes = 1 << 20
            })
        try cluster.log()
        // Half zeros, so that something comes of compressing.
        let right = contents(1).map { bytes in bytes.enumerated().map { $0.offset / 500 % 2 == 0 ? $0.element : 0 } }
        let lent = [Tensors(right), Tensors(right), Tensors(right), Tensors(contents(9))]
        for (node, tensors) in zip(cluster.nodes, lent) { try node.lend(tensors) }
        #expect(try cluster.nodes[3].fetch(lent[0].keys, from: [1, 2, 3]).take() == nil)
        #expect(lent[3].hold(right) && lent[3].areIntactAround)
        #expect(lent[3].state.tensors.map(\.hash) == lent[0].state.tensors.map(\.hash))
        for node in cluster.nodes { try node.returnState() }
        let (received, all) = (lent[3].state.traffic.receivedBytes, right.reduce(6 * 32) { $0 + $1.count })
        #expect(isCompressed ? received < UInt64(all) * 3 / 4 : received == UInt64(all))
        #expect(lent.prefix(3).allSatisfy { $0.state.traffic.sentBytes > 0 })
        #expect(lent.prefix(3).reduce(0) { $0 + $1.state.traffic.sentBytes } == received)
        #expect(cluster.violations == [])
        try cluster.stop()
    }

    @Test("a source that lies about chunks, or about their hashes, is replaced; without another the end is told")
    func liars() throws {
        let right = contents(1)
        for hasAnother in [true, false] {
            for spoiled in [Self.mebibyte * 2 + 5, -1] {
                let cluster = try Cluster(3)
                let lent = [Tensors(right), Tensors(right), Tensors(contents(9))]
                // After it was hashed. -1: the hashes of chunks are those of something else.
                if spoiled >= 0 {
                    (lent[0].memories[0].base + spoiled).storeBytes(of: 0xee, as: UInt8.self)
                } else {
                    lent[0].state.pretendHash(of: 0, chunk: 3)
                }
                for (node, tensors) in zip(cluster.nodes, lent) { try node.lend(tensors) }
                let ended = try cluster.nodes[2].fetch(lent[1].keys, from: hasAnother ? [1, 2] : [1])
                let failure = try ended.take()
                #expect((failure == nil) == hasAnother)
                if hasAnother { #expect(lent[2].hold(right)) }
                #expect(lent[2].areIntactAround)
                try cluster.stop()
            }
        }
    }

    @Test("a source that gives nothing, or stops in the middle, is replaced in time", arguments: [0, 2])
    func silence(pieces: Int) throws {
        let cluster = try Cluster(
            3,
            configuration {
                $0.period = .milliseconds(5)
                $0.patience = .milliseconds(50)
                $0.lastPatience = .milliseconds(20)
            })
        let right = contents(1)
        let lent = [Tensors(right), Tensors(right), Tensors(contents(9))]
        for (node, tensors) in zip(cluster.nodes, lent) { try node.lend(tensors) }
        try cluster.nodes[0].allowSending(pieces)
        #expect(try cluster.nodes[2].fetch(lent[1].keys, from: [1, 2]).take() == nil)
        #expect(lent[2].hold(right))
        // What it has to say yet comes too late, and does no harm.
        try cluster.nodes[2].returnState()
        lent[2].memories[0].fill(7)
        try cluster.nodes[0].allowSending(.max)
        for node in cluster.nodes.prefix(2) { try node.returnState() }
        try cluster.nodes[2].onLoop { _ in }
        #expect(lent[2].memories[0].holds(only: 7) && lent[2].areIntactAround)
        try cluster.stop()
    }

    @Test("a link that breaks in the middle and is made again costs what was under way on it, and no more")
    func brokenLink() throws {
        let cluster = try Cluster(
            2,
            configuration {
                $0.firstWindowBytes = 2 << 20
                $0.smallestWindowBytes = 2 << 20
                $0.largestWindowBytes = 2 << 20
            })
        try cluster.log()
        let right = [pattern(16 * Self.mebibyte, seed: 3)]
        let lent = [Tensors(right), Tensors([pattern(16 * Self.mebibyte, seed: 4)])]
        for (node, tensors) in zip(cluster.nodes, lent) { try node.lend(tensors) }
        try cluster.nodes[0].allowSending(6)
        let ended = try cluster.nodes[1].fetch(lent[0].keys, from: [1])
        try cluster.nodes[1].events.waitUntil { Node.receivedPieces($0).count >= 6 }
        try cluster.nodes[0].onLoop { $0.dropLink(to: 2) }
        try cluster.nodes[1].onLoop { $0.dropLink(to: 1) }
        let pair = socketPair()
        try cluster.nodes[0].connect(to: 2, [pair.0])
        try cluster.nodes[0].allowSending(.max)
        try cluster.nodes[1].connect(to: 1, [pair.1])
        #expect(try ended.take() == nil)
        #expect(lent[1].hold(right))
        let sent = Node.receivedPieces(cluster.nodes[1].events.all).reduce(0) { $0 + Int($1.payloadBytes) }
        #expect(sent <= 16 * Self.mebibyte + 2 * 16 * 32 + (3 << 20), "\(sent)")
        try cluster.stop()
    }

    @Test(
        "something else is to be received in the middle: what is the same stays, and late answers to the old are nothing"
    )
    func anotherDecision() throws {
        let cluster = try Cluster(3)
        let (first, second) = (contents(1), contents(20))
        // The second tensor is the same in both.
        let mixed = [second[0], first[1], second[2]]
        let lent = [Tensors(first), Tensors(mixed), Tensors(contents(9))]
        for (node, tensors) in zip(cluster.nodes, lent) { try node.lend(tensors) }
        try cluster.nodes[0].allowSending(2)
        let old = try cluster.nodes[2].fetch(lent[0].keys, from: [1])
        let new = try cluster.nodes[2].fetch(lent[1].keys, from: [2], owner: 72)
        try cluster.nodes[0].allowSending(.max)
        #expect(try new.take() == nil)
        #expect(lent[2].hold(mixed) && old.all.isEmpty)
        try cluster.stop()
    }

    @Test("who was overwritten gives the new content, and the old one to nobody")
    func handsOn() throws {
        let cluster = try Cluster(3)
        let (right, wrong) = (contents(1), contents(9))
        let lent = [Tensors(right), Tensors(wrong), Tensors(wrong)]
        let (rightKeys, wrongKeys) = (lent[0].keys, lent[1].keys)
        for (node, tensors) in zip(cluster.nodes, lent) { try node.lend(tensors) }
        #expect(try cluster.nodes[1].fetch(rightKeys, from: [1]).take() == nil)
        #expect(try cluster.nodes[2].fetch(rightKeys, from: [2]).take() == nil)
        #expect(lent[2].hold(right))
        #expect(try cluster.nodes[0].fetch(wrongKeys, from: [2]).take() != nil, "it is gone")
        try cluster.stop()
    }

    @Test("without a synchronisation nothing is given, and the memory that is returned is not read any more")
    func notLent() throws {
        let cluster = try Cluster(2)
        let right = contents(1)
        let lent = [Tensors(right), Tensors(contents(9))]
        try cluster.nodes[1].lend(lent[1])
        #expect(try cluster.nodes[1].fetch(lent[0].keys, from: [1]).take() != nil)
        try cluster.nodes[0].lend(lent[0])
        try cluster.nodes[0].allowSending(1)
        let ended = try cluster.nodes[1].fetch(lent[0].keys, from: [1], owner: 72)
        try cluster.nodes[0].returnState()
        for memory in lent[0].memories { memory.fill(0) }
        try cluster.nodes[0].allowSending(.max)
        #expect(try ended.take() != nil)
        #expect(lent[1].areIntactAround)
        try cluster.stop()
    }

    @Test("a peer that has no memory to receive into says so, and nothing else happens")
    func noMemory() throws {
        var poor = EngineConfiguration()
        poor.memory = StagingMemory(allocate: { _ in nil }, release: { _, _ in })
        let cluster = try Cluster(2, of: [1: poor])
        let lent = [Tensors(contents(1)), Tensors(contents(9))]
        for (node, tensors) in zip(cluster.nodes, lent) { try node.lend(tensors) }
        #expect(try cluster.nodes[1].fetch(lent[0].keys, from: [1]).take()?.contains("memory") == true)
        #expect(lent[1].hold(contents(9)))
        try cluster.stop()
    }

    @Test("an operation runs beside it")
    func besideOperations() throws {
        let cluster = try Cluster(2)
        let right = contents(1)
        let lent = [Tensors(right), Tensors(contents(9))]
        for (node, tensors) in zip(cluster.nodes, lent) { try node.lend(tensors) }
        let reduction = Reduction(tag: 3, .float32, .sum, .direct, count: 300_000, isInPlace: true, worldSize: 2)
        let ended = try cluster.nodes[1].fetch(lent[0].keys, from: [1])
        let completions = try (0..<2).map { try reduction.start(cluster.nodes[$0], rank: $0) }
        for completion in completions { _ = try completion.value() }
        #expect(try ended.take() == nil)
        #expect(reduction.mistake() == nil && lent[1].hold(right))
        try cluster.stop()
    }
}

@Suite("Whether compressing pays")
struct CompressionChoiceTests {
    private func at(_ milliseconds: UInt64) -> Instant { Instant(nanoseconds: milliseconds * 1_000_000) }

    /// A link that carries so many bytes a millisecond.
    private func choice(_ rate: Int) -> CompressionChoice {
        var choice = CompressionChoice()
        for millisecond in 0...1000 as ClosedRange<UInt64> { choice.noteDelivered(rate, at: at(millisecond)) }
        return choice
    }

    @Test("not before the link's rate is known")
    func unknown() {
        var choice = CompressionChoice()
        let before = choice.isToTry(0)
        choice.noteDelivered(8 << 20, at: at(0))
        choice.noteDelivered(8 << 20, at: at(1))
        let after = choice.isToTry(0)
        #expect(!before && !after, "so much went into buffers")
    }

    @Test("where the processor is faster than the link by half, and only there")
    func speed() {
        for (rate, isFaster) in [(25_000, true), (200_000, true), (300_000, false), (2_000_000, false)] {
            var choice = choice(rate)
            let isTried = choice.isToTry(0)
            // 400 MB/s.
            choice.noteTried(0, bytes: 1 << 20, nanoseconds: 2_621_440, isWorthwhile: true)
            let isCompressed = choice.isToTry(0)
            #expect(isTried && isCompressed == isFaster, "\(rate)")
        }
    }

    @Test("of a tensor of which nothing came, only now and then; others are tried all the same")
    func pauses() {
        var choice = choice(25_000)
        choice.noteTried(0, bytes: 1 << 20, nanoseconds: 1_000_000, isWorthwhile: false)
        var tries: [Bool] = []
        for _ in 0..<16 { tries.append(choice.isToTry(0)) }
        #expect(tries == Array(repeating: false, count: 15) + [true])
        let other = choice.isToTry(1)
        #expect(other)
    }
}
