import PCCLBase
import StrictJSON
import Testing

@testable import WANLab

@Suite("A lab's description")
struct ConfigurationTests {
    @Test("says what it says")
    func whole() throws {
        let lab = try LabConfiguration(
            json: """
                {
                    "nodes": 3, "mtu": 9000, "seed": 42, "sites": [[0, 2], [1]],
                    "links": {
                        "access:*": {"rate_mbit": 100, "queue_ms": 20},
                        "up:1": {"rate_mbit": 12.5, "queue_bytes": 60000},
                        "path:0>1": {"delay_ms": 1.5, "jitter_ms": 0.25, "loss_percent": 0.5, "burst_packets": 3}
                    },
                    "events": [
                        {"at_s": 2, "set": {"trunk:0-1": {"delay_ms": 9}}},
                        {"at_s": 0.5, "stall": {"between": [0, 1], "for_s": 3}, "reset": {"between": [1, 2], "port": 80}},
                        {"at_s": 4, "resume": {"between": [0, 1]}}
                    ]
                }
                """, nodeCount: nil)
        #expect(lab.nodeCount == 3)
        #expect(lab.mtu == 9000)
        #expect(lab.seed == 42)
        #expect(lab.sites == [[0, 2], [1]])
        let delay = try LinkSetting("trunk:0-1", "\"delay_ms\": 9")
        let expected = [
            LabEvent(after: .seconds(2), action: .set(delay)),
            LabEvent(after: .seconds(0.5), action: .stall(FlowChoice(a: 0, b: 1), .seconds(3))),
            LabEvent(after: .seconds(0.5), action: .reset(FlowChoice(a: 1, b: 2, port: 80))),
            LabEvent(after: .seconds(4), action: .resume(a: 0, b: 1)),
        ]
        #expect(lab.events == expected)

        let workshop = Workshop(lab)
        let way = workshop.network.figures(from: 0, to: 1)
        #expect(way.map(\.bitsPerSecond) == [100_000_000, nil, nil, 100_000_000])
        #expect(way[2].delay.nanoseconds == 1_500_000)
        #expect(way[2].jitter.nanoseconds == 250_000)
        #expect(way[2].loss == 0.005)
        #expect(way[2].burstPackets == 3)
        let back = workshop.network.figures(from: 1, to: 0)
        // Later settings win, and leave alone what they do not name.
        #expect(back[0].bitsPerSecond == 12_500_000)
        #expect(back[0].queue == .bytes(60000))
        #expect(back[2].isNeutral)
    }

    @Test("takes the number of nodes from the command line, if it is given there")
    func nodesFromOutside() throws {
        #expect(try LabConfiguration(json: "{\"nodes\": 3}", nodeCount: 5).nodeCount == 5)
        #expect(try LabConfiguration(json: "{}", nodeCount: 5).nodeCount == 5)
    }

    @Test(
        "is refused with the reason",
        arguments: [
            ("{}", "how many"), ("[]", "a list"), ("{\"nodes\": 1}", "nodes"), ("{\"nodes\": 2.5}", "whole number"),
            ("{\"nodes\": 2, \"delay\": 3}", "no \"delay\""), ("{\"nodes\": 2, \"mtu\": 64}", "mtu"),
            ("{\"nodes\": 2, \"links\": {\"path:0>2\": {\"delay_ms\": 1}}}", "no node 2"),
            ("{\"nodes\": 2, \"links\": {\"trunk:0-1\": {\"delay_ms\": 1}}}", "no site 1"),
            ("{\"nodes\": 2, \"links\": {\"wire:0\": {\"delay_ms\": 1}}}", "names no link"),
            ("{\"nodes\": 2, \"links\": {\"path:1-1\": {\"delay_ms\": 1}}}", "same end twice"),
            ("{\"nodes\": 2, \"links\": {\"path:*\": {\"latency\": 1}}}", "no figure \"latency\""),
            ("{\"nodes\": 2, \"links\": {\"path:*\": {\"delay_ms\": \"1\"}}}", "is a number"),
            ("{\"nodes\": 2, \"links\": {\"path:*\": {\"delay_ms\": -1}}}", "goes from 0"),
            ("{\"nodes\": 2, \"links\": {\"path:*\": {\"reorder\": 1}}}", "true or false"),
            ("{\"nodes\": 2, \"links\": {\"path:*\": 1}}", "object with figures"),
            ("{\"nodes\": 3, \"sites\": [[0, 1]]}", "must be in one site"),
            ("{\"nodes\": 2, \"sites\": [[0, 1], [1]]}", "must be in one site"),
            ("{\"nodes\": 2, \"events\": [{\"stall\": {\"between\": [0, 1]}}]}", "at_s"),
            ("{\"nodes\": 2, \"events\": [{\"at_s\": 1}]}", "does nothing"),
            ("{\"nodes\": 2, \"events\": [{\"at_s\": 1, \"reset\": {\"between\": [0, 2]}}]}", "no node 2"),
            ("{\"nodes\": 2, \"events\": [{\"at_s\": 1, \"reset\": {\"between\": [0]}}]}", "two nodes"),
            ("{\"nodes\": 2, \"events\": [{\"at_s\": 1, \"stall\": {\"between\": [0, 0]}}]}", "two ends"),
            ("{\"nodes\": 2,}", "line 1, column 13"), ("{\"nodes\": 2", "line 1, column 12"),
        ])
    func refusals(text: String, reason: String) {
        let error = #expect(throws: LabError.self) { try LabConfiguration(json: text, nodeCount: nil) }
        #expect(error?.description.contains(reason) == true, "it says: \(error?.description ?? "nothing")")
    }

