import ArgumentParser
import CShims
import Glibc
import StrictJSON
import WANLab

/// Measures what programs in the lab would see, and compares it with what the lab's description says.
struct WANLabCheckCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "check",
        abstract: "Measures a lab and compares it with its description; status 1 if they differ.",
        discussion: """
            Between node 0 and the next, and node 0 and the last: round trip and losses of ICMP echoes, and where iperf3 is \
            installed the rate at which its UDP arrives, each way. Tolerances: 2 % or 0.5 ms more of the round trip; four \
            standard deviations and one packet of the losses; 3 % of the rate.
            """)

    @OptionGroup var options: LabOptions

    @Option(help: "How long each rate is measured.")
    var seconds = 4

    @Option(help: "How many echoes are sent on each way.")
    var probes = 1000

    func validate() throws {
        guard (1...600).contains(seconds) else { throw ValidationError("--seconds goes from 1 to 600") }
        guard (10...100_000).contains(probes) else { throw ValidationError("--probes goes from 10 to 100000") }
    }

    func run() throws {
        let configuration = try options.configuration()
        let signals = LabSignals()
        let lab = try Lab(configuration, offload: options.offload)
        defer { lab.close() }
        let check = LabCheck(lab: lab, signals: signals, probes: probes, seconds: seconds)
        let last = configuration.nodeCount - 1
        for node in last == 1 ? [1] : [1, last] { try check.pair(0, node) }
        writeAll(
            "check: \(check.failures == 0 ? "ok" : "FAILED, \(check.failures) figures differ")\n", to: STDOUT_FILENO)
        if check.failures > 0 { throw ExitCode.failure }
    }
}

private final class LabCheck {
    private let lab: Lab
    private let signals: LabSignals
    private let probes: Int
    private let seconds: Int
    private let network: Network
    private(set) var failures = 0

    private static let roundTripShare = 0.02
    /// Waking up takes its time, and on a busy machine more of it; that is also why the fastest tenth is what counts.
    private static let roundTripMilliseconds = 0.5
    private static let rateShare = 0.03
    private static let attempts = 3
    private static let deviations = 4.0
    private static let ipAndUDPHeaderBytes = 28

    init(lab: Lab, signals: LabSignals, probes: Int, seconds: Int) {
        self.lab = lab
        self.signals = signals
        self.probes = probes
        self.seconds = seconds
        // A network of its own to ask for figures: the relay's is in use.
        network = Network(lab.configuration, pool: PacketPool(PacketPool.Sizes(smallSlots: 1, largeSlots: 1)))
    }

    func pair(_ a: Int, _ b: Int) throws {
        try checkEchoes(a, b)
        try checkRate(from: a, to: b)
        try checkRate(from: b, to: a)
    }

    private func tell(_ pair: String, _ text: String, isRight: Bool) {
        if !isRight { failures += 1 }
        writeAll("\(pair.padded(to: 8)) \(text): \(isRight ? "ok" : "OFF")\n", to: STDOUT_FILENO)
    }

    // MARK: Round trip and losses

    private func checkEchoes(_ a: Int, _ b: Int) throws {
        let figures = network.figures(from: a, to: b) + network.figures(from: b, to: a)
        let socket = try lab.namespaces.inside(a) { try EchoSocket() }
        let (times, sent) = try socket.probe(LabAddress.v4(node: b), count: probes, signals: signals)
        let pair = "\(a)-\(b)"

        let delay = figures.reduce(0) { $0 + $1.delay.seconds * 1e3 }
        let jitter = figures.reduce(0) { $0 + $1.jitter.seconds * 1e3 }
        let (median, fast) =
            times.isEmpty ? (.infinity, .infinity) : (times.sorted()[times.count / 2], times.sorted()[times.count / 10])
        let tolerance = max(Self.roundTripMilliseconds, delay * Self.roundTripShare)
        tell(
            pair,
            "round trip \(shown(delay)) ms\(jitter > 0 ? " and up to \(shown(jitter)) ms of jitter" : ""), "
                + "measured \(shown(fast)) ms (fastest tenth), \(shown(median)) ms (median)",
            isRight: fast >= delay && fast <= delay + jitter + tolerance)

        let survival = figures.reduce(1) { $0 * (1 - $1.loss) }
        let expected = Double(sent) * (1 - survival)
        // Losses in bursts come less evenly.
        let clustering = figures.map(\.burstPackets).max() ?? 1
        let spread = Self.deviations * (expected * survival * clustering).squareRoot() + 1
        let lost = Double(sent - times.count)
        tell(
            pair,
            "loss \(shown((1 - survival) * 100)) % both ways, lost \(Int(lost)) of \(sent) "
                + "(\(Int(max(0, (expected - spread).rounded(.up)))) to \(Int(expected + spread)) expected)",
            isRight: abs(lost - expected) <= spread)
    }

