import ArgumentParser
import Glibc
import PCCLBase

/// `pccl top`: `pccl status`, drawn again each second until Ctrl-C.
struct TopCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "top",
        abstract: "Shows how a run stands, again each second, until Ctrl-C.",
        discussion: """
            As pccl status, on a terminal. When the master does not answer, what it said last stays, with the time; it is \
            asked again until it does. Ctrl-C ends it, with status 0.

              pccl top --master 127.0.0.1:48149
            """)

    @OptionGroup var source: StatusSource

    func run() throws {
        let screen = DemoScreen(plain: false)
        guard screen.isLive else {
            writeAll("pccl top: standard output is not a terminal; `pccl status` says it once\n", to: STDERR_FILENO)
            throw ExitCode(1)
        }
        // Ctrl-C is waited for, together with the second: nothing is interrupted in the middle of a line.
        var signals = sigset_t()
        sigemptyset(&signals)
        for number in [SIGINT, SIGTERM, SIGHUP] { sigaddset(&signals, number) }
        pthread_sigmask(SIG_BLOCK, &signals, nil)
        signal(SIGPIPE, SIG_IGN)

        // Nobody waits longer than that for Ctrl-C to be heard.
        let client = try source.client(patience: .seconds(1))
        var table: [String] = []
        var seen: Double?
        var pause = timespec(tv_sec: 1, tv_nsec: 0)
        repeat {
            do throws(StatusClient.Problem) {
                table = StatusTable(address: "\(client.address)", report: try client.status().report).lines
                seen = Double(time(nil))
                screen.draw(table)
            } catch {
                let since = seen.map { "stale since \(StatusTable.clock($0))" } ?? "nothing was heard yet"
                screen.draw([screen.styled("\(since): \(error)", .red)] + table)
            }
        } while sigtimedwait(&signals, nil, &pause) < 0
    }
}
