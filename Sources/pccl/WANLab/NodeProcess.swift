import CShims
import Glibc
import WANLab

/// A program that runs in a node, and what it writes.
final class NodeProcess {
    let node: Int
    let pid: pid_t
    /// As a shell counts: 128 and the signal's number for a program that was killed. Nil while it runs.
    private(set) var status: CInt?
    private(set) var output: LinePipe
    private(set) var errors: LinePipe

    /// Without a namespace it runs in this process's own.
    init(
        node: Int, namespace: CInt?, command: [String], environment: [String]
    ) throws(LabError) {
        self.node = node
        let (output, outputEnd) = try LinePipe.make()
        let (errors, errorsEnd) = try LinePipe.make()
        pid = withCStrings(command) { arguments in
            withCStrings(environment) {
                pccl_shim_spawn_in_namespace(namespace ?? -1, outputEnd, errorsEnd, arguments, $0)
            }
        }
        close(outputEnd)
        close(errorsEnd)
        self.output = output
        self.errors = errors
        guard pid > 0 else { throw LabError("cannot start a process: \(systemError())") }
    }

    deinit {
        output.close()
        errors.close()
    }

    /// The lines since the last call, and whether the program has ended; then the lines are its last. Does not wait.
    func poll() -> (output: [String], errors: [String], hasEnded: Bool) {
        if status == nil { collect() }
        return (output.read(untilEnd: status != nil), errors.read(untilEnd: status != nil), status != nil)
    }

    /// To the program and what it has started, unless these made process groups of their own.
    func signal(_ number: CInt) {
        // Once its end was collected, the process id may belong to someone else.
        if status == nil { kill(-pid, number) }
    }

    private func collect() {
        var raw: CInt = 0
        var result: pid_t
        repeat { result = waitpid(pid, &raw, WNOHANG) } while result < 0 && errno == EINTR
        if result == pid { status = raw & 0x7F == 0 ? raw >> 8 & 0xFF : 128 + raw & 0x7F }
    }
}

/// Whole lines from a pipe, without waiting.
struct LinePipe {
    let descriptor: CInt
    private(set) var hasEnded = false
    private var partial: [UInt8] = []

    static func make() throws(LabError) -> (LinePipe, writeEnd: CInt) {
        var ends: [CInt] = [-1, -1]
        guard pipe(&ends) == 0 else { throw LabError("cannot make a pipe: \(systemError())") }
        // In two calls, for want of pipe2; this thread, which starts the programs, is also the one that makes pipes.
        for end in ends { _ = fcntl(end, F_SETFD, FD_CLOEXEC) }
        _ = fcntl(ends[0], F_SETFL, O_NONBLOCK)
        return (LinePipe(descriptor: ends[0]), ends[1])
    }

    private init(descriptor: CInt) { self.descriptor = descriptor }

    func close() { _ = Glibc.close(descriptor) }

    /// With `untilEnd`, what is there of an unfinished line counts as a line: nobody is left to finish it.
    mutating func read(untilEnd: Bool) -> [String] {
        var block = [UInt8](repeating: 0, count: 1 << 14)
        while !hasEnded {
            let count = Glibc.read(descriptor, &block, block.count)
            if count > 0 {
                partial += block[..<count]
            } else if count == 0 || (errno != EAGAIN && errno != EINTR) {
                hasEnded = true
            } else if errno == EAGAIN {
                break
            }
        }
        if untilEnd || hasEnded, let last = partial.last, last != UInt8(ascii: "\n") {
            partial.append(UInt8(ascii: "\n"))
        }
        guard let end = partial.lastIndex(of: UInt8(ascii: "\n")) else { return [] }
        let lines = partial[..<end].split(separator: UInt8(ascii: "\n"), omittingEmptySubsequences: false)
        let texts = lines.map { String(decoding: $0, as: UTF8.self) }
        partial.removeSubrange(...end)
        return texts
    }
}
