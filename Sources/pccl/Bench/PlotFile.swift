import ArgumentParser
import Glibc

/// The picture's file. PNG is made by rsvg-convert.
enum PlotFile {
    private static let converter = "rsvg-convert"

    static func checkName(_ path: String) throws {
        guard path.hasSuffix(".svg") || path.hasSuffix(".png") else {
            throw ValidationError("--plot \(path): a file that ends with .svg or .png")
        }
    }

    /// Before anything is measured: afterwards it would be a pity.
    static func check(_ path: String) throws(BenchFailure) {
        if path.hasSuffix(".png"), !BenchTools.isOnPath(converter) {
            throw BenchFailure(
                "--plot \(path): there is no \(converter) to make a PNG (Debian: librsvg2-bin); .svg needs nothing")
        }
        // What it holds stays until there is something better.
        let file = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0o644)
        guard file >= 0 else { throw BenchFailure("cannot write \(path): \(systemError())") }
        close(file)
    }

    static func write(_ svg: String, to path: String) throws {
        guard path.hasSuffix(".png") else { return try save(svg, to: path) }
        let source = path + ".svg"
        try save(svg, to: source)
        defer { unlink(source) }
        let process = try PeerProcess(
            program: converter, arguments: ["--zoom", "2", "--output", path, source], environment: currentEnvironment())
        while !process.hasEnded() {
            _ = process.readReports()
            sleep(milliseconds: 5)
        }
        guard process.end == .exit(0) else {
            throw BenchFailure("\(converter) failed: \(process.diagnostics.joined(separator: " | "))")
        }
    }

    private static func save(_ text: String, to path: String) throws(BenchFailure) {
        let file = creat(path, 0o644)
        guard file >= 0 else { throw BenchFailure("cannot write \(path): \(systemError())") }
        writeAll(text, to: file)
        close(file)
    }
}
