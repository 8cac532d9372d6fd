/// Numbers with a unit, as people write them for a plan. All are decimal: a Gbit is 10^9 bits.
enum Quantity {
    /// Parameters of a model: `7e9`, `1.5b`, `350m`, `124000000`.
    static func count(_ text: String) -> Int? {
        guard
            let value = value(text, [("k", 1e3), ("m", 1e6), ("b", 1e9), ("t", 1e12), ("", 1)]),
            (1...1e15).contains(value)
        else { return nil }
        return Int(value.rounded())
    }

    /// Bits per second: `500mbit`, `2.5gbit`, `1Gbit/s`. Bytes are refused, for the two are easily taken for each other.
    static func bitsPerSecond(_ text: String) -> Double? {
        let text = text.hasSuffix("/s") ? String(text.dropLast(2)) : text
        return value(text, [("kbit", 1e3), ("mbit", 1e6), ("gbit", 1e9), ("tbit", 1e12)])
    }

    /// Seconds: `100ms`, `2s`, `50us`, `1.5min`.
    static func seconds(_ text: String) -> Double? {
        value(text, [("us", 1e-6), ("ms", 1e-3), ("min", 60), ("s", 1)])
    }

    /// The first unit that the text ends with counts. Nil for what is no number, or none that is finite and not negative.
    private static func value(_ text: String, _ units: [(ending: String, factor: Double)]) -> Double? {
        let text = text.lowercased()
        guard let unit = units.first(where: { text.hasSuffix($0.ending) }) else { return nil }
        let digits = text.dropLast(unit.ending.count)
        // Double reads "inf", "nan" and hexadecimal ones, too.
        guard let first = digits.first, ("0"..."9").contains(first) || first == ".",
            digits.allSatisfy({ ("0"..."9").contains($0) || ".e+-".contains($0) }), let number = Double(digits)
        else { return nil }
        let value = number * unit.factor
        return value.isFinite ? value : nil
    }
}

extension Quantity {
    static func count(_ value: Int) -> String {
        let units = [(1e6, "million"), (1e9, "billion"), (1e12, "trillion")]
        return value < 1_000_000 ? "\(value)" : scaled(Double(value), units)
    }

    /// With about three digits: `49.0 GB`.
    static func bytes(_ value: Double) -> String {
        scaled(value, [(1, "B"), (1e3, "kB"), (1e6, "MB"), (1e9, "GB"), (1e12, "TB"), (1e15, "PB")])
    }

    static func rate(_ bitsPerSecond: Double) -> String {
        scaled(
            bitsPerSecond, [(1, "bit/s"), (1e3, "kbit/s"), (1e6, "Mbit/s"), (1e9, "Gbit/s"), (1e12, "Tbit/s")])
    }

    /// From microseconds to hours.
    static func time(_ seconds: Double) -> String {
        seconds == 0 ? "0 s" : scaled(seconds, [(1e-6, "us"), (1e-3, "ms"), (1, "s"), (60, "min"), (3600, "h")])
    }

    /// In the largest unit of which there is one at least; the smallest for what is smaller than all.
    private static func scaled(_ value: Double, _ units: [(size: Double, name: String)]) -> String {
        // What would be written as 1000 of a unit is 1.00 of the next.
        let unit = units.last { value >= $0.size * 0.9995 } ?? units[0]
        let number = value / unit.size
        return "\(fixed(number, number < 9.995 ? 2 : number < 99.95 ? 1 : 0)) \(unit.name)"
    }
}
