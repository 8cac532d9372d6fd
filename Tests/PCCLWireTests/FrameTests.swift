import PCCLBase
import PCCLWire
import Testing

@Suite("Frames between peers")
struct FrameTests {
    private func stored(_ header: FrameHeader) -> [UInt8] {
        var bytes = [UInt8](repeating: 0xee, count: FrameHeader.byteCount + 2)
        // One byte in: nothing may depend on alignment when reading, and nothing be written outside.
        bytes.withUnsafeMutableBytes { outer in
            withUnsafeTemporaryAllocation(byteCount: FrameHeader.byteCount, alignment: 8) { aligned in
                guard let base = aligned.baseAddress, let target = outer.baseAddress else { return }
                header.store(to: base)
                (target + 1).copyMemory(from: base, byteCount: FrameHeader.byteCount)
            }
        }
        return bytes
    }

    private func read(_ bytes: [UInt8]) throws -> FrameHeader {
        try bytes.withUnsafeBytes { raw in
            guard let base = raw.baseAddress else { throw WireError.cutShort(needed: FrameHeader.byteCount, had: 0) }
            return try FrameHeader(base + 1)
        }
    }

    static let headers = [
        FrameHeader(kind: .enter, epoch: Epoch(1), launch: LaunchNumber(2), tag: Tag(3), payloadBytes: 15),
        FrameHeader(
            kind: .data, phase: .gather, chunk: .max, epoch: Epoch(.max), launch: LaunchNumber(.max), tag: Tag(.max),
            offset: .max, payloadBytes: UInt32(WireLimits.framePayloadBytes), serial: .max),
        FrameHeader(kind: .credit, epoch: Epoch(7), launch: LaunchNumber(8), tag: Tag(9), offset: 1 << 40),
        FrameHeader(kind: .prepared, epoch: Epoch(1), launch: LaunchNumber(1), tag: Tag(0)),
        FrameHeader(
            kind: .data, phase: .state, epoch: .none, launch: LaunchNumber(1 << 20), tag: Tag(.max), offset: 1 << 19,
            payloadBytes: 1 << 19),
        FrameHeader(
            kind: .stateRequest, epoch: .none, launch: LaunchNumber(0), tag: Tag(5),
            payloadBytes: UInt32(StateRequest.byteCount)),
        FrameHeader(kind: .stateLack, epoch: .none, launch: LaunchNumber(0), tag: Tag(5)),
        FrameHeader(kind: .window, epoch: .none, launch: LaunchNumber(0), tag: Tag(0), payloadBytes: 48),
        FrameHeader(kind: .rounds, epoch: Epoch(1), launch: LaunchNumber(2), tag: Tag(3), payloadBytes: 12),
        FrameHeader(kind: .idle, epoch: .none, launch: LaunchNumber(0), tag: Tag(0)),
        FrameHeader(
            kind: .probe, epoch: .none, launch: LaunchNumber(0), tag: Tag(0),
            payloadBytes: UInt32(WireLimits.probePayloadBytes), serial: 5),
    ]

    @Test("a header is read as it was written, at any address", arguments: headers)
    func roundTrip(header: FrameHeader) throws {
        let bytes = stored(header)
        #expect(bytes.first == 0xee && bytes.last == 0xee)
        #expect(try read(bytes) == header)
    }

    @Test("a header lies on the wire as docs/protocol.md says")
    func layout() {
        let header = FrameHeader(
            kind: .data, phase: .gather, chunk: 0x0102, epoch: Epoch(0x0304_0506), launch: LaunchNumber(0x0708_090a),
            tag: Tag(0x0b0c_0d0e_0f10_1112), offset: 0x1314_1516_1718_191a, payloadBytes: 0x0010_2030,
            serial: 0x1b1c_1d1e_1f20_2122)
        let expected: [UInt8] = [
            0x30, 0x20, 0x10, 0x00, 2, 1, 0x02, 0x01, 0x06, 0x05, 0x04, 0x03, 0x0a, 0x09, 0x08, 0x07,
            0x12, 0x11, 0x10, 0x0f, 0x0e, 0x0d, 0x0c, 0x0b, 0x1a, 0x19, 0x18, 0x17, 0x16, 0x15, 0x14, 0x13,
            0x22, 0x21, 0x20, 0x1f, 0x1e, 0x1d, 0x1c, 0x1b,
        ]
        #expect(Array(stored(header)[1...FrameHeader.byteCount]) == expected)
    }

