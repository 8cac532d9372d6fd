import Glibc
import PCCLBase
import PCCLTestSupport
import PCCLWire
import Testing

@testable import PCCLMembership
@testable import PCCLSession

/// A folder for one test, gone with everything in it when the test ends.
private final class Folder {
    let path: String

    init() throws {
        var template = Array("/tmp/pccl-journal-XXXXXX".utf8CString)
        guard mkdtemp(&template) != nil else { throw Stuck(waitingFor: "a temporary folder") }
        path = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }

    deinit { Folder.remove(path) }

    private static func remove(_ path: String) {
        if let folder = opendir(path) {
            while let entry = readdir(folder) {
                let name = withUnsafePointer(to: entry.pointee.d_name) {
                    $0.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
                }
                if name != ".", name != ".." { remove(path + "/" + name) }
            }
            closedir(folder)
        }
        #expect(Glibc.remove(path) == 0)
    }

    subscript(name: String) -> String { path + "/" + name }

    func bytes(_ name: String) throws -> [UInt8] {
        let file = try #require(fopen(self[name], "r"))
        defer { fclose(file) }
        var bytes = [UInt8](repeating: 0, count: 8 << 20)
        bytes.removeLast(bytes.count - fread(&bytes, 1, bytes.count, file))
        return bytes
    }

    func put(_ bytes: [UInt8], _ name: String) throws {
        let file = try #require(fopen(self[name], "w"))
        defer { fclose(file) }
        #expect(fwrite(bytes, 1, bytes.count, file) == bytes.count)
    }

    func permissions(_ name: String) -> mode_t {
        var status = stat()
        return stat(self[name], &status) == 0 ? status.st_mode & 0o777 : 0
    }
}

@Suite("A master's journal")
struct MasterJournalTests {
    /// States of different lengths, told apart by their next id.
    private func state(_ nextPeer: UInt64, members: Int = 1) -> MasterState {
        let peers = (1...UInt64(members)).map {
            MasterState.Peer(
                secret: PeerSecret(high: $0, low: nextPeer),
                member: Member(id: PeerID($0), addresses: [.loopback(port: 48150)], stripes: 1))
        }
        return MasterState(
            run: RunID(high: 1, low: 2), nextPeer: nextPeer,
            groups: [
                MasterState.Group(
                    id: GroupID(0), epoch: Epoch(UInt32(nextPeer)), members: peers, arrangement: .plain,
                    outcome: GroupOutcome(kind: .view, members: peers.map(\.member)), hasLost: false)
            ])
    }

    /// What is in the journal now. It has to be free.
    private func restored(_ folder: Folder) throws -> MasterState? { try MasterJournal(at: folder["journal"]).restored }

    private func problem(_ path: String) -> String {
        do throws(MasterJournal.Problem) {
            let journal = try MasterJournal(at: path)
            return "none, with \(String(describing: journal.restored))"
        } catch {
            return error.description
        }
    }

    /// A journal of these states, and where each record begins in the file.
    private func written(_ states: [MasterState], _ folder: Folder) throws -> (bytes: [UInt8], starts: [Int]) {
        let journal = try MasterJournal(at: folder["journal"])
        var starts: [Int] = []
        for state in states {
            starts.append(try folder.bytes("journal").count)
            journal.append(state)
        }
        return (try folder.bytes("journal"), starts)
    }

    @Test("the last state is restored; a new journal has none")
    func roundTrip() throws {
        let folder = try Folder()
        #expect(try MasterJournal(at: folder["journal"]).restored == nil)
        #expect(try restored(folder) == nil, "opened before, and nothing came")
        _ = try written([state(1), state(2, members: 9), state(3)], folder)
        #expect(try restored(folder) == state(3))
        #expect(try restored(folder) == state(3), "reading it changes nothing")
    }

    @Test("its folders are made, and it is for its owner alone")
    func permissions() throws {
        let folder = try Folder()
        try MasterJournal(at: folder["deep/down/journal"]).append(state(1))
        #expect(folder.permissions("deep/down/journal") == 0o600)
        #expect(folder.permissions("deep") == 0o700)
    }

