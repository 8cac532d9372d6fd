import Glibc
import Synchronization

// What the demo needs of the system, without Foundation.

func systemError(_ code: CInt = errno) -> String {
    String(cString: strerror(code))
}

func monotonicNanoseconds() -> UInt64 {
    var time = timespec()
    clock_gettime(CLOCK_MONOTONIC, &time)
    return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
}

func sleep(milliseconds: Int) {
    if milliseconds == 0 { return }
    var wanted = timespec(tv_sec: milliseconds / 1000, tv_nsec: milliseconds % 1000 * 1_000_000)
    var rest = timespec()
    while nanosleep(&wanted, &rest) != 0 && errno == EINTR { wanted = rest }
}

/// What cannot be written is lost: there is nobody to tell.
func writeAll(_ text: String, to descriptor: CInt) {
    var bytes = Array(text.utf8)[...]
    while !bytes.isEmpty {
        let count = bytes.withUnsafeBytes { write(descriptor, $0.baseAddress, $0.count) }
        if count > 0 {
            bytes = bytes.dropFirst(count)
        } else if errno == EAGAIN {
            var writable = pollfd(fd: descriptor, events: Int16(POLLOUT), revents: 0)
            _ = poll(&writable, 1, -1)
        } else if errno != EINTR {
            return
        }
    }
}

func currentEnvironment() -> [String] {
    var result: [String] = []
    var entry = environ
    while let text = entry.pointee {
        result.append(String(cString: text))
        entry += 1
    }
    return result
}

/// A pipe must not get the number of a standard stream that was closed when the demo was started.
func keepStandardStreamsOpen() {
    while true {
        let descriptor = open("/dev/null", O_RDWR)
        if descriptor < 0 { return }
        if descriptor > STDERR_FILENO {
            close(descriptor)
            return
        }
    }
}

enum DemoSignals {
    /// The signal that asked the demo to end, or 0.
    static var received: CInt { lastSignal.load(ordering: .relaxed) }

    /// From here on Ctrl-C and the like only leave a note, and the demo ends its children before itself. The alarm is
    /// the last resort, for a call that never returns: it says so and exits, and the children end for lack of a parent.
    static func install(giveUpAfterSeconds seconds: Int) {
        // The first use makes the global, and must not be inside a handler.
        lastSignal.store(0, ordering: .relaxed)
        for number in [SIGINT, SIGTERM, SIGHUP] {
            signal(number) { lastSignal.store($0, ordering: .relaxed) }
        }
        signal(SIGPIPE, SIG_IGN)
        signal(SIGALRM) { _ in
            let text: StaticString = "demo: FAILED a call of the library did not return in time\n"
            _ = write(STDOUT_FILENO, text.utf8Start, text.utf8CodeUnitCount)
            _exit(1)
        }
        alarm(CUnsignedInt(seconds))
    }
}

private let lastSignal = Atomic<CInt>(0)
