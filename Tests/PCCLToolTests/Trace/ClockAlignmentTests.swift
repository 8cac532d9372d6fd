import PCCLBase
import PCCLRecorder
import Testing

@testable import pccl

/// Testing has a `Tag` too.
typealias Tag = PCCLBase.Tag

/// Peers whose clocks are apart by what the test says, and who send each other entries.
struct RecordedRun {
    /// What each peer's clock shows at the true moment 0.
    var clocks: [UInt64]
    var files: [TraceFile]
    private var launches: [UInt32]

    init(_ clocks: [UInt64]) {
        self.clocks = clocks
        launches = Array(repeating: 0, count: clocks.count)
        files = clocks.indices.map { index in
            TraceFile(
                peer: PeerID(UInt64(index + 1)), run: 0xabcd, process: UInt32(100 + index), boot: "machine \(index)",
                host: "host\(index)", release: "1", reason: "a test",
                clocks: TraceFile.Clocks(monotonicNanoseconds: clocks[index], wallNanoseconds: 1 << 60), events: [])
        }
    }

    mutating func note(
        _ index: Int, at moment: UInt64, _ kind: TraceEvent.Kind, peer: Int? = nil, launch: UInt32 = 1, tag: UInt64 = 7,
        value: UInt64 = 0
    ) {
        files[index].events.append(
            TraceEvent(
                nanoseconds: clocks[index] &+ moment, kind: kind, peer: peer.map { PeerID(UInt64($0 + 1)) },
                launch: LaunchNumber(launch), tag: Tag(tag), value: value))
        files[index].events.sort { $0.nanoseconds < $1.nanoseconds }
    }

    mutating func send(_ from: Int, _ to: Int, at moment: UInt64, taking delay: UInt64) {
        launches[from] += 1
        note(from, at: moment, .entrySent, peer: to, launch: launches[from])
        note(to, at: moment + delay, .entryReceived, peer: from, launch: launches[from])
    }

    /// How wrong a peer's time is once it is aligned with the first.
    func error(of index: Int, _ alignment: ClockAlignment) -> UInt64 {
        let truth = Int64(bitPattern: clocks[0] &- clocks[index])
        return (alignment.clocks[index].offset - truth).magnitude
    }
}

@Suite("Clocks of several peers")
struct ClockAlignmentTests {
    private func claimed(_ alignment: ClockAlignment, _ index: Int) -> UInt64? {
        if case .messages(let error) = alignment.clocks[index].basis { error } else { nil }
    }

    @Test(
        "are aligned by messages there and back, and are as wrong as is said at most",
        arguments: [0, 5_000_000_000, 1 << 50])
    func pair(offset: UInt64) throws {
        var run = RecordedRun([1_000_000, 1_000_000 + offset])
        // The way there is longer than the way back, and now and then one is held up.
        for n in 0..<50 as Range<UInt64> {
            run.send(0, 1, at: n * 1000, taking: 900_000 + n % 7 * 50_000)
            run.send(1, 0, at: n * 1000 + 500, taking: 300_000 + n % 5 * 400_000)
        }
        let alignment = ClockAlignment(run.files)
        #expect(alignment.clocks[0] == ClockAlignment.Clock(offset: 0, basis: .reference))
        let most = try #require(claimed(alignment, 1))
        #expect(most == 600_000, "half of the shortest time there and back")
        #expect(run.error(of: 1, alignment) == 300_000 && run.error(of: 1, alignment) <= most)
    }

    @Test("that have no messages of each other are aligned by way of a third")
    func chain() throws {
        var run = RecordedRun([9_000_000_000, 500, 77_000_000_000_000])
        for (a, b) in [(0, 1), (1, 2)] {
            run.send(a, b, at: 10, taking: 1000)
            run.send(b, a, at: 20, taking: 1400)
        }
        let alignment = ClockAlignment(run.files)
        #expect(claimed(alignment, 1) == 1200 && claimed(alignment, 2) == 2400)
        #expect(run.error(of: 1, alignment) == 200 && run.error(of: 2, alignment) == 400)
    }

    @Test(
        "of one machine are one clock, also where messages were slow; one of another is aligned with the best of them")
    func oneMachine() throws {
        var run = RecordedRun([5_000, 5_000, 1_000_000])
        run.files[1].boot = run.files[0].boot
        run.send(0, 2, at: 0, taking: 100_000)
        run.send(2, 0, at: 0, taking: 100_000)
        run.send(1, 2, at: 0, taking: 1000)
        run.send(2, 1, at: 0, taking: 1000)
        let alignment = ClockAlignment(run.files)
        #expect(alignment.clocks[1] == ClockAlignment.Clock(offset: 0, basis: .sameMachine))
        #expect(claimed(alignment, 2) == 1000 && run.error(of: 2, alignment) == 0)
    }

    @Test("without messages both ways they are aligned by the time of day, and that is said")
    func timeOfDay() {
        var run = RecordedRun([1000, 2000])
        run.send(0, 1, at: 5, taking: 7)
        let alignment = ClockAlignment(run.files)
        #expect(alignment.clocks[1] == ClockAlignment.Clock(offset: -1000, basis: .timeOfDay))
    }

    @Test("what was sent twice, and what was never received, bounds nothing wrongly")
    func lost() throws {
        var run = RecordedRun([0, 1 << 40])
        run.note(0, at: 10, .entrySent, peer: 1, launch: 90)
        run.note(0, at: 5000, .entrySent, peer: 1, launch: 90)
        run.note(1, at: 5100, .entryReceived, peer: 0, launch: 90)
        run.note(0, at: 6000, .entrySent, peer: 1, launch: 91)
        run.send(1, 0, at: 20, taking: 100)
        let alignment = ClockAlignment(run.files)
        let most = try #require(claimed(alignment, 1))
        #expect(run.error(of: 1, alignment) <= most)
    }
}