    @Test("an unknown kind or phase, and a payload above the limit, are errors")
    func lies() {
        var bytes = stored(Self.headers[0])
        for kind in [0, 16, 255] as [UInt8] {
            bytes[1 + 4] = kind
            #expect(throws: WireError.unknownKind(kind)) { _ = try read(bytes) }
        }
        bytes[1 + 4] = 2
        bytes[1 + 5] = 3
        #expect(throws: WireError.unknownValue(field: "phase", value: 3)) { _ = try read(bytes) }
        bytes[1 + 5] = 0
        for count in [UInt32(WireLimits.framePayloadBytes) + 1, .max] {
            bytes.replaceSubrange(1..<5, with: Samples.number(count))
            #expect(
                throws: WireError.tooMany(
                    field: "payload bytes", count: Int(count), limit: WireLimits.framePayloadBytes)
            ) { _ = try read(bytes) }
        }
        // Less may come of what nobody asked for.
        bytes[1 + 4] = FrameHeader.Kind.probe.rawValue
        for count in [UInt32(WireLimits.probePayloadBytes) + 1, UInt32(WireLimits.framePayloadBytes), .max] {
            bytes.replaceSubrange(1..<5, with: Samples.number(count))
            #expect(
                throws: WireError.tooMany(
                    field: "payload bytes", count: Int(count), limit: WireLimits.probePayloadBytes)
            ) { _ = try read(bytes) }
        }
    }

    @Test("random headers are read or refused, and what is read is written back the same")
    func random() throws {
        var random = RandomSource(seed: 5)
        var accepted = 0
        for _ in 0..<100_000 {
            var bytes = (0..<FrameHeader.byteCount + 2).map { _ in UInt8(truncatingIfNeeded: random.next()) }
            bytes[0] = 0xee
            bytes[FrameHeader.byteCount + 1] = 0xee
            if random.oneIn(2) {
                bytes[4] = 0
                bytes[1 + 4] = UInt8(random.below(13))
                bytes[1 + 5] = UInt8(random.below(3))
            }
            guard let header = try? read(bytes) else { continue }
            accepted += 1
            #expect(stored(header) == bytes)
        }
        #expect(accepted > 1000)
    }
}

@Suite("The description of a process' memory")
struct LocalMemoryTests {
    @Test("it is read as it was written, in twenty-eight bytes, and no other length is")
    func roundTrip() throws {
        let memory = LocalMemory(process: 7, address: 1 << 47, proof: (high: .max, low: 3))
        #expect(memory.bytes.count == LocalMemory.byteCount)
        #expect(try LocalMemory(memory.bytes) == memory)
        for count in 0..<LocalMemory.byteCount {
            #expect(throws: WireError.self) { _ = try LocalMemory(Array(memory.bytes[..<count])) }
        }
        #expect(throws: WireError.leftOver(1)) { _ = try LocalMemory(memory.bytes + [0]) }
    }
}

@Suite("Entries")
struct EntryTests {
    private static let plain = DataType.allCases.flatMap { type in
        ReduceOperation.allCases.flatMap { operation in
            Algorithm.allCases.map {
                OperationDescriptor(count: .max - 1, type: type, operation: operation, algorithm: $0)
            }
        }
    }
    private static let coded = Codec.Format.allCases.flatMap { format in
        Codec.blockSizes.flatMap { block in
            Codec.Rounding.allCases.map {
                OperationDescriptor(
                    count: 1, type: .float64, operation: .sum, algorithm: .direct,
                    codec: Codec(format, blockElements: block, rounding: $0))
            }
        }
    }
    private static let joint = [Collective.allGather, .reduceScatter, .broadcast(root: .max), .barrier].map {
        OperationDescriptor(
            $0, count: 12, type: .float32, operation: .sum, algorithm: .direct, worldSize: .max - 1)
    }
    static let descriptors = plain + coded + joint

    @Test("every descriptor is read as it was written, in the bytes that a receiver expects", arguments: descriptors)
    func roundTrip(descriptor: OperationDescriptor) throws {
        for region in [nil, 0, UInt64.max - 1] {
            let entry = Entry(descriptor: descriptor, windowBytes: .max, region: region)
            #expect(entry.bytes.count == Entry.byteCount)
            #expect(try Entry(entry.bytes) == entry)
        }
    }

    @Test("an entry of any other length is an error")
    func lengths() {
        let bytes = Entry(descriptor: Self.descriptors[0], windowBytes: 1).bytes
        for count in 0..<bytes.count {
            #expect(throws: WireError.self) { _ = try Entry(Array(bytes[..<count])) }
        }
        #expect(throws: WireError.leftOver(1)) { _ = try Entry(bytes + [0]) }
    }

