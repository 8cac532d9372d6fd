import PCCLBase
import Testing

@testable import WANLab

@Suite("A connection in a network")
struct FlowTests {
    private func segment(
        port: UInt16, back: Bool = false, sequence: UInt32 = 1, acknowledgement: UInt32 = 1, isV6: Bool = false,
        flags: UInt8 = Headers.ack, payloadBytes: Int = 0
    ) -> [UInt8] {
        var segment = Segment()
        (segment.from, segment.to) = back ? (1, 0) : (0, 1)
        (segment.sourcePort, segment.destinationPort) = back ? (2000, port) : (port, 2000)
        segment.sequence = sequence
        segment.acknowledgement = acknowledgement
        segment.flags = flags
        segment.isV6 = isV6
        segment.payload = [UInt8](repeating: 0, count: payloadBytes)
        return segment.bytes
    }

    private func perform(_ command: String, _ workshop: inout Workshop) throws -> String {
        try workshop.network.perform(LabAction(command: command), at: workshop.now)
    }

    @Test("is stalled alone: the busiest of its pair, both ways, with what is under way")
    func stall() throws {
        var workshop = try Workshop([("path:*", "\"delay_ms\": 10")])
        try workshop.send(segment(port: 1))
        try workshop.send(segment(port: 2, payloadBytes: 500))
        #expect(try perform("stall 1 0", &workshop) == "stalled 10.77.0.1:2 10.77.0.2:2000")
        try workshop.send(segment(port: 1, back: true))
        try workshop.send(segment(port: 2, back: true))
        let arrivals = workshop.run()
        #expect(arrivals.map(\.bytes.count) == [52, 52])
        #expect(arrivals.map(\.to) == [1, 0])
        #expect(workshop.network.withheld == 2)
        #expect(workshop.pool.inUse == 0)
    }

    @Test("goes on when its time is over, or when it is told to")
    func resuming() throws {
        var workshop = try Workshop([])
        try workshop.send(segment(port: 1))
        try workshop.send(segment(port: 2))
        _ = try perform("stall 0 1 port=1 for_s=2", &workshop)
        _ = try perform("stall 0 1 port=2", &workshop)
        _ = workshop.run(until: .seconds(1))
        try workshop.send(segment(port: 1))
        #expect(workshop.run(until: .seconds(3)).isEmpty)
        try workshop.send(segment(port: 1))
        try workshop.send(segment(port: 2))
        #expect(workshop.run(until: .seconds(4)).count == 1)
        #expect(try perform("resume 0 1", &workshop) == "resumed 1")
        try workshop.send(segment(port: 2))
        #expect(workshop.run(until: .seconds(5)).count == 1)
    }

    @Test("is reset at both ends, with the numbers that they expect", arguments: [false, true])
    func reset(isV6: Bool) throws {
        var workshop = try Workshop([("path:*", "\"delay_ms\": 10")])
        try workshop.send(segment(port: 1, sequence: 100, acknowledgement: 7000, isV6: isV6))
        try workshop.send(segment(port: 1, back: true, sequence: 7000, acknowledgement: 101, isV6: isV6))
        _ = workshop.run(until: .milliseconds(20))
        _ = try perform("reset 0 1", &workshop)
        try expectResets(workshop.run(until: .milliseconds(30)), [(0, 7000), (1, 101)])

        // One end had more in its buffers than it had acknowledged. It says so, and its answer goes no further.
        try workshop.send(segment(port: 1, back: true, sequence: 7000, acknowledgement: 160, isV6: isV6))
        try expectResets(workshop.run(until: .milliseconds(40)), [(1, 160)])
    }

    @Test("that uses the ports of one that was reset is another")
    func newConnection() throws {
        var workshop = try Workshop([])
        try workshop.send(segment(port: 1))
        _ = try perform("reset 0 1", &workshop)
        _ = workshop.run(until: .milliseconds(1))
        try workshop.send(segment(port: 1, flags: Headers.syn))
        #expect(workshop.run(until: .milliseconds(2)).map(\.to) == [1])
    }

    @Test("is not found where there is none, and the command says so")
    func nothingToDo() throws {
        var workshop = try Workshop([])
        #expect(throws: LabError.self) { try perform("stall 0 1", &workshop) }
        try workshop.send(segment(port: 1))
        try workshop.send(segment(port: 1, flags: Headers.fin | Headers.ack))
        #expect(throws: LabError.self) { try perform("reset 0 1", &workshop) }
        #expect(throws: LabError.self) { try perform("stall 0 2", &workshop) }
        #expect(throws: LabError.self) { try perform("stall 1 1", &workshop) }
    }

    @Test(
        "commands that mean nothing are refused",
        arguments: [
            "", "halt", "set", "set path:0-1", "set path:0-1 loss_percent", "set path:0-1 loss_percent=101",
            "set path:0-9 loss_percent=1", "set nowhere loss_percent=1", "stall", "stall 0", "stall a b",
            "stall 0 1 for_s=-1", "stall 0 1 port=0", "stall 0 1 sort=3", "reset 0 1 for_s=1",
        ])
    func refusals(command: String) throws {
        var workshop = try Workshop([])
        try workshop.send(segment(port: 1))
        #expect(throws: LabError.self) { try perform(command, &workshop) }
    }

    private func expectResets(_ arrivals: [Workshop.Arrival], _ expected: [(node: Int, sequence: UInt32)]) throws {
        #expect(arrivals.map(\.to) == expected.map(\.node))
        for (arrival, expected) in zip(arrivals, expected) {
            var bytes = arrival.bytes
            try bytes.withUnsafeMutableBytes { buffer in
                let base = try #require(buffer.baseAddress)
                let headers = try #require(Headers(base, count: buffer.count, nodeCount: 2))
                let tcp = try #require(headers.tcp)
                #expect(tcp.flags == Headers.rst)
                #expect(tcp.sequence == expected.sequence)
                #expect(headers.source == 1 - expected.node)
                #expect(expected.node == 0 ? tcp.destinationPort == 1 : tcp.sourcePort == 1)
                let before = base.big16(tcp.offset + 16)
                Checksum.setTCP(base, offset: tcp.offset, count: buffer.count - tcp.offset)
                #expect(base.big16(tcp.offset + 16) == before)
            }
        }
    }
}
