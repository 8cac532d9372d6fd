import ArgumentParser
import Glibc
import PCCL

/// One peer of `pccl bench`.
struct BenchPeerCommand: ParsableCommand {
    static let configuration = CommandConfiguration(commandName: "bench-peer", shouldDisplay: false)

    @Option var port: UInt16
    @Option var peers: Int
    @Option var sizes: String
    @Option var stripes: Int
    @Flag var inPlace = false
    @Flag var reports = false

    private static let warmUps = 2

    func run() throws {
        let communicator = try Communicator(
            Communicator.Configuration(
                master: SocketAddress(host: "127.0.0.1", port: port), stripesPerLink: stripes))
        defer { communicator.destroy() }
        try communicator.connect()
        while try communicator.attributes().worldSize < peers {
            if try communicator.arePeersPending() { try communicator.updateTopology() } else { sleep(milliseconds: 5) }
        }
        for size in sizes.split(separator: ",").compactMap({ Int($0) }) { try measure(communicator, size) }
    }

    private func measure(_ communicator: Communicator, _ size: Int) throws {
        let count = max(size / MemoryLayout<Float>.size, 1)
        let source = UnsafeMutableBufferPointer<Float>.allocate(capacity: count)
        let target = inPlace ? source : UnsafeMutableBufferPointer<Float>.allocate(capacity: count)
        defer {
            source.deallocate()
            if !inPlace { target.deallocate() }
        }
        source.initialize(repeating: 1)
        if !inPlace { target.initialize(repeating: 0) }
        var times: [UInt64] = []
        for turn in 0..<BenchPeerCommand.repetitions(size) + BenchPeerCommand.warmUps {
            if inPlace { source.update(repeating: 1) }
            let start = monotonicNanoseconds()
            if inPlace {
                try communicator.allReduce(source, .sum, tag: 0)
            } else {
                try communicator.allReduce(from: UnsafeBufferPointer(source), into: target, .sum, tag: 0)
            }
            if turn >= BenchPeerCommand.warmUps { times.append(monotonicNanoseconds() - start) }
        }
        guard target.allSatisfy({ $0 == Float(peers) }) else { throw DemoFailure("a result is wrong at \(size) bytes") }
        if reports { report(size, times.sorted()) }
    }

    private func report(_ size: Int, _ times: [UInt64]) {
        let median = Double(times[times.count / 2])
        let columns = [
            fixed(median / 1e6, 3, width: 12), fixed(Double(times[times.count * 95 / 100]) / 1e6, 3, width: 12),
            fixed(2 * Double(peers - 1) / Double(peers) * Double(size) / median, 3, width: 11),
        ]
        writeAll(
            "pccl" + padded(String(peers), 6) + padded(String(size), 11) + columns.joined() + "\n", to: STDOUT_FILENO)
    }

    /// All peers must agree, so the number depends on nothing but the size.
    private static func repetitions(_ size: Int) -> Int {
        switch size {
        case ...(1 << 16): 400
        case ...(1 << 22): 60
        default: 12
        }
    }
}

private func padded(_ text: String, _ width: Int) -> String {
    String(repeating: " ", count: max(width - text.count, 1)) + text
}

private func fixed(_ value: Double, _ digits: Int, width: Int) -> String {
    let scale = (0..<digits).reduce(1.0) { scale, _ in scale * 10 }
    let scaled = Int((value * scale).rounded())
    let fraction = String(scaled % Int(scale))
    return padded(
        "\(scaled / Int(scale))." + String(repeating: "0", count: digits - fraction.count) + fraction, width)
}