    @Test("can be one of the presets, with more nodes than by itself", arguments: LabConfiguration.presets.map(\.name))
    func presets(name: String) throws {
        let preset = try #require(try LabConfiguration(preset: name, nodeCount: nil))
        #expect(preset.nodeCount >= 2)
        let large = try #require(try LabConfiguration(preset: name, nodeCount: 16))
        #expect(large.nodeCount == 16)
        let workshop = Workshop(large)
        let way = workshop.network.figures(from: 0, to: 15)
        #expect(way.contains { $0.delay.nanoseconds > 0 })
        #expect(way == workshop.network.figures(from: 0, to: 15))
        #expect(throws: LabError.self) { try LabConfiguration(preset: name, nodeCount: 65) }
    }

    @Test("is no preset by any other name")
    func noPreset() throws {
        #expect(try LabConfiguration(preset: "mars", nodeCount: nil) == nil)
    }

    @Test("of the asymmetric preset gives the last node a fifth, both ways")
    func asymmetric() throws {
        let lab = Workshop(try #require(try LabConfiguration(preset: "asymmetric", nodeCount: 5)))
        #expect(lab.network.figures(from: 4, to: 0).compactMap(\.bitsPerSecond) == [100_000_000, 500_000_000])
        #expect(lab.network.figures(from: 0, to: 4).compactMap(\.bitsPerSecond) == [500_000_000, 100_000_000])
    }
}

@Suite("JSON")
struct JSONTests {
    @Test("is read as it is written, members in order")
    func values() throws {
        let value = try JSONValue(
            parsing: " {\"b\": [1, -2.5e2, true, null], \"a\": \"\\u00e9\\ud83d\\ude00\\n\\\"é\"} ")
        let list = JSONValue.array([.number(1), .number(-250), .bool(true), .null])
        let expected = JSONValue.object([
            JSONValue.Member(key: "b", value: list), JSONValue.Member(key: "a", value: .string("é😀\n\"é")),
        ])
        #expect(value == expected)
    }

    @Test(
        "is refused where it is none",
        arguments: [
            "", "{", "[1,]", "{\"a\":1,}", "{a:1}", "01", "1.", ".5", "+1", "1e", "1e999", "nul", "\"a", "\"\\x\"",
            "\"\\u12\"",
            "\"\\ud800\"", "\"\t\"", "1 2", "{\"a\":1,\"a\":2}", "'a'", "NaN", "// a", "\u{FEFF}1",
            String(repeating: "[", count: 100),
        ])
    func refusals(text: String) {
        #expect(throws: JSONError.self) { try JSONValue(parsing: text) }
    }

    @Test("errors say where")
    func places() {
        let error = #expect(throws: JSONError.self) { try JSONValue(parsing: "{\n  \"a\": 1\n  \"b\": 2\n}") }
        #expect(error == JSONError(line: 3, column: 3, problem: "expected ',' or '}'"))
    }
}
