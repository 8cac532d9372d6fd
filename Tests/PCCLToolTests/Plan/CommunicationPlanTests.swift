import PCCLBase
import Testing

@testable import pccl

/// 10^9 parameters are 4 GB, which a line of 1 Gbit/s carries in 32 s where all of it is elements. Ends and frames of a call
/// take 46 us beside, which is why times are compared to half a thousandth.
private func plan(_ change: (inout CommunicationPlan) -> Void = { _ in }) -> CommunicationPlan {
    var plan = CommunicationPlan(
        parameters: 1_000_000_000, peers: 2, bitsPerSecond: 1e9, roundTripSeconds: 0, stepSeconds: 1, syncEvery: 100,
        fragments: 8, overlapSteps: 5)
    plan.assumptions.lineShare = 1
    // An outer step of a second.
    plan.assumptions.memoryBytesPerSecond = 36e9
    change(&plan)
    return plan
}

private func isNear(_ value: Double, _ expected: Double, within share: Double = 0.0005) -> Bool {
    abs(value - expected) <= abs(expected) * share
}

@Suite("One call of a plan")
struct PlannedCallTests {
    @Test("takes the time of 2 (P-1)/P of the buffer", arguments: [(2, 32.0), (4, 48.0), (8, 56.0)])
    func worlds(peers: Int, seconds: Double) {
        #expect(isNear(plan { $0.peers = peers }.call(elements: 1_000_000_000, .none).seconds, seconds))
    }

    @Test("takes three ways beside it: contributions, results, and that all have them")
    func delays() {
        let near = plan()
        let far = plan { $0.roundTripSeconds = 0.1 }
        let seconds = { (plan: CommunicationPlan) in plan.call(elements: 1_000_000_000, .none).seconds }
        #expect(abs(seconds(far) - seconds(near) - 0.15) < 1e-6)
    }

    @Test(
        "carries what the codec writes, headers of blocks included",
        arguments: [
            (Codec.none, 4e9), (Codec(.bfloat16), 2e9), (Codec(.minMax8), 1.03125e9), (Codec(.int4), 0.5625e9),
            (Codec(.e3m0PowerScale), 0.53125e9),
        ])
    func codecs(codec: Codec, bytes: Double) {
        let call = plan().call(elements: 1_000_000_000, codec)
        #expect(call.bytes == bytes)
        #expect(isNear(call.seconds, bytes / 125e6))
    }

    @Test("is no faster than the processor, however fast the line is")
    func processor() {
        let fast = plan { $0.bitsPerSecond = 1e14 }
        #expect(isNear(fast.call(elements: 1_000_000_000, .none).seconds, 4 / 1.7))
        #expect(isNear(fast.call(elements: 1_000_000_000, Codec(.minMax8)).seconds, 4 / 3.2))
    }

    /// A line of docs/benchmarks.md.
    struct Measured: CustomTestStringConvertible {
        var mebibytes: Int
        var codec: Codec
        var megabits: Double
        var roundTripMilliseconds: Double
        var seconds: Double
        var testDescription: String { "\(mebibytes) MiB, \(codec), \(megabits) Mbit/s, \(roundTripMilliseconds) ms" }
    }

    @Test(
        "takes what it took in the lab, to a tenth",
        arguments: [
            Measured(mebibytes: 64, codec: .none, megabits: 500, roundTripMilliseconds: 100, seconds: 1.28),
            Measured(mebibytes: 256, codec: .none, megabits: 500, roundTripMilliseconds: 100, seconds: 4.789),
            Measured(mebibytes: 256, codec: Codec(.minMax8), megabits: 500, roundTripMilliseconds: 100, seconds: 1.516),
            Measured(mebibytes: 64, codec: .none, megabits: 200, roundTripMilliseconds: 60, seconds: 3.01),
            Measured(mebibytes: 64, codec: .none, megabits: 1000, roundTripMilliseconds: 20, seconds: 0.60),
            Measured(mebibytes: 256, codec: .none, megabits: 500, roundTripMilliseconds: 10, seconds: 4.885),
            Measured(mebibytes: 256, codec: Codec(.minMax8), megabits: 500, roundTripMilliseconds: 10, seconds: 1.258),
            Measured(
                mebibytes: 256, codec: Codec(.int4PowerScale), megabits: 500, roundTripMilliseconds: 10, seconds: 0.626),
        ])
    func lab(measured: Measured) {
        let planned = plan {
            $0.assumptions = PlanAssumptions()
            $0.bitsPerSecond = measured.megabits * 1e6
            $0.roundTripSeconds = measured.roundTripMilliseconds / 1000
        }
        let call = planned.call(elements: measured.mebibytes << 18, measured.codec)
        #expect(isNear(call.seconds, measured.seconds, within: 0.1), "planned: \(call.seconds) s")
    }
}

