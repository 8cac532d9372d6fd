import Glibc
import PCCL
import PCCLBase
import PCCLRecorder
import Testing

@Suite("The flight recorder of a communicator")
struct RecorderTests {
    private static func folder() throws -> String {
        var template = Array("/tmp/pccl-recorder.XXXXXX".utf8CString)
        return String(cString: try #require(mkdtemp(&template)))
    }

    @Test(
        "a dump has the calls of a peer, its operations with entries, pieces and verdicts of all members, and the links"
    )
    func operation() throws {
        let world = try LoopbackWorld(3, algorithm: .direct)
        defer { world.destroy() }
        try onThreads(world.peers) { index, peer in
            var values = [Float](repeating: Float(index), count: 300_000)
            _ = try values.withUnsafeMutableBufferPointer { try peer.allReduce($0, .sum, tag: 77) }
        }
        let folder = try RecorderTests.folder()
        defer { rmdir(folder) }
        var files: [TraceFile] = []
        for (index, peer) in world.peers.enumerated() {
            let path = "\(folder)/\(index).trace"
            try peer.dumpRecorder(to: path)
            defer { unlink(path) }
            files.append(try TraceFile(path: path))
        }
        #expect(Set(files.map(\.peer)).count == 3 && Set(files.map(\.run)).count == 1 && files[0].run != 0)
        #expect(files.allSatisfy { $0.release == Release.version && $0.lost == 0 && !$0.boot.isEmpty })
        for file in files {
            let others = Set(files.map(\.peer)).subtracting([file.peer])
            let mine = file.events.filter { $0.tag == PCCLBase.Tag(77) }
            func peers(_ kind: TraceEvent.Kind) -> Set<PeerID> {
                Set(mine.filter { $0.kind == kind }.compactMap(\.peer))
            }
            for kind in [
                .entrySent, .entryReceived, .firstInputReceived, .lastInputReceived, .firstInputSent, .lastInputSent,
                .firstResultReceived, .lastResultReceived, .firstResultSent, .lastResultSent, .preparedSent,
                .preparedReceived,
            ] as [TraceEvent.Kind] {
                #expect(peers(kind) == others, "\(kind) of \(file.peer)")
                #expect(mine.count { $0.kind == kind } == others.count, "\(kind) of \(file.peer), once each")
            }
            func time(_ kind: TraceEvent.Kind) throws -> UInt64 {
                try #require(mine.first { $0.kind == kind }, "\(kind) of \(file.peer)").nanoseconds
            }
            let order = try [.launched, .started, .entrySent, .resultWhole, .preparedSent, .finished, .completed].map(
                time)
            #expect(order == order.sorted(), "\(file.peer): \(order)")
            #expect(try time(.waitBegan) <= time(.waitEnded) && time(.completed) <= time(.waitEnded))
            // A third of the elements from each, as a contribution and as a result.
            let results = mine.filter { $0.kind == .lastResultReceived }.map(\.value)
            #expect(results == [400_000, 400_000])
            let ours = try #require(mine.first { $0.kind == .started })
            #expect(TraceDescriptor(word: ours.value).text == "all-reduce, 300000 × float32, sum, direct")
            #expect(file.events.count { $0.kind == .callBegan } == file.events.count { $0.kind == .callEnded })
            #expect(file.events.contains { $0.kind == .linkUp && $0.peer.map(others.contains) == true })
            #expect(file.events.contains { $0.kind == .view } && file.events.contains { $0.kind == .masterConnected })
        }
        // What one has sent, the other has received under the same number.
        for file in files {
            for sent in file.events where sent.kind == .entrySent {
                let there = try #require(files.first { $0.peer == sent.peer })
                #expect(
                    there.events.contains {
                        $0.kind == .entryReceived && $0.peer == file.peer && $0.launch == sent.launch
                            && $0.tag == sent.tag && $0.nanoseconds >= sent.nanoseconds
                    })
            }
        }
    }

    @Test("a file that cannot be written is an error, and a communicator that has gone still has its events")
    func edges() throws {
        let world = try LoopbackWorld(2)
        #expect(throws: PCCLError.self) { try world.peers[0].dumpRecorder(to: "/nowhere/at/all.trace") }
        world.destroy()
        let folder = try RecorderTests.folder()
        defer { rmdir(folder) }
        let path = "\(folder)/gone.trace"
        try world.peers[0].dumpRecorder(to: path)
        defer { unlink(path) }
        #expect(try TraceFile(path: path).events.contains { $0.kind == .departed })
    }
}
