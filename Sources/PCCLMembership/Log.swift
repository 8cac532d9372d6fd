/// A line for the log, as an effect: the machines never write anywhere.
package struct LogLine: Hashable, Sendable {
    package enum Level: Int, Comparable, Sendable {
        case trace, debug, info, warning, error
        package static func < (a: Level, b: Level) -> Bool { a.rawValue < b.rawValue }
    }
    package var level: Level
    package var text: String
    package init(_ level: Level, _ text: String) {
        self.level = level
        self.text = text
    }
}
