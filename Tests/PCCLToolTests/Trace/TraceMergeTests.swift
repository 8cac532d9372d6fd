import PCCLBase
import PCCLRecorder
import StrictJSON
import Testing

@testable import pccl

@Suite("A trace of several peers")
struct TraceMergeTests {
    /// Two peers, of which the second calls a second late; a third operation does not end.
    static var run: RecordedRun {
        var run = RecordedRun([1_000_000_000, 900_000_000_000])
        let descriptor = TraceDescriptor(
            OperationDescriptor(count: 4000, type: .float32, operation: .sum, algorithm: .direct)
        ).word
        for (index, other, start) in [(0, 1, 0), (1, 0, 1_000_000_000)] as [(Int, Int, UInt64)] {
            run.note(index, at: start, .callBegan, value: 1)
            run.note(index, at: start + 1000, .callEnded, value: 1 | 0 << 8)
            run.note(index, at: start + 2000, .launched, value: 16_000)
            run.note(index, at: start + 2500, .waitBegan)
            run.note(index, at: start + 3000, .started, launch: UInt32(5 + index), value: descriptor)
            run.note(index, at: start + 3100, .entrySent, peer: other, launch: UInt32(5 + index))
            run.note(other, at: start + 53_100, .entryReceived, peer: index, launch: UInt32(5 + index))
            run.note(index, at: 1_000_100_000, .firstInputReceived, peer: other, launch: UInt32(5 + index), value: 8000)
            run.note(index, at: 1_000_200_000, .resultWhole, launch: UInt32(5 + index))
            run.note(index, at: 1_000_200_100, .preparedSent, peer: other, launch: UInt32(5 + index))
            run.note(other, at: 1_000_250_100, .preparedReceived, peer: index, launch: UInt32(5 + index))
            run.note(index, at: 1_000_300_000, .finished, launch: UInt32(5 + index), value: 1)
            run.note(index, at: 1_000_300_100, .completed)
            run.note(index, at: 1_000_300_200, .waitEnded)
        }
        run.note(0, at: 1_100_000_000, .launched, tag: 8)
        run.note(0, at: 1_100_000_100, .waitBegan, tag: 8)
        run.note(0, at: 1_200_000_000, .stuck, peer: 1, tag: 8, value: 100_000_000)
        run.note(0, at: 1_300_000_000, .linkDown, peer: 1)
        return run
    }

    private func events(_ files: [TraceFile]) throws -> [JSONValue] {
        let text = String(decoding: try TraceMerge(files).json, as: UTF8.self)
        guard case .array(let events)? = try JSONValue(parsing: text)["traceEvents"] else {
            Issue.record("no list of events")
            return []
        }
        return events
    }

    private func number(_ event: JSONValue, _ key: String) -> Double? {
        if case .number(let number)? = event[key] { number } else { nil }
    }
    private func text(_ event: JSONValue, _ key: String) -> String {
        if case .string(let text)? = event[key] { text } else { "" }
    }

    /// What the Trace Event Format asks of each phase, and viewers of slices.
    private func validate(_ events: [JSONValue]) {
        struct Place: Hashable {
            var process: Double
            var track: Double
        }
        var slices: [Place: [(start: Double, end: Double)]] = [:]
        var open: [String: Int] = [:]
        var arrows: [Double: [String]] = [:]
        for event in events {
            guard let process = number(event, "pid"), let track = number(event, "tid"), event["name"] != nil else {
                Issue.record("no place or name: \(event.written())")
                continue
            }
            let phase = text(event, "ph")
            if phase == "M" {
                #expect(["process_name", "thread_name"].contains(text(event, "name")) && event["args"]?["name"] != nil)
                continue
            }
            guard let start = number(event, "ts"), start >= 0 else {
                Issue.record("no time: \(event.written())")
                continue
            }
            switch phase {
            case "X":
                let duration = number(event, "dur") ?? -1
                #expect(duration >= 0, "\(event.written())")
                slices[Place(process: process, track: track), default: []].append((start, start + duration))
            case "b", "e":
                let key = "\(text(event, "cat")) \(number(event, "id") ?? -1) \(process)"
                open[key, default: 0] += phase == "b" ? 1 : -1
                #expect(open[key, default: 0] >= 0, "ends before it begins: \(event.written())")
            case "s", "f":
                #expect(phase == "s" || text(event, "bp") == "e")
                #expect(text(event, "cat") == "message")
                arrows[number(event, "id") ?? -1, default: []].append(phase)
            case "i": #expect(["t", "p"].contains(text(event, "s")), "\(event.written())")
            default: Issue.record("phase \(phase)")
            }
        }
        #expect(open.values.allSatisfy { $0 == 0 }, "what begins ends: \(open)")
        #expect(arrows.values.allSatisfy { $0.sorted() == ["f", "s"] }, "arrows have two ends: \(arrows)")
        for (place, slices) in slices {
            // One lies in another, or behind it. To a thousandth of a microsecond, and what numbers of that size keep of it.
            var stack: [Double] = []
            for slice in slices.sorted(by: { ($0.start, -$0.end) < ($1.start, -$1.end) }) {
                while let end = stack.last, end <= slice.start + 0.0005 { stack.removeLast() }
                if let end = stack.last {
                    #expect(slice.end <= end + 0.0005, "\(place): \(slice) is not within \(end)")
                }
                stack.append(slice.end)
            }
        }
    }

