import Glibc
import PCCLBase
import PCCLEngine
import PCCLMembership
import PCCLSession
import PCCLTestSupport
import PCCLTransport
import PCCLWire
import Testing

@Suite("A peer's session", .timeLimit(.minutes(3)))
struct PeerSessionTests {
    private func reason(_ answer: CallAnswer) -> String {
        switch answer {
        case .failed(.masterUnreachable(let reason)), .failed(.turnedAway(let reason)),
            .failed(.masterLost(let reason)), .failed(.refused(let reason)):
            reason
        default: "\(answer)"
        }
    }

    @Test("all addresses of a master are tried, and the reason names each that failed")
    func severalAddresses() throws {
        let run = try Run()
        let closed = [try Socket.freePort(), try Socket.freePort()].map { SocketAddress.loopback(port: $0) }
        let lost = try Run.peer(closed, run.timeouts)
        let text = reason(try lost.ask(.connect))
        #expect(closed.allSatisfy { text.contains("\($0)") } && text.contains("refused"))
        let found = try Run.peer(closed + [.loopback(port: run.master.address.port)], run.timeouts)
        #expect(try found.ask(.connect) == .done)
        #expect(try found.ask(.connect) == .failed(.alreadyConnected))
        // After a failure the same peer may try again.
        #expect(reason(try lost.ask(.connect)).contains("refused"))
        for peer in [lost, found] { peer.close() }
        run.master.close()
    }

    static let answers: [(bytes: [UInt8], reason: String)] = [
        (Array("HTTP/1.1 400 Bad Request\r\n\r\n".utf8), "HTTP/1.1 400 Bad"),
        (Preamble(version: 42, role: .control).bytes, "protocol version 42"),
        (Preamble(role: .stripe).bytes, "a peer answered where a master was expected"),
        ([], "is it a pccl-master?"),
    ]

    @Test("whatever answers in place of a master, the reason says what it was, and where", arguments: answers)
    func noMaster(answer: (bytes: [UInt8], reason: String)) throws {
        let listener = try Socket.listening(at: .loopback(port: 0))
        let port = listener.port
        makeBlocking(listener.descriptor)
        let peer = try Run.peer([.loopback(port: port)], Timeouts(deadTime: .milliseconds(300)))
        let asked = peer.call(.connect)
        let raw = RawSocket(owning: accept(listener.descriptor, nil, nil))
        try raw.write(answer.bytes)
        let text = reason(try asked.value())
        #expect(text.contains(answer.reason) && text.contains("127.0.0.1:\(port)"))
        peer.close()
    }

    @Test("a master that greets and then is silent is lost after the dead time")
    func silentMaster() throws {
        let listener = try Socket.listening(at: .loopback(port: 0))
        makeBlocking(listener.descriptor)
        let peer = try Run.peer([.loopback(port: listener.port)], Timeouts(deadTime: .milliseconds(300)))
        let asked = peer.call(.connect)
        let raw = RawSocket(owning: accept(listener.descriptor, nil, nil))
        try raw.write(Preamble(role: .control).bytes)
        guard case .failed(.masterUnreachable) = try asked.value() else {
            Issue.record("it did not give up")
            return
        }
        peer.close()
    }

    @Test("what is not connected says so, and what is closed says so")
    func states() throws {
        let run = try Run()
        let peer = try run.peer()
        #expect(try peer.ask(.updateTopology) == .failed(.notConnected))
        #expect(try peer.ask(.arePeersPending) == .failed(.notConnected))
        #expect(try peer.reduce(1, Memory(int32: 0, count: 1)).value().outcome == .notConnected)
        #expect(try peer.ask(.connect) == .done)
        #expect(try peer.reduce(1, Memory(int32: 0, count: 1)).value().outcome == .tooFewPeers)
        peer.close()
        peer.close()
        for call in [Call.connect, .updateTopology, .arePeersPending] {
            #expect(try peer.ask(call) == .failed(.destroyed))
        }
        #expect(try peer.reduce(1, Memory(int32: 0, count: 1)).value().outcome == .destroyed)
        run.master.close()
    }

    @Test("calls of many threads that race with the close are all answered")
    func callsRaceWithClose() throws {
        let run = try Run()
        for _ in 0..<15 {
            let peers = try run.members(2)
            let callers = (0..<3).map { caller in
                InThread {
                    var tag = UInt64(caller) << 32
                    while true {
                        tag += 1
                        let memory = Memory(int32: 1, count: 100)
                        let operation = peers[0].reduce(tag, memory)
                        let call = peers[0].call(.arePeersPending)
                        _ = try operation.value()
                        // The memory is ours again: the loop's thread must not touch it any more.
                        memory.fill(9)
                        if try call.value() == .failed(.destroyed) { return }
                    }
                }
            }
            let closers = peers.map { peer in InThread { peer.close() } }
            for thread in closers + callers { try thread.result() }
        }
        run.master.close()
    }

