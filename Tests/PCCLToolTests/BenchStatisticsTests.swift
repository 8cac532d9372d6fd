import Testing

@testable import pccl

@Suite("The figures of a measurement")
struct BenchStatisticsTests {
    @Test("the median is in the middle, whatever the order")
    func medians() {
        #expect(median([]) == 0)
        #expect(median([7]) == 7)
        #expect(median([9, 1, 5]) == 5)
        #expect(median([9, 1, 5, 6]) == 5.5)
    }

    @Test("the 95th percentile is a value that occurred: the largest one of few")
    func percentiles() {
        #expect(percentile(95, of: []) == 0)
        #expect(percentile(95, of: [3]) == 3)
        #expect(percentile(95, of: (1...19).map(Double.init)) == 19)
        #expect(percentile(95, of: (1...20).map(Double.init)) == 19)
        #expect(percentile(95, of: (1...400).map(Double.init).reversed()) == 380)
        #expect(percentile(50, of: [1, 2, 3, 4]) == 2)
    }

    private func result(_ times: [Double], cpu: Double = 0, extra: Int = 0, wrong: Int = 0) -> BenchTurnResult {
        BenchTurnResult(nanoseconds: times, processorNanoseconds: cpu, extraBytes: extra, wrongElements: wrong)
    }

    @Test("peers are merged: times and processor time by their mean, memory by the largest, errors by their sum")
    func merging() {
        let merged = BenchTurnResult(merging: [
            result([10, 30], cpu: 100, extra: 5, wrong: 0), result([20, 10], cpu: 300, extra: 4, wrong: 2),
        ])
        #expect(merged == result([15, 20], cpu: 200, extra: 5, wrong: 2))
    }

    @Test("bus bandwidth is 2 (P-1)/P times the algorithm's, and processor time is for 10^9 bytes of it")
    func bandwidths() {
        let row = BenchRow(
            peers: 4, bytes: 1000, library: "pccl",
            rounds: [result([500, 500], cpu: 3000), result([500, 900], cpu: 3000, extra: 7, wrong: 1)], pccl: nil)
        #expect(row.calls == 4)
        #expect(row.medianNanoseconds == 500)
        #expect(row.percentile95Nanoseconds == 900)
        #expect(row.algorithmBandwidth == 2)
        #expect(row.busBandwidth == 3)
        // 6000 ns for 4 calls of 1500 bytes: as many seconds for so many gigabytes.
        #expect(row.processorSecondsPerGigabyte == 1)
        #expect(row.extraBytes == 7)
        #expect(row.wrongElements == 1)
        #expect(row.timesOfPCCL == nil)
    }

    @Test("the ratio is the median of the rounds' own ratios, so a round that was slow for both does not count")
    func ratios() {
        let pccl = [result([10]), result([100]), result([10])]
        let other = [result([20]), result([200]), result([90])]
        let row = BenchRow(peers: 2, bytes: 8, library: "gloo", rounds: other, pccl: pccl)
        #expect(row.timesOfPCCL == 2)
    }

    @Test("numbers are rounded, with about three digits that mean something")
    func formats() {
        #expect(fixed(2.005, 1) == "2.0")
        #expect(fixed(-0.25, 1) == "-0.3")
        #expect(fixed(0.999, 2) == "1.00")
        #expect(fixed(.infinity, 2) == "inf")
        #expect(significant(0) == "0")
        #expect(significant(0.000512) == "0.000512")
        #expect(significant(0.0512) == "0.0512")
        #expect(significant(5.1239) == "5.124")
        #expect(significant(51.239) == "51.24")
        #expect(significant(5123.9) == "5124")
    }
}
