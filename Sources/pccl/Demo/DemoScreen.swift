import Glibc

/// Standard output: a table that is drawn over and over in its place on a terminal, plain lines anywhere else.
final class DemoScreen {
    enum Style: String {
        case plain = ""
        case bold = "\u{1B}[1m"
        case faint = "\u{1B}[2m"
        case red = "\u{1B}[31m"
        case green = "\u{1B}[32m"
        case yellow = "\u{1B}[33m"
    }

    let isLive: Bool
    private var linesDrawn = 0

    init(plain: Bool) {
        func variable(_ name: String) -> String? { getenv(name).map { String(cString: $0) } }
        let unwanted = plain || !(variable("NO_COLOR") ?? "").isEmpty || variable("TERM") == "dumb"
        isLive = !unwanted && isatty(STDOUT_FILENO) == 1
    }

    func styled(_ text: String, _ style: Style) -> String {
        isLive && style != .plain ? style.rawValue + text + "\u{1B}[0m" : text
    }

    /// Draws over what the last call drew.
    func draw(_ lines: [String]) {
        // More lines than the terminal has would scroll, and the next drawing would begin at the wrong one.
        let lines = lines.prefix(terminalRows - 1)
        var text = linesDrawn > 0 ? "\u{1B}[\(linesDrawn)A" : ""
        // A long line is cut off at the edge rather than wrapped, for the same reason.
        text += "\u{1B}[?7l"
        for line in lines { text += "\r\u{1B}[2K\(line)\n" }
        text += "\u{1B}[?7h\u{1B}[J"
        linesDrawn = lines.count
        writeAll(text, to: STDOUT_FILENO)
    }

    /// A line that stays.
    func print(_ line: String) {
        linesDrawn = 0
        writeAll(line + "\n", to: STDOUT_FILENO)
    }

    private var terminalRows: Int {
        var size = winsize()
        let result = ioctl(STDOUT_FILENO, UInt(TIOCGWINSZ), &size)
        return result == 0 && size.ws_row > 1 ? Int(size.ws_row) : 24
    }
}

extension String {
    func leading(_ width: Int) -> String { self + String(repeating: " ", count: Swift.max(0, width - count)) }
    func trailing(_ width: Int) -> String { String(repeating: " ", count: Swift.max(0, width - count)) + self }
}

/// With so many decimals, cut off and not rounded: 0.997 of the images is not all of them.
func decimal(_ value: Double, _ places: Int) -> String {
    guard value.isFinite, abs(value) < 1e12 else { return "\(value)" }
    var scale = 1
    for _ in 0..<places { scale *= 10 }
    // A hair more than the value: 0.29 * 100 is a little less than 29.
    let scaled = Int(abs(value) * Double(scale) + 1e-6)
    let whole = "\(value < 0 && scaled > 0 ? "-" : "")\(scaled / scale)"
    guard places > 0 else { return whole }
    let digits = String(scaled % scale)
    return whole + "." + String(repeating: "0", count: places - digits.count) + digits
}

func bytes(_ count: UInt64) -> String {
    switch count {
    case ..<1000: "\(count) B"
    case ..<1_000_000: "\(decimal(Double(count) / 1e3, 1)) kB"
    case ..<1_000_000_000: "\(decimal(Double(count) / 1e6, 1)) MB"
    default: "\(decimal(Double(count) / 1e9, 2)) GB"
    }
}
