import Glibc
import PCCL

/// Measures as one peer of several, on as many machines, that were all started with the same options. What each has
/// measured is merged with the library itself; rank 0 prints, or node 0 of a laboratory.
struct JoinedRun {
    let plan: BenchPlan
    let master: SocketAddress
    let secondsPerStep: Int
    let output: BenchOutput

    private var peers: Int { plan.peers[0] }

    /// The outcome, and the output of the peer that prints; silent at the others.
    func run(introduce: (BenchOutput) -> Void) throws -> (BenchOutcome, BenchOutput) {
        let bytesBefore = ProcessMemory.residentBytes()
        DeadlineAlarm.install()
        defer { DeadlineAlarm.cancel() }
        DeadlineAlarm.set(secondsPerStep)

        let communicator = try Communicator(
            Communicator.Configuration(master: master, stripesPerLink: plan.work.stripes))
        defer { communicator.destroy() }
        let ours = PCCLUnderTest(communicator, plan.work)
        output.progress("joining \(master) and waiting for \(peers) peers")
        try ours.gather(peers)
        try checkThatOptionsAgree(communicator)

        let rank = try communicator.attributes().rank
        var output = output
        // In a laboratory it is known beforehand which node's output is the one to look at.
        let isFirst = getenv("PCCL_LAB_NODE").map { String(cString: $0) == "0" } ?? (rank == 0)
        output.isSilent = !isFirst
        introduce(output)
        output.heading()
        var outcome = BenchOutcome()
        outcome.libraries = [.init(name: BenchLibrary.pccl.rawValue, text: "swift-pccl \(toolVersion)")]
        let taker = TurnTaker(work: plan.work, peers: peers, rank: rank, peer: ours, bytesBefore: bytesBefore)
        for bytes in plan.sizes {
            let turn = plan.turn(bytes: bytes, peers: peers)
            let rounds = try (0..<plan.rounds).map { round in
                DeadlineAlarm.set(secondsPerStep + turn.secondsOfPauses)
                let merged = try merge(taker.take(turn), communicator)
                let time = median(merged.nanoseconds) / 1e6
                output.progress("\(ByteSize.label(turn.bytes)), round \(round + 1): \(significant(time)) ms")
                return merged
            }
            let row = BenchRow(
                peers: peers, bytes: turn.bytes * plan.work.tags, library: BenchLibrary.pccl.rawValue, rounds: rounds,
                pccl: nil)
            outcome.rows.append(row)
            output.row(row, plan.work)
        }
        return (outcome, output)
    }

    /// Peers that measure different things would wait for each other, or compare what cannot be compared.
    private func checkThatOptionsAgree(_ communicator: Communicator) throws {
        let text =
            "\(plan.work) \(plan.sizes) \(plan.rounds) \(plan.calls ?? -1) \(plan.warmUps ?? -1) "
            + "\(plan.pauseMilliseconds)"
        // FNV-1a.
        let digest = text.utf8.reduce(0xCBF2_9CE4_8422_2325 as UInt64) { ($0 ^ UInt64($1)) &* 0x100_0000_01B3 }
        var extremes: [UInt64] = [digest, ~digest]
        try extremes.withUnsafeMutableBufferPointer { _ = try communicator.allReduce($0, .minimum, tag: 0) }
        guard extremes[0] == digest, ~extremes[1] == digest else {
            throw BenchFailure("the peers of this run were started with different options; give all of them the same")
        }
    }

    private func merge(_ own: BenchTurnResult, _ communicator: Communicator) throws -> BenchTurnResult {
        var means = own.nanoseconds + [own.processorNanoseconds]
        try means.withUnsafeMutableBufferPointer { _ = try communicator.allReduce($0, .average, tag: 0) }
        var largest = [Int64(own.extraBytes)]
        try largest.withUnsafeMutableBufferPointer { _ = try communicator.allReduce($0, .maximum, tag: 0) }
        var wrong = [Int64(own.wrongElements)]
        try wrong.withUnsafeMutableBufferPointer { _ = try communicator.allReduce($0, .sum, tag: 0) }
        return BenchTurnResult(
            nanoseconds: Array(means.dropLast()), processorNanoseconds: means[means.count - 1],
            extraBytes: Int(largest[0]), wrongElements: Int(wrong[0]))
    }
}

/// The end of a process that waits in a call for peers which do not come.
enum DeadlineAlarm {
    static func install() {
        signal(SIGALRM) { _ in
            let text: StaticString = "pccl bench: no progress for too long: were all peers started? See --timeout\n"
            _ = write(STDERR_FILENO, text.utf8Start, text.utf8CodeUnitCount)
            _exit(1)
        }
    }

    static func set(_ seconds: Int) { alarm(CUnsignedInt(seconds)) }
    static func cancel() { alarm(0) }
}
