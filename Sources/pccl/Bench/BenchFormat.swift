/// Rounded to so many decimals.
func fixed(_ value: Double, _ digits: Int) -> String {
    var scale = 1.0
    for _ in 0..<digits { scale *= 10 }
    let scaled = (value * scale).rounded()
    guard scaled.isFinite, abs(scaled) < 1e15 else { return "\(value)" }
    let whole = Int(abs(scaled))
    let sign = scaled < 0 ? "-" : ""
    guard digits > 0 else { return sign + String(whole) }
    let fraction = String(whole % Int(scale))
    return "\(sign)\(whole / Int(scale))." + String(repeating: "0", count: digits - fraction.count) + fraction
}

/// With about three significant digits, for figures from nanoseconds to minutes.
func significant(_ value: Double) -> String {
    switch abs(value) {
    case 0: "0"
    case ..<0.000995: fixed(value, 6)
    case ..<0.00995: fixed(value, 5)
    case ..<0.0995: fixed(value, 4)
    case ..<9.995: fixed(value, 3)
    case ..<99.95: fixed(value, 2)
    case ..<999.5: fixed(value, 1)
    default: fixed(value, 0)
    }
}

/// The measurement could not be made, or its result is wrong.
struct BenchFailure: Error, CustomStringConvertible {
    let description: String

    init(_ description: String) {
        self.description = description
    }
}