    @Test("a member that is closed in mid-operation is a loss: the input is whole, the view new, and the retry right")
    func lossInMidOperation() throws {
        let run = try Run()
        let count = 200_000
        for isEntered in [true, false] {
            let peers = try run.members(3, stripes: 2)
            let memories = (0..<3).map { Memory(int32: Int32($0), count: count) }
            let first = (0..<2).map { peers[$0].reduce(1, memories[$0]) }
            if isEntered { _ = peers[2].reduce(1, memories[2]) }
            peers[2].close()
            let outcomes = try first.map { try $0.value().outcome }
            if isEntered, outcomes[0] == .success(worldSize: 3) {
                // It was quick enough; then it was for both.
                #expect(outcomes[1] == .success(worldSize: 3))
                for memory in memories[..<2] { #expect(memory.holds(int32: 3, factor: 3)) }
            } else if outcomes[0] == .success(worldSize: 2) {
                // It had not entered: the operation began again without it.
                #expect(outcomes[1] == .success(worldSize: 2))
                for memory in memories[..<2] { #expect(memory.holds(int32: 1, factor: 2)) }
            } else {
                #expect(outcomes == [.memberLost, .memberLost])
                for i in 0..<2 { #expect(memories[i].holds(int32: Int32(i), factor: 1)) }
                #expect(peers[0].currentView?.worldSize == 2 && peers[1].currentView?.worldSize == 2)
                let again = (0..<2).map { peers[$0].reduce(1, memories[$0]) }
                for completion in again { #expect(try completion.value().outcome == .success(worldSize: 2)) }
                for memory in memories[..<2] { #expect(memory.holds(int32: 1, factor: 2)) }
            }
            for peer in peers { peer.close() }
        }
        run.master.close()
    }

    @Test("members that wait for each other in different calls are told, and go on after it")
    func misuse() throws {
        let run = try Run(deadTime: .milliseconds(600))
        let peers = try run.members(2)
        let memory = Memory(int32: 5, count: 10)
        let operation = peers[0].reduce(1, memory)
        let joining = peers[1].call(.updateTopology)
        guard case .misuse = try operation.value().outcome, case .failed(.refused) = try joining.value() else {
            Issue.record("they were not told")
            return
        }
        #expect(memory.holds(int32: 5, factor: 1))
        _ = try together(2) { try peers[$0].reduce(1, Memory(int32: 1, count: 10)).value() }
        #expect(try together(2) { try peers[$0].ask(.updateTopology) } == [.done, .done])
        for peer in peers { peer.close() }
        run.master.close()
    }

    @Test("newcomers join in mid-stream, view after view, and everybody reduces in the same one")
    func growth() throws {
        let run = try Run()
        var peers = try run.members(1)
        for size in 2...5 {
            peers.append(try run.peer(stripes: UInt16(size)))
            let all = peers
            _ = try together(size) { try all[$0].gather(size) }
            #expect(Set(all.compactMap { $0.currentView?.rank }) == Set(0..<size))
            let memories = (0..<size).map { _ in Memory(int32: 1, count: 1000) }
            let outcomes = try together(size) { try all[$0].reduce(3, memories[$0]).value().outcome }
            #expect(outcomes.allSatisfy { $0 == .success(worldSize: size) })
            #expect(memories.allSatisfy { $0.holds(int32: Int32(size), factor: Int32(size)) })
        }
        for peer in peers { peer.close() }
        run.master.close()
    }

    @Test("the master goes while calls wait: each is answered, and collectives of the view go on")
    func masterGoes() throws {
        let run = try Run()
        let peers = try run.members(2)
        let newcomer = try run.peer()
        let connecting = newcomer.call(.connect)
        let asking = peers[0].call(.arePeersPending)
        run.master.close()
        guard case .failed(.masterLost) = try asking.value(), case .failed = try connecting.value() else {
            Issue.record("a call was answered without a master")
            return
        }
        let outcomes = try together(2) { try peers[$0].reduce(3, Memory(int32: 1, count: 1000)).value().outcome }
        #expect(outcomes == [.success(worldSize: 2), .success(worldSize: 2)])
        for peer in peers + [newcomer] { peer.close() }
    }

    @Test("sessions leave no descriptor and no thread, whatever state they are closed in")
    func nothingIsLeft() async {
        await #expect(processExitsWith: .success) {
            func once() throws {
                let run = try Run()
                let peers = try run.members(3, stripes: 3)
                let newcomer = try run.peer()
                _ = newcomer.call(.connect)
                let memory = Memory(int32: 1, count: 100_000)
                let pending = peers[0].reduce(1, memory)
                _ = peers[1].call(.updateTopology)
                let idle = try run.peer()
                for peer in [peers[1], newcomer, peers[0], idle, peers[2]] { peer.close() }
                run.master.close()
                _ = try pending.value()
            }
            try once()
            let (descriptors, threads) = (openDescriptors, runningThreads)
            for _ in 0..<10 { try once() }
            #expect(openDescriptors == descriptors)
            #expect(threadsFall(to: threads))
        }
    }
}