@Suite("A round of a plan")
struct PlannedRoundTests {
    private func waited(
        _ mode: PlanMode, _ codec: Codec = .none, _ change: (inout CommunicationPlan) -> Void = { _ in }
    ) -> Double {
        plan(change).forecast(mode, codec).waitedSeconds
    }

    @Test("in every step waits for each call, and has no outer step")
    func everyStep() {
        let forecast = plan().forecast(.everyStep, .none)
        #expect(isNear(forecast.waitedSeconds, 3200))
        #expect(isNear(forecast.utilisation, 1 / 33.0))
        #expect(forecast.bytesSent == 400e9)
    }

    @Test("with synchronous DiLoCo waits for one call and the outer step")
    func synchronous() {
        let forecast = plan().forecast(.synchronous, .none)
        #expect(isNear(forecast.waitedSeconds, 33))
        #expect(isNear(forecast.utilisation, 100 / 133.0))
        #expect(forecast.bytesSent == 4e9)
    }

    @Test("with delayed DiLoCo waits for what a call takes longer than the next round")
    func delayed() {
        #expect(isNear(waited(.delayed), 1))
        #expect(isNear(waited(.delayed) { $0.syncEvery = 20 }, 12 + 1))
    }

    @Test("of a stream waits for what each fragment takes longer than it may: 4 s of 5, of 3, of 0")
    func streaming() {
        #expect(isNear(waited(.streaming), 1))
        #expect(isNear(waited(.streaming) { $0.overlapSteps = 3 }, 8 * 1 + 1))
        #expect(isNear(waited(.streaming) { $0.overlapSteps = 0 }, 8 * 4 + 1))
        #expect(isNear(plan().forecast(.streaming, .none).callSeconds, 4))
    }

    @Test("of a stream has no more than the line carries, however long fragments may take")
    func streamingSaturated() {
        // A fragment every 2.5 s, and each takes 4 s of the line.
        #expect(isNear(waited(.streaming) { $0.syncEvery = 20 }, 8 * 1.5 + 1))
        #expect(isNear(waited(.streaming) { ($0.syncEvery, $0.overlapSteps) = (20, 20) }, 8 * 1.5 + 1))
    }

    @Test("of a stream may have one fragment's delays beside the next one's bytes")
    func streamingPipelined() {
        // A fragment every 5 s takes 5.5, 4 of them on the line.
        #expect(
            isNear(waited(.streaming) { ($0.syncEvery, $0.overlapSteps, $0.roundTripSeconds) = (40, 6, 1) }, 1))
    }

    @Test("sends the same bytes at once and in fragments, to a block of each")
    func sameBytes() {
        let whole = plan().forecast(.synchronous, Codec(.int4)).bytesSent
        let parts = plan { $0.fragments = 7 }.forecast(.streaming, Codec(.int4)).bytesSent
        #expect((0...7 * 36).contains(parts - whole))
    }

    @Test("is never worse with a faster line, in any mode", arguments: PlanMode.allCases)
    func monotone(mode: PlanMode) {
        let utilisations = [1e6, 1e7, 1e8, 1e9, 1e10, 1e11].map { bits in
            plan { $0.bitsPerSecond = bits }.forecast(mode, .none).utilisation
        }
        #expect(utilisations == utilisations.sorted())
        #expect(utilisations.allSatisfy { (0...1).contains($0) })
    }
}

@Suite("What a plan would need")
struct PlanNeedsTests {
    @Test("is the line that leaves the wait that is allowed, less the outer step")
    func line() throws {
        // 100 s of steps may have 5.263 s of waiting, 1 s of which is the outer step's.
        let bits = try #require(plan().leastBitsPerSecond(reaching: 0.95, .synchronous, Codec(.int4)))
        #expect(isNear(bits, 0.5625e9 * 8 / (100 / 0.95 - 101), within: 0.01))
    }

    @Test("is no line at all where delays alone are too long, or the processor is too slow")
    func noLine() {
        #expect(plan { $0.roundTripSeconds = 1 }.leastBitsPerSecond(reaching: 0.95, .everyStep, .none) == nil)
        #expect(plan { $0.stepSeconds = 0.1 }.leastBitsPerSecond(reaching: 0.95, .everyStep, .none) == nil)
    }

    @Test("is a round that is so long that the wait is a twentieth")
    func round() {
        #expect(plan().leastSyncEvery(reaching: 0.95, .synchronous, .none) == 628)
        // 32 - R + 1 <= R / 19
        #expect(plan().leastSyncEvery(reaching: 0.95, .delayed, .none) == 32)
        #expect(plan().leastSyncEvery(reaching: 0.95, .streaming, .none) == 32)
    }

    @Test("is no round at all where every step waits")
    func noRound() {
        #expect(plan().leastSyncEvery(reaching: 0.95, .everyStep, .none) == nil)
    }
}
