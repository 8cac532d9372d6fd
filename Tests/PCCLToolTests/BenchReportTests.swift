import Foundation
import FoundationXML
import StrictJSON
import Testing

@testable import pccl

/// Rows as a run of two worlds gives them.
private func rows() -> [BenchRow] {
    [2, 4].flatMap { peers in
        ["pccl", "gloo", "pump"].flatMap { library in
            [8, 4096, 1 << 20, 64 << 20].map { bytes in
                let turn = BenchTurnResult(
                    nanoseconds: [Double(bytes) + 1000, Double(bytes) + 2000, Double(bytes) + 1500],
                    processorNanoseconds: 500, extraBytes: 1 << 20, wrongElements: 0)
                return BenchRow(
                    peers: peers, bytes: bytes, library: library, rounds: [turn, turn],
                    pccl: library == "pccl" ? nil : [turn, turn])
            }
        }
    }
}

/// Counts what is in a picture.
private final class PictureReader: NSObject, XMLParserDelegate {
    var elements: [String: Int] = [:]
    var texts: [String] = []
    var coordinates: [Double] = []
    private var text = ""

    func parser(
        _ parser: XMLParser, didStartElement name: String, namespaceURI: String?, qualifiedName: String?,
        attributes: [String: String]
    ) {
        elements[name, default: 0] += 1
        text = ""
        for key in ["x", "y", "x1", "x2", "y1", "y2", "cx", "cy"] {
            if let value = attributes[key] { coordinates.append(Double(value) ?? .nan) }
        }
    }

    func parser(_ parser: XMLParser, foundCharacters string: String) { text += string }

    func parser(
        _ parser: XMLParser, didEndElement name: String, namespaceURI: String?, qualifiedName: String?
    ) {
        if name == "text" { texts.append(text) }
    }
}

@Suite("The picture of a measurement")
struct BenchPlotTests {
    private func read(_ svg: String) throws -> PictureReader {
        let reader = PictureReader()
        let parser = XMLParser(data: Data(svg.utf8))
        parser.delegate = reader
        try #require(parser.parse(), "\(parser.parserError.debugDescription) in line \(parser.lineNumber)")
        return reader
    }

    @Test("is well-formed, with a line for each library and world, and a name beside each line")
    func wellFormed() throws {
        let picture = try read(BenchPlot(rows: rows(), title: "a < b & \"c\"", subtitle: "<&>").svg())
        #expect(picture.elements["svg"] == 1)
        #expect(picture.elements["g"] == 2)
        #expect(picture.elements["polyline"] == 6)
        #expect(picture.elements["circle"] == 6 * 4 + 6)
        #expect(picture.texts.contains("a < b & \"c\""))
        for text in ["<&>", "2 peers", "4 peers", "pccl", "gloo", "pump", "64 MiB", "bus bandwidth, GB/s"] {
            #expect(picture.texts.contains(text))
        }
    }

    @Test("keeps everything inside")
    func inside() throws {
        let picture = try read(BenchPlot(rows: rows(), title: "t", subtitle: "s").svg())
        #expect(!picture.coordinates.isEmpty)
        #expect(picture.coordinates.allSatisfy { (0...860).contains($0) })
    }

    @Test("can be drawn of one size, and of none")
    func degenerate() throws {
        let none = try read(BenchPlot(rows: [], title: "t", subtitle: "s").svg())
        #expect(none.elements["polyline"] == nil)
        let one = try read(BenchPlot(rows: [rows()[0]], title: "t", subtitle: "s").svg())
        #expect(one.elements["polyline"] == 1)
        #expect(one.coordinates.allSatisfy { $0.isFinite })
    }

    @Test(
        "has ticks from 0 to above the largest value, few enough to read",
        arguments: [1e-4, 0.03, 0.7, 1, 1.9, 26, 1234])
    func ticks(largest: Double) {
        let ticks = BenchPlot.Scale.ticks(upTo: largest)
        #expect(ticks.first == 0)
        #expect((largest...largest * 1.6).contains(ticks[ticks.count - 1]))
        #expect((4...10).contains(ticks.count))
    }
}

@Suite("The report of a measurement")
struct BenchReportTests {
    @Test("is JSON that others can read, with every row")
    func json() throws {
        let plan = BenchPlan(work: BenchWork(), peers: [2, 4], sizes: [8], rounds: 2)
        let outcome = BenchOutcome(
            rows: rows(), libraries: [.init(name: "pccl", text: "swift-pccl")],
            skipped: [.init(name: "mpi-tcp", text: "a \"quoted\"\n\ttext \u{1} é")])
        let report = BenchReport(plan: plan, machine: BenchMachine(), outcome: outcome, master: nil)
        let object = try JSONSerialization.jsonObject(with: Data(report.json.written().utf8))
        let json = try #require(object as? [String: Any])
        let results = try #require(json["results"] as? [[String: Any]])
        #expect(results.count == rows().count)
        #expect(results[0]["times_of_pccl"] is NSNull)
        #expect(results[4]["times_of_pccl"] as? Double == 1)
        #expect(results[3]["bytes"] as? Int == 64 << 20)
        let skipped = try #require(json["skipped"] as? [[String: Any]])
        #expect(skipped[0]["text"] as? String == "a \"quoted\"\n\ttext \u{1} é")
        let machine = try #require(json["machine"] as? [String: Any])
        #expect((machine["cores"] as? Int ?? 0) > 0)
        #expect((json["date"] as? String ?? "").hasSuffix("Z"))
    }

    @Test("what JSON has no word for is null")
    func noInfinity() {
        #expect(
            JSONValue.array([.number(.infinity), .number(.nan), .number(1e-9)]).written()
                == "[\n  null,\n  null,\n  1e-09\n]")
        #expect(JSONValue.object([]).written() == "{}")
    }

    @Test("a line of the table has as many cells as its heading, and no space at its end")
    func table() {
        let row = rows()[4]
        let text = BenchOutput.text(row, BenchWork())
        #expect(text.last != " ")
        let cells = text.split(separator: " ").map(String.init)
        // The size and the ratio have a unit behind a space.
        #expect(
            cells == [
                "2", "8", "B", "float32", "gloo", "0.00151", "0.00201", "0.00531", "0.00531", "20.83", "1.0", "0",
                "1.000", "x",
            ])
    }
}
