import Glibc
import PCCLBase
import Testing

@testable import PCCLRecorder

@Suite("A dump of a recorder")
struct TraceFileTests {
    static let sample = TraceFile(
        peer: PeerID(3), group: GroupID(1), run: 0xc2e3_8c7f, process: 4711, boot: "a-b-c", host: "höst",
        release: "1.2.3", reason: "a member was lost",
        clocks: TraceFile.Clocks(monotonicNanoseconds: 5, wallNanoseconds: .max), lost: 9,
        events: TraceEvent.Kind.allCases.enumerated().map { index, kind in
            TraceEvent(
                nanoseconds: UInt64(index / 2), kind: kind, peer: index % 3 == 0 ? nil : PeerID(UInt64(index)),
                launch: LaunchNumber(UInt32(index)), tag: Tag(.max), value: UInt64(index) << 40)
        })

    private func problem(_ bytes: [UInt8]) -> TraceFileError? {
        do throws(TraceFileError) {
            _ = try TraceFile(bytes)
            return nil
        } catch { return error }
    }

    @Test("is read as it was written")
    func thereAndBack() throws {
        #expect(try TraceFile(TraceFileTests.sample.bytes) == TraceFileTests.sample)
    }

    @Test("cut short at any byte, it is refused, and says so")
    func cutShort() {
        let bytes = TraceFileTests.sample.bytes
        for count in 0..<bytes.count {
            let problem = problem(Array(bytes.prefix(count)))
            #expect(problem != nil, "\(count) of \(bytes.count) bytes passed")
            if count < TraceFile.magic.count { #expect(problem == .foreign) }
        }
        #expect(problem(bytes + [0]) != nil)
    }

    @Test("with any bit changed, it is refused")
    func flipped() {
        let bytes = TraceFileTests.sample.bytes
        for index in bytes.indices {
            var changed = bytes
            changed[index] ^= 1 << UInt8(index % 8)
            #expect(problem(changed) != nil, "byte \(index)")
        }
    }

    @Test("what is none, or of another format, is named")
    func foreign() throws {
        #expect(problem(Array("not a dump at all, but longer than its head".utf8)) == .foreign)
        var other = TraceFileTests.sample.bytes
        other[8] = 9
        #expect(problem(other) == .otherVersion(9))
        // A number of events that would take all memory.
        var lying = TraceFile(peer: PeerID(1), clocks: .init(monotonicNanoseconds: 0, wallNanoseconds: 0), events: [])
            .bytes
        for index in lying.count - 12..<lying.count - 8 { lying[index] = 0xff }
        guard case .damaged(let text)? = problem(lying) else {
            Issue.record("a lie passed")
            return
        }
        #expect(text.contains("events"))
    }

    @Test("events that go back in time are refused")
    func backwards() {
        var file = TraceFileTests.sample
        file.events.reverse()
        #expect(problem(file.bytes) == .damaged("its events are not in the order of their times"))
    }

    @Test("lies under its name as a whole, and nothing is left beside it")
    func written() throws {
        var template = Array("/tmp/pccl-trace.XXXXXX".utf8CString)
        let folder = String(cString: try #require(mkdtemp(&template)))
        defer { rmdir(folder) }
        let path = "\(folder)/a.trace"
        try TraceFileTests.sample.write(to: path)
        try TraceFileTests.sample.write(to: path)
        defer { unlink(path) }
        #expect(try TraceFile(path: path) == TraceFileTests.sample)
        #expect(throws: TraceFileError.self) { try TraceFileTests.sample.write(to: "\(folder)/none/a.trace") }
        #expect(throws: TraceFileError.self) { try TraceFile(path: folder) }
        let listing = try #require(opendir(folder))
        defer { closedir(listing) }
        var count = 0
        while readdir(listing) != nil { count += 1 }
        #expect(count == 3, "there is more than the file, . and ..")
    }

    @Test("of a recorder, it says how many events are gone")
    func ofRecorder() throws {
        let recorder = try #require(Recorder(bytes: 64))
        for _ in 0..<5 { recorder.record(.halted) }
        let file = TraceFile(of: recorder, peer: PeerID(1), group: GroupID(0), run: 2, release: "r", reason: "asked")
        #expect(file.lost == 3 && file.events.count == 2 && !file.host.isEmpty)
        #expect(file.clocks.monotonicNanoseconds >= file.events[1].nanoseconds)
    }
}
