import ArgumentParser
import Glibc
import PCCL
import PCCLTransport

/// `pccl bench-state`: how fast a member gets the shared state.
struct BenchStateCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "bench-state",
        abstract: "Measures the synchronisation of shared state: how soon members that lack it have it.",
        discussion: """
            Without --master all peers are threads of this process. With --master it is one peer of a run that spans hosts: \
            start it once on each, with the same options; rank 0 prints. In a laboratory: \
            pccl wanlab LAB -- pccl bench-state --size 1G.

            The last ranks receive, all others give. Before each round the receivers change one byte in so many chunks of \
            1 MiB as --differing says. A time is that of the whole call at the last peer to return, hashing included.
            """)

    @Option(help: "How many peers.")
    var peers = 2

    @Option(help: "How many of them receive.")
    var receivers = 1

    @Option(help: "Bytes of the state; K, M and G stand for 2^10, 2^20 and 2^30.")
    var size = "256M"

    @Option(help: "Into how many tensors of equal size it is divided.")
    var tensors = 16

    @Option(help: "Per cent of the chunks that receivers lack.")
    var differing = 100.0

    @Option(help: "How much of the state is zeros, in per cent; the rest does not compress.")
    var zeros = 0.0

    @Option(help: "How often it is measured.")
    var rounds = 3

    @Option(help: "Connections per link; 0 lets the library choose.")
    var stripes = 0

    @Option(help: "HOST:PORT of a master: measure as one peer of a run with --peers members.")
    var master: String?

    @Option(help: "Seconds that one round may take.")
    var timeout = 600

    func validate() throws {
        guard (2...BenchCommand.largestWorld).contains(peers), (1..<peers).contains(receivers) else {
            throw ValidationError("--peers goes from 2 to \(BenchCommand.largestWorld), --receivers to one less")
        }
        guard let bytes = ByteSize.parse(size), (1...1024).contains(tensors), bytes >= tensors else {
            throw ValidationError("--size \(size) --tensors \(tensors): a size like 64M, at most 1024 tensors")
        }
        guard (0...100).contains(differing), (0...100).contains(zeros), (1...1000).contains(rounds),
            (0...256).contains(stripes)
        else { throw ValidationError("--differing and --zeros are per cent, --rounds 1 to 1000, --stripes 0 to 256") }
    }

    func run() throws {
        setenv("PCCL_LOG_LEVEL", "ERROR", 0)
        DeadlineAlarm.install()
        do {
            if let master {
                guard let address = HostAndPort(parsing: master) else {
                    throw ValidationError("--master \(master): HOST:PORT, as in 10.0.0.1:48148")
                }
                try measure(SocketAddress(host: address.host, port: address.port))
            } else {
                let master = try Master(listen: .loopback(port: 0))
                try master.run()
                defer { master.destroy() }
                try onThreads(SocketAddress.loopback(port: master.port))
            }
        } catch let error where !(error is ExitCode) {
            writeAll("pccl bench-state: \(oneLine(error))\n", to: STDERR_FILENO)
            throw ExitCode(1)
        }
    }

    private func onThreads(_ master: SocketAddress) throws {
        let outcomes = (0..<peers).map { _ in Completion<(any Error)?>() }
        for outcome in outcomes {
            let thread = try EventLoop(name: "bench-state")
            thread.submit {
                do {
                    try measure(master)
                    outcome.set(nil)
                } catch {
                    outcome.set(error)
                }
                thread.stop()
            }
        }
        for outcome in outcomes { if let error = outcome.wait() { throw error } }
    }

    private func measure(_ master: SocketAddress) throws {
        let communicator = try Communicator(Communicator.Configuration(master: master, stripesPerLink: stripes))
        defer { communicator.destroy() }
        DeadlineAlarm.set(timeout)
        try PCCLUnderTest(communicator, BenchWork()).gather(peers)
        let rank = try communicator.attributes().rank
        let agreement = PeerAgreement(communicator: communicator, peers: peers, rank: rank)
        guard try agreement.isSame("\(receivers) \(size) \(tensors) \(differing) \(zeros) \(rounds)") else {
            throw BenchFailure("the peers of this run were started with different options; give all of them the same")
        }
        let prints = (LabNode.current?.number ?? rank) == 0
        let state = try BenchState(bytes: ByteSize.parse(size) ?? 0, tensors: tensors, zeros: zeros)
        let receives = rank >= peers - receivers
        var shared = state.shared
        var times: [Double] = []
        var received: UInt64 = 0
        for round in 0..<rounds {
            DeadlineAlarm.set(timeout)
            let changed = receives ? state.change(perCent: differing) : []
            shared.revision = UInt64(round)
            // All begin together, after each has touched its memory.
            _ = try agreement.isSame("")
            let start = monotonicNanoseconds()
            let info = try communicator.synchronize(&shared, receives ? .receiveOnly : .sendOnly)
            let nanoseconds = Double(monotonicNanoseconds() - start)
            let wrong = try agreement.sum(state.restored(changed) ? 0 : 1)
            guard wrong == 0 else { throw BenchFailure("\(wrong) receivers do not hold what the others do") }
            times.append(try agreement.largest(nanoseconds))
            received = try agreement.sum(info.receivedBytes)
        }
        DeadlineAlarm.cancel()
        if prints { report(times, received, state.byteCount) }
    }

    private func report(_ times: [Double], _ received: UInt64, _ byteCount: Int) {
        let median = times.sorted()[times.count / 2] / 1e9
        let moved = Double(byteCount) * differing / 100 * Double(receivers)
        writeAll(
            "\(ByteSize.label(byteCount)), \(significant(differing)) % differ, \(peers - receivers) give and \(receivers) "
                + "receive: \(significant(median)) s (\(times.map { significant($0 / 1e9) }.joined(separator: ", "))), "
                + "\(significant(moved / median / 1e6)) MB/s of tensors, \(received) bytes received in all, "
                + "\(fixed(Double(received) / Double(byteCount * receivers) * 100, 3)) % of the state\n",
            to: STDOUT_FILENO)
    }
}

