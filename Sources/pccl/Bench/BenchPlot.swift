import Glibc

/// Bus bandwidth over size as an SVG picture: one panel for each world size, one line for each library.
struct BenchPlot {
    let rows: [BenchRow]
    let title: String
    let subtitle: String

    private static let panelWidth = 860.0
    private static let panelHeight = 400.0
    private static let left = 64.0
    private static let right = 130.0
    private static let top = 34.0
    private static let bottom = 48.0
    private static let headHeight = 64.0

    /// Distinct also for the colour-blind. The pump is a limit and no rival: grey and dashed.
    private static func style(_ library: String) -> (colour: String, dashes: String) {
        switch library {
        case "pccl": ("#0072B2", "")
        case "pccl-tcp": ("#56B4E9", "")
        case "gloo": ("#D55E00", "")
        case "mpi-tcp": ("#009E73", "")
        case "mpi-shm": ("#CC79A7", "")
        case "plain": ("#E69F00", "")
        case "pump": ("#777777", "6 4")
        default: ("#000000", "2 3")
        }
    }

    func svg() -> String {
        var worlds: [Int] = []
        for row in rows where !worlds.contains(row.peers) { worlds.append(row.peers) }
        let height = Self.headHeight + Double(worlds.count) * Self.panelHeight
        var lines = [
            """
            <?xml version="1.0" encoding="UTF-8"?>
            <svg xmlns="http://www.w3.org/2000/svg" width="\(whole(Self.panelWidth))" height="\(whole(height))" \
            viewBox="0 0 \(whole(Self.panelWidth)) \(whole(height))" font-family="sans-serif" font-size="13">
            <rect width="100%" height="100%" fill="#ffffff"/>
            """,
            text(title, x: Self.left, y: 26, "font-size=\"18\" font-weight=\"bold\""),
            text(subtitle, x: Self.left, y: 46, "font-size=\"11\" fill=\"#555555\""),
        ]
        for (index, peers) in worlds.enumerated() {
            let y = Self.headHeight + Double(index) * Self.panelHeight
            lines.append("<g transform=\"translate(0 \(whole(y)))\">")
            lines += panel(peers, rows.filter { $0.peers == peers })
            lines.append("</g>")
        }
        lines.append("</svg>\n")
        return lines.joined(separator: "\n")
    }

    private func panel(_ peers: Int, _ rows: [BenchRow]) -> [String] {
        let scale = Scale(
            rows, left: Self.left, right: Self.panelWidth - Self.right, top: Self.top,
            bottom: Self.panelHeight - Self.bottom)
        var lines = [text("\(peers) peers", x: Self.left, y: 20, "font-weight=\"bold\"")]
        for value in scale.valueTicks {
            let y = scale.y(value)
            lines.append(line(scale.left, y, scale.right, y, value == 0 ? "#333333" : "#dddddd"))
            lines.append(text(tick(value), x: scale.left - 8, y: y + 4, "text-anchor=\"end\""))
        }
        for bytes in scale.sizeTicks {
            let x = scale.x(bytes)
            lines.append(line(x, scale.top, x, scale.bottom, "#eeeeee"))
            lines.append(text(ByteSize.label(bytes), x: x, y: scale.bottom + 20, "text-anchor=\"middle\""))
        }
        let middle = (scale.top + scale.bottom) / 2
        lines.append(
            text(
                "bus bandwidth, GB/s", x: 18, y: middle,
                "text-anchor=\"middle\" transform=\"rotate(-90 18 \(fixed(middle, 1)))\""))
        lines.append(
            text("size", x: (scale.left + scale.right) / 2, y: scale.bottom + 40, "text-anchor=\"middle\""))
        var libraries: [String] = []
        for row in rows where !libraries.contains(row.library) { libraries.append(row.library) }
        for (index, library) in libraries.enumerated() {
            lines += curve(library, rows.filter { $0.library == library }, scale)
            lines += legend(library, scale.right + 14, scale.top + 12 + 22 * Double(index))
        }
        return lines
    }

