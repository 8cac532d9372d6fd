import PCCLBase
import PCCLWire
import Testing

@Suite("Messages between peers and master")
struct MessageTests {
    @Test("what a peer says is read as it was written", arguments: Samples.toMaster)
    func toMasterRoundTrip(message: ToMaster) throws {
        #expect(try ToMaster(message.bytes) == message)
    }

    @Test("what a master says is read as it was written", arguments: Samples.toPeer)
    func toPeerRoundTrip(message: ToPeer) throws {
        #expect(try ToPeer(message.bytes) == message)
    }

    @Test("there is a sample of every kind, and no two kinds share a number")
    func everyKind() {
        #expect(Set(Samples.toMaster.map { $0.bytes[0] }) == Set(1...17))
        #expect(Set(Samples.toPeer.map { $0.bytes[0] }) == Set(1...17))
    }

    @Test("a message cut short at any length is an error", arguments: Samples.toMaster)
    func toMasterCutShort(message: ToMaster) {
        for count in 0..<message.bytes.count {
            expectCutShort { () throws(WireError) in _ = try ToMaster(Array(message.bytes[..<count])) }
        }
    }

    @Test("a master's message cut short at any length is an error", arguments: Samples.toPeer)
    func toPeerCutShort(message: ToPeer) {
        for count in 0..<message.bytes.count {
            expectCutShort { () throws(WireError) in _ = try ToPeer(Array(message.bytes[..<count])) }
        }
    }

    private func expectCutShort(
        _ read: () throws(WireError) -> Void, sourceLocation: SourceLocation = #_sourceLocation
    ) {
        do throws(WireError) {
            try read()
            Issue.record("a part was taken for the whole", sourceLocation: sourceLocation)
        } catch {
            guard case .cutShort(let needed, let had) = error, needed > had else {
                Issue.record("\(error)", sourceLocation: sourceLocation)
                return
            }
        }
    }

    @Test("bytes after the end are an error")
    func leftOver() {
        for message in Samples.toMaster {
            #expect(throws: WireError.leftOver(1)) { _ = try ToMaster(message.bytes + [0]) }
        }
        for message in Samples.toPeer {
            #expect(throws: WireError.leftOver(2)) { _ = try ToPeer(message.bytes + [0, 0]) }
        }
    }

    @Test("an unknown kind is an error, in both directions")
    func unknownKinds() {
        for kind in [0, 18, 255] as [UInt8] {
            #expect(throws: WireError.unknownKind(kind)) { _ = try ToMaster([kind]) }
        }
        for kind in [0, 18, 255] as [UInt8] {
            #expect(throws: WireError.unknownKind(kind)) { _ = try ToPeer([kind]) }
        }
    }

