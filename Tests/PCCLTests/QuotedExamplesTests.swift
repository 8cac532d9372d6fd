import Foundation
import Testing

@Suite("The documents quote code that runs")
struct QuotedExamplesTests {
    @Test("each marked example stands in docs/swift-api.md, word for word, and nothing else does")
    func quotes() throws {
        let folder = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
        let code = try String(contentsOf: folder.appendingPathComponent("DocumentedExamples.swift"), encoding: .utf8)
        let page = try String(
            contentsOf: folder.appendingPathComponent("../../docs/swift-api.md"), encoding: .utf8)
        let quoted = page.components(separatedBy: "```swift\n").dropFirst()
            .compactMap { $0.components(separatedBy: "```").first }
        let marked = code.components(separatedBy: "// quote: ").dropFirst().compactMap { part in
            part.components(separatedBy: "// unquote").first?
                .components(separatedBy: "\n").dropFirst().joined(separator: "\n")
        }
        #expect(marked.count >= 7)
        for example in marked { #expect(quoted.contains(example)) }
        for example in quoted where !example.hasPrefix("// Package.swift") { #expect(marked.contains(example)) }
    }
}
