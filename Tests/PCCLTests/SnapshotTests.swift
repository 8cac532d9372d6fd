import Glibc
import PCCL
import PCCLBase
import PCCLTransport
import Testing

/// What one peer holds, and where its snapshots are.
private final class Replica: @unchecked Sendable {
    let weights: Buffer<Float>
    let directory: String
    var state: SharedState

    init(_ content: Int, revision: UInt64 = 0) {
        weights = Buffer(300_000) { Float($0 + content) }
        var template = Array("/tmp/pccl-replica.XXXXXX".utf8CString)
        precondition(mkdtemp(&template) != nil, "no folder for a test")
        directory = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
        state = SharedState(revision: revision, [.init("weights", weights.elements, shape: [300, 1000])])
    }

    deinit {
        for revision in 0..<200 { unlink(path(UInt64(revision))) }
        rmdir(directory)
    }

    func path(_ revision: UInt64) -> String {
        let digits = String(revision)
        return "\(directory)/snapshot-\(String(repeating: "0", count: 20 - digits.count))\(digits).safetensors"
    }

    func fill(_ content: Int) {
        for index in weights.elements.indices { weights.elements[index] = Float(index + content) }
    }

    func holds(_ content: Int) -> Bool {
        weights.elements.indices.allSatisfy { weights.elements[$0] == Float($0 + content) }
    }
}

@Suite("Snapshots of a shared state", .timeLimit(.minutes(2)))
struct SnapshotTests {
    private func code(_ body: () throws -> Void) -> PCCLError.Code? {
        do {
            try body()
            return nil
        } catch {
            return (error as? PCCLError)?.code
        }
    }

    @Test("what was there at the call is what is loaded, with its revision", arguments: [true, false])
    func roundTrip(inBackground: Bool) async throws {
        let replica = Replica(1, revision: 41)
        let snapshot = try replica.state.save(to: replica.directory, inBackground: inBackground)
        #expect(inBackground || snapshot.isDone)
        replica.fill(2)
        try await snapshot.wait()
        try blockingWait(snapshot)
        #expect(snapshot.isDone && snapshot.path == replica.path(41) && snapshot.revision == 41)
        replica.state.revision = 0
        replica.state.entries[0].isUnchanged = true
        try replica.state.load(from: replica.directory)
        #expect(replica.state.revision == 41 && replica.holds(1) && !replica.state.entries[0].isUnchanged)
        replica.fill(3)
        try replica.state.load(from: replica.path(41))
        #expect(replica.holds(1))
    }

    private func blockingWait(_ snapshot: Snapshot) throws { try snapshot.wait() }

    @Test("a damaged snapshot is passed over; alone it is no snapshot, and the error says where the damage is")
    func damage() throws {
        let replica = Replica(1, revision: 1)
        try blockingWait(try replica.state.save(to: replica.directory))
        replica.fill(2)
        replica.state.revision = 2
        try blockingWait(try replica.state.save(to: replica.directory, keep: 2))
        let file = open(replica.path(2), O_WRONLY)
        #expect(pwrite(file, "damage", 6, lseek(file, -6, SEEK_END)) == 6)
        close(file)
        try replica.state.load(from: replica.directory)
        #expect(replica.state.revision == 1 && replica.holds(1))
        do {
            try replica.state.load(from: replica.path(2))
            Issue.record("it was loaded")
        } catch {
            #expect(error.code == .noSharedStateAvailable && error.reason.contains("chunk 1 of the 2 of \"weights\""))
        }
        #expect(replica.state.revision == 1)
    }

    @Test("what cannot be is refused, and says what kind of failure it is")
    func refusals() throws {
        let replica = Replica(1)
        #expect(code { try replica.state.load(from: replica.directory) } == .noSharedStateAvailable)
        #expect(code { try replica.state.load(from: "/nonexistent") } == .noSharedStateAvailable)
        #expect(code { try replica.state.save(to: "/nonexistent") } == .invalidArgument)
        #expect(code { try replica.state.save(to: replica.directory, keep: 0) } == .invalidArgument)
        replica.state.entries[0].shape = [300, 999]
        #expect(code { try replica.state.save(to: replica.directory) } == .invalidArgument)
        replica.state.entries[0].shape = [-300, -1000]
        #expect(code { try replica.state.save(to: replica.directory) } == .invalidArgument)
        replica.state.entries[0].shape = nil
        try blockingWait(try replica.state.save(to: replica.directory))
        replica.state.entries[0].count -= 1
        #expect(code { try replica.state.load(from: replica.directory) } == .invalidArgument)
    }

    @Test("after the loss of all, a new run goes on from the newest snapshot that any peer has")
    func totalLoss() throws {
        // The first peer could not save the last time, the second could, and the others had only begun.
        let replicas = [Replica(90, revision: 90), Replica(100, revision: 100), Replica(90, revision: 90), Replica(0)]
        for replica in replicas.dropLast() { try blockingWait(try replica.state.save(to: replica.directory)) }

        let world = try LoopbackWorld(4)
        defer { world.destroy() }
        for replica in replicas { replica.fill(-1) }
        try onThreads(Array(replicas.indices)) { [peers = world.peers] (_, index: Int) in
            let replica = replicas[index]
            // As docs/snapshots.md says.
            var newest: [UInt64] = [0]
            do {
                try replica.state.load(from: replica.directory)
                newest = [replica.state.revision + 1]
            } catch let error as PCCLError where error.code == .noSharedStateAvailable {
                replica.state.revision = 0
            }
            let own = newest[0]
            try newest.withUnsafeMutableBufferPointer { buffer in
                _ = try peers[index].allReduce(buffer, .maximum, tag: 1)
            }
            if newest[0] > 0 {
                try peers[index].synchronize(&replica.state, own == newest[0] ? .sendOnly : .receiveOnly)
            }
        }
        for replica in replicas { #expect(replica.state.revision == 100 && replica.holds(100)) }
    }
}
