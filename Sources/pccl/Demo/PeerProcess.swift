import Glibc

/// A peer as its parent sees it: a process id and three pipes.
final class PeerProcess {
    enum End: Equatable {
        case exit(CInt)
        case signal(CInt)
    }

    let pid: pid_t
    private(set) var end: End?

    /// The last lines the process wrote to standard error, to be shown if it fails.
    private(set) var diagnostics: [String] = []
    private static let diagnosticsKept = 20

    private let commands: CInt
    private var reports: LineReader
    private var errors: LineReader

    /// Starts this very program again, with other arguments; or another one, which is looked for on PATH.
    init(program: String? = nil, arguments: [String], environment: [String]) throws(DemoFailure) {
        let input = try Pipe()
        let output = try Pipe()
        let errors = try Pipe()

        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        // The pipes close on exec, all but these three ends; so no child keeps a pipe of another one open.
        posix_spawn_file_actions_adddup2(&actions, input.readEnd, STDIN_FILENO)
        posix_spawn_file_actions_adddup2(&actions, output.writeEnd, STDOUT_FILENO)
        posix_spawn_file_actions_adddup2(&actions, errors.writeEnd, STDERR_FILENO)

        var pid: pid_t = 0
        let result = withCStrings([program ?? "pccl"] + arguments) { arguments in
            withCStrings(environment) { environment in
                posix_spawnp(&pid, program ?? "/proc/self/exe", &actions, nil, arguments, environment)
            }
        }
        close(input.readEnd)
        close(output.writeEnd)
        close(errors.writeEnd)
        guard result == 0 else {
            close(input.writeEnd)
            close(output.readEnd)
            close(errors.readEnd)
            throw DemoFailure("cannot start \(program ?? "a peer process"): \(systemError(result))")
        }
        self.pid = pid
        commands = input.writeEnd
        reports = LineReader(descriptor: output.readEnd)
        self.errors = LineReader(descriptor: errors.readEnd)
    }

    deinit {
        close(commands)
        close(reports.descriptor)
        close(errors.descriptor)
    }

    /// What to poll for; a pipe that has ended is no longer among them.
    var openDescriptors: [CInt] {
        [reports, errors].filter { !$0.hasEnded }.map(\.descriptor)
    }

    /// The lines that came since the last call. Does not wait.
    func readReports() -> [String] {
        diagnostics += errors.read()
        diagnostics.removeFirst(max(0, diagnostics.count - Self.diagnosticsKept))
        return reports.read()
    }

    /// True once the process is gone and all it said was read. Does not wait.
    func hasEnded() -> Bool {
        collect(WNOHANG)
        return end != nil && reports.hasEnded
    }

    /// Asks it to end; a launcher such as mpirun ends its own children then.
    func terminate() {
        if end == nil { _ = Glibc.kill(pid, SIGTERM) }
    }

    func allowToLeave() {
        var leave = DemoParent.leave
        _ = write(commands, &leave, 1)
    }

    func kill() {
        // Once its end was collected, the process id may belong to someone else.
        if end == nil { _ = Glibc.kill(pid, SIGKILL) }
    }

    func killAndCollect() {
        kill()
        while end == nil && collect(0) {}
    }

    @discardableResult private func collect(_ options: CInt) -> Bool {
        guard end == nil else { return true }
        var status: CInt = 0
        var result: pid_t
        repeat { result = waitpid(pid, &status, options) } while result < 0 && errno == EINTR
        if result == pid {
            let signal = status & 0x7F
            end = signal == 0 ? .exit(status >> 8 & 0xFF) : .signal(signal)
        }
        return result >= 0
    }
}

private struct Pipe {
    let readEnd: CInt
    let writeEnd: CInt

    init() throws(DemoFailure) {
        var ends: [CInt] = [-1, -1]
        guard pipe(&ends) == 0 else { throw DemoFailure("cannot make a pipe: \(systemError())") }
        // In two calls, for want of pipe2; nothing else in the demo's process starts programs in between.
        for end in ends { _ = fcntl(end, F_SETFD, FD_CLOEXEC) }
        readEnd = ends[0]
        writeEnd = ends[1]
    }
}

/// Whole lines from a pipe, without waiting. A last line without its end was cut off by a kill, and is dropped.
struct LineReader {
    let descriptor: CInt
    private(set) var hasEnded = false
    private var partial: [UInt8] = []

    init(descriptor: CInt) {
        self.descriptor = descriptor
        _ = fcntl(descriptor, F_SETFL, O_NONBLOCK)
    }

    mutating func read() -> [String] {
        var block = [UInt8](repeating: 0, count: 1 << 14)
        while !hasEnded {
            let count = Glibc.read(descriptor, &block, block.count)
            if count > 0 {
                partial += block[..<count]
            } else if count == 0 {
                hasEnded = true
            } else if errno == EAGAIN {
                break
            } else if errno != EINTR {
                hasEnded = true
            }
        }
        guard let lastEnd = partial.lastIndex(of: UInt8(ascii: "\n")) else { return [] }
        let lines = partial[..<lastEnd].split(separator: UInt8(ascii: "\n")).map { String(decoding: $0, as: UTF8.self) }
        partial.removeSubrange(...lastEnd)
        return lines
    }
}

func withCStrings<Result>(
    _ strings: [String], _ body: ([UnsafeMutablePointer<CChar>?]) -> Result
) -> Result {
    let copies = strings.map { strdup($0) }
    defer { for copy in copies { free(copy) } }
    return body(copies + [nil])
}
