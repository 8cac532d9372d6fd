/// A JSON text as values, read strictly and written legibly. Members keep the order in which they are written.
package indirect enum JSONValue: Equatable, Sendable {
    case null
    case bool(Bool)
    case number(Double)
    case string(String)
    case array([JSONValue])
    case object([Member])

    package struct Member: Equatable, Sendable {
        package var key: String
        package var value: JSONValue
        package init(key: String, value: JSONValue) {
            self.key = key
            self.value = value
        }
        package init(_ key: String, _ value: JSONValue) { self.init(key: key, value: value) }
    }

    /// Exact up to 2⁵³, as is usual among readers of JSON.
    package static func integer(_ value: Int) -> JSONValue { .number(Double(value)) }

    /// What is there, in words for an error's text.
    package var kind: String {
        switch self {
        case .null: "null"
        case .bool(let value): "\(value)"
        case .number(let value): "the number \(value)"
        case .string(let text): "\"\(text)\""
        case .array: "a list"
        case .object: "an object"
        }
    }

    /// The member of that name, if this is an object that has one.
    package subscript(key: String) -> JSONValue? {
        guard case .object(let members) = self else { return nil }
        return members.first { $0.key == key }?.value
    }

    /// `allowingRepetition` is for what other programs write: the first member of a name is the one that `[name]` gives.
    package init(parsing text: String, allowingRepetition: Bool = false) throws(JSONError) {
        var parser = JSONParser(text, allowingRepetition: allowingRepetition)
        self = try parser.document()
    }
}

extension JSONValue {
    package func written(indent: String = "") -> String {
        switch self {
        case .null: return "null"
        case .bool(let value): return value ? "true" : "false"
        case .number(let value): return JSONValue.written(value)
        case .string(let text): return JSONValue.quoted(text)
        case .array(let values):
            if values.isEmpty { return "[]" }
            let lines = values.map { indent + "  " + $0.written(indent: indent + "  ") }
            return "[\n" + lines.joined(separator: ",\n") + "\n\(indent)]"
        case .object(let members):
            if members.isEmpty { return "{}" }
            let lines = members.map {
                "\(indent)  \(JSONValue.quoted($0.key)): \($0.value.written(indent: indent + "  "))"
            }
            return "{\n" + lines.joined(separator: ",\n") + "\n\(indent)}"
        }
    }

    private static func written(_ number: Double) -> String {
        // JSON has no infinity, and no NaN.
        guard number.isFinite else { return "null" }
        return number == number.rounded() && number.magnitude < 0x1p53 ? "\(Int64(number))" : "\(number)"
    }

    private static func quoted(_ text: String) -> String {
        var quoted = "\""
        for scalar in text.unicodeScalars {
            switch scalar {
            case "\"": quoted += "\\\""
            case "\\": quoted += "\\\\"
            case "\n": quoted += "\\n"
            case "\t": quoted += "\\t"
            case ..<" ":
                let digits = String(scalar.value, radix: 16)
                quoted += "\\u" + String(repeating: "0", count: 4 - digits.count) + digits
            default: quoted.unicodeScalars.append(scalar)
            }
        }
        return quoted + "\""
    }
}

package struct JSONError: Error, Equatable, CustomStringConvertible {
    package var line: Int
    package var column: Int
    package var problem: String
    package init(line: Int, column: Int, problem: String) {
        self.line = line
        self.column = column
        self.problem = problem
    }
    package var description: String { "line \(line), column \(column): \(problem)" }
}

/// RFC 8259 and nothing more: no comments, no trailing commas, and unless it is allowed no second member of a name.
private struct JSONParser {
    private let bytes: [UInt8]
    private var position = 0
    private var depth = 0
    /// A file nested deeper than that is a mistake, and must not end this program's stack.
    private static let deepest = 32
    private static let digits = UInt8(ascii: "0")...UInt8(ascii: "9")

    private let allowsRepetition: Bool

    init(_ text: String, allowingRepetition: Bool) {
        bytes = Array(text.utf8)
        allowsRepetition = allowingRepetition
    }

    mutating func document() throws(JSONError) -> JSONValue {
        let value = try value()
        skipBlanks()
        guard position == bytes.count else { throw error("expected the end of the text") }
        return value
    }

    private mutating func value() throws(JSONError) -> JSONValue {
        skipBlanks()
        switch peek {
        case UInt8(ascii: "{"): return try nested { parser throws(JSONError) in try parser.object() }
        case UInt8(ascii: "["): return try nested { parser throws(JSONError) in try parser.array() }
        case UInt8(ascii: "\""): return .string(try string())
        case UInt8(ascii: "t"): return try word("true", .bool(true))
        case UInt8(ascii: "f"): return try word("false", .bool(false))
        case UInt8(ascii: "n"): return try word("null", .null)
        case let byte? where byte == UInt8(ascii: "-") || Self.digits.contains(byte): return .number(try number())
        case nil: throw error("expected a value, but the text ends")
        default: throw error("expected a value")
        }
    }

    private mutating func nested(
        _ body: (inout JSONParser) throws(JSONError) -> JSONValue
    ) throws(JSONError) -> JSONValue {
        depth += 1
        guard depth <= Self.deepest else { throw error("nested deeper than \(Self.deepest)") }
        let value = try body(&self)
        depth -= 1
        return value
    }

