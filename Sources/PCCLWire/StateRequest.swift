import PCCLBase

/// The payload of a `stateRequest` frame: what of a shared state the sender wants. It is answered by `data` frames of phase
/// `state`, or by `stateLack`, with the same tag.
///
/// Contents are asked for by their hash, so that neither epochs nor sessions matter: who holds it, gives it.
package struct StateRequest: Hashable, Sendable {
    package enum Part: Hashable, Sendable {
        /// The hashes of all chunks, in order, each as `write` writes it.
        case hashes
        case chunk(Int)
    }
    package static let byteCount = 8 + ContentHash.byteCount

    /// In the order of names, which is the same at all who share a state.
    package var entry: Int
    /// Of the whole entry.
    package var hash: ContentHash
    package var part: Part

    package init(entry: Int, hash: ContentHash, part: Part) {
        self.entry = entry
        self.hash = hash
        self.part = part
    }

    package var bytes: [UInt8] {
        var w = ByteWriter()
        w.write(UInt32(clamping: entry))
        w.write(hash)
        switch part {
        case .hashes: w.write(UInt32.max)
        case .chunk(let chunk): w.write(UInt32(clamping: chunk))
        }
        return w.bytes
    }

    package init(_ bytes: [UInt8]) throws(WireError) {
        var r = ByteReader(bytes)
        entry = Int(try r.read(UInt32.self))
        hash = try r.readContentHash()
        let chunk = try r.read(UInt32.self)
        part = chunk == .max ? .hashes : .chunk(Int(chunk))
        try r.finish()
    }
}

extension StateRequest {
    package static func bytes(ofHashes hashes: [ContentHash]) -> [UInt8] {
        var w = ByteWriter()
        for hash in hashes { w.write(hash) }
        return w.bytes
    }

    package static func hashes(_ bytes: [UInt8], count: Int) throws(WireError) -> [ContentHash] {
        var r = ByteReader(bytes)
        var hashes: [ContentHash] = []
        for _ in 0..<count { hashes.append(try r.readContentHash()) }
        try r.finish()
        return hashes
    }
}
