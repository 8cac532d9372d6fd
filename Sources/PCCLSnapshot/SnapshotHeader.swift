import PCCLBase
import PCCLCompute
import StrictJSON

/// What a snapshot says of itself: the header of a safetensors file, with our own things in its metadata.
/// docs/snapshots.md has the format.
package struct SnapshotHeader: Equatable, Sendable {
    package struct Tensor: Equatable, Sendable {
        package var name: String
        /// As the file writes it; others know types that we do not.
        package var typeName: String
        package var shape: [Int]
        /// Its bytes, counted from the end of the header.
        package var range: Range<Int>
        /// Of its chunks; nil in files of others.
        package var chunks: [ContentHash]?

        package var type: DataType? { DataType(safetensorsName: typeName) }
    }

    /// Nil: it is no snapshot, but a file that somebody else has written.
    package var revision: UInt64?
    /// In the order of the file.
    package var tensors: [Tensor]

    /// What other readers of the format take at most.
    package static let largestBytes = 100_000_000
    /// Before the text: its length.
    package static let lengthBytes = 8
    package static let metadataName = "__metadata__"

    private static let version = "1"
    private static let versionKey = "pccl.snapshot"
    private static let revisionKey = "pccl.revision"
    private static let checkKey = "pccl.check"
    private static let hashKey = "pccl.hash:"
    private static let hashDigits = 32
}

extension SnapshotHeader {
    /// Nil if it is more than there can be, or no shape.
    package static func elementCount(of shape: [Int]) -> Int? {
        guard shape.allSatisfy({ $0 >= 0 }) else { return nil }
        if shape.contains(0) { return 0 }
        var count = 1
        for extent in shape {
            let (product, overflows) = count.multipliedReportingOverflow(by: extent)
            guard !overflows else { return nil }
            count = product
        }
        return count
    }
}

// MARK: - writing

extension SnapshotHeader {
    /// The bytes before the data. The digits of the hashes are zeros until who writes the data knows them; their number
    /// is known before, and so is where the data begin.
    package struct Draft {
        package var bytes: [UInt8]
        /// Where the digits of each tensor's hash begin, by tensor; behind a colon those of its chunks follow.
        package var digits: [Int]
    }

    /// Nil if it became larger than a header may be.
    package func draft() -> Draft? {
        var draft = Draft(bytes: [UInt8](repeating: 0, count: SnapshotHeader.lengthBytes), digits: [])
        func add(_ text: String) { draft.bytes += text.utf8 }
        add("{\(quoted(SnapshotHeader.metadataName)):{")
        add("\(quoted(SnapshotHeader.versionKey)):\(quoted(SnapshotHeader.version))")
        add(",\(quoted(SnapshotHeader.revisionKey)):\"\(revision ?? 0)\"")
        add(",\(quoted(SnapshotHeader.checkKey)):\"\(check)\"")
        for tensor in tensors {
            add(",\(quoted(SnapshotHeader.hashKey + tensor.name)):\"")
            draft.digits.append(draft.bytes.count)
            let chunkCount = ContentHash.chunkCount(of: tensor.range.count)
            guard chunkCount <= SnapshotHeader.largestBytes / SnapshotHeader.hashDigits else { return nil }
            add(zeros(1) + ":" + zeros(chunkCount) + "\"")
        }
        add("}")
        for tensor in tensors {
            let shape = tensor.shape.map(String.init).joined(separator: ",")
            add(",\(quoted(tensor.name)):{\"dtype\":\(quoted(tensor.typeName)),\"shape\":[\(shape)]")
            add(",\"data_offsets\":[\(tensor.range.lowerBound),\(tensor.range.upperBound)]}")
        }
        add("}")
        // So that the data are aligned for every type.
        while draft.bytes.count % 8 != 0 { draft.bytes.append(UInt8(ascii: " ")) }
        let length = draft.bytes.count - SnapshotHeader.lengthBytes
        for i in 0..<SnapshotHeader.lengthBytes { draft.bytes[i] = UInt8(truncatingIfNeeded: length >> (8 * i)) }
        return length <= SnapshotHeader.largestBytes ? draft : nil
    }

    private func quoted(_ text: String) -> String { JSONValue.string(text).written() }

