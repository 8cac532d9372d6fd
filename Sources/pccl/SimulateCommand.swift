import ArgumentParser
import Glibc
import PCCLSimulator

/// Runs whole clusters on a virtual network and clock, with faults, and checks the promises after every event.
struct SimulateCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "simulate",
        abstract: "Simulates runs with faults, each repeatable from its seed.",
        discussion: """
            Without --seed, seeds are taken in order from --seed-base. The first schedule that breaks a promise is told \
            with its last events, and ends the command with status 1.

            With --scale no fault is looked for: one group of so many peers connects, joins, reduces, loses a member and \
            admits another, and what that costs in messages, bytes and processor time is printed.
            """)

    @Option(help: "Run this one schedule.")
    var seed: UInt64?

    @Flag(help: "With --seed: print everything that happens.")
    var verbose = false

    @Flag(help: "With --seed: leave out what does not matter for its failure, and tell what is left.")
    var shrink = false

    @Option(name: [.customLong("schedules"), .customLong("count")], help: "How many schedules. (default: 1000)")
    var schedules: Int?

    @Option(help: "Instead: as many as there is time for, in seconds.")
    var time: Int?

    @Option(help: "The first seed.")
    var seedBase: UInt64 = 1

    @Flag(help: "Take seeds that nobody tried; the first is printed before anything runs.")
    var fresh = false

    @Option(
        name: [.customLong("jobs"), .customLong("threads")], help: "Threads; 0 for as many as there are processors.")
    var jobs = 0

    @Option(help: "Show what membership costs in a group of so many peers.")
    var scale: Int?

    func validate() throws {
        if let scale, !(3...1024).contains(scale) { throw ValidationError("--scale goes from 3 to 1024") }
        guard schedules ?? 1 > 0 else { throw ValidationError("--schedules must be positive") }
        guard time ?? 1 > 0 else { throw ValidationError("--time must be positive") }
        guard schedules == nil || time == nil else { throw ValidationError("--schedules goes without --time") }
        guard (0...1024).contains(jobs) else { throw ValidationError("--jobs goes from 0 to 1024") }
        guard !verbose || seed != nil else { throw ValidationError("--verbose goes with --seed") }
        guard !shrink || (seed != nil && !verbose) else {
            throw ValidationError("--shrink goes with --seed, and without --verbose")
        }
    }

    func run() throws {
        if let scale { return measure(scale) }
        if let seed { return try replay(seed) }
        // Some room is left above, so that no seed of this run wraps around.
        let base = fresh ? UInt64.random(in: 1..<UInt64.max / 2) : seedBase
        if fresh { print("simulate: seeds from \(base)") }
        let processors = max(1, sysconf(Int32(_SC_NPROCESSORS_ONLN)))
        let began = monotonicNanoseconds()
        let work = SimulationWork(
            base: base, count: time == nil ? UInt64(schedules ?? 1000) : .max / 4,
            deadline: time.map { began + UInt64($0) * 1_000_000_000 } ?? .max, workers: jobs == 0 ? processors : jobs)
        let (counts, failure) = work.run()
        if let failure { throw report(failure) }
        let rate = Double(work.done) / (Double(monotonicNanoseconds() - began) / 1e9)
        print("simulate: \(work.done) schedules, \(Int(rate)) a second, \(summary(counts)) ok")
    }

    private func replay(_ seed: UInt64) throws {
        if shrink, let (parts, leftOut, failure) = Simulation.shrink(seed: seed) {
            print(failure)
            print("simulate: FAILED, also without \(leftOut) of \(leftOut + parts.count) parts of it. Left are:")
            for part in parts { print("  \(part)") }
            throw ExitCode.failure
        }
        let result: SimulationResult
        if verbose {
            let trace = Simulation.trace(seed: seed)
            for line in trace.lines { print(line) }
            result = trace.result
        } else {
            result = Simulation.run(seed: seed)
        }
        switch result {
        case .passed(let counts): print("simulate: seed \(seed), \(summary(counts)) ok")
        case .failed(let failure): throw report(failure)
        }
    }

    private func measure(_ peerCount: Int) {
        var traffic = ControlTraffic(peerCount: peerCount, clock: threadNanoseconds)
        traffic.run()
        print(row("\(peerCount) peers", ["to master:", "", "from master:", "", "at a peer:", "", "ms of", ""]))
        print(row("", ["messages", "bytes", "messages", "bytes", "messages", "bytes", "master", "a peer"]))
        for cost in traffic.costs {
            let counts = [cost.toMaster, cost.fromMaster, cost.busiestPeer].flatMap { [$0.messages, $0.bytes] }
            let master = milliseconds(Double(cost.masterNanoseconds))
            let peer = milliseconds(Double(cost.peerNanoseconds) / Double(peerCount))
            print(row(cost.event.rawValue, counts.map(String.init) + [master, peer]))
            if cost.enterFrames > 0 {
                let each = (cost.enterFrames + cost.preparedFrames) / peerCount
                print(
                    "  between peers \(cost.enterFrames) enter and \(cost.preparedFrames) prepared frames, \(each) from each"
                )
            }
        }
    }

    private func row(_ name: String, _ cells: [String]) -> String {
        func space(_ width: Int, _ text: String) -> String {
            String(repeating: " ", count: max(0, width - text.utf8.count))
        }
        return name + space(22, name) + cells.map { space(13, $0) + $0 }.joined()
    }

    private func milliseconds(_ nanoseconds: Double) -> String {
        let hundredths = Int(nanoseconds / 10_000)
        return "\(hundredths / 100).\(hundredths % 100 < 10 ? "0" : "")\(hundredths % 100)"
    }

    private func report(_ failure: SimulationFailure) -> ExitCode {
        print(failure)
        print(
            "simulate: FAILED; again, and with as little as it takes:\n  pccl simulate --seed \(failure.seed)\n"
                + "  pccl simulate --seed \(failure.seed) --shrink")
        return ExitCode.failure
    }

    private func summary(_ counts: SimulationCounts) -> String {
        "\(counts.events) events, \(counts.succeeded + counts.aborted) operations (\(counts.bySites) by sites, "
            + "\(counts.aborted) aborted, \(counts.restarted) restarted, \(counts.resumed) resumed, "
            + "\(counts.mixed) by several views), \(counts.joins) joins (\(counts.joinsOfNodes) of nodes), "
            + "\(counts.losses) losses, \(counts.repairs) repairs, \(counts.optimized) optimised, \(counts.synchronized) synchronised, "
            + "\(counts.masterRestarts) master restarts:"
    }
}

