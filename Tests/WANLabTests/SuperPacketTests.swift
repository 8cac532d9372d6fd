import PCCLBase
import Testing

@testable import WANLab

/// What a TUN device hands over when TCP sends much: one packet that stands for many.
@Suite("A super-packet")
struct SuperPacketTests {
    private static let segmentBytes = 1000
    private static func payload(_ count: Int) -> [UInt8] { (0..<count).map { UInt8(truncatingIfNeeded: $0 / 100) } }

    private func segment(_ payloadBytes: Int, isV6: Bool, flags: UInt8 = Headers.ack) -> Segment {
        var segment = Segment()
        segment.payload = Self.payload(payloadBytes)
        segment.isV6 = isV6
        segment.flags = flags
        segment.sequence = 0xFFFF_F000  // The numbers wrap around on the way.
        return segment
    }

    @Test("takes as long on the wire as all of its packets with their headers", arguments: [false, true])
    func wireTime(isV6: Bool) throws {
        var workshop = try Workshop([("path:0>1", "\"rate_mbit\": 10000, \"queue_ms\": 10")])
        try workshop.send(segment(10_500, isV6: isV6).bytes, segmentBytes: Self.segmentBytes)
        let headerBytes = (isV6 ? 40 : 20) + Segment.headerBytes
        let wireBytes = 10_500 + 11 * headerBytes
        let arrivals = workshop.run()
        #expect(arrivals.map(\.segments) == [11])
        #expect(arrivals.map(\.at.nanoseconds) == [UInt64(wireBytes) * 8 / 10])
        #expect(workshop.network.inspected.map(\.link.counts.packets) == [11])
    }

    @Test("arrives in pieces of a quarter of a millisecond on a slow link")
    func pieces() throws {
        var workshop = try Workshop([("path:*", "\"rate_mbit\": 100, \"queue_ms\": 100")])
        try workshop.send(segment(10_000, isV6: false).bytes, segmentBytes: Self.segmentBytes)
        let arrivals = workshop.run()
        #expect(arrivals.map(\.segments) == [2, 2, 2, 2, 2])
        try expectWhole(arrivals, payloadBytes: 10_000)
    }

    @Test("is delivered but for the segments that are lost, with valid headers", arguments: [false, true])
    func loss(isV6: Bool) throws {
        var workshop = try Workshop(seed: 4, largeSlots: 8, [("path:*", "\"loss_percent\": 20, \"delay_ms\": 1")])
        try workshop.send(
            segment(30_700, isV6: isV6, flags: Headers.ack | Headers.psh | Headers.cwr).bytes,
            segmentBytes: Self.segmentBytes)
        let arrivals = workshop.run()
        let counts = try #require(workshop.network.inspected.first?.link.counts)
        #expect(counts.lost > 0 && counts.lost < 31)
        #expect(arrivals.reduce(0) { $0 + $1.segments } == 31 - Int(counts.lost))
        #expect(workshop.pool.inUse == 0)
        try expectWhole(arrivals, payloadBytes: 30_700)
    }

    @Test("keeps what the queue has room for")
    func queue() throws {
        var workshop = try Workshop([("path:0>1", "\"rate_mbit\": 5000, \"queue_bytes\": 4300")])
        try workshop.send(segment(10_000, isV6: false).bytes, segmentBytes: Self.segmentBytes)
        let arrivals = workshop.run()
        #expect(arrivals.map(\.segments) == [4])
        #expect(workshop.network.inspected.map(\.link.counts.dropped) == [6])
        #expect(workshop.pool.inUse == 0)
        try expectWhole(arrivals, payloadBytes: 10_000)
    }

    @Test("is dropped whole when there is no memory to split it, and that is counted")
    func outOfMemory() throws {
        var workshop = try Workshop(
            largeSlots: 1, smallSlots: 0, [("path:*", "\"rate_mbit\": 100, \"queue_ms\": 100")])
        try workshop.send(segment(10_000, isV6: false).bytes, segmentBytes: Self.segmentBytes)
        #expect(workshop.run().isEmpty)
        #expect(workshop.network.outOfMemory == 1)
        #expect(workshop.pool.inUse == 0)
    }

    /// Each piece has the bytes that its sequence number says, and headers that add up.
    private func expectWhole(_ arrivals: [Workshop.Arrival], payloadBytes: Int) throws {
        let payload = Self.payload(payloadBytes)
        for (index, arrival) in arrivals.enumerated() {
            var bytes = arrival.bytes
            try bytes.withUnsafeMutableBytes { buffer in
                let base = try #require(buffer.baseAddress)
                let headers = try #require(Headers(base, count: buffer.count, nodeCount: 2))
                let tcp = try #require(headers.tcp)
                let first = Int(tcp.sequence &- 0xFFFF_F000)
                let content = Array(buffer.dropFirst(tcp.offset + tcp.headerBytes))
                #expect(content == Array(payload[first..<first + content.count]))
                let isLast = first + content.count == payloadBytes
                #expect(tcp.flags & Headers.psh == 0 || isLast)
                #expect(tcp.flags & Headers.cwr == 0 || first == 0)
                if headers.isV6 {
                    #expect(Int(base.big16(4)) == buffer.count - 40)
                } else {
                    #expect(Int(base.big16(2)) == buffer.count)
                    #expect(Int(base.big16(4)) == 7000 + first / Self.segmentBytes)
                    #expect(Checksum.sum(base, from: 0, count: 20) == 0xFFFF)
                }
            }
            if index > 0 { #expect(arrivals[index - 1].at <= arrival.at) }
        }
    }
}
