/// The middle one; of an even number the mean of both in the middle. 0 of none.
func median(_ values: [Double]) -> Double {
    let sorted = values.sorted()
    guard let last = sorted.last else { return 0 }
    let middle = sorted.count / 2
    return sorted.count.isMultiple(of: 2) ? (sorted[middle - 1] + sorted[middle]) / 2 : min(sorted[middle], last)
}

/// The least value that so many percent do not exceed (nearest rank): the largest one of fewer than 20 for 95.
func percentile(_ percent: Int, of values: [Double]) -> Double {
    let sorted = values.sorted()
    guard !sorted.isEmpty else { return 0 }
    let rank = (sorted.count * percent + 99) / 100
    return sorted[min(max(rank, 1), sorted.count) - 1]
}

/// The mean over peers of each call: what a call cost a peer. Calls follow each other without a pause, so the time that
/// one peer gains by coming late another one has waited.
func meanOverPeers(_ times: [[Double]]) -> [Double] {
    guard let calls = times.map(\.count).min() else { return [] }
    return (0..<calls).map { call in times.reduce(0) { $0 + $1[call] } / Double(times.count) }
}

/// What one turn gave, merged over its peers.
struct BenchTurnResult: Equatable {
    /// Of each timed call.
    var nanoseconds: [Double]
    /// Of all threads of a peer during the timed calls; the mean over peers.
    var processorNanoseconds: Double
    /// The largest of all peers: the peak during the turn, less the user's buffers and what the process had before.
    var extraBytes: Int
    /// Elements that were not as they should be, of all peers.
    var wrongElements: Int

    init(nanoseconds: [Double], processorNanoseconds: Double, extraBytes: Int, wrongElements: Int) {
        self.nanoseconds = nanoseconds
        self.processorNanoseconds = processorNanoseconds
        self.extraBytes = extraBytes
        self.wrongElements = wrongElements
    }

    init(merging peers: [BenchTurnResult]) {
        nanoseconds = meanOverPeers(peers.map(\.nanoseconds))
        processorNanoseconds = peers.reduce(0) { $0 + $1.processorNanoseconds } / Double(max(peers.count, 1))
        extraBytes = peers.map(\.extraBytes).max() ?? 0
        wrongElements = peers.reduce(0) { $0 + $1.wrongElements }
    }
}

/// One line of the table: a library at a size, over all rounds.
struct BenchRow: Equatable {
    let peers: Int
    /// Of all concurrent operations together.
    let bytes: Int
    let library: String
    let calls: Int
    let leastNanoseconds: Double
    let medianNanoseconds: Double
    let percentile95Nanoseconds: Double
    /// Processor seconds for 10^9 bytes of bus traffic.
    let processorSecondsPerGigabyte: Double
    let extraBytes: Int
    let wrongElements: Int
    /// How often the time of `pccl` goes into this library's: the median over rounds of the ratio of both medians. Nil
    /// for `pccl` itself and where it did not run.
    let timesOfPCCL: Double?

    /// `rounds` and `pccl` have the same length: turn i of both was in the same round.
    init(peers: Int, bytes: Int, library: String, rounds: [BenchTurnResult], pccl: [BenchTurnResult]?) {
        let times = rounds.flatMap(\.nanoseconds)
        self.peers = peers
        self.bytes = bytes
        self.library = library
        calls = times.count
        leastNanoseconds = times.min() ?? 0
        medianNanoseconds = median(times)
        percentile95Nanoseconds = percentile(95, of: times)
        let busBytes = BenchRow.busFactor(peers) * Double(bytes) * Double(max(calls, 1))
        processorSecondsPerGigabyte = rounds.reduce(0) { $0 + $1.processorNanoseconds } / busBytes
        extraBytes = rounds.map(\.extraBytes).max() ?? 0
        wrongElements = rounds.reduce(0) { $0 + $1.wrongElements }
        timesOfPCCL = pccl.map { pccl in
            median(zip(rounds, pccl).map { median($0.nanoseconds) / max(median($1.nanoseconds), 1) })
        }
    }

    /// Gigabytes (10^9) of the buffer a second.
    var algorithmBandwidth: Double { Double(bytes) / max(medianNanoseconds, 1) }
    /// What a peer sends a second, and receives, in an algorithm that sends as little as possible.
    var busBandwidth: Double { algorithmBandwidth * BenchRow.busFactor(peers) }

    static func busFactor(_ peers: Int) -> Double { 2 * Double(peers - 1) / Double(peers) }
}