private func threadNanoseconds() -> UInt64 {
    var time = timespec()
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time)
    return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
}

/// Seeds shared among threads. Worker w of n runs the seeds base + w, base + w + n, …; each keeps its own result, so
/// nothing is shared while they run.
private final class SimulationWork {
    private final class Worker {
        let base: UInt64
        let first: UInt64
        let step: UInt64
        let count: UInt64
        let deadline: UInt64
        var done = 0
        var counts = SimulationCounts()
        var failure: SimulationFailure?

        init(base: UInt64, first: UInt64, step: UInt64, count: UInt64, deadline: UInt64) {
            self.base = base
            self.first = first
            self.step = step
            self.count = count
            self.deadline = deadline
        }

        func run() {
            var index = first
            while index < count, deadline == .max || monotonicNanoseconds() < deadline {
                switch Simulation.run(seed: base &+ index) {
                case .passed(let more):
                    counts += more
                    done += 1
                case .failed(let found):
                    failure = found
                    return
                }
                index += step
            }
        }
    }

    private let workers: [Worker]

    init(base: UInt64, count: UInt64, deadline: UInt64, workers: Int) {
        self.workers = (0..<UInt64(workers)).map {
            Worker(base: base, first: $0, step: UInt64(workers), count: count, deadline: deadline)
        }
    }

    /// How many schedules ran.
    var done: Int { workers.reduce(0) { $0 + $1.done } }

    /// The failure with the least seed that was found, if any.
    func run() -> (SimulationCounts, SimulationFailure?) {
        var threads: [pthread_t] = []
        for worker in workers.dropFirst() {
            var thread = pthread_t()
            let context = Unmanaged.passRetained(worker)
            if pthread_create(&thread, nil, simulationWorkerMain, context.toOpaque()) == 0 {
                threads.append(thread)
            } else {
                context.release()
                worker.run()
            }
        }
        workers.first?.run()
        for thread in threads { pthread_join(thread, nil) }
        var counts = SimulationCounts()
        for worker in workers { counts += worker.counts }
        return (counts, workers.compactMap(\.failure).min { $0.seed < $1.seed })
    }

    fileprivate static func runWorker(_ context: UnsafeMutableRawPointer) {
        Unmanaged<Worker>.fromOpaque(context).takeRetainedValue().run()
    }
}

/// A global function: what a thread enters through must belong to no actor.
private func simulationWorkerMain(_ context: UnsafeMutableRawPointer?) -> UnsafeMutableRawPointer? {
    if let context { SimulationWork.runWorker(context) }
    return nil
}
