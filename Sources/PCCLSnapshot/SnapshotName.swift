/// Names of files in a folder of snapshots.
///
/// ```
///   snapshot-00000000000000000042.safetensors           that of revision 42
///   .snapshot-00000000000000000042.4711.0.partial       what process 4711 is writing, or was
/// ```
package enum SnapshotName {
    private static let ending = ".safetensors"
    private static let beginning = "snapshot-"
    private static let partialEnding = ".partial"
    private static let revisionDigits = 20

    /// So many digits that names are in the order of revisions.
    package static func name(revision: UInt64) -> String { beginning + digits(revision) + ending }

    /// Nil: of something else.
    package static func revision(of name: String) -> UInt64? {
        guard name.utf8.count == beginning.utf8.count + revisionDigits + ending.utf8.count,
            name.hasPrefix(beginning), name.hasSuffix(ending)
        else { return nil }
        let digits = name.utf8.dropFirst(beginning.utf8.count).prefix(revisionDigits)
        guard digits.allSatisfy({ (UInt8(ascii: "0")...UInt8(ascii: "9")).contains($0) }) else { return nil }
        return UInt64(String(decoding: digits, as: UTF8.self))
    }

    static func partialName(revision: UInt64, process: Int, number: Int) -> String {
        ".\(beginning)\(digits(revision)).\(process).\(number)\(partialEnding)"
    }

    static func isPartial(_ name: String) -> Bool {
        name.hasPrefix("." + beginning) && name.hasSuffix(partialEnding)
    }

    private static func digits(_ revision: UInt64) -> String {
        let digits = String(revision)
        return String(repeating: "0", count: revisionDigits - digits.utf8.count) + digits
    }
}
