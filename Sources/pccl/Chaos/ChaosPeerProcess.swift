import Glibc

/// A peer of a chaos run as its parent sees it.
final class ChaosPeerProcess {
    let incarnation: Int
    let slot: Int
    private let process: NodeProcess
    private let log: ChaosLog

    var isStopped = false
    var isLeaving = false
    var wasKilled = false
    var wasHeard = false

    /// When it was heard last, and what it said.
    var heard: (at: UInt64, text: String)
    /// When the last operation began that it has completed.
    var lastBegan: UInt64 = 0
    /// Operations that began before then tell nothing of how long survivors wait.
    var countsFrom: UInt64 = 0

    init(incarnation: Int, slot: Int, process: NodeProcess, log: ChaosLog) {
        self.incarnation = incarnation
        self.slot = slot
        self.process = process
        self.log = log
        heard = (monotonicNanoseconds(), "started")
    }

    var pid: pid_t { process.pid }
    var status: CInt? { process.status }
    var hasEnded: Bool { process.status != nil }
    var openDescriptors: [CInt] {
        [process.output, process.errors].filter { !$0.hasEnded }.map(\.descriptor)
    }

    /// The last lines that the library has logged.
    var diagnostics: [String] { log.lastLines }

    func signal(_ number: CInt) { process.signal(number) }

    /// What it has reported since the last call. Does not wait.
    func listen() -> [String] {
        let (output, errors, _) = process.poll()
        log.add(errors)
        return output
    }
}

/// What a process writes to standard error: the last lines, and all of it in a file if that is wanted.
final class ChaosLog {
    private(set) var lastLines: [String] = []
    private let descriptor: CInt
    private static let linesKept = 30

    /// Without a folder there is no file.
    init(folder: String?, name: String) {
        descriptor = folder.map { open("\($0)/\(name).log", O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0o644) } ?? -1
    }

    deinit { if descriptor >= 0 { close(descriptor) } }

    func add(_ lines: [String]) {
        lastLines = Array((lastLines + lines).suffix(Self.linesKept))
        if descriptor >= 0, !lines.isEmpty { writeAll(lines.joined(separator: "\n") + "\n", to: descriptor) }
    }
}
