import DigitsTraining
import Testing

@Suite("the digits file")
struct DigitsDatasetTests {
    private let zeros = Array(repeating: "0", count: DigitsDataset.pixelsPerImage)

    private func parse(_ text: String) throws(DigitsParseError) -> DigitsDataset {
        try DigitsDataset(parsing: Array(text.utf8))
    }

    private func problem(_ text: String) -> DigitsParseError? {
        do {
            _ = try parse(text)
            return nil
        } catch {
            return error
        }
    }

    @Test("pixels are scaled to 0...1 and the label is the last field")
    func oneLine() throws {
        var fields = zeros
        fields[0] = "16"
        fields[63] = "4"
        let dataset = try parse((fields + ["7"]).joined(separator: ",") + "\n")
        #expect(dataset.count == 1)
        #expect(dataset.labels == [7])
        #expect(dataset.pixels.first == 1)
        #expect(dataset.pixels.last == 0.25)
    }

    @Test("a missing last newline, carriage returns and empty lines are accepted")
    func lineEnds() throws {
        let line = (zeros + ["3"]).joined(separator: ",")
        #expect(try parse(line + "\r\n\r\n" + line).labels == [3, 3])
    }

    @Test("an error names its line and field")
    func errors() {
        let good = (zeros + ["3"]).joined(separator: ",")
        #expect(problem(good + "\n1,2,3\n") == DigitsParseError(line: 2, problem: .fieldCount(3)))
        for wrong in ["17", "-1", "", "x", "100", "1.5"] {
            let bad = (zeros.dropLast() + [wrong, "3"]).joined(separator: ",")
            #expect(
                problem(good + "\n\n" + bad)
                    == DigitsParseError(line: 3, problem: .value(column: 64, limit: DigitsDataset.brightest)))
        }
        let badLabel = (zeros + ["10"]).joined(separator: ",")
        #expect(problem(badLabel) == DigitsParseError(line: 1, problem: .value(column: 65, limit: 9)))
        #expect(problem("") == DigitsParseError(line: 1, problem: .noImages))
    }

    @Test("the shipped file holds the 1,797 images of the collection")
    func shippedFile() throws {
        let dataset = try shippedDigits()
        #expect(dataset.count == 1797)
        // The class sizes as the collection's own documentation gives them for its test set.
        let sizes = dataset.labels.reduce(into: Array(repeating: 0, count: 10)) { $0[Int($1)] += 1 }
        #expect(sizes == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180])
    }

    @Test("the split keeps every image once, a fifth of them held out")
    func split() throws {
        let dataset = try shippedDigits()
        let (training, heldOut) = dataset.split()
        #expect(training.count == 1438)
        #expect(heldOut.count == 359)
        #expect(heldOut.labels == stride(from: 4, to: 1797, by: 5).map { dataset.labels[$0] })
        #expect(heldOut.pixels.prefix(64) == dataset.pixels[(4 * 64)..<(5 * 64)])
        #expect(training.pixels.suffix(64) == dataset.pixels.suffix(64))
    }
}
