import PCCLWire

/// What is under the key of the state: who wrote it, and the state, or into how many parts it was cut because etcd takes no
/// more than 1.5 MiB at once. Parts lie under keys of their own, which only their writer knows.
///
/// ```
///   magic, version │ term │ number within the term │ parts │ length of the state │ the state, if it has no parts
/// ```
struct StoredState: Equatable, Sendable {
    var term: Int64
    var number: UInt64
    /// 0: the state is here.
    var parts: UInt32
    var byteCount: UInt64
    var state: [UInt8]

    /// Of a state, or of a part of one: with the keys well below etcd's `--max-request-bytes`.
    static let partBytes = 1 << 20
    /// No state comes near.
    private static let largest: UInt64 = 512 << 20
    private static let magic: [UInt8] = [0x7f] + Array("pcclms".utf8) + [1]

    init(_ state: [UInt8], term: Int64, number: UInt64) {
        let isWhole = state.count <= StoredState.partBytes
        self.init(
            term: term, number: number,
            parts: isWhole ? 0 : UInt32((state.count + StoredState.partBytes - 1) / StoredState.partBytes),
            byteCount: UInt64(state.count), state: isWhole ? state : [])
    }

    init(term: Int64, number: UInt64, parts: UInt32, byteCount: UInt64, state: [UInt8]) {
        self.term = term
        self.number = number
        self.parts = parts
        self.byteCount = byteCount
        self.state = state
    }

    static func part(_ index: UInt32, of state: [UInt8]) -> [UInt8] {
        Array(state.dropFirst(Int(index) * partBytes).prefix(partBytes))
    }

    /// Below the key of all parts. Of fixed length, so that those of one state follow each other.
    var folder: String { StoredState.digits(UInt64(bitPattern: term)) + "-" + StoredState.digits(number) + "/" }
    func name(ofPart index: UInt32) -> String { folder + StoredState.digits(UInt64(index)) }

    private static func digits(_ value: UInt64) -> String {
        let digits = String(value, radix: 16)
        return String(repeating: "0", count: 16 - digits.count) + digits
    }

    var bytes: [UInt8] {
        var w = ByteWriter()
        w.write(UInt64(bitPattern: term))
        w.write(number)
        w.write(parts)
        w.write(byteCount)
        return StoredState.magic + w.bytes + state
    }

    struct Problem: Error, CustomStringConvertible { let description: String }

    init(_ bytes: [UInt8]) throws(Problem) {
        let magic = StoredState.magic
        guard bytes.starts(with: magic.dropLast()) else { throw Problem(description: "is not a state of pccl-master") }
        guard bytes.starts(with: magic) else { throw Problem(description: "is of another release of pccl-master") }
        var r = ByteReader(bytes[magic.count...])
        do throws(WireError) {
            term = Int64(bitPattern: try r.read())
            number = try r.read()
            parts = try r.read()
            byteCount = try r.read()
        } catch {
            throw Problem(description: "is cut short")
        }
        state = Array(bytes.dropFirst(magic.count + 28))
        let expected =
            parts == 0
            ? state.count == byteCount
            : state.isEmpty && byteCount <= StoredState.largest
                && UInt64(parts) == (byteCount + UInt64(StoredState.partBytes) - 1) / UInt64(StoredState.partBytes)
        guard expected else { throw Problem(description: "is damaged: its parts are not as long as it says") }
    }
}