    @Test("a last record that is cut short, at whatever length, is forgotten, and the next takes its place")
    func tornTail() throws {
        let folder = try Folder()
        let (bytes, starts) = try written([state(1), state(2)], folder)
        for count in starts[1]..<bytes.count {
            try folder.put(Array(bytes[..<count]), "journal")
            let journal = try MasterJournal(at: folder["journal"])
            #expect(journal.restored == state(1), "cut to \(count) of \(bytes.count) bytes")
            journal.append(state(3))
            #expect(try folder.bytes("journal").starts(with: bytes[..<starts[1]]))
        }
        #expect(try restored(folder) == state(3))
    }

    @Test("a crash before the first record leaves a new journal, however short it is")
    func tornBeginning() throws {
        let folder = try Folder()
        let (bytes, starts) = try written([state(1)], folder)
        for count in 0..<starts[0] + 12 {
            try folder.put(Array(bytes[..<count]), "journal")
            #expect(try restored(folder) == nil)
            #expect(try folder.bytes("journal") == Array(bytes[..<starts[0]]))
        }
    }

    @Test("a bit that flips in the last record ends it, as if it had been cut short")
    func flippedAtTheEnd() throws {
        let folder = try Folder()
        let (bytes, starts) = try written([state(1), state(2)], folder)
        for index in starts[1]..<bytes.count {
            var damaged = bytes
            damaged[index] ^= 1 << (index % 8)
            try folder.put(damaged, "journal")
            #expect(try restored(folder) == state(1), "byte \(index)")
        }
    }

    @Test("a bit that flips before the last record is damage: the file is refused, and left as it is")
    func flippedInTheMiddle() throws {
        let folder = try Folder()
        let (bytes, starts) = try written([state(1), state(2), state(3)], folder)
        for index in starts[0]..<starts[2] {
            var damaged = bytes
            damaged[index] ^= 1 << (index % 8)
            try folder.put(damaged, "journal")
            let text = problem(folder["journal"])
            let start = index < starts[1] ? starts[0] : starts[1]
            #expect(text.contains("is damaged at byte \(start)"), "byte \(index): \(text)")
            #expect(try folder.bytes("journal") == damaged)
        }
    }

    @Test("another version, another file, and a record of another meaning are refused, and left as they are")
    func foreign() throws {
        let folder = try Folder()
        let (bytes, starts) = try written([state(1)], folder)
        var newer = bytes
        newer[starts[0] - 1] += 1
        // A right checksum, and one byte too many for a state.
        let payload = state(1).bytes + [0]
        var writer = ByteWriter()
        writer.write(UInt32(payload.count))
        writer.write(MasterJournal.checksum(payload[...]))
        let unreadable = Array(bytes[..<starts[0]]) + writer.bytes + payload
        let files: [(bytes: [UInt8], reason: String)] = [
            (newer, "a journal of another release"), (Array(newer[..<starts[0]]), "a journal of another release"),
            (Array("a shopping list\n".utf8), "is not a journal"), (Array("x".utf8), "is not a journal"),
            (unreadable, "holds what this release cannot read"),
        ]
        for (bytes, reason) in files {
            try folder.put(bytes, "journal")
            let text = problem(folder["journal"])
            #expect(text.contains(reason) && text.contains(folder["journal"]), "\(text)")
            #expect(try folder.bytes("journal") == bytes)
        }
    }

    @Test("what is no regular file, or cannot be made, is refused by name")
    func noFile() throws {
        let folder = try Folder()
        #expect(problem(folder.path).contains(folder.path))
        #expect(problem("/dev/full").contains("/dev/full is not a regular file"))
        try folder.put([], "file")
        #expect(problem(folder["file/journal"]).contains(folder["file/journal"]))
    }

    @Test("two masters cannot have it; when the first lets go of it, the next gets it")
    func locked() throws {
        let folder = try Folder()
        do {
            let first = try MasterJournal(at: folder["journal"])
            first.append(state(1))
            #expect(problem(folder["journal"]).contains("another master has the journal"))
            first.append(state(2))
        }
        #expect(try restored(folder) == state(2))
    }