    private mutating func object() throws(JSONError) -> JSONValue {
        position += 1
        var members: [JSONValue.Member] = []
        var keys: Set<String> = []
        if takes("}") { return .object([]) }
        repeat {
            skipBlanks()
            guard peek == UInt8(ascii: "\"") else { throw error("expected a name in double quotes") }
            let start = position
            let key = try string()
            guard allowsRepetition || keys.insert(key).inserted else {
                position = start
                throw error("\"\(key)\" is given twice")
            }
            guard takes(":") else { throw error("expected ':' after the name \"\(key)\"") }
            members.append(JSONValue.Member(key: key, value: try value()))
        } while takes(",")
        guard takes("}") else { throw error("expected ',' or '}'") }
        return .object(members)
    }

    private mutating func array() throws(JSONError) -> JSONValue {
        position += 1
        var elements: [JSONValue] = []
        if takes("]") { return .array([]) }
        repeat { elements.append(try value()) } while takes(",")
        guard takes("]") else { throw error("expected ',' or ']'") }
        return .array(elements)
    }

    private mutating func word(_ text: String, _ value: JSONValue) throws(JSONError) -> JSONValue {
        guard bytes[position...].starts(with: text.utf8) else { throw error("expected a value") }
        position += text.utf8.count
        return value
    }

    private mutating func number() throws(JSONError) -> Double {
        let start = position
        if peek == UInt8(ascii: "-") { position += 1 }
        let startsWithZero = peek == UInt8(ascii: "0")
        let whole = takeDigits()
        guard whole > 0, !(startsWithZero && whole > 1) else { throw error("not a number") }
        if peek == UInt8(ascii: ".") {
            position += 1
            guard takeDigits() > 0 else { throw error("expected a digit after the point") }
        }
        if peek == UInt8(ascii: "e") || peek == UInt8(ascii: "E") {
            position += 1
            if peek == UInt8(ascii: "+") || peek == UInt8(ascii: "-") { position += 1 }
            guard takeDigits() > 0 else { throw error("expected a digit in the exponent") }
        }
        let text = String(decoding: bytes[start..<position], as: UTF8.self)
        guard let value = Double(text), value.isFinite else { throw error("\(text) is too large") }
        return value
    }

    private mutating func takeDigits() -> Int {
        let start = position
        while let byte = peek, Self.digits.contains(byte) { position += 1 }
        return position - start
    }

    private mutating func string() throws(JSONError) -> String {
        position += 1
        var units: [UInt8] = []
        while let byte = peek {
            switch byte {
            case UInt8(ascii: "\""):
                position += 1
                return String(decoding: units, as: UTF8.self)
            case UInt8(ascii: "\\"):
                position += 1
                units += try escape()
            case 0..<0x20: throw error("a control character in a string must be escaped")
            default:
                units.append(byte)
                position += 1
            }
        }
        throw error("the string does not end")
    }

    private mutating func escape() throws(JSONError) -> [UInt8] {
        guard let byte = peek else { throw error("the string does not end") }
        position += 1
        switch byte {
        case UInt8(ascii: "\""), UInt8(ascii: "\\"), UInt8(ascii: "/"): return [byte]
        case UInt8(ascii: "b"): return [8]
        case UInt8(ascii: "f"): return [12]
        case UInt8(ascii: "n"): return [10]
        case UInt8(ascii: "r"): return [13]
        case UInt8(ascii: "t"): return [9]
        case UInt8(ascii: "u"): return Array(String(Character(try unicodeEscape())).utf8)
        default:
            position -= 1
            throw error("an unknown escape")
        }
    }

    private mutating func unicodeEscape() throws(JSONError) -> Unicode.Scalar {
        let high = try fourHexDigits()
        if let scalar = Unicode.Scalar(high) { return scalar }
        guard (0xD800..<0xDC00).contains(high), bytes[position...].starts(with: [0x5C, 0x75]) else {
            throw error("half of a surrogate pair")
        }
        position += 2
        let low = try fourHexDigits()
        guard (0xDC00..<0xE000).contains(low),
            let scalar = Unicode.Scalar(0x10000 + (high - 0xD800) << 10 + (low - 0xDC00))
        else { throw error("half of a surrogate pair") }
        return scalar
    }

    private mutating func fourHexDigits() throws(JSONError) -> UInt32 {
        guard position + 4 <= bytes.count else { throw error("expected four hexadecimal digits") }
        let text = String(decoding: bytes[position..<position + 4], as: UTF8.self)
        guard text.allSatisfy(\.isHexDigit), let value = UInt32(text, radix: 16) else {
            throw error("expected four hexadecimal digits")
        }
        position += 4
        return value
    }

    private var peek: UInt8? { position < bytes.count ? bytes[position] : nil }

    private mutating func skipBlanks() {
        while let byte = peek, byte == 0x20 || byte == 0x09 || byte == 0x0A || byte == 0x0D { position += 1 }
    }

    private mutating func takes(_ character: Unicode.Scalar) -> Bool {
        skipBlanks()
        guard peek == UInt8(ascii: character) else { return false }
        position += 1
        return true
    }

    private func error(_ problem: String) -> JSONError {
        let before = bytes[..<min(position, bytes.count)]
        let lineStart = (before.lastIndex(of: 0x0A) ?? -1) + 1
        return JSONError(
            line: before.count { $0 == 0x0A } + 1, column: before.count - lineStart + 1, problem: problem)
    }
}
