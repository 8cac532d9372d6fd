import Glibc

/// A peer's side of the two pipes to the demo: reports go out on standard output, the leave to go comes in on standard
/// input. When standard input ends instead, the demo is dead, however it died, and this process ends as well.
struct DemoParent {
    static let leave = UInt8(ascii: "q")

    private let leaveGiven: UnsafeMutablePointer<sem_t>

    init() {
        // Lives as long as the process: the thread below uses it without end.
        leaveGiven = .allocate(capacity: 1)
        sem_init(leaveGiven, 0, 0)
        var thread = pthread_t()
        guard pthread_create(&thread, nil, listenToParent, leaveGiven) == 0 else {
            _exit(2)
        }
        pthread_detach(thread)
    }

    func report(_ report: PeerReport) {
        writeAll(report.line + "\n", to: STDOUT_FILENO)
    }

    func awaitLeave() {
        while sem_wait(leaveGiven) != 0 && errno == EINTR {}
    }
}

private func listenToParent(_ leaveGiven: UnsafeMutableRawPointer?) -> UnsafeMutableRawPointer? {
    let leaveGiven = leaveGiven!.assumingMemoryBound(to: sem_t.self)
    while true {
        var byte: UInt8 = 0
        let count = read(STDIN_FILENO, &byte, 1)
        if count == 1 && byte == DemoParent.leave {
            sem_post(leaveGiven)
        } else if count == 0 || (count < 0 && errno != EINTR) {
            _exit(2)
        }
    }
}
