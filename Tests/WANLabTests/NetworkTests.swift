import PCCLBase
import Testing

@testable import WANLab

@Suite("A network")
struct NetworkTests {
    @Test("takes a packet out of its node, over the trunk and the path, and in", arguments: [false, true])
    func wholeWay(isV6: Bool) throws {
        var workshop = try Workshop(
            nodes: 3, sites: [[0], [1, 2]],
            [
                ("up:0", "\"rate_mbit\": 8"), ("trunk:0>1", "\"delay_ms\": 10"), ("path:0>2", "\"delay_ms\": 1"),
                ("down:2", "\"rate_mbit\": 4"),
            ])
        try workshop.send(datagram(0, 2, bytes: 1000, isV6: isV6))
        let arrivals = workshop.run()
        #expect(arrivals.map(\.to) == [2])
        #expect(arrivals.map(\.at.milliseconds) == [14])
    }

    @Test("lets all pairs of two sites share one trunk")
    func sharedTrunk() throws {
        var workshop = try Workshop(nodes: 4, sites: [[0, 1], [2, 3]], [("trunk:*", "\"rate_mbit\": 8")])
        for _ in 0..<5 {
            try workshop.send(datagram(0, 2, bytes: 1000))
            try workshop.send(datagram(1, 3, bytes: 1000))
            try workshop.send(datagram(3, 1, bytes: 1000))
            try workshop.send(datagram(0, 1, bytes: 1000))
        }
        let arrivals = workshop.run()
        #expect(arrivals.filter { $0.to == 2 }.map(\.at.milliseconds) == [1, 3, 5, 7, 9])
        #expect(arrivals.filter { $0.to == 3 }.map(\.at.milliseconds) == [2, 4, 6, 8, 10])
        // The other direction has a trunk of its own, and node 0 reaches node 1 without.
        #expect(arrivals.filter { $0.to == 1 }.map(\.at.milliseconds) == [0, 0, 0, 0, 0, 1, 2, 3, 4, 5])
    }

    @Test("merges two nodes' packets at a third in the order in which they come there")
    func merging() throws {
        var workshop = try Workshop(
            nodes: 3,
            [("path:0>2", "\"delay_ms\": 9"), ("path:1>2", "\"delay_ms\": 4"), ("down:2", "\"rate_mbit\": 8")])
        try workshop.send(datagram(0, 2, bytes: 1000, mark: 0))
        try workshop.send(datagram(1, 2, bytes: 1000, mark: 1))
        let arrivals = workshop.run()
        #expect(arrivals.map { $0.bytes[999] } == [1, 0])
        #expect(arrivals.map(\.at.milliseconds) == [5, 10])
    }

    @Test("drops what is for nobody, and gives its memory back")
    func unroutable() throws {
        var workshop = try Workshop([])
        var multicast = datagram(0, 1, bytes: 64)
        multicast.replaceSubrange(16..<20, with: [224, 0, 0, 1])
        for bytes in [
            multicast, datagram(0, 2, bytes: 64), datagram(0, 0, bytes: 64), [0x45], [UInt8](repeating: 0, count: 60),
        ] {
            try workshop.send(bytes)
        }
        #expect(workshop.run().isEmpty)
        #expect(workshop.network.unroutable == 5)
        #expect(workshop.pool.inUse == 0)
    }

    @Test("is the same again with the same seed")
    func repeatable() throws {
        func arrivals(seed: UInt64) throws -> [Workshop.Arrival] {
            var workshop = try Workshop(
                nodes: 3, seed: seed,
                [
                    ("path:*", "\"delay_ms\": 5, \"jitter_ms\": 3, \"loss_percent\": 10"),
                    ("access:*", "\"rate_mbit\": 10"),
                ])
            for index in 0..<300 {
                try workshop.send(datagram(index % 3, (index + 1) % 3, bytes: 300, mark: UInt8(index % 256)))
            }
            return workshop.run()
        }
        let first = try arrivals(seed: 5)
        #expect(!first.isEmpty)
        #expect(try arrivals(seed: 5) == first)
        #expect(try arrivals(seed: 6) != first)
    }

    @Test("does not lose more on one link for what happens on another")
    func independentLinks() throws {
        func survivors(withOthers: Bool) throws -> [UInt8] {
            var workshop = try Workshop(nodes: 3, [("path:*", "\"loss_percent\": 30")])
            for index in 0..<200 {
                try workshop.send(datagram(0, 1, bytes: 100, mark: UInt8(index)))
                if withOthers { try workshop.send(datagram(0, 2, bytes: 100)) }
            }
            return workshop.run().filter { $0.to == 1 }.map { $0.bytes[99] }
        }
        #expect(try survivors(withOthers: true) == survivors(withOthers: false))
    }

    @Test("rests longer where a way is long, and hardly where it is short")
    func leastPause() throws {
        #expect(try Workshop([("path:*", "\"delay_ms\": 50")]).network.leastPause.nanoseconds == 200_000)
        #expect(try Workshop([("path:*", "\"delay_ms\": 0.05")]).network.leastPause.nanoseconds == 1000)
        #expect(try Workshop([("path:0>1", "\"delay_ms\": 50")]).network.leastPause.nanoseconds == 0)
    }
}
