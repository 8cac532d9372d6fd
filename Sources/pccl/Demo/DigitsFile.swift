import DigitsTraining
import Glibc

/// Finds and reads the images that the demo trains on.
enum DigitsFile {
    private static let installed = "../share/pccl/digits.csv"
    private static let inCheckout = "Tests/Data/digits/digits.csv"

    /// The given path; else beside the installed tool; else in a checkout around the tool or around the current folder.
    static func find(given: String?) throws(DemoFailure) -> String {
        if let given {
            guard isReadable(given) else { throw DemoFailure("cannot read \(given): \(systemError())") }
            return given
        }
        let folders = [executableFolder(), currentFolder()].compactMap { $0 }
        if let tool = folders.first, isReadable("\(tool)/\(installed)") { return "\(tool)/\(installed)" }
        for folder in folders {
            for parent in parents(of: folder) where isReadable("\(parent)/\(inCheckout)") {
                return "\(parent)/\(inCheckout)"
            }
        }
        throw DemoFailure(
            "found no digits.csv: neither \(installed) seen from the tool, nor \(inCheckout) in a folder above "
                + folders.joined(separator: " or ") + "; say where it is with --data PATH")
    }

    static func read(_ path: String) throws(DemoFailure) -> DigitsDataset {
        let file = open(path, O_RDONLY | O_CLOEXEC)
        guard file >= 0 else { throw DemoFailure("cannot open \(path): \(systemError())") }
        defer { close(file) }
        var text: [UInt8] = []
        var block = [UInt8](repeating: 0, count: 1 << 16)
        while true {
            let count = Glibc.read(file, &block, block.count)
            if count == 0 { break }
            if count < 0 {
                if errno == EINTR { continue }
                throw DemoFailure("cannot read \(path): \(systemError())")
            }
            text += block[..<count]
        }
        do {
            return try DigitsDataset(parsing: text)
        } catch {
            throw DemoFailure("\(path), \(error)")
        }
    }

    private static func isReadable(_ path: String) -> Bool {
        access(path, R_OK) == 0
    }

    /// The folder and all above it, nearest first.
    private static func parents(of folder: String) -> [String] {
        let names = folder.split(separator: "/")
        return (0...names.count).reversed().map { depth in
            names[..<depth].map { "/" + $0 }.joined()
        }
    }

    private static func executableFolder() -> String? {
        var path = [UInt8](repeating: 0, count: Int(PATH_MAX))
        let count = path.withUnsafeMutableBytes { bytes in
            readlink("/proc/self/exe", bytes.baseAddress!.assumingMemoryBound(to: CChar.self), bytes.count)
        }
        guard count > 0, let slash = path[..<count].lastIndex(of: UInt8(ascii: "/")) else { return nil }
        return String(decoding: path[..<slash], as: UTF8.self)
    }

    private static func currentFolder() -> String? {
        guard let path = getcwd(nil, 0) else { return nil }
        defer { free(path) }
        return String(cString: path)
    }
}