    private func zeros(_ hashes: Int) -> String { String(repeating: "0", count: hashes * SnapshotHeader.hashDigits) }

    /// Of all that is not seen in the hashes of the tensors: the revision, and their names, types and shapes.
    private var check: ContentHash {
        var text = Array("\(revision ?? 0)\n".utf8)
        for tensor in tensors.sorted(by: { $0.name.utf8.lexicographicallyPrecedes($1.name.utf8) }) {
            text += tensor.name.utf8
            text += "\u{0}\(tensor.typeName)\u{0}\(tensor.shape.map(String.init).joined(separator: ","))\n".utf8
        }
        return text.withUnsafeBytes { ContentHash(ofChunk: $0) }
    }

    /// Of tensors in this order, without gaps. The caller puts larger elements first, so that each is aligned.
    package init(revision: UInt64, laying tensors: [(name: String, type: DataType, shape: [Int], byteCount: Int)]) {
        var place = 0
        self.revision = revision
        self.tensors = tensors.map { tensor in
            defer { place += tensor.byteCount }
            return Tensor(
                name: tensor.name, typeName: tensor.type.safetensorsName, shape: tensor.shape,
                range: place..<place + tensor.byteCount)
        }
    }
}

// MARK: - reading

extension SnapshotHeader {
    /// Of the text behind the length. Nothing in it is taken for granted; `dataBytes` is how many bytes really follow
    /// it.
    package init(parsing text: [UInt8], dataBytes: Int) throws(SnapshotProblem) {
        guard text.first == UInt8(ascii: "{"), let string = String(validating: text, as: UTF8.self) else {
            throw SnapshotProblem(.damaged, "the header is no JSON")
        }
        let json: JSONValue
        do {
            json = try JSONValue(parsing: string)
        } catch {
            throw SnapshotProblem(.damaged, "the header: \(shown("\(error)"))")
        }
        guard case .object(let members) = json else { throw SnapshotProblem(.damaged, "the header is no object") }
        tensors = []
        var metadata: [String: String] = [:]
        for member in members {
            if member.key == SnapshotHeader.metadataName {
                metadata = try SnapshotHeader.metadata(member.value)
            } else {
                tensors.append(try Tensor(member))
            }
        }
        try requireWhole(dataBytes)
        if let version = metadata[SnapshotHeader.versionKey] { try takeOurs(version, metadata) }
    }

    private static func metadata(_ value: JSONValue) throws(SnapshotProblem) -> [String: String] {
        guard case .object(let members) = value else {
            throw SnapshotProblem(.damaged, "the metadata are \(shown(value.kind)), not an object")
        }
        var metadata: [String: String] = [:]
        for member in members {
            guard case .string(let text) = member.value else {
                throw SnapshotProblem(.damaged, "\(shown(member.key)) of the metadata is no text")
            }
            metadata[member.key] = text
        }
        return metadata
    }

    /// Every byte of the data belongs to one tensor.
    private mutating func requireWhole(_ dataBytes: Int) throws(SnapshotProblem) {
        tensors.sort { ($0.range.lowerBound, $0.range.upperBound) < ($1.range.lowerBound, $1.range.upperBound) }
        var end = 0
        for tensor in tensors {
            guard tensor.range.lowerBound == end else {
                let problem = tensor.range.lowerBound < end ? "overlaps the one before" : "has a gap before it"
                throw SnapshotProblem(.damaged, "\(shown(tensor.name)) \(problem)")
            }
            end = tensor.range.upperBound
        }
        guard end == dataBytes else {
            throw SnapshotProblem(.damaged, "the tensors have \(end) bytes, and the file has \(dataBytes) for them")
        }
    }

    private mutating func takeOurs(_ version: String, _ metadata: [String: String]) throws(SnapshotProblem) {
        guard version == SnapshotHeader.version else {
            throw SnapshotProblem(.damaged, "it is a snapshot of another release, with format \(shown(version))")
        }
        guard let text = metadata[SnapshotHeader.revisionKey], let revision = UInt64(text) else {
            throw SnapshotProblem(.damaged, "the revision is no number")
        }
        self.revision = revision
        for index in tensors.indices {
            let name = tensors[index].name
            guard let digits = metadata[SnapshotHeader.hashKey + name],
                let chunks = SnapshotHeader.chunks(digits, byteCount: tensors[index].range.count)
            else { throw SnapshotProblem(.damaged, "the hashes of \(shown(name)) are not there, or do not agree") }
            tensors[index].chunks = chunks
        }
        guard metadata[SnapshotHeader.checkKey] == check.description else {
            throw SnapshotProblem(.damaged, "the revision, or a name, type or shape, is not what was written")
        }
    }

