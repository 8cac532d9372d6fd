import PCCLBase

/// One tensor of a shared state, as a member holds it.
package struct StateEntry: Hashable, Sendable {
    package var name: String
    package var type: DataType
    package var count: UInt64
    /// Its content may differ between members: it is neither compared nor sent on its own account.
    package var allowsInequality: Bool
    /// Of the content. Nil: of no worth, since it was about to be received and has not been, or was in part.
    package var hash: ContentHash?

    package init(name: String, type: DataType, count: UInt64, allowsInequality: Bool, hash: ContentHash?) {
        self.name = name
        self.type = type
        self.count = count
        self.allowsInequality = allowsInequality
        self.hash = hash
    }
}

/// What a member brings to a synchronisation. Entries are in the order of their names' bytes, and each name is there once.
package struct StateOffer: Hashable, Sendable {
    package var revision: UInt64
    package var strategy: SharedStateStrategy
    /// By which contents are compared.
    package var function: HashFunction
    package var entries: [StateEntry]

    package init(
        revision: UInt64, strategy: SharedStateStrategy, function: HashFunction = .xxh3, entries: [StateEntry]
    ) {
        self.revision = revision
        self.strategy = strategy
        self.function = function
        self.entries = entries
    }
}

extension StateOffer: CustomStringConvertible {
    package var description: String {
        "revision \(revision), \(strategy): "
            + entries.prefix(8).map { "\"\($0.name)\" \($0.hash?.description ?? "torn")" }.joined(separator: ", ")
    }
}

/// The master's word to a member that is to receive something: what, and from whom.
package struct StateDecision: Hashable, Sendable {
    package struct Key: Hashable, Sendable {
        /// In the receiver's own offer.
        package var entry: Int
        package var hash: ContentHash
        package init(entry: Int, hash: ContentHash) {
            self.entry = entry
            self.hash = hash
        }
    }
    /// Named in the receiver's answer: a member is lost, and there is another decision.
    package var session: UInt32
    /// What the state has afterwards.
    package var revision: UInt64
    /// They all hold the elected content.
    package var sources: [PeerID]
    /// In the order of entries. None, if only the revision is old.
    package var keys: [Key]

    package init(session: UInt32, revision: UInt64, sources: [PeerID], keys: [Key]) {
        self.session = session
        self.revision = revision
        self.sources = sources
        self.keys = keys
    }
}

extension StateOffer {
    /// Whatever it holds, it was not being received when a source was lost.
    package var isWhole: Bool { entries.allSatisfy { $0.hash != nil || $0.allowsInequality } }

    /// What may differ is as it is. Revision and all else are those of the elected offer.
    package func holds(_ elected: StateOffer) -> Bool {
        revision == elected.revision && entries.count == elected.entries.count
            && zip(entries, elected.entries).allSatisfy {
                $0.allowsInequality || ($0.hash != nil && $0.hash == $1.hash)
            }
    }

    /// Whether each entry's name comes after the one before.
    package var isOrdered: Bool {
        zip(entries, entries.dropFirst()).allSatisfy { Array($0.name.utf8).lexicographicallyPrecedes($1.name.utf8) }
    }
}

extension ByteWriter {
    package mutating func write(_ hash: ContentHash) {
        write(hash.high)
        write(hash.low)
        write(hash.further)
        write(hash.last)
    }

    /// Of a shared state; nil: none was agreed on.
    package mutating func write(_ revision: UInt64?) {
        write(revision != nil)
        if let revision { write(revision) }
    }

    mutating func write(_ decision: StateDecision) {
        write(decision.session)
        write(decision.revision)
        write(decision.sources) { $0.write($1.value) }
        write(decision.keys) { w, key in
            w.write(UInt32(key.entry))
            w.write(key.hash)
        }
    }

    mutating func write(_ offer: StateOffer) {
        write(offer.revision)
        write(offer.strategy.rawValue)
        write(offer.function.rawValue)
        write(offer.entries) { w, entry in
            w.write(entry.name)
            w.write(UInt8(entry.type.rawValue))
            w.write(entry.count)
            w.write(entry.allowsInequality)
            w.write(entry.hash != nil)
            if let hash = entry.hash { w.write(hash) }
        }
    }
}

extension ByteReader {
    package mutating func readContentHash() throws(WireError) -> ContentHash {
        ContentHash(high: try read(), low: try read(), further: try read(), last: try read())
    }

    package mutating func readRevision() throws(WireError) -> UInt64? { try readBool() ? try read() : nil }

    mutating func readStateDecision() throws(WireError) -> StateDecision {
        let session: UInt32 = try read()
        let revision: UInt64 = try read()
        let sources = try readPeers()
        let keys = try readList("keys of a shared state", limit: WireLimits.stateEntries) { (r) throws(WireError) in
            StateDecision.Key(entry: Int(try r.read(UInt32.self)), hash: try r.readContentHash())
        }
        return StateDecision(session: session, revision: revision, sources: sources, keys: keys)
    }

    mutating func readStateOffer() throws(WireError) -> StateOffer {
        let revision: UInt64 = try read()
        let strategy = try read(UInt8.self)
        guard let strategy = SharedStateStrategy(rawValue: strategy) else {
            throw .unknownValue(field: "strategy", value: UInt64(strategy))
        }
        let function = try read(UInt8.self)
        guard let function = HashFunction(rawValue: function) else {
            throw .unknownValue(field: "hash function", value: UInt64(function))
        }
        let entries = try readList("entries of a shared state", limit: WireLimits.stateEntries) {
            (r) throws(WireError) in try r.readStateEntry()
        }
        let offer = StateOffer(revision: revision, strategy: strategy, function: function, entries: entries)
        guard offer.isOrdered else { throw .unknownValue(field: "order of entries", value: 0) }
        return offer
    }

    private mutating func readStateEntry() throws(WireError) -> StateEntry {
        let name = try readText()
        let type = try read(UInt8.self)
        guard let type = DataType(rawValue: UInt32(type)) else {
            throw .unknownValue(field: "data type", value: UInt64(type))
        }
        let count: UInt64 = try read()
        let allowsInequality = try readBool()
        return StateEntry(
            name: name, type: type, count: count, allowsInequality: allowsInequality,
            hash: try readBool() ? try readContentHash() : nil)
    }
}