    @Test("flags, states, outcomes and families of no meaning are errors")
    func unknownValues() {
        let broken = ToMaster.brokenLink(epoch: Epoch(1), peer: PeerID(1), gaveUp: true).bytes
        #expect(throws: WireError.unknownValue(field: "flag", value: 2)) {
            _ = try ToMaster(changed(broken, at: broken.count - 1, to: 2))
        }
        // Kind, epoch, count, tag, launch, then the state. An empty list comes last.
        let report = ToMaster.flushReport(
            epoch: Epoch(1),
            operations: [OperationReport(tag: Tag(1), launch: LaunchNumber(1), state: .prepared, known: [])]
        ).bytes
        #expect(throws: WireError.unknownValue(field: "operation state", value: 2)) {
            _ = try ToMaster(changed(report, at: 1 + 4 + 4 + 8 + 4, to: 2))
        }
        let verdict = ToPeer.verdict(
            epoch: Epoch(1), members: [], world: Samples.world,
            operations: [OperationVerdict(tag: Tag(1), launch: LaunchNumber(1), outcome: .commit)]
        ).bytes
        #expect(throws: WireError.unknownValue(field: "outcome", value: 6)) {
            _ = try ToPeer(changed(verdict, at: verdict.count - 1 - 4, to: 6))
        }
        // State, no known launches, element count, then what is to become of it.
        #expect(throws: WireError.unknownValue(field: "loss policy", value: 3)) {
            _ = try ToMaster(changed(report, at: 1 + 4 + 4 + 8 + 4 + 1 + 4 + 8, to: 3))
        }
        // Kind, group, port, stripes, count, then the family.
        let hello = Samples.toMaster[0].bytes
        #expect(throws: WireError.unknownValue(field: "address family", value: 5)) {
            _ = try ToMaster(changed(hello, at: 1 + 4 + 2 + 2 + 4, to: 5))
        }
    }

    @Test("parts that overlap, are empty, end beyond every buffer, or are in no view are refused")
    func wrongParts() {
        func report(_ parts: [(start: UInt64, count: UInt64, worldSize: UInt16)]) -> [UInt8] {
            let none = OperationReport(tag: Tag(1), launch: LaunchNumber(1), state: .inProgress, known: [])
            // The list of parts, and that of failed calls, are empty and come last.
            var bytes = ToMaster.flushReport(epoch: Epoch(1), operations: [none]).bytes.dropLast(8) as [UInt8]
            bytes += Samples.number(UInt32(parts.count))
            for part in parts {
                bytes += Samples.number(part.start) + Samples.number(part.count) + Samples.number(part.worldSize)
            }
            return bytes + Samples.number(UInt32(0))
        }
        #expect(throws: Never.self) { _ = try ToMaster(report([(0, 4, 2), (4, 1, 3), (9, 1, 3)])) }
        for parts in [
            [(0, 4, 2), (3, 1, 2)], [(5, 1, 2), (0, 1, 2)], [(0, 0, 2)], [(0, 4, 0)], [(1, .max, 2)],
            [(.max, 1, 2)], [(1 << 62, 1 << 62, 2)],
        ] as [[(UInt64, UInt64, UInt16)]] {
            #expect(throws: WireError.self, "\(parts)") { _ = try ToMaster(report(parts)) }
        }
    }

    @Test("what is kept must be held by somebody")
    func wrongHolders() {
        let kept = [KeptPart(ResultPart(elements: 0..<4, worldSize: 2), holders: [0])]
        let verdict = ToPeer.verdict(
            epoch: Epoch(1), members: [], world: Samples.world,
            operations: [
                OperationVerdict(
                    tag: Tag(1), launch: LaunchNumber(1), outcome: .resume,
                    resumption: Resumption(number: 1, kept: kept))
            ]
        ).bytes
        var nobody = verdict
        // The bits of the holders, then the empty list of failed calls.
        nobody[verdict.count - 5] = 0
        #expect(throws: Never.self) { _ = try ToPeer(verdict) }
        #expect(throws: WireError.self) { _ = try ToPeer(nobody) }
    }

    @Test("a text is cut at its limit when written, and refused above it when read")
    func longTexts() throws {
        let long = String(repeating: "x", count: WireLimits.textBytes + 500)
        #expect(
            try ToPeer(ToPeer.turnedAway(reason: long).bytes)
                == .turnedAway(reason: String(long.prefix(WireLimits.textBytes))))
        let lie = [2] + Samples.number(UInt16(WireLimits.textBytes + 1)) + Array(long.utf8)
        #expect(
            throws: WireError.tooMany(
                field: "text bytes", count: WireLimits.textBytes + 1, limit: WireLimits.textBytes)
        ) { _ = try ToPeer(lie) }
    }

    @Test("entries of a state are in the order of their names, each once; strategies and types exist")
    func offers() {
        let entry = Samples.offer.entries[1]
        var later = entry
        later.name = "b"
        for entries in [[entry, entry], [later, entry]] {
            let bytes = ToMaster.offerState(StateOffer(revision: 1, strategy: .sendOnly, entries: entries)).bytes
            #expect(throws: WireError.unknownValue(field: "order of entries", value: 0)) { _ = try ToMaster(bytes) }
        }
        let good = ToMaster.offerState(StateOffer(revision: 1, strategy: .sendOnly, entries: [entry])).bytes
        #expect(throws: WireError.unknownValue(field: "strategy", value: 3)) {
            _ = try ToMaster(changed(good, at: 1 + 8, to: 3))
        }
        #expect(throws: WireError.unknownValue(field: "hash function", value: 2)) {
            _ = try ToMaster(changed(good, at: 1 + 8 + 1, to: 2))
        }
        #expect(throws: WireError.unknownValue(field: "data type", value: 12)) {
            _ = try ToMaster(changed(good, at: 1 + 8 + 2 + 4 + 2 + 1, to: 12))
        }
    }

    private func changed(_ bytes: [UInt8], at index: Int, to value: UInt8) -> [UInt8] {
        var bytes = bytes
        bytes[index] = value
        return bytes
    }

    @Test("a text that is no UTF-8 is read as something, and does no harm")
    func brokenText() throws {
        guard case .turnedAway(let reason) = try ToPeer([2, 3, 0, 0xff, 0xc0, 0x80]) else {
            Issue.record("another message")
            return
        }
        #expect(!reason.isEmpty)
    }

    /// A message with one list, all of it before the count right.
    struct Lie: Sendable, CustomTestStringConvertible {
        var name: String
        var limit: Int
        var prefix: [UInt8]
        var isToMaster: Bool
        var testDescription: String { name }
        func read(_ count: UInt32) throws(WireError) {
            let bytes = prefix + Samples.number(count)
            if isToMaster { _ = try ToMaster(bytes) } else { _ = try ToPeer(bytes) }
        }
    }

    static let lies: [Lie] = {
        let epoch = Samples.number(UInt32(1))
        let world = [UInt8](repeating: 0, count: 12)
        let noMembers = Samples.number(UInt32(0))
        let none: [UInt8] = [0, 0, 0, 0]
        let one = Samples.number(UInt32(1))
        var innocent = Samples.stuck
        innocent.culprits = []
        return [
            Lie(name: "addresses", limit: WireLimits.addresses, prefix: [1] + epoch + [0, 0, 0, 0], isToMaster: true),
            Lie(name: "unreachable peers", limit: WireLimits.members, prefix: [6] + epoch, isToMaster: true),
            Lie(name: "operations", limit: WireLimits.operations, prefix: [8] + epoch, isToMaster: true),
            Lie(
                name: "known launches", limit: WireLimits.members,
                prefix: [8] + epoch + one + [UInt8](repeating: 0, count: 13), isToMaster: true),
            Lie(
                name: "missing peers", limit: WireLimits.members,
                prefix: [9] + epoch + [UInt8](repeating: 0, count: 8), isToMaster: true),
            Lie(
                name: "stuck operations", limit: WireLimits.stuckOperations, prefix: [17] + epoch, isToMaster: true),
            Lie(
                name: "culprits", limit: WireLimits.culprits,
                // Before the number of culprits, of which there are none, and of further ones.
                prefix: Array(ToMaster.stuck(epoch: Epoch(1), operations: [innocent]).bytes.dropLast(6)),
                isToMaster: true),
            Lie(name: "proposed members", limit: WireLimits.members, prefix: [4] + epoch, isToMaster: false),
            Lie(
                name: "a member's addresses", limit: WireLimits.addresses,
                prefix: [4] + epoch + one + [UInt8](repeating: 0, count: 10), isToMaster: false),
            Lie(name: "members", limit: WireLimits.members, prefix: [5] + epoch + world, isToMaster: false),
            Lie(name: "verdict's members", limit: WireLimits.members, prefix: [10] + epoch + world, isToMaster: false),
            Lie(
                name: "shares", limit: WireLimits.members, prefix: [5] + epoch + world + noMembers,
                isToMaster: false),
            Lie(
                name: "verdict's shares", limit: WireLimits.members, prefix: [10] + epoch + world + noMembers,
                isToMaster: false),
            // No shares before them.
            Lie(
                name: "sites", limit: WireLimits.members, prefix: [5] + epoch + world + noMembers + none,
                isToMaster: false),
            // No shares, no sites and no figures before them.
            Lie(
                name: "verdicts", limit: WireLimits.operations,
                prefix: [10] + epoch + world + noMembers + none + none + [0], isToMaster: false),
            // No operations before them.
            Lie(
                name: "failed calls", limit: WireLimits.operations, prefix: [8] + epoch + noMembers, isToMaster: true),
            Lie(
                name: "missed calls", limit: WireLimits.operations,
                prefix: [10] + epoch + world + noMembers + none + none + [0] + noMembers, isToMaster: false),
            Lie(name: "link figures", limit: WireLimits.members, prefix: [11], isToMaster: true),
            Lie(
                name: "entries of a state", limit: WireLimits.stateEntries,
                prefix: [15] + [UInt8](repeating: 0, count: 10), isToMaster: true),
            Lie(
                name: "sources of a state", limit: WireLimits.members,
                prefix: [15] + [UInt8](repeating: 0, count: 12), isToMaster: false),
            Lie(
                name: "keys of a state", limit: WireLimits.stateEntries,
                prefix: [15] + [UInt8](repeating: 0, count: 12) + none, isToMaster: false),
        ]
    }()

    @Test(
        "a count is checked against its limit before memory is taken, and against the bytes that are there",
        arguments: lies)
    func lyingCounts(lie: Lie) {
        for count in [UInt32(lie.limit + 1), 1 << 24, 1 << 31, .max] {
            do throws(WireError) {
                try lie.read(count)
                Issue.record("\(count) passed")
            } catch {
                guard case .tooMany(_, Int(count), lie.limit) = error else {
                    Issue.record("\(error)")
                    continue
                }
            }
        }
        for count in [1, UInt32(lie.limit)] {
            do throws(WireError) {
                try lie.read(count)
                Issue.record("\(count) elements were read from nothing")
            } catch {
                guard case .cutShort = error else {
                    Issue.record("\(error)")
                    continue
                }
            }
        }
    }

    @Test("the largest messages that limits allow fit into a control message")
    func largest() {
        let address = SocketAddress(.v6(high: 1, low: 1), port: 1)
        let members = (0..<WireLimits.members).map {
            Member(
                id: PeerID(UInt64($0)), addresses: Array(repeating: address, count: WireLimits.addresses), stripes: 1)
        }
        let verdicts = (0..<WireLimits.operations).map {
            OperationVerdict(tag: Tag(UInt64($0)), launch: LaunchNumber(UInt32($0)), outcome: .commit)
        }
        let failed = verdicts.map { FailedCalls(tag: $0.tag, count: 1) }
        let verdict = ToPeer.verdict(
            epoch: Epoch(1), members: members, world: Samples.world, operations: verdicts, missed: failed)
        #expect(verdict.bytes.count <= WireLimits.controlMessageBytes)
        let known = (0..<31).map { KnownLaunch(peer: PeerID($0), launch: LaunchNumber(1)) }
        let reports = verdicts.map {
            OperationReport(tag: $0.tag, launch: $0.launch, state: .inProgress, known: known)
        }
        let report = ToMaster.flushReport(epoch: Epoch(1), operations: reports, failed: failed)
        #expect(report.bytes.count <= WireLimits.controlMessageBytes)
        let offer = StateOffer(
            revision: 1, strategy: .enforcePopular,
            entries: (0..<WireLimits.stateEntries).map {
                StateEntry(
                    name: "\($0)" + String(repeating: "n", count: 400), type: .float32, count: 1,
                    allowsInequality: false,
                    hash: ContentHash(high: 1, low: 1))
            })
        #expect(ToMaster.offerState(offer).bytes.count <= WireLimits.controlMessageBytes)
    }
}

