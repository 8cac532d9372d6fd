/// Events in the JSON of the Trace Event Format, which chrome://tracing and Perfetto read: an object with a list.
struct TraceEventWriter {
    private var bytes = Array(#"{"displayTimeUnit":"ns","traceEvents":["#.utf8)
    private var isFirst = true

    enum Value {
        case text(String)
        case number(UInt64)
    }

    /// The document; nothing can be added to it.
    var document: [UInt8] { bytes + Array("]}\n".utf8) }

    /// `nanoseconds`, `duration`: written as the microseconds that the format asks for, to a thousandth.
    mutating func add(
        _ phase: String, _ name: String, process: UInt64, track: Int, nanoseconds: UInt64? = nil,
        duration: UInt64? = nil,
        id: UInt64? = nil, category: String? = nil, more: String = "", arguments: [(String, Value)] = []
    ) {
        var line = isFirst ? "\n" : ",\n"
        isFirst = false
        line += "{\"ph\":\"\(phase)\",\"name\":\(TraceEventWriter.quoted(name)),\"pid\":\(process),\"tid\":\(track)"
        if let nanoseconds { line += ",\"ts\":\(TraceEventWriter.microseconds(nanoseconds))" }
        if let duration { line += ",\"dur\":\(TraceEventWriter.microseconds(duration))" }
        if let category { line += ",\"cat\":\"\(category)\"" }
        if let id { line += ",\"id\":\(id)" }
        line += more
        if !arguments.isEmpty {
            line += ",\"args\":{"
            line += arguments.map { key, value in
                switch value {
                case .text(let text): "\"\(key)\":\(TraceEventWriter.quoted(text))"
                case .number(let number): "\"\(key)\":\(number)"
                }
            }.joined(separator: ",")
            line += "}"
        }
        bytes += (line + "}").utf8
    }

    private static func microseconds(_ nanoseconds: UInt64) -> String {
        "\(nanoseconds / 1000).\(String(nanoseconds % 1000 + 1000).dropFirst())"
    }

    private static func quoted(_ text: String) -> String {
        var quoted = "\""
        for scalar in text.unicodeScalars {
            switch scalar {
            case "\"": quoted += "\\\""
            case "\\": quoted += "\\\\"
            case _ where scalar.value < 0x20:
                let digits = String(scalar.value, radix: 16)
                quoted += "\\u" + String(repeating: "0", count: 4 - digits.count) + digits
            default: quoted.unicodeScalars.append(scalar)
            }
        }
        return quoted + "\""
    }
}
