import Glibc

/// A system call that failed, in words.
package struct SystemError: Error, Hashable, Sendable, CustomStringConvertible {
    package var code: CInt
    package var doing: String

    package init(code: CInt, doing: String) {
        self.code = code
        self.doing = doing
    }
    /// From errno.
    package init(doing: String) { self.init(code: errno, doing: doing) }

    package var description: String { "\(doing): \(SystemError.text(code))" }

    package static func text(_ code: CInt) -> String {
        var buffer = [CChar](repeating: 0, count: 128)
        // The XSI form writes into the buffer; both forms are safe to call from any thread.
        _ = strerror_r(code, &buffer, buffer.count)
        return String(decoding: buffer.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }
}