    // MARK: Rate

    private func checkRate(from a: Int, to b: Int) throws {
        let figures = network.figures(from: a, to: b)
        let pair = "\(a)>\(b)"
        let rate = figures.compactMap(\.bitsPerSecond).min().map { Double($0) / 1e6 }
        guard let measured = try bestRates(from: a, to: b, megabitsPerSecond: rate) else {
            return writeAll("\(pair.padded(to: 8)) rate: not measured, iperf3 is not installed\n", to: STDOUT_FILENO)
        }
        guard let rate else {
            let text = "no limit: TCP carries \(shown(measured.received)) Mbit/s"
            return writeAll("\(pair.padded(to: 8)) \(text)\n", to: STDOUT_FILENO)
        }
        let expected = rate * figures.reduce(1) { $0 * (1 - $1.loss) }
        tell(
            pair,
            "rate \(shown(rate)) Mbit/s, \(shown(expected)) after losses, arrived \(shown(measured.arrived)), "
                + "received by iperf3 \(shown(measured.received))",
            isRight: abs(measured.arrived - expected) <= expected * Self.rateShare)
    }

    private struct Rates {
        /// The best second at the receiver's device: a link never carries more than it may, but a busy machine may be late
        /// in loading it.
        var arrived: Double
        /// The best second of iperf3. On a busy machine it loses some in its socket's buffer, which is not the link's doing.
        var received: Double
    }

    /// Too little may be the fault of a machine that could not load the link, so that is measured again.
    private func bestRates(from a: Int, to b: Int, megabitsPerSecond rate: Double?) throws -> Rates? {
        let survival = network.figures(from: a, to: b).reduce(1) { $0 * (1 - $1.loss) }
        let enough = (rate ?? 0) * survival * (1 - Self.rateShare)
        var measured = try measureRate(from: a, to: b, megabitsPerSecond: rate)
        for _ in 1..<Self.attempts {
            guard let last = measured, last.arrived < enough else { break }
            guard let next = try measureRate(from: a, to: b, megabitsPerSecond: rate) else { break }
            if next.arrived > last.arrived { measured = next }
        }
        return measured
    }

    /// UDP at a fifth more than the link takes, which shows the link and nothing else; or TCP if it takes everything. In
    /// Mbit/s of IP packets. Nil without iperf3.
    private func measureRate(from a: Int, to b: Int, megabitsPerSecond rate: Double?) throws -> Rates? {
        let server = try lab.start(["iperf3", "-s", "-1", "-J"], in: b)
        defer { end(server) }
        let datagramBytes = lab.configuration.mtu - Self.ipAndUDPHeaderBytes
        let load = rate.map { ["-u", "-b", "\(Int($0 * 1.2 * 1000))K", "-l", "\(datagramBytes)"] } ?? []
        let command =
            ["iperf3", "-c", LabAddress.v4Text(node: b), "-J", "-t", "\(seconds)", "--get-server-output"] + load
        // The server says nothing until the test is over, so the client repeats until it is there.
        for _ in 0..<50 {
            let client = try lab.start(command, in: a)
            let (text, arrived) = try follow(client, receiver: b)
            if client.status == 127 { return nil }
            guard let report = try? JSONValue(parsing: text, allowingRepetition: true) else {
                throw LabError("iperf3 said: \(text)")
            }
            if case .string(let problem)? = report["error"] {
                guard problem.contains("refused") else { throw LabError("iperf3 in node \(a): \(problem)") }
                sleep(milliseconds: 100)
                continue
            }
            let received = Self.receivedMegabits(report)
            let wirePerPayload = rate == nil ? 1 : Double(lab.configuration.mtu) / Double(datagramBytes)
            return Rates(arrived: arrived, received: received * wirePerPayload)
        }
        throw LabError("iperf3's server in node \(b) did not start")
    }

    private static func receivedMegabits(_ report: JSONValue) -> Double {
        guard case .array(let intervals)? = report["server_output_json"]?["intervals"] else { return 0 }
        return intervals.map { interval in
            guard case .number(let bits)? = interval["sum"]?["bits_per_second"],
                case .number(let time)? = interval["sum"]?["seconds"], time > 0.9
            else { return 0 }
            return bits / 1e6
        }.max() ?? 0
    }

    /// What the program writes until it ends, and the best second at the receiver's device in Mbit/s.
    private func follow(_ program: NodeProcess, receiver: Int) throws -> (text: String, best: Double) {
        var lines: [String] = []
        var samples: [(at: UInt64, bytes: UInt64)] = []
        var best = 0.0
        let deadline = monotonicNanoseconds() + UInt64(seconds + 30) * 1_000_000_000
        while true {
            let (output, _, hasEnded) = program.poll()
            lines += output
            if hasEnded { return (lines.joined(separator: "\n"), best) }
            let now = monotonicNanoseconds()
            guard now < deadline, signals.termination() == nil else {
                end(program)
                throw LabError("iperf3 in node \(program.node) was ended before it was done")
            }
            samples.append((now, try receivedBytes(at: receiver)))
            if let past = samples.last(where: { now - $0.at >= 1_000_000_000 }), let last = samples.last {
                best = max(best, Double(last.bytes - past.bytes) * 8e3 / Double(last.at - past.at))
            }
            sleep(milliseconds: 50)
        }
    }

