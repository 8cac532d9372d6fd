/// Images of handwritten digits with their labels, as read from `digits.csv`.
package struct DigitsDataset: Sendable {
    package static let pixelsPerImage = 64
    package static let classes = 10

    /// The largest pixel value in the file; pixels are scaled by it to 0…1.
    package static let brightest = 16

    /// Row after row, `pixelsPerImage` values from 0 to 1 for each image.
    package let pixels: [Float]
    package let labels: [UInt8]

    package var count: Int { labels.count }

    package init(pixels: [Float], labels: [UInt8]) {
        precondition(pixels.count == labels.count * Self.pixelsPerImage, "each label needs one image")
        self.pixels = pixels
        self.labels = labels
    }

    /// Reads the text of `digits.csv`: 64 pixel values and the label on each line, separated by commas.
    package init(parsing text: [UInt8]) throws(DigitsParseError) {
        var pixels: [Float] = []
        var labels: [UInt8] = []
        var lineNumber = 0
        for line in text.split(separator: UInt8(ascii: "\n"), omittingEmptySubsequences: false) {
            lineNumber += 1
            let content = line.last == UInt8(ascii: "\r") ? line.dropLast() : line
            if content.isEmpty { continue }
            let fields = content.split(separator: UInt8(ascii: ","), omittingEmptySubsequences: false)
            guard fields.count == Self.pixelsPerImage + 1 else {
                throw DigitsParseError(line: lineNumber, problem: .fieldCount(fields.count))
            }
            for (column, field) in fields.enumerated() {
                let limit = column == Self.pixelsPerImage ? Self.classes - 1 : Self.brightest
                guard let value = Self.number(field), value <= limit else {
                    throw DigitsParseError(line: lineNumber, problem: .value(column: column + 1, limit: limit))
                }
                if column == Self.pixelsPerImage {
                    labels.append(UInt8(value))
                } else {
                    pixels.append(Float(value) / Float(Self.brightest))
                }
            }
        }
        guard !labels.isEmpty else { throw DigitsParseError(line: lineNumber, problem: .noImages) }
        self.init(pixels: pixels, labels: labels)
    }

    /// Every fifth image is held out. The file is ordered by writer, so a cut at one place would test on writers that
    /// were never seen, and the score would depend on where the cut is.
    package func split() -> (training: DigitsDataset, heldOut: DigitsDataset) {
        (select { $0 % 5 != 4 }, select { $0 % 5 == 4 })
    }

    private func select(_ isWanted: (Int) -> Bool) -> DigitsDataset {
        let wanted = (0..<count).filter(isWanted)
        return DigitsDataset(
            pixels: wanted.flatMap { pixels[($0 * Self.pixelsPerImage)..<(($0 + 1) * Self.pixelsPerImage)] },
            labels: wanted.map { labels[$0] })
    }

    /// One or two decimal digits; no value in the file has more.
    private static func number(_ field: ArraySlice<UInt8>) -> Int? {
        guard (1...2).contains(field.count) else { return nil }
        var value = 0
        for byte in field {
            guard (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte) else { return nil }
            value = value * 10 + Int(byte - UInt8(ascii: "0"))
        }
        return value
    }
}

package struct DigitsParseError: Error, Equatable, CustomStringConvertible {
    package enum Problem: Equatable, Sendable {
        case fieldCount(Int)
        case value(column: Int, limit: Int)
        case noImages
    }

    package let line: Int
    package let problem: Problem

    package init(line: Int, problem: Problem) {
        self.line = line
        self.problem = problem
    }

    package var description: String {
        switch problem {
        case .fieldCount(let count):
            "line \(line): expected \(DigitsDataset.pixelsPerImage) pixels and a label, found \(count) fields"
        case .value(let column, let limit):
            "line \(line), field \(column): expected a whole number from 0 to \(limit)"
        case .noImages:
            "the file holds no images"
        }
    }
}
