import Foundation

/// The Swift files of the repository, found from where this one lies.
struct SourceTree {
    struct File {
        /// From the root of the repository.
        let path: String
        let lines: [String]

        /// What the compiler sees of a line, so that prose about `import` is none. Good enough for this house's code:
        /// it knows neither block comments nor strings over several lines.
        func code(ofLine index: Int) -> String {
            var code = ""
            var isInString = false
            var previous: Character?
            for character in lines[index] {
                if character == "\"", previous != "\\" {
                    isInString.toggle()
                } else if !isInString {
                    if character == "/", previous == "/" { return String(code.dropLast()) }
                    code.append(character)
                }
                previous = character
            }
            return code
        }

        /// The modules that it imports, with the number of the line.
        var imports: [(module: String, line: Int)] {
            lines.indices.compactMap { index in
                var words = code(ofLine: index).split(whereSeparator: \.isWhitespace)[...]
                let modifiers = ["public", "package", "internal", "fileprivate", "private"]
                while let word = words.first, word.hasPrefix("@") || modifiers.contains(String(word)) {
                    words.removeFirst()
                }
                guard words.popFirst() == "import" else { return nil }
                let kinds = ["class", "enum", "func", "let", "protocol", "struct", "typealias", "var"]
                if let kind = words.first, kinds.contains(String(kind)) { words.removeFirst() }
                return words.first.map { (String($0.prefix { $0 != "." }), index + 1) }
            }
        }
    }

    static let root = URL(fileURLWithPath: #filePath)
        .deletingLastPathComponent().deletingLastPathComponent().deletingLastPathComponent()

    /// Empty where there is no such folder.
    static func files(under folder: String, endings: Set<String> = ["swift"]) throws -> [File] {
        let top = root.appendingPathComponent(folder)
        guard FileManager.default.fileExists(atPath: top.path) else { return [] }
        return try FileManager.default.subpathsOfDirectory(atPath: top.path).sorted()
            .filter { endings.contains(($0 as NSString).pathExtension) }
            .map { path in
                let text = try String(contentsOf: top.appendingPathComponent(path), encoding: .utf8)
                return File(path: "\(folder)/\(path)", lines: text.components(separatedBy: "\n"))
            }
    }

    static func lines(of path: String) throws -> [String] {
        try String(contentsOf: root.appendingPathComponent(path), encoding: .utf8).components(separatedBy: "\n")
    }

    /// What Package.swift says of its rooms and tools: name, and names of dependencies.
    static func declaredDependencies() throws -> [String: Set<String>] {
        let manifest = try String(contentsOf: root.appendingPathComponent("Package.swift"), encoding: .utf8)
        let room = /room\(\s*"([^"]+)"\s*,\s*\[([^\]]*)\]/
        let tool = /executableTarget\(\s*name:\s*"([^"]+)"\s*,\s*dependencies:\s*\[([^\]]*)\]/
        var declared: [String: Set<String>] = [:]
        for match in manifest.matches(of: room) + manifest.matches(of: tool) {
            declared[String(match.1)] = Set(match.2.matches(of: /"([^"]+)"/).map { String($0.1) })
        }
        return declared
    }

    static func rooms() throws -> [String] {
        let sources = root.appendingPathComponent("Sources")
        return try FileManager.default.contentsOfDirectory(atPath: sources.path).sorted()
    }
}
