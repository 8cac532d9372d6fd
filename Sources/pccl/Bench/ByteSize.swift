/// Sizes as people write them: `4096`, `64K`, `1M`, `1G`, also `64KiB`; K, M and G stand for 2^10, 2^20 and 2^30.
enum ByteSize {
    private static let units: [(letter: Character, bytes: Int)] = [("K", 1 << 10), ("M", 1 << 20), ("G", 1 << 30)]

    /// Nil for what is no size, for 0, and for what does not fit.
    static func parse(_ text: some StringProtocol) -> Int? {
        var text = text.uppercased()
        for ending in ["IB", "B"] where text.hasSuffix(ending) {
            text.removeLast(ending.count)
            // "4iB" names no unit.
            if ending == "IB", text.last?.isLetter != true { return nil }
            break
        }
        let unit = units.first { $0.letter == text.last }
        let digits = unit == nil ? text[...] : text.dropLast()
        guard digits.allSatisfy({ ("0"..."9").contains($0) }), let number = Int(digits), number > 0 else { return nil }
        let (bytes, overflows) = number.multipliedReportingOverflow(by: unit?.bytes ?? 1)
        return overflows ? nil : bytes
    }

    /// Separated by commas, each one once, in the order given.
    static func list(_ text: String) -> [Int]? {
        let sizes = text.split(separator: ",", omittingEmptySubsequences: false).map { parse($0) }
        guard !sizes.contains(nil) else { return nil }
        return sizes.compactMap { $0 }.reduce(into: []) { if !$0.contains($1) { $0.append($1) } }
    }

    /// `least`, `least` · `factor`, … up to `greatest`, which is in it only if it is met exactly.
    static func series(from least: Int, to greatest: Int, factor: Int) -> [Int] {
        precondition(least > 0 && factor > 1, "the command checks its options")
        var sizes: [Int] = []
        var next = least
        while next <= greatest {
            sizes.append(next)
            let (product, overflows) = next.multipliedReportingOverflow(by: factor)
            if overflows { break }
            next = product
        }
        return sizes
    }

    /// In the largest unit that leaves a whole number: `64 KiB`, `1000 B`.
    static func label(_ bytes: Int) -> String {
        guard let unit = units.last(where: { bytes >= $0.bytes && bytes.isMultiple(of: $0.bytes) }) else {
            return "\(bytes) B"
        }
        return "\(bytes / unit.bytes) \(unit.letter)iB"
    }
}