    @Test("is what the format asks for: times, tracks, nested slices, arrows with two ends")
    func format() throws { validate(try events(TraceMergeTests.run.files)) }

    @Test("shows who was late: the first peer's operation begins a second before the second's, and waits for its call")
    func late() throws {
        let events = try events(TraceMergeTests.run.files)
        func slice(_ name: String, of process: Double) throws -> (start: Double, duration: Double) {
            let event = try #require(
                events.first { text($0, "ph") == "X" && text($0, "name") == name && number($0, "pid") == process })
            return (number(event, "ts") ?? -1, number(event, "dur") ?? -1)
        }
        let name = "all-reduce, 4000 × float32, sum, direct"
        let (first, second) = (try slice(name, of: 1), try slice(name, of: 2))
        #expect(abs(second.start - first.start - 1_000_000) < 100, "\(first), \(second)")
        let wait = try slice("waits for peer 2 to call", of: 1)
        #expect(abs(wait.duration - 1_000_050) < 100, "\(wait)")
        #expect(events.contains { text($0, "ph") == "i" && text($0, "name").hasPrefix("tag 7: peer 2 has called it") })
        #expect(events.count { text($0, "ph") == "s" } == 4, "an entry and a word of completion each way")
        let open = try #require(events.first { $0["args"]?["outcome"] == .string("not ended yet") })
        #expect(abs((number(open, "dur") ?? 0) - 200_000) < 1, "until the last that is known")
        #expect(events.contains { text($0, "name") == "tag 8: has waited 0.100000 s for peer 2" })
    }

    @Test("two dumps of one peer are one peer, and what is in both is there once")
    func twice() throws {
        var files = TraceMergeTests.run.files
        var early = files[0]
        early.events = Array(early.events.prefix(8))
        early.clocks.monotonicNanoseconds -= 1
        files.append(early)
        #expect(try events(files).count == events(TraceMergeTests.run.files).count)
    }

    @Test("dumps of several runs are refused")
    func runs() throws {
        var files = TraceMergeTests.run.files
        files[1].run = 0x1234
        #expect(throws: TraceProblem.self) { try TraceMerge(files) }
    }

    @Test("a ring that has lost the beginnings of things still makes a trace")
    func beginningsLost() throws {
        for count in 0..<TraceMergeTests.run.files[0].events.count {
            var files = TraceMergeTests.run.files
            files[0].events.removeFirst(count)
            validate(try events(files))
        }
    }

    @Test("names that would break the JSON do not")
    func quoting() throws {
        var files = TraceMergeTests.run.files
        files[0].host = "a\"b\\c\u{1}\nd"
        let names = try events(files).filter { text($0, "name") == "process_name" }
        #expect(
            names.contains { event in
                guard case .string(let name)? = event["args"]?["name"] else { return false }
                return name.contains("a\"b\\c\u{1}\nd")
            })
    }

    @Test("as text: what it is of, and each kind of event in words of its own")
    func asText() {
        var file = TraceMergeTests.run.files[0]
        file.events = TraceEvent.Kind.allCases.map { TraceEvent(nanoseconds: 5, kind: $0, peer: PeerID(3), value: 1) }
        file.lost = 9
        let lines = TraceText(file).lines
        #expect(lines[0].hasPrefix("peer 1 of group 0, run 0000abcd, process 100 on host0"))
        #expect(lines[2].hasSuffix("and 9 before them that were overwritten"))
        #expect(Set(lines.dropFirst(3)).count == TraceEvent.Kind.allCases.count)
    }
}
