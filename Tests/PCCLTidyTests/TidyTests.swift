import PCCL
import Testing

@Suite("The house is tidy")
struct TidyTests {
    /// What they do is decided by their arguments alone; that is why a run of them can be repeated from a seed.
    static let pureRooms = ["PCCLBase", "PCCLWire", "PCCLMembership", "PCCLSchedule", "PCCLSimulator", "WANLab"]
    static let worldly = ["Dispatch", "Foundation", "FoundationEssentials", "Glibc", "Musl", "Synchronization"]

    @Test("the pure rooms import nothing that has a clock, a lock or a socket", arguments: pureRooms)
    func pureRoomsStayPure(room: String) throws {
        let files = try SourceTree.files(under: "Sources/\(room)")
        #expect(!files.isEmpty, "the room has moved: this test looks in the wrong place")
        #expect(imports(of: Self.worldly, in: files) == [])
    }

    /// SwiftPM builds a room whose import the manifest does not list, if the module happens to lie there already; its own
    /// check (`--explicit-target-dependency-import-check`) does not see every such build.
    @Test("a room imports no other room than the manifest gives it")
    func importsAreDeclared() throws {
        let declared = try SourceTree.declaredDependencies()
        #expect(declared["PCCLABI"]?.contains("PCCL") == true, "the manifest is written in a new way")
        #expect(declared["pccl-master"]?.contains("PCCL") == true)

        let rooms = try SourceTree.rooms()
        for room in rooms {
            let files = try SourceTree.files(under: "Sources/\(room)")
            let foreign = (rooms + ["CPCCL"]).filter { $0 != room && !(declared[room] ?? []).contains($0) }
            #expect(imports(of: foreign, in: files) == [])
        }
    }

    @Test("the engine and the membership never meet")
    func engineNeverImportsMembership() throws {
        let files = try SourceTree.files(under: "Sources/PCCLEngine")
        #expect(!files.isEmpty, "the room has moved: this test looks in the wrong place")
        #expect(imports(of: ["PCCLMembership"], in: files) == [])
    }

    @Test("no room of the library imports Foundation, which would more than double it")
    func noFoundation() throws {
        let rooms = try SourceTree.rooms().filter { !["pccl", "pccl-master"].contains($0) }
        #expect(rooms.contains("PCCLABI"))
        let files = try rooms.flatMap { try SourceTree.files(under: "Sources/\($0)") }
        #expect(imports(of: ["Foundation", "FoundationEssentials"], in: files) == [])
    }

    @Test(
        "all that names the release names the same one",
        arguments: [
            ("Makefile", "VERSION := "), ("Sources/PCCL/Release.swift", "    public static let version = "),
            ("bindings/python/pyproject.toml", "version = "),
            ("bindings/python/src/pccl/__init__.py", "__version__ = "),
            ("bindings/rust/Cargo.toml", "version = "),
        ])
    func releases(path: String, before: String) throws {
        let lines = try SourceTree.lines(of: path)
        let version = lines.first { $0.hasPrefix(before) }?.dropFirst(before.count)
        #expect(version?.filter { $0 != "\"" } == Release.version)
    }

    @Test("what ends the process has its reason written on the line, or on the one above")
    func trapsHaveReasons() throws {
        let traps = ["fatalError(", "try!", "as!"]
        let files = try SourceTree.files(under: "Sources")
        #expect(!files.isEmpty)
        let unexplained = files.flatMap { file in
            file.lines.indices.filter { index in
                let code = file.code(ofLine: index)
                let isExplained = file.lines[index].contains("//") || (index > 0 && isComment(file.lines[index - 1]))
                return traps.contains { code.contains($0) } && !isExplained
            }.map { "\(file.path):\($0 + 1)" }
        }
        #expect(unexplained == [])
    }

    @Test("a file is about one subject, and so has at most 900 lines")
    func noLongFiles() throws {
        let files = try ["Sources", "Tests"].flatMap { try SourceTree.files(under: $0, endings: ["swift", "c", "h"]) }
        #expect(!files.isEmpty)
        #expect(files.filter { $0.lines.count > 900 }.map(\.path) == [])
    }

    private func imports(of modules: [String], in files: [SourceTree.File]) -> [String] {
        files.flatMap { file in
            file.imports.filter { modules.contains($0.module) }.map { "\(file.path):\($0.line) imports \($0.module)" }
        }
    }

    private func isComment(_ line: String) -> Bool {
        line.drop(while: \.isWhitespace).hasPrefix("//")
    }
}

@Suite("The tidy tests can see")
struct SourceTreeTests {
    private func file(_ text: String) -> SourceTree.File {
        let lines = text.split(separator: "\n", omittingEmptySubsequences: false)
        return SourceTree.File(path: "test", lines: lines.map(String.init))
    }

    @Test(
        "every way to write an import is one",
        arguments: [
            "import Glibc", "  import Glibc // why", "@preconcurrency import Glibc", "package import Glibc",
            "@testable internal import Glibc", "import func Glibc.read", "@_exported import struct Glibc.stat",
        ])
    func importsAreSeen(line: String) {
        #expect(file("\n\(line)").imports.map(\.module) == ["Glibc"])
        #expect(file("\n\(line)").imports.map(\.line) == [2])
    }

    @Test(
        "prose is no import",
        arguments: ["// import Glibc", "let text = \"import Glibc\"", "important(Glibc)", "let a = 1 // import Glibc"])
    func proseIsNone(line: String) {
        #expect(file(line).imports.isEmpty)
    }

    @Test("comments and strings are no code")
    func codeOfALine() {
        #expect(file("a(\"x // y try! \\\" z\") + b // as! c").code(ofLine: 0) == "a() + b ")
    }
}