    @Test("collectives, types, operations and algorithms that do not exist are errors")
    func lies() {
        let bytes = Entry(descriptor: Self.descriptors[0], windowBytes: 1).bytes
        func changed(_ index: Int, _ value: UInt8) -> [UInt8] {
            var bytes = bytes
            bytes[index] = value
            return bytes
        }
        #expect(throws: WireError.unknownValue(field: "collective", value: 5)) { _ = try Entry(changed(0, 5)) }
        // None but a broadcast has a root.
        #expect(throws: WireError.unknownValue(field: "collective", value: 0)) { _ = try Entry(changed(1, 1)) }
        #expect(throws: WireError.unknownValue(field: "data type", value: 12)) { _ = try Entry(changed(13, 12)) }
        #expect(throws: WireError.unknownValue(field: "operation", value: 5)) { _ = try Entry(changed(14, 5)) }
        #expect(throws: WireError.unknownValue(field: "algorithm", value: 0)) { _ = try Entry(changed(15, 0)) }
        #expect(throws: WireError.unknownValue(field: "algorithm", value: 5)) { _ = try Entry(changed(15, 5)) }
        #expect(throws: WireError.unknownValue(field: "codec", value: 15)) { _ = try Entry(changed(16, 15)) }
        for block in [UInt8](0...255) where ![1, 2, 4, 8].contains(block) {
            #expect(throws: WireError.self) { _ = try Entry(changed(17, block)) }
        }
        #expect(throws: WireError.unknownValue(field: "rounding", value: 2)) { _ = try Entry(changed(18, 2)) }
    }
}

@Suite("What peers tell each other of windows")
struct WindowFrameTests {
    private let token = WindowToken(high: .max, low: 1)
    private let network = WindowToken(high: 7, low: .max - 1)

    @Test("invitations are read as they were written", arguments: [[0], [0, 97, 98, 99, 100, 101], Array(0...14)])
    func invitations(name: [UInt8]) throws {
        let invitation = WindowInvitation(token: token, network: network, socket: name)
        #expect(invitation.bytes.count == WindowInvitation.byteCount)
        #expect(try WindowInvitation(invitation.bytes) == invitation)
        #expect(throws: WireError.self) { _ = try WindowInvitation(invitation.bytes.dropLast()) }
        #expect(throws: WireError.leftOver(1)) { _ = try WindowInvitation(invitation.bytes + [0]) }
    }

    @Test("a name that is longer than its place, or goes on after its end, is an error")
    func names() {
        #expect(throws: WireError.self) {
            _ = try WindowInvitation(WindowInvitation(token: token, network: network, socket: [47, 1]).bytes)
        }
        var bytes = WindowInvitation(token: token, network: network, socket: [0, 1]).bytes
        bytes[32] = 1
        #expect(throws: WireError.self) { _ = try WindowInvitation(bytes) }
        bytes[32] = 0
        #expect(throws: WireError.self) { _ = try WindowInvitation(bytes) }
        bytes[32] = 16
        #expect(throws: WireError.self) { _ = try WindowInvitation(bytes) }
    }

    @Test("windows that are handed over, and rounds, are read as they were written, and cut short are an error")
    func others() throws {
        let handOver = WindowHandOver(token: token, windowBytes: 1 << 40, roundBytes: 1)
        #expect(handOver.bytes.count == WindowHandOver.byteCount)
        #expect(try WindowHandOver(handOver.bytes) == handOver)
        #expect(throws: WireError.self) { _ = try WindowHandOver(handOver.bytes.dropLast()) }
        let rounds = WindowRounds(filled: 1, folded: .max, taken: 3)
        #expect(rounds.bytes.count == WindowRounds.byteCount)
        #expect(try WindowRounds(rounds.bytes) == rounds)
        #expect(throws: WireError.self) { _ = try WindowRounds(rounds.bytes.dropLast()) }
    }
}

@Suite("Requests for shared state")
struct StateRequestTests {
    @Test(
        "they are read as they were written, and cut short are an error",
        arguments: [
            StateRequest(entry: 0, hash: ContentHash(high: 0, low: .max), part: .hashes),
            StateRequest(entry: 65_535, hash: ContentHash(high: .max, low: 0), part: .chunk(0)),
            StateRequest(entry: 1, hash: ContentHash(high: 1, low: 2), part: .chunk(0xffff_fffe)),
        ])
    func roundTrip(request: StateRequest) throws {
        #expect(request.bytes.count == StateRequest.byteCount)
        #expect(try StateRequest(request.bytes) == request)
        #expect(throws: WireError.self) { _ = try StateRequest(request.bytes.dropLast()) }
        #expect(throws: WireError.leftOver(1)) { _ = try StateRequest(request.bytes + [0]) }
    }

    @Test("hashes of chunks are so many, no more and no fewer")
    func hashes() throws {
        let hashes = (0..<5).map { ContentHash(high: $0, low: .max - $0) }
        let bytes = StateRequest.bytes(ofHashes: hashes)
        #expect(bytes.count == 160)
        #expect(try StateRequest.hashes(bytes, count: 5) == hashes)
        #expect(throws: WireError.leftOver(32)) { _ = try StateRequest.hashes(bytes, count: 4) }
        #expect(throws: WireError.self) { _ = try StateRequest.hashes(bytes, count: 6) }
    }
}
