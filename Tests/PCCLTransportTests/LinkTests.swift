import Glibc
import PCCLBase
import PCCLTestSupport
@testable import PCCLTransport
import PCCLWire
import Testing

@Suite("A link", .timeLimit(.minutes(3)))
struct LinkTests {
    static let sizes = [1, 39, 40, 41, 4095, 65_495, 65_496, 65_536, 65_537, 1 << 20, 3_000_001, 4 << 20]

    @Test("frames sent in order arrive in order; of the others each arrives once", arguments: [1, 4])
    func smallFrames(stripes: Int) throws {
        let (a, b) = try LinkEnd.pair(stripes: stripes)
        let count = 1000
        for end in [a, b] {
            try end.onLoop { end in
                for i in 0..<count {
                    let entry = pattern(Entry.byteCount, seed: i)
                    end.link?.send(
                        header(.enter, launch: UInt32(i), payloadBytes: entry.count), payload: entry, inOrder: true)
                    end.link?.send(header(i % 2 == 0 ? .credit : .prepared, launch: UInt32(i), offset: UInt64(i)))
                }
            }
        }
        for end in [a, b] {
            let frames = try end.frames(2 * count)
            let entries = frames.filter { $0.header.kind == .enter }
            #expect(entries.map(\.header.launch.value) == (0..<UInt32(count)).map { $0 })
            #expect(entries.enumerated().allSatisfy { $1.payload == pattern(Entry.byteCount, seed: $0) })
            let others = frames.filter { $0.header.kind != .enter }
            #expect(Set(others.map(\.header)).count == count)
            #expect(others.allSatisfy { $0.payload.isEmpty && $0.header.offset == UInt64($0.header.launch.value) })
            #expect(frames.allSatisfy { $0.header.chunk == 3 && $0.header.epoch == Epoch(5) })
        }
        try a.stop()
        try b.stop()
    }

    @Test("segments of all sizes go from memory to memory, both ways at once", arguments: [1, 4])
    func segments(stripes: Int) throws {
        let (a, b) = try LinkEnd.pair(stripes: stripes)
        let ends = [a, b]
        let targets = ends.map { _ in Self.sizes.map { Memory(byteCount: $0) } }
        let sources = ends.indices.map { side in
            Self.sizes.enumerated().map { Memory(pattern($1, seed: side * 100 + $0), misalignment: $0 % 8) }
        }
        for (side, end) in ends.enumerated() {
            try end.placing { header in
                let index = Int(header.tag.value)
                return .into(targets[side][index].base, owner: LaunchNumber(7), token: index)
            }
        }
        for (side, end) in ends.enumerated() {
            for (i, memory) in sources[side].enumerated() {
                try end.enqueue(header(.data, tag: UInt64(i)), memory, token: i)
            }
        }
        for (side, end) in ends.enumerated() {
            var placed: Set<Int> = []
            var sent: Set<Int> = []
            while placed.count < Self.sizes.count || sent.count < Self.sizes.count {
                switch try end.events.take() {
                case .placed(let header, let token):
                    #expect(Int(header.payloadBytes) == Self.sizes[token])
                    #expect(placed.insert(token).inserted)
                case .sent(let token): #expect(sent.insert(token).inserted)
                case .asked: break
                case let other: Issue.record("unexpected: \(other)")
                }
            }
            for (i, memory) in targets[side].enumerated() {
                #expect(memory.bytes == sources[1 - side][i].bytes)
                #expect(memory.isIntactAround)
            }
        }
        try a.stop()
        try b.stop()
    }