    @Test("a journal that has grown is replaced by its last record, and stays locked and private")
    func compaction() throws {
        let folder = try Folder()
        // A compaction that was interrupted left this behind; it is in nobody's way.
        try folder.put(Array("half a record".utf8), "journal.new")
        do {
            let journal = try MasterJournal(at: folder["journal"])
            var (number, size, before) = (UInt64(0), 0, 0)
            // Each takes some 40 KiB.
            while size >= before, number < 1000 {
                number += 1
                journal.append(state(number, members: 700))
                (before, size) = (size, try folder.bytes("journal").count)
            }
            #expect(size == 16 + state(number, members: 700).bytes.count, "this record alone")
            #expect(before > 1 << 20 && before < 2 << 20)
            #expect(problem(folder["journal"]).contains("another master has"))
            #expect(folder.permissions("journal") == 0o600)
            #expect(folder.permissions("journal.new") == 0, "it was moved into place")
            try folder.put(try folder.bytes("journal"), "copy")
            #expect(try MasterJournal(at: folder["copy"]).restored == state(number, members: 700))
            journal.append(state(2000))
        }
        #expect(try restored(folder) == state(2000))
    }

    /// Swift does not see `memfd_create`, nor the names of its flags: this one is MFD_ALLOW_SEALING.
    private func memoryFile() throws -> CInt {
        typealias Create = @convention(c) (UnsafePointer<CChar>, CUnsignedInt) -> CInt
        let symbol = try #require(dlsym(nil, "memfd_create"))
        let file = unsafeBitCast(symbol, to: Create.self)("journal", 2)
        guard file >= 0 else { throw Stuck(waitingFor: "a file in memory") }
        return file
    }

    /// A file that may not grow stands for a disk that is full.
    @Test("a journal that cannot be written is kept as it was, and ends nothing")
    func full() throws {
        let file = try memoryFile()
        defer { close(file) }
        let path = "/proc/self/fd/\(file)"
        do {
            let journal = try MasterJournal(at: path)
            journal.append(state(1))
            let size = lseek(file, 0, SEEK_END)
            // F_ADD_SEALS, F_SEAL_GROW
            let isSealed = fcntl(file, 1033, 4) == 0
            try #require(isSealed)
            for number in [2, 3] as [UInt64] { journal.append(state(number)) }
            #expect(lseek(file, 0, SEEK_END) == size)
        }
        #expect(try MasterJournal(at: path).restored == state(1))
    }
}

@Suite("A master that is closed and started again", .timeLimit(.minutes(3)))
struct RestartedMasterSessionTests {
    @Test("keeps run and members: no call fails and reductions go on", arguments: [true, false])
    func restarts(hasJournal: Bool) throws {
        let folder = try Folder()
        func journal() throws -> MasterJournal? { hasJournal ? try MasterJournal(at: folder["journal"]) : nil }
        var run = try Run(grace: .seconds(90), journal: try journal())
        let peers = try run.members(2)
        let epoch = try #require(peers[0].currentView?.epoch)
        let asked = peers[0].call(.arePeersPending)
        let memories = (0..<2).map { Memory(int32: Int32($0), count: 100) }
        let early = peers[0].reduce(1, memories[0])
        run.master.close()
        let late = peers[1].reduce(1, memories[1])
        for completion in [early, late] { #expect(try completion.value().outcome == .success(worldSize: 2)) }
        for memory in memories { #expect(memory.holds(int32: 1, factor: 2)) }

        try run.restartMaster(journal: try journal())
        #expect(try peers[1].ask(.arePeersPending) == .pending(false))
        #expect(try asked.value() == .pending(false))
        for peer in peers { #expect(peer.currentView?.epoch == epoch && peer.currentView?.worldSize == 2) }

        // And it is a master as good as the first.
        let all = peers + [try run.peer()]
        _ = try together(3) { try all[$0].gather(3) }
        #expect(all.allSatisfy { $0.currentView?.worldSize == 3 } && all.allSatisfy { $0.currentView?.epoch != epoch })
        let results = try together(3) { try all[$0].reduce(2, Memory(int32: 1, count: 10)).value().outcome }
        #expect(results.allSatisfy { $0 == .success(worldSize: 3) })
        for peer in all { peer.close() }
        run.master.close()
    }

    @Test("a master that is closed lets go of its journal, though somebody still holds on to it")
    func journalIsFree() throws {
        let folder = try Folder()
        let master = try MasterSession(
            listen: .loopback(port: 0), timeouts: .standard, journal: try MasterJournal(at: folder["journal"]))
        #expect(throws: MasterJournal.Problem.self) { _ = try MasterJournal(at: folder["journal"]) }
        master.close()
        _ = try MasterJournal(at: folder["journal"])
        withExtendedLifetime(master) {}
    }
}