@Suite("Random bytes")
struct RandomBytesTests {
    /// The result does not matter: a trap would end the test run.
    @Test("a hundred thousand random inputs are read or refused")
    func random() {
        var random = RandomSource(seed: 2026)
        var accepted = 0
        for _ in 0..<100_000 {
            let count = random.below(96)
            var bytes = (0..<count).map { _ in UInt8(truncatingIfNeeded: random.next()) }
            // Half of them begin with a kind that exists.
            if count > 0, random.oneIn(2) { bytes[0] = UInt8(1 + random.below(16)) }
            if let message = try? ToMaster(bytes) {
                accepted += 1
                // As below: with these come texts.
                if bytes[0] < 15 { #expect(message.bytes == bytes) }
            }
            // Texts that are no UTF-8 are repaired, so not every accepted message is written as it came.
            if (try? ToPeer(bytes)) != nil { accepted += 1 }
            _ = try? Entry(bytes)
            _ = try? StripeHello(bytes)
            _ = try? StateRequest(bytes)
            _ = try? Preamble.check(bytes, expecting: .control)
        }
        #expect(accepted > 0, "no input came far")
    }

    @Test("good messages with some bytes changed are read or refused")
    func mutated() {
        var random = RandomSource(seed: 4711)
        let good = Samples.toMaster.map { ($0.bytes, true) } + Samples.toPeer.map { ($0.bytes, false) }
        var refused = 0
        for _ in 0..<100_000 {
            var (bytes, isToMaster) = good[random.below(good.count)]
            for _ in 0...random.below(3) {
                switch random.below(3) {
                case 0: bytes[random.below(bytes.count)] = UInt8(truncatingIfNeeded: random.next())
                case 1: bytes.insert(UInt8(truncatingIfNeeded: random.next()), at: random.below(bytes.count + 1))
                default: if bytes.count > 1 { bytes.remove(at: random.below(bytes.count)) }
                }
            }
            do throws(WireError) {
                if isToMaster { _ = try ToMaster(bytes) } else { _ = try ToPeer(bytes) }
            } catch {
                refused += 1
            }
        }
        #expect(refused > 0)
    }
}