    @Test("a payload may be handed over as a whole, or thrown away without harm to the next frame")
    func copiedAndDiscarded() throws {
        let (a, b) = try LinkEnd.pair(stripes: 1)
        try b.placing { $0.tag.value % 2 == 0 ? .copy : .discard }
        let memories = Self.sizes.map { Memory(pattern($0, seed: $0)) }
        for memory in memories {
            try a.enqueue(header(.data, tag: 0), memory)
            try a.enqueue(header(.data, tag: 1), memory)
        }
        for (frame, memory) in zip(try b.frames(memories.count), memories) { #expect(frame.payload == memory.bytes) }
        try a.stop()
        try b.stop()
    }

    @Test("small frames overtake a large transfer that waits for room")
    func smallFramesGoFirst() throws {
        let (a, raw) = try LinkEnd.withRawEnd()
        let large = Memory(pattern(4 << 20))
        let second = Memory(pattern(4 << 20, seed: 2))
        try a.enqueue(header(.data, tag: 1), large, token: 1)
        try a.enqueue(header(.data, tag: 2), second, token: 2)
        #expect(try raw.read(headerBytes) == header(.data, tag: 1, payloadBytes: 4 << 20, serial: 1).bytes)
        try a.send(header(.credit))
        #expect(try raw.read(4 << 20) == large.bytes)
        #expect(try raw.read(headerBytes) == header(.credit, serial: 2).bytes)
        #expect(try raw.read(headerBytes) == header(.data, tag: 2, payloadBytes: 4 << 20, serial: 3).bytes)
        try a.stop()
    }

    // MARK: memory that is wanted back

    @Test("memory that a payload arrives in is not touched after it was abandoned, and the next frame is understood")
    func abandonedWhileArriving() throws {
        for cut in [0, 1, 1000, 65_536, 999_999] {
            let (a, raw) = try LinkEnd.withRawEnd()
            let memory = Memory(byteCount: 1_000_000, filled: 1)
            try a.placing { $0.kind == .data ? .into(memory.base, owner: LaunchNumber(9), token: 4) : .copy }
            let payload = pattern(1_000_000)
            try raw.write(header(.data, payloadBytes: payload.count, serial: 1).bytes + payload[..<cut])
            _ = try a.events.take()
            try a.abandon(8)  // Another's.
            try a.abandon(9)
            memory.fill(0x77)
            let next = header(.prepared, serial: 2)
            try raw.write(Array(payload[cut...]) + next.bytes)
            #expect(try a.events.take(2) == [.asked(next), .frame(next, [])])
            #expect(memory.holds(only: 0x77))
            #expect(memory.isIntactAround)
            try a.stop()
        }
    }

    @Test("what was under way from abandoned memory arrives as it was, and is not reported")
    func abandonedWhileLeaving() throws {
        for small in [0, 1 << 20] {
            let (a, raw) = try LinkEnd.withRawEnd()
            let bytes = pattern(4 << 20)
            let memory = Memory(bytes)
            // With small frames before it, the segment was taken but not one byte of it has left.
            if small > 0 {
                try a.onLoop { end in
                    end.link?.send(header(.data, tag: 1, payloadBytes: small), payload: pattern(small))
                    end.queue.append(
                        OutgoingSegment(
                            header: header(.data, payloadBytes: bytes.count), payload: UnsafeRawPointer(memory.base),
                            owner: LaunchNumber(3), token: 5))
                }
                #expect(
                    try raw.read(headerBytes) == header(.data, tag: 1, payloadBytes: small, serial: 1).bytes)
            } else {
                try a.enqueue(header(.data), memory, owner: 3, token: 5)
                #expect(try raw.read(headerBytes) == header(.data, payloadBytes: bytes.count, serial: 1).bytes)
            }
            try a.abandon(3)
            memory.fill(0xee)
            if small > 0 {
                #expect(try raw.read(small) == pattern(small))
                #expect(try raw.read(headerBytes) == header(.data, payloadBytes: bytes.count, serial: 2).bytes)
            }
            #expect(try raw.read(bytes.count) == bytes)
            let next = Memory(pattern(100))
            try a.enqueue(header(.data, tag: 2), next, owner: 4, token: 6)
            let count: UInt64 = small > 0 ? 3 : 2
            #expect(
                try raw.read(headerBytes + 100)
                    == header(.data, tag: 2, payloadBytes: 100, serial: count).bytes + pattern(100))
            try raw.write(acknowledgement(count).bytes)
            #expect(try a.events.take() == .sent(token: 6))
            try a.stop()
        }
    }

    @Test("a link may be closed with abandoned and half-arrived payloads in it")
    func closedInTheMiddle() throws {
        let (a, raw) = try LinkEnd.withRawEnd()
        let memory = Memory(pattern(4 << 20))
        try a.enqueue(header(.data), memory, owner: 3)
        _ = try raw.read(headerBytes)
        try a.abandon(3)
        try raw.write(header(.data, payloadBytes: 100, serial: 1).bytes + [1, 2, 3])
        _ = try a.events.take()
        try a.stop()
        #expect(try raw.readToEnd().count < 4 << 20)
    }

    // MARK: the end of a link

    static let lies: [(bytes: [UInt8], reason: String)] = [
        ([UInt8](repeating: 0, count: headerBytes), "unknown kind 0"),
        ([UInt8](repeating: 0xff, count: headerBytes), "unknown kind 255"),
        (header(.data, payloadBytes: (4 << 20) + 1).bytes, "4194305 payload bytes"),
        (Array("GET / HTTP/1.1\r\nHost: www.example.org\r\n\r\n".utf8), "no frame"),
        (header(.credit).bytes, "the number 0"),
        (header(.credit, serial: 2 + SerialWindow.width).bytes, "the number"),
        (header(.void, payloadBytes: 1, serial: 2).bytes, "a void frame with a payload"),
        (header(.probe, payloadBytes: WireLimits.probePayloadBytes + 1, serial: 2).bytes, "65537 payload bytes"),
        (header(.probe).bytes, "the number 0"),
        (header(.idle, payloadBytes: 1).bytes, "kind idle with 1 bytes"),
        (header(.local, payloadBytes: 27).bytes, "kind local with 27 bytes"),
        (acknowledgement(1).bytes, "what was not sent"),
        (header(.offer, payloadBytes: 10, serial: 2).bytes + [UInt8](repeating: 1, count: 8), "who cannot fetch"),
    ]

    @Test("what is no frame breaks the link, with a reason", arguments: lies)
    func noFrame(lie: (bytes: [UInt8], reason: String)) throws {
        let (a, raw) = try LinkEnd.withRawEnd()
        let good = header(.prepared, serial: 1)
        try raw.write(good.bytes + lie.bytes)
        #expect(try a.events.take(2) == [.asked(good), .frame(good, [])])
        let reason = try a.brokenReason()
        #expect(reason.contains(lie.reason), "\(reason)")
        #expect(try raw.readToEnd().isEmpty)
        try a.stop()
    }

    @Test("a violation breaks the link, and nothing that came with it is delivered", arguments: [1, 4])
    func violation(stripes: Int) throws {
        let (a, b) = try LinkEnd.pair(stripes: stripes)
        try b.placing { $0.kind == .data ? .violation("a lie") : .copy }
        try a.enqueue(header(.data), Memory(byteCount: 10))
        #expect(try b.brokenReason() == "it broke the protocol: a lie")
        // Its stripes end one after the other: it learns so by reading or by writing.
        _ = try a.brokenReason()
        try a.send(header(.prepared))
        try b.send(header(.prepared))
        try a.stop()
        try b.stop()
        let asked = header(.data, payloadBytes: 10, serial: 1)
        #expect(b.events.all == [.asked(asked), .broken("it broke the protocol: a lie")])
    }

    @Test("a link that is reset while frames arrive gives those, and then breaks")
    func reset() throws {
        let (a, raw) = try LinkEnd.withRawEnd()
        try a.send(header(.credit))
        func frame(_ serial: UInt64) -> [UInt8] {
            header(.data, payloadBytes: 100_000, serial: serial).bytes + pattern(100_000)
        }
        try raw.write(frame(1) + frame(2).dropLast())
        // With a frame of ours unread this is a reset.
        try raw.awaitBytes()
        raw.close()
        #expect(try a.frames(1)[0].payload == pattern(100_000))
        // Whether it reads on first or acknowledges the first frame is open.
        let reason = try a.brokenReason()
        #expect(reason.contains("Connection reset") || reason.contains("Broken pipe"), "\(reason)")
        try a.stop()
    }

    @Test("a link that breaks with frames queued and half sent frees them")
    func breaksWithQueuedFrames() throws {
        let (a, raw) = try LinkEnd.withRawEnd()
        let memory = Memory(pattern(4 << 20))
        for i in 0..<5 { try a.enqueue(header(.data), memory, token: i) }
        try a.onLoop { end in for _ in 0..<100 { end.link?.send(header(.credit)) } }
        _ = try raw.read(1000)
        raw.close()
        _ = try a.brokenReason()
        try a.onLoop { end in
            end.link?.close()
            end.link?.kick()
            end.link?.abandon(LaunchNumber(1))
        }
        try a.stop()
        #expect(a.events.all.filter { if case .broken = $0 { true } else { false } }.count == 1)
    }

    enum Moment: CaseIterable, Sendable { case asked, frame, placed, sent }

    @Test("a link may be closed and let go by whatever it calls", arguments: Moment.allCases, [1, 4])
    func closedFromInside(moment: Moment, stripes: Int) throws {
        let (a, b) = try LinkEnd.pair(stripes: stripes)
        let memory = Memory(byteCount: 1000)
        let done = Completion<Void>()
        let closes: @Sendable (LinkEnd) -> Void = {
            $0.link?.close()
            $0.link = nil
            done.set(())
        }
        for end in [a, b] {
            try end.onLoop { end in
                end.place = { $0.tag.value == 0 ? .copy : .into(memory.base, owner: LaunchNumber(1), token: 1) }
                end.onEvent = { end, event in
                    switch (event, moment) {
                    case (.asked, .asked), (.frame, .frame), (.placed, .placed), (.sent, .sent): closes(end)
                    default: break
                    }
                }
            }
        }
        let source = Memory(byteCount: 1000)
        for tag in [0, 1] as [UInt64] { try a.enqueue(header(.data, tag: tag), source) }
        try done.value("the close")
        try a.stop()
        try b.stop()
    }

    @Test("a peer from which nothing is heard is given up after the dead time")
    func silence() throws {
        let (a, raw) = try LinkEnd.withRawEnd(deadTime: .milliseconds(100))
        #expect(try a.brokenReason() == "nothing was heard for 0.1 s")
        withExtendedLifetime(raw) {}
        try a.stop()
    }

    @Test("an idle link says that it lives, and idle frames are not delivered")
    func idleFrames() throws {
        let (a, raw) = try LinkEnd.withRawEnd(deadTime: .milliseconds(100))
        let idle = FrameHeader(kind: .idle, epoch: .none, launch: LaunchNumber(0), tag: Tag(0))
        for _ in 0..<10 {
            #expect(try raw.read(headerBytes) == idle.bytes)
            try raw.write(idle.bytes)
        }
        try a.stop()
        #expect(a.events.all.isEmpty)
    }
}