/// The tensors of one peer, the same at all.
private struct BenchState {
    private static let chunkBytes = 1 << 20

    let byteCount: Int
    let shared: SharedState
    private let memory: UnsafeMutableRawBufferPointer

    init(bytes: Int, tensors: Int, zeros: Double) throws(BenchFailure) {
        memory = try BenchBuffers(bytes: bytes, inPlace: true).source
        let each = bytes / tensors
        byteCount = each * tensors
        let words = memory.bindMemory(to: UInt64.self)
        var state: UInt64 = 42
        for i in words.indices {
            // xorshift: no codec finds anything in it.
            state ^= state << 13
            state ^= state >> 7
            state ^= state << 17
            // Whole blocks of 64 KiB, as of a layer that was never used.
            let block = (i >> 13) &* 0x9E37_79B9 % 10_000
            words[i] = Double(block) < zeros * 100 ? 0 : state
        }
        let base = memory.baseAddress!
        shared = SharedState(
            (0..<tensors).map { .init("tensor \($0)", base + $0 * each, count: each, type: .uint8) })
    }

    /// Where, and what was there.
    func change(perCent: Double) -> [(offset: Int, byte: UInt8)] {
        var changed: [(offset: Int, byte: UInt8)] = []
        let each = shared.entries[0].count
        var sum = 0.0
        for tensor in shared.entries.indices {
            for offset in stride(from: 0, to: each, by: Self.chunkBytes) {
                sum += perCent / 100
                guard sum >= 0.999999 else { continue }
                sum -= 1
                let place = tensor * each + offset
                changed.append((place, memory[place]))
                memory[place] ^= 0xFF
            }
        }
        return changed
    }

    func restored(_ changed: [(offset: Int, byte: UInt8)]) -> Bool {
        changed.allSatisfy { memory[$0.offset] == $0.byte }
    }
}

extension PeerAgreement {
    fileprivate func sum(_ value: UInt64) throws -> UInt64 { try reduced([value], .sum)[0] }
    fileprivate func largest(_ value: Double) throws -> Double { try reduced([value], .maximum)[0] }
}
