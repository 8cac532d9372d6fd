import Glibc
import PCCLBase
import Testing

@testable import PCCLRecorder

/// Testing has a `Tag` too.
typealias Tag = PCCLBase.Tag

@Suite("A ring of events")
struct RecorderTests {
    @Test("what was recorded comes out in order, with its time")
    func inOrder() throws {
        let recorder = try #require(Recorder(bytes: 1 << 10))
        let before = Recorder.now
        recorder.record(.entrySent, peer: PeerID(7), launch: LaunchNumber(.max), tag: Tag(.max), value: .max)
        recorder.record(.halted)
        let after = Recorder.now
        let events = recorder.events()
        #expect(events.map(\.kind) == [.entrySent, .halted])
        #expect(events.allSatisfy { (before...after).contains($0.nanoseconds) })
        #expect(events[0].peer == PeerID(7) && events[0].launch == LaunchNumber(.max))
        #expect(events[0].tag == Tag(.max) && events[0].value == .max)
        #expect(events[1].peer == nil && events[1].launch == LaunchNumber(0) && events[1].tag == Tag(0))
    }

    @Test("a ring that is full keeps the last ones, and counts all")
    func wraps() throws {
        let recorder = try #require(Recorder(bytes: 1 << 10))
        #expect(recorder.capacity == 32)
        for number in 0..<1000 { recorder.record(.started, value: UInt64(number)) }
        #expect(recorder.events().map(\.value) == Array(968..<1000))
        #expect(recorder.count == 1000)
    }

    @Test("sizes: a power of two of events, none, and no more than 8 MiB")
    func sizes() {
        #expect(Recorder(bytes: 0) == nil && Recorder(bytes: 31) == nil)
        #expect(Recorder(bytes: 32)?.capacity == 1)
        #expect(Recorder(bytes: 100 << 10)?.capacity == 2048)
        #expect(Recorder(bytes: .max)?.capacity == 8 << 20 / 32)
    }

    @Test("a peer's id beyond all that there will be is shown as the greatest")
    func largePeers() throws {
        let recorder = try #require(Recorder(bytes: 32))
        recorder.record(.linkUp, peer: PeerID(.max))
        #expect(recorder.events().first?.peer == PeerID(0xff_ffff))
    }

    /// What one event says must all be of the same writer and number.
    private static func check(_ events: [TraceEvent], writers: Int) {
        for event in events {
            let writer = event.value >> 32
            let number = event.value & 0xffff_ffff
            if writer >= writers || event.tag.value != number &* 31 || event.launch.value != UInt32(number) {
                Issue.record("a torn event: \(event)")
                return
            }
        }
    }

    @Test(
        "threads that write at once, and one that reads meanwhile, see whole events; none is lost that was not overwritten"
    )
    func concurrent() async throws {
        let (writers, each) = (4, 20_000)
        let recorder = try #require(Recorder(bytes: writers * each * TraceEvent.byteCount * 2))
        await withTaskGroup(of: Void.self) { group in
            for writer in 0..<writers {
                group.addTask {
                    for number in 0..<UInt64(each) {
                        recorder.record(
                            .firstInputSent, launch: LaunchNumber(UInt32(number)), tag: Tag(number &* 31),
                            value: UInt64(writer) << 32 | number)
                    }
                }
            }
            group.addTask { for _ in 0..<20 { RecorderTests.check(recorder.events(), writers: writers) } }
        }
        let events = recorder.events()
        #expect(events.count == writers * each)
        RecorderTests.check(events, writers: writers)
        #expect(Set(events.map(\.value)).count == writers * each)
    }

    @Test("a ring that is overwritten all the time is read whole, too")
    func overwritten() async throws {
        // One slot, so that what is read is being written nearly always.
        let recorder = try #require(Recorder(bytes: TraceEvent.byteCount))
        await withTaskGroup(of: Void.self) { group in
            group.addTask {
                for number in 0..<UInt64(200_000) {
                    recorder.record(
                        .firstInputSent, launch: LaunchNumber(UInt32(number)), tag: Tag(number &* 31), value: number)
                }
            }
            group.addTask { for _ in 0..<200_000 { RecorderTests.check(recorder.events(), writers: 1) } }
        }
    }
}
