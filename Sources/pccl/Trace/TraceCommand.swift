import ArgumentParser
import Glibc
import PCCLRecorder

/// `pccl trace`: what flight recorders have written, for people.
struct TraceCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "trace",
        abstract: "Shows dumps of flight recorders, and puts those of several peers on one clock.",
        subcommands: [TraceMergeCommand.self, TraceShowCommand.self])
}

struct TraceMergeCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "merge",
        abstract: "Makes one trace of several peers' dumps, for https://ui.perfetto.dev and chrome://tracing.",
        discussion: """
            Each peer is a process there, each tag a track of it. Clocks are aligned by the entries and the words of completion \
            that peers have sent each other; how exactly is said for each peer. docs/operations.md has more.

              PCCL_RECORDER_DIR=/tmp/dumps PCCL_RECORDER_SIGNAL=USR2 python train.py
              pccl trace merge /tmp/dumps/*.trace --out trace.json
            """)

    @Argument(help: "Dumps, of one run.")
    var files: [String]

    @Option(help: "Where the trace is written to.")
    var out: String

    func validate() throws {
        if files.isEmpty { throw ValidationError("no file is given") }
    }

    func run() throws {
        do throws(TraceProblem) {
            let merge = try TraceMerge(files.map(readTrace(_:)))
            try write(merge.json, to: out)
            writeAll(merge.summary.joined(separator: "\n") + "\n", to: STDOUT_FILENO)
        } catch {
            writeAll("pccl trace: \(error)\n", to: STDERR_FILENO)
            throw ExitCode(1)
        }
    }
}

struct TraceShowCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "show", abstract: "Shows one dump as text: what it is of, and a line for each event.")

    @Argument(help: "The dump.")
    var file: String

    func run() throws {
        signal(SIGPIPE, SIG_IGN)
        do throws(TraceProblem) {
            writeAll(TraceText(try readTrace(file)).lines.joined(separator: "\n") + "\n", to: STDOUT_FILENO)
        } catch {
            writeAll("pccl trace: \(error)\n", to: STDERR_FILENO)
            throw ExitCode(1)
        }
    }
}

struct TraceProblem: Error, Equatable, CustomStringConvertible {
    var description: String
}

private func readTrace(_ path: String) throws(TraceProblem) -> TraceFile {
    do {
        return try TraceFile(path: path)
    } catch .unreadable(let text) {
        throw TraceProblem(description: text)
    } catch {
        throw TraceProblem(description: "\(path): \(error)")
    }
}

private func write(_ bytes: [UInt8], to path: String) throws(TraceProblem) {
    let file = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o644)
    guard file >= 0 else { throw TraceProblem(description: "\(path): \(String(cString: strerror(errno)))") }
    var rest = bytes[...]
    while !rest.isEmpty {
        let count = rest.withUnsafeBytes { Glibc.write(file, $0.baseAddress, $0.count) }
        if count < 0, errno == EINTR { continue }
        guard count > 0 else {
            let reason = String(cString: strerror(errno))
            close(file)
            throw TraceProblem(description: "\(path): \(reason)")
        }
        rest = rest.dropFirst(count)
    }
    close(file)
}
