import PCCLBase
import Testing

@testable import PCCLTransport

@Suite("The way out that long links share")
struct WayOutTests {
    /// Links of one line, each of which sends what it is allowed to, and what is too much queues.
    private struct House {
        var wayOut = WayOut()
        var now = Instant(nanoseconds: 0)
        var delivered: [UInt64]
        var left: [Int]
        var paces: [Double?]
        /// Megabytes a second of the line, and what each link would take of it.
        var line: Double
        var appetites: [Double]
        var isQueueing = true

        init(line: Double, appetites: [Double], left: [Int]) {
            self.line = line
            self.appetites = appetites
            self.left = left
            delivered = Array(repeating: 0, count: left.count)
            paces = Array(repeating: nil, count: left.count)
        }

        /// A tenth of a second passes, and all links report.
        mutating func step() {
            now = now + .milliseconds(100)
            let wishes = left.indices.map { left[$0] > 0 ? min(appetites[$0], (paces[$0] ?? .infinity) / 1e6) : 0 }
            let sum = wishes.reduce(0, +)
            isQueueing = sum > line
            for i in left.indices {
                let rate = sum > line ? wishes[i] / sum * line : wishes[i]
                let bytes = min(Int(rate * 1e5), left[i])
                delivered[i] += UInt64(bytes)
                left[i] -= bytes
            }
            for i in left.indices {
                paces[i] = wayOut.take(
                    WayOut.Report(
                        now: now, deliveredBytes: delivered[i], bytesLeft: left[i], isQueueing: isQueueing),
                    of: PeerID(UInt64(i)))
            }
        }

        /// When each was done, in tenths of a second.
        mutating func run() -> [Int] {
            var ends = left.map { _ in 0 }
            for tenth in 1...10_000 where left.contains(where: { $0 > 0 }) {
                step()
                for i in left.indices where left[i] == 0 && ends[i] == 0 { ends[i] = tenth }
            }
            return ends
        }
    }

    @Test(
        "links that would share a line by chance end together, and it stays full",
        arguments: [
            ([20.0, 4, 4], [20_000_000, 20_000_000, 20_000_000]),
            ([30, 30, 30], [40_000_000, 10_000_000, 10_000_000]),
            ([12, 6], [5_000_000, 30_000_000]),
        ])
    func endTogether(appetites: [Double], left: [Int]) {
        // What the others do not get for being modest when one of them is greedy they get when it is held back.
        var house = House(line: 12, appetites: appetites.map { $0 * 3 }, left: left)
        let ends = house.run()
        let least = Double(left.reduce(0, +)) / 12e5
        #expect(Double(ends.max() ?? 0) < least * 1.1, "\(ends), of \(least)")
        // One with little to send may be done a little before: see `leastPart`.
        #expect(Double(ends.min() ?? 0) > least * 0.7, "\(ends), of \(least)")
    }

    @Test("a second operation begins with equal parts, not with what a link had to itself at the end of the first")
    func beginning() {
        var house = House(line: 12, appetites: [30, 30, 30], left: [40_000_000, 10_000_000, 10_000_000])
        _ = house.run()
        house.step()
        for pace in house.paces { #expect(pace.map { 3e6...6e6 ~= $0 } ?? false, "\(house.paces)") }
        house.left = [20_000_000, 20_000_000, 20_000_000]
        house.step()
        house.step()
        #expect(house.paces.allSatisfy { $0.map { $0 < 6e6 } ?? false }, "\(house.paces)")
    }

    @Test("a line that becomes faster is used, and one that never queues is left alone")
    func faster() {
        var house = House(line: 12, appetites: [100, 100], left: [.max / 4, .max / 4])
        for _ in 0..<100 { house.step() }
        house.line = 48
        for _ in 0..<100 { house.step() }
        let before = house.delivered.reduce(0, +)
        for _ in 0..<100 { house.step() }
        #expect(Double(house.delivered.reduce(0, +) - before) / 1e7 > 0.9 * 48)
        var roomy = House(line: 100, appetites: [10, 20], left: [100_000_000, 100_000_000])
        for _ in 0..<30 {
            roomy.step()
            #expect(roomy.paces == [nil, nil])
        }
    }

    @Test("one link alone, one that is forgotten, and one that says nothing any more limit nobody")
    func alone() {
        var single = House(line: 12, appetites: [100], left: [100_000_000])
        for _ in 0..<50 {
            single.step()
            #expect(single.paces == [nil])
        }
        var house = House(line: 12, appetites: [100, 100], left: [100_000_000, 100_000_000])
        for _ in 0..<20 { house.step() }
        #expect(house.paces.allSatisfy { $0 != nil })
        func later(_ wayOut: inout WayOut, _ after: Interval) -> Double? {
            wayOut.take(
                WayOut.Report(
                    now: house.now + after, deliveredBytes: house.delivered[0], bytesLeft: 1 << 20, isQueueing: true),
                of: PeerID(0))
        }
        var silent = house.wayOut
        #expect(later(&silent, .seconds(2)) == nil)
        var forgotten = house.wayOut
        forgotten.forget(PeerID(1))
        #expect(later(&forgotten, .milliseconds(100)) == nil)
    }

    @Test("a stripe that is closed takes its bytes with it: the count goes back, and nothing else does")
    func countGoesBack() {
        var house = House(line: 12, appetites: [100, 100], left: [100_000_000, 100_000_000])
        for _ in 0..<20 { house.step() }
        house.delivered[0] /= 2
        house.step()
        #expect(house.paces.allSatisfy { $0.map { 2e6...20e6 ~= $0 } ?? false }, "\(house.paces)")
    }
}