    /// Nil unless these are as many as the tensor has chunks, and together make its own hash.
    private static func chunks(_ text: String, byteCount: Int) -> [ContentHash]? {
        let digits = Array(text.utf8)
        let count = ContentHash.chunkCount(of: byteCount)
        guard digits.count > hashDigits, (digits.count - hashDigits - 1) / hashDigits == count,
            (digits.count - 1) % hashDigits == 0, digits[hashDigits] == UInt8(ascii: ":"),
            let whole = ContentHash(digits: digits[..<hashDigits])
        else { return nil }
        var chunks: [ContentHash] = []
        for start in stride(from: hashDigits + 1, to: digits.count, by: hashDigits) {
            guard let hash = ContentHash(digits: digits[start..<start + hashDigits]) else { return nil }
            chunks.append(hash)
        }
        return ContentHash(ofChunks: chunks, byteCount: byteCount) == whole ? chunks : nil
    }
}

extension SnapshotHeader.Tensor {
    fileprivate init(_ member: JSONValue.Member) throws(SnapshotProblem) {
        name = member.key
        guard case .object(let parts) = member.value, parts.count == 3,
            case .string(let typeName) = member.value["dtype"],
            let shape = SnapshotHeader.Tensor.counts(member.value["shape"]),
            let offsets = SnapshotHeader.Tensor.counts(member.value["data_offsets"]), offsets.count == 2
        else { throw SnapshotProblem(.damaged, "\(shown(member.key)) is not described by a type, a shape and offsets") }
        guard offsets[0] <= offsets[1] else {
            throw SnapshotProblem(.damaged, "\(shown(name)) ends before it begins")
        }
        self.typeName = typeName
        self.shape = shape
        range = offsets[0]..<offsets[1]
        // Of what we do not know we cannot tell.
        guard let type else { return }
        guard
            elementCount.map({ $0.multipliedReportingOverflow(by: type.byteCount) }) ?? (0, true) == (
                range.count, false
            )
        else {
            throw SnapshotProblem(
                .damaged, "\(shown(name)) has \(range.count) bytes, and the shape \(shape) of \(typeName) another size")
        }
    }

    package var elementCount: Int? { SnapshotHeader.elementCount(of: shape) }

    private static func counts(_ value: JSONValue?) -> [Int]? {
        guard case .array(let values) = value else { return nil }
        var counts: [Int] = []
        for value in values {
            // Above that a number may have been another one.
            guard case .number(let number) = value, number >= 0, number < 0x1p53, let count = Int(exactly: number)
            else {
                return nil
            }
            counts.append(count)
        }
        return counts
    }
}

extension ContentHash {
    /// The 32 digits of the canonical form.
    init?(digits: ArraySlice<UInt8>) {
        var words: [UInt64] = [0, 0]
        for (index, digit) in digits.enumerated() {
            let value: UInt8
            switch digit {
            case UInt8(ascii: "0")...UInt8(ascii: "9"): value = digit - UInt8(ascii: "0")
            case UInt8(ascii: "a")...UInt8(ascii: "f"): value = digit - UInt8(ascii: "a") + 10
            default: return nil
            }
            words[index / 16] = words[index / 16] << 4 | UInt64(value)
        }
        self.init(high: words[0], low: words[1])
    }
}

extension DataType {
    package var safetensorsName: String {
        switch self {
        case .uint8: "U8"
        case .int8: "I8"
        case .int16: "I16"
        case .uint16: "U16"
        case .uint32: "U32"
        case .int32: "I32"
        case .uint64: "U64"
        case .int64: "I64"
        case .float16: "F16"
        case .bfloat16: "BF16"
        case .float32: "F32"
        case .float64: "F64"
        }
    }

    init?(safetensorsName name: String) {
        guard let type = DataType.allCases.first(where: { $0.safetensorsName == name }) else { return nil }
        self = type
    }
}
