import Glibc

/// Why a snapshot cannot be written or read.
package struct SnapshotProblem: Error, Equatable, CustomStringConvertible {
    package enum Kind: Sendable {
        /// There is no folder, or no snapshot in it.
        case absent
        /// The caller's folder or tensors are not what they would have to be.
        case argument
        /// A file is not what it says, or no file of this format.
        case damaged
        /// The system refuses.
        case system
    }

    package var kind: Kind
    package var description: String

    init(_ kind: Kind, _ description: String) {
        self.kind = kind
        self.description = description
    }

    /// Of a system call.
    init(_ kind: Kind = .system, doing: String, code: CInt = errno) {
        self.init(kind, "\(doing): \(SnapshotProblem.text(code))")
    }

    private static func text(_ code: CInt) -> String {
        var buffer = [CChar](repeating: 0, count: 128)
        _ = strerror_r(code, &buffer, buffer.count)
        return String(decoding: buffer.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }
}

/// A name that a file gives, for an error's text: it may hold anything, and be of any length.
func shown(_ name: String) -> String {
    let text = name.prefix(80).unicodeScalars.map { $0.properties.generalCategory == .control ? "?" : String($0) }
    return "\"\(text.joined())\(name.count > 80 ? "…" : "")\""
}
