/// Prometheus' text format, version 0.0.4: https://prometheus.io/docs/instrumenting/exposition_formats/
struct MetricsText {
    enum Kind: String {
        case counter, gauge
    }
    private(set) var text = ""
    private var name = ""

    static let contentType = "text/plain; version=0.0.4; charset=utf-8"

    /// The samples that follow are of this one.
    mutating func family(_ name: String, _ kind: Kind, _ help: String) {
        self.name = name
        text += "# HELP \(name) \(MetricsText.escaped(help, quotes: false))\n# TYPE \(name) \(kind.rawValue)\n"
    }

    mutating func sample(_ value: Double, _ labels: KeyValuePairs<String, String> = [:]) {
        let pairs = labels.map { "\($0.key)=\"\(MetricsText.escaped($0.value, quotes: true))\"" }
        text += name + (pairs.isEmpty ? "" : "{\(pairs.joined(separator: ","))}") + " \(MetricsText.written(value))\n"
    }

    mutating func count(_ value: UInt64, _ labels: KeyValuePairs<String, String> = [:]) {
        sample(Double(value), labels)
    }

    /// To a thousandth: no clock here is better.
    mutating func seconds(_ value: Double, _ labels: KeyValuePairs<String, String> = [:]) {
        sample((value * 1000).rounded() / 1000, labels)
    }

    private static func escaped(_ text: String, quotes: Bool) -> String {
        var escaped = ""
        for scalar in text.unicodeScalars {
            switch scalar {
            case "\\": escaped += "\\\\"
            case "\n": escaped += "\\n"
            case "\"" where quotes: escaped += "\\\""
            default: escaped.unicodeScalars.append(scalar)
            }
        }
        return escaped
    }

    private static func written(_ value: Double) -> String {
        value == value.rounded() && value.magnitude < 0x1p53 ? "\(Int64(value))" : "\(value)"
    }
}
