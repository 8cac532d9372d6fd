/// Why bytes from a remote could not be understood. Never a trap: a remote decides what we read.
package enum WireError: Error, Equatable, Sendable, CustomStringConvertible {
    case cutShort(needed: Int, had: Int)
    case unknownKind(UInt8)
    case unknownValue(field: StaticStringName, value: UInt64)
    case tooMany(field: StaticStringName, count: Int, limit: Int)
    case leftOver(Int)

    package var description: String {
        switch self {
        case .cutShort(let needed, let had): "cut short: \(needed) bytes needed, \(had) there"
        case .unknownKind(let kind): "unknown kind \(kind)"
        case .unknownValue(let field, let value): "\(field.text) has no value \(value)"
        case .tooMany(let field, let count, let limit): "\(count) \(field.text), at most \(limit) are allowed"
        case .leftOver(let count): "\(count) bytes after the end"
        }
    }
}

/// The name of a field in an error text.
package struct StaticStringName: Equatable, Sendable, ExpressibleByStringLiteral {
    package let text: String
    package init(stringLiteral text: String) { self.text = text }
}

/// Appends little-endian fields to a byte array.
package struct ByteWriter {
    package private(set) var bytes: [UInt8] = []
    package init() {}

    package mutating func write<T: FixedWidthInteger>(_ value: T) {
        withUnsafeBytes(of: value.littleEndian) { bytes.append(contentsOf: $0) }
    }
    package mutating func write(_ value: Bool) { write(UInt8(value ? 1 : 0)) }
    package mutating func write(_ text: String) {
        let utf8 = Array(text.utf8.prefix(WireLimits.textBytes))
        write(UInt16(utf8.count))
        bytes.append(contentsOf: utf8)
    }
    package mutating func write<T>(_ list: [T], _ writeElement: (inout ByteWriter, T) -> Void) {
        write(UInt32(list.count))
        for element in list { writeElement(&self, element) }
    }
}

/// Takes little-endian fields off the front of a byte array.
package struct ByteReader {
    private let bytes: ArraySlice<UInt8>
    private var position: Int

    package init(_ bytes: [UInt8]) { self.init(bytes[...]) }
    package init(_ bytes: ArraySlice<UInt8>) {
        self.bytes = bytes
        position = bytes.startIndex
    }

    package var remaining: Int { bytes.endIndex - position }

    package mutating func read<T: FixedWidthInteger>(_: T.Type = T.self) throws(WireError) -> T {
        let size = MemoryLayout<T>.size
        guard remaining >= size else { throw .cutShort(needed: size, had: remaining) }
        var value: T = 0
        for i in 0..<size { value |= T(truncatingIfNeeded: UInt64(bytes[position + i]) << UInt64(8 * i)) }
        position += size
        return value
    }
    package mutating func readBool() throws(WireError) -> Bool {
        let value = try read(UInt8.self)
        guard value < 2 else { throw .unknownValue(field: "flag", value: UInt64(value)) }
        return value == 1
    }
    package mutating func readText() throws(WireError) -> String {
        let count = Int(try read(UInt16.self))
        guard count <= WireLimits.textBytes else {
            throw .tooMany(field: "text bytes", count: count, limit: WireLimits.textBytes)
        }
        guard remaining >= count else { throw .cutShort(needed: count, had: remaining) }
        defer { position += count }
        return String(decoding: bytes[position..<position + count], as: UTF8.self)
    }
    /// Reads a counted list. The count is checked against `limit` before memory is taken for it.
    package mutating func readList<T>(
        _ field: StaticStringName, limit: Int, _ readElement: (inout ByteReader) throws(WireError) -> T
    ) throws(WireError) -> [T] {
        let count = Int(try read(UInt32.self))
        guard count <= limit else { throw .tooMany(field: field, count: count, limit: limit) }
        var list: [T] = []
        for _ in 0..<count { list.append(try readElement(&self)) }
        return list
    }
    package func finish() throws(WireError) {
        guard remaining == 0 else { throw .leftOver(remaining) }
    }
}

/// What a remote may make us hold.
package enum WireLimits {
    /// A control message: a verdict over 65,536 operations in flight needs 1 MiB, a flush report of them with 32 known
    /// launches each 26 MiB.
    package static let controlMessageBytes = 32 << 20
    /// A peer's first message: a few addresses, or those of all members of a large group.
    package static let helloBytes = 384 << 10
    package static let members = 1024
    package static let operations = 65_536
    /// Tensors of a shared state: with names of 100 bytes 9 MiB.
    package static let stateEntries = 65_536
    package static let addresses = 16
    package static let textBytes = 1024
    /// The payload of one data frame; segments are far smaller.
    package static let framePayloadBytes = 4 << 20
    /// The payload of a probe. What an operation has to send waits behind one of them at most.
    package static let probePayloadBytes = 64 << 10
    package static let stripesPerLink = 256
    /// In a report of what is stuck: enough to see why, and 10 KiB at most.
    package static let stuckOperations = 32
    package static let culprits = 8
}