    private func curve(_ library: String, _ rows: [BenchRow], _ scale: Scale) -> [String] {
        let (colour, dashes) = Self.style(library)
        let points = rows.sorted { $0.bytes < $1.bytes }.map {
            (x: fixed(scale.x($0.bytes), 1), y: fixed(scale.y($0.busBandwidth), 1))
        }
        let path = points.map { "\($0.x),\($0.y)" }.joined(separator: " ")
        let dashing = dashes.isEmpty ? "" : " stroke-dasharray=\"\(dashes)\""
        return [
            "<polyline points=\"\(path)\" fill=\"none\" stroke=\"\(colour)\" stroke-width=\"2\"\(dashing)/>"
        ] + points.map { "<circle cx=\"\($0.x)\" cy=\"\($0.y)\" r=\"3\" fill=\"\(colour)\"/>" }
    }

    private func legend(_ library: String, _ x: Double, _ y: Double) -> [String] {
        let (colour, dashes) = Self.style(library)
        let dashing = dashes.isEmpty ? "" : " stroke-dasharray=\"\(dashes)\""
        return [
            line(x, y, x + 24, y, colour, "stroke-width=\"2\"\(dashing)"),
            "<circle cx=\"\(fixed(x + 12, 1))\" cy=\"\(fixed(y, 1))\" r=\"3\" fill=\"\(colour)\"/>",
            text(library, x: x + 32, y: y + 4),
        ]
    }

    private func line(
        _ x1: Double, _ y1: Double, _ x2: Double, _ y2: Double, _ colour: String, _ more: String = ""
    ) -> String {
        "<line x1=\"\(fixed(x1, 1))\" y1=\"\(fixed(y1, 1))\" x2=\"\(fixed(x2, 1))\" y2=\"\(fixed(y2, 1))\" "
            + "stroke=\"\(colour)\" \(more)/>"
    }

    private func text(_ text: String, x: Double, y: Double, _ more: String = "") -> String {
        "<text x=\"\(fixed(x, 1))\" y=\"\(fixed(y, 1))\" \(more)>\(BenchPlot.escaped(text))</text>"
    }

    static func escaped(_ text: String) -> String {
        text.reduce(into: "") { escaped, character in
            switch character {
            case "&": escaped += "&amp;"
            case "<": escaped += "&lt;"
            case ">": escaped += "&gt;"
            case "\"": escaped += "&quot;"
            default: escaped.append(character)
            }
        }
    }

    private func whole(_ value: Double) -> String { fixed(value, 0) }

    private func tick(_ value: Double) -> String {
        fixed(value, value == value.rounded() ? 0 : value * 10 == (value * 10).rounded() ? 1 : 2)
    }

    /// From sizes and bandwidths to places in a panel.
    struct Scale {
        let left: Double
        let right: Double
        let top: Double
        let bottom: Double
        let sizeTicks: [Int]
        let valueTicks: [Double]
        private let smallest: Double
        private let largest: Double

        init(_ rows: [BenchRow], left: Double, right: Double, top: Double, bottom: Double) {
            (self.left, self.right, self.top, self.bottom) = (left, right, top, bottom)
            let sizes = Set(rows.map(\.bytes)).sorted()
            smallest = log2(Double(sizes.first ?? 1))
            largest = log2(Double(sizes.last ?? 1))
            valueTicks = Scale.ticks(upTo: rows.map(\.busBandwidth).max() ?? 1)
            // A label needs some room: of sizes that lie close together only the first has one.
            let span = max(largest - smallest, 1)
            let room = 52 * span / (right - left)
            sizeTicks = sizes.reduce(into: []) { ticks, size in
                if let last = ticks.last, log2(Double(size)) - log2(Double(last)) < room { return }
                ticks.append(size)
            }
        }

        func x(_ bytes: Int) -> Double {
            guard largest > smallest else { return (left + right) / 2 }
            return left + (log2(Double(bytes)) - smallest) / (largest - smallest) * (right - left)
        }

        func y(_ value: Double) -> Double { bottom - value / (valueTicks.last ?? 1) * (bottom - top) }

        /// From 0 to at least the largest value, in 4 to 10 steps of 1, 2 or 5 times a power of ten.
        static func ticks(upTo largest: Double) -> [Double] {
            let largest = max(largest, 1e-6)
            var step = 1e-7
            var factors = [2.0, 2.5, 2.0]
            while largest / step > 8 {
                step *= factors[0]
                factors.append(factors.removeFirst())
            }
            let count = Int((largest / step).rounded(.up))
            return (0...max(count, 1)).map { Double($0) * step }
        }
    }
}
