import Glibc
import WANLab

/// Runs programs in the nodes until they have ended, and passes on what they write.
final class NodePrograms {
    /// Whose output is shown; nil for everybody's, with the node's number before each line.
    var shownNode: Int?
    /// When this node's program has ended, so must the others.
    var decidingNode: Int?

    private let signals: LabSignals
    private var programs: [NodeProcess] = []
    private var helpers: [NodeProcess] = []
    /// What ends from now on does so because it was told to.
    private var isEnding = false
    /// What was not shown, should it be wanted after all.
    private var hidden: [Int: [String]] = [:]
    private static let linesKept = 20
    /// How long a program has to end by itself.
    private static let patienceNanoseconds: UInt64 = 2_000_000_000

    init(signals: LabSignals) { self.signals = signals }

    func add(_ program: NodeProcess) { programs.append(program) }

    /// One that does not count: the lab does not wait for it, nor is its status the lab's.
    func add(helper: NodeProcess) { helpers.append(helper) }

    /// Waits until a helper has written a line with that text, on standard error.
    func wait(for text: String, from helper: NodeProcess, seconds: UInt64) throws(LabError) {
        let deadline = monotonicNanoseconds() + seconds * 1_000_000_000
        var seen: [String] = []
        while monotonicNanoseconds() < deadline {
            waitForSomething([helper], milliseconds: 100)
            let (output, errors, hasEnded) = helper.poll()
            seen += output + errors
            if errors.contains(where: { $0.contains(text) }) { return }
            if hasEnded { break }
        }
        throw LabError("the master in node \(helper.node) did not start: \(seen.joined(separator: "; "))")
    }

    /// The worst status of all, or 128 and the number of the signal that ended the wait.
    func run() -> CInt {
        var ended: CInt?
        while ended == nil {
            waitForSomething(programs + helpers, milliseconds: 1000)
            if let number = signals.termination() { ended = 128 + number }
            let areDone = passOn()
            if areDone { ended = ended ?? programs.compactMap(\.status).max() ?? 0 }
            if let decider = programs.first(where: { $0.node == decidingNode }), let status = decider.status {
                ended = ended ?? status
            }
        }
        end()
        return ended ?? 0
    }

    /// Asks what still runs to end, and insists.
    func end() {
        isEnding = true
        let all = programs + helpers
        all.forEach { $0.signal(SIGTERM) }
        let deadline = monotonicNanoseconds() + Self.patienceNanoseconds
        while all.contains(where: { $0.status == nil }), monotonicNanoseconds() < deadline {
            waitForSomething(all, milliseconds: 50)
            _ = passOn()
        }
        all.forEach { $0.signal(SIGKILL) }
        while all.contains(where: { $0.status == nil }) {
            sleep(milliseconds: 2)
            _ = passOn()
        }
    }

    /// Gives out what was written; true when all programs have ended.
    private func passOn() -> Bool {
        var areDone = true
        for program in programs {
            let wasRunning = program.status == nil
            let (output, errors, hasEnded) = program.poll()
            show(output, of: program.node, to: STDOUT_FILENO)
            show(errors, of: program.node, to: STDERR_FILENO)
            if hasEnded && wasRunning { tellEnd(of: program) }
            areDone = areDone && hasEnded
        }
        for helper in helpers {
            let (output, errors, _) = helper.poll()
            for line in output + errors { writeAll("[master] \(line)\n", to: STDERR_FILENO) }
        }
        return areDone
    }

    private func show(_ lines: [String], of node: Int, to descriptor: CInt) {
        switch shownNode {
        case nil: for line in lines { writeAll("[\(node)] \(line)\n", to: descriptor) }
        case node?: for line in lines { writeAll("\(line)\n", to: descriptor) }
        case _?: hidden[node] = Array(((hidden[node] ?? []) + lines).suffix(Self.linesKept))
        }
    }

    private func tellEnd(of program: NodeProcess) {
        guard let status = program.status, status != 0, !isEnding else { return }
        for line in hidden[program.node] ?? [] { writeAll("[\(program.node)] \(line)\n", to: STDERR_FILENO) }
        writeAll("wanlab: the command in node \(program.node) ended with status \(status)\n", to: STDERR_FILENO)
    }

    private func waitForSomething(_ processes: [NodeProcess], milliseconds: CInt) {
        var descriptors = [signals.descriptor]
        for process in processes where process.status == nil {
            if !process.output.hasEnded { descriptors.append(process.output.descriptor) }
            if !process.errors.hasEnded { descriptors.append(process.errors.descriptor) }
        }
        var waits = descriptors.map { pollfd(fd: $0, events: Int16(POLLIN), revents: 0) }
        _ = poll(&waits, nfds_t(waits.count), milliseconds)
    }
}
