import Glibc

/// The library's log: lines to standard error, from the level that `PCCL_LOG_LEVEL` names.
package enum Log {
    package enum Level: Int, Comparable, Sendable, CaseIterable {
        case trace, debug, info, warning, error, fatal, none
        package static func < (a: Level, b: Level) -> Bool { a.rawValue < b.rawValue }

        /// By its name in the environment, in any case.
        package init?(name: String) {
            let names = ["TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL", "NONE"]
            guard let index = names.firstIndex(of: name.uppercased()) else { return nil }
            self = Level.allCases[index]
        }
        fileprivate var label: String {
            switch self {
            case .trace: "trace"
            case .debug: "debug"
            case .info: "info"
            case .warning: "warning"
            case .error: "error"
            case .fatal: "fatal"
            case .none: ""
            }
        }
    }

    private static let threshold: Level = environment("PCCL_LOG_LEVEL").flatMap(Level.init(name:)) ?? .warning

    package static func write(_ level: Level, _ text: @autoclosure () -> String) {
        guard level >= threshold, level != .none else { return }
        var t = timespec()
        clock_gettime(CLOCK_REALTIME, &t)
        let day = t.tv_sec % 86_400
        let clock = [day / 3600, day / 60 % 60, day % 60].map { ($0 < 10 ? "0" : "") + String($0) }
            .joined(separator: ":")
        let thousandths = String(1000 + t.tv_nsec / 1_000_000).dropFirst()
        let line = "\(clock).\(thousandths) pccl[\(getpid())] \(level.label): \(text())\n"
        // One write a line: lines of several threads and processes do not mix.
        _ =
            line.utf8.withContiguousStorageIfAvailable { Glibc.write(STDERR_FILENO, $0.baseAddress, $0.count) }
            ?? Array(line.utf8).withUnsafeBufferPointer { Glibc.write(STDERR_FILENO, $0.baseAddress, $0.count) }
    }
}

/// A variable of the environment, if it is set and not empty.
package func environment(_ name: String) -> String? {
    guard let value = getenv(name) else { return nil }
    let text = String(cString: value)
    return text.isEmpty ? nil : text
}