    /// What has come out of the device since it was made, as the kernel counts it.
    private func receivedBytes(at node: Int) throws -> UInt64 {
        let text = try lab.namespaces.inside(node) { contents(of: "/proc/thread-self/net/dev") } ?? ""
        let line = text.split(separator: "\n").first { $0.contains("\(LabNamespaces.interface):") }
        let number = line?.split(separator: ":").last?.split(separator: " ").first.flatMap { UInt64($0) }
        guard let number else { throw LabError("node \(node) has no \(LabNamespaces.interface)") }
        return number
    }

    private func end(_ program: NodeProcess) {
        program.signal(SIGKILL)
        while !program.poll().hasEnded { sleep(milliseconds: 1) }
    }

    private func shown(_ value: Double) -> Double { (value * 1000).rounded() / 1000 }
}

/// Sends ICMP echoes and hears the answers.
private struct EchoSocket {
    private let descriptor: CInt
    private let identifier = UInt16(truncatingIfNeeded: getpid())
    private static let bytesPerEcho = 64
    private static let nanosecondsBetween: UInt64 = 2_000_000
    /// After the last was sent.
    private static let patienceNanoseconds: UInt64 = 1_000_000_000

    init() throws {
        descriptor = socket(AF_INET, CInt(SOCK_RAW.rawValue | SOCK_CLOEXEC.rawValue), CInt(IPPROTO_ICMP))
        guard descriptor >= 0 else { throw LabError("cannot open an ICMP socket: \(systemError())") }
    }

    /// The round trips of those that came back, in milliseconds.
    func probe(_ address: UInt32, count: Int, signals: LabSignals) throws -> (times: [Double], sent: Int) {
        defer { close(descriptor) }
        var sentAt: [UInt64] = []
        var times: [Double?] = Array(repeating: nil, count: count)
        let begin = monotonicNanoseconds()
        let end = begin + UInt64(count) * Self.nanosecondsBetween + Self.patienceNanoseconds
        while monotonicNanoseconds() < end, times.contains(where: { $0 == nil }) {
            if signals.termination() != nil { throw LabError("interrupted") }
            let now = monotonicNanoseconds()
            if sentAt.count < count, now >= begin + UInt64(sentAt.count) * Self.nanosecondsBetween {
                sentAt.append(now)
                send(sequence: sentAt.count - 1, to: address)
            }
            var wait = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
            guard poll(&wait, 1, 1) > 0, let sequence = receive(), times.indices.contains(sequence) else { continue }
            if times[sequence] == nil { times[sequence] = Double(monotonicNanoseconds() - sentAt[sequence]) / 1e6 }
        }
        return (times.compactMap { $0 }, sentAt.count)
    }

    private func send(sequence: Int, to address: UInt32) {
        var echo = [UInt8](repeating: 0, count: Self.bytesPerEcho)
        echo[0] = 8
        for (offset, value) in [(4, identifier), (6, UInt16(truncatingIfNeeded: sequence))] {
            echo[offset] = UInt8(value >> 8)
            echo[offset + 1] = UInt8(value & 0xFF)
        }
        var sum: UInt32 = 0
        for offset in stride(from: 0, to: echo.count, by: 2) {
            sum += UInt32(echo[offset]) << 8 + UInt32(echo[offset + 1])
        }
        while sum > 0xFFFF { sum = sum & 0xFFFF + sum >> 16 }
        echo[2] = UInt8(~sum >> 8 & 0xFF)
        echo[3] = UInt8(~sum & 0xFF)
        var destination = sockaddr_in()
        destination.sin_family = sa_family_t(AF_INET)
        destination.sin_addr.s_addr = address.bigEndian
        withUnsafePointer(to: &destination) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                _ = sendto(descriptor, echo, echo.count, 0, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
            }
        }
    }

    /// The number of the echo that was answered.
    private func receive() -> Int? {
        var bytes = [UInt8](repeating: 0, count: 256)
        let count = recv(descriptor, &bytes, bytes.count, CInt(MSG_DONTWAIT))
        let offset = Int(bytes[0] & 15) * 4
        guard count >= offset + 8, bytes[offset] == 0 else { return nil }
        guard UInt16(bytes[offset + 4]) << 8 | UInt16(bytes[offset + 5]) == identifier else { return nil }
        return Int(bytes[offset + 6]) << 8 | Int(bytes[offset + 7])
    }
}
