import COpenSSL
import PCCLTransport

/// Why `pccl keys` could not do it, in words that say what to do.
struct KeysProblem: Error, CustomStringConvertible {
    let description: String

    init(_ description: String) { self.description = description }

    /// A system call failed; errno says why.
    init(doing: String) { description = SystemError(doing: doing).description }

    /// A function of OpenSSL failed; its queue of errors says why.
    init(openSSL doing: String) {
        var text = [CChar](repeating: 0, count: 256)
        let code = ERR_peek_last_error()
        ERR_clear_error()
        guard code != 0 else {
            description = "\(doing): OpenSSL gives no reason"
            return
        }
        ERR_error_string_n(code, &text, text.count)
        let words = String(decoding: text.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
        description = "\(doing): OpenSSL says \(words)"
    }
}
