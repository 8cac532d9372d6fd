import PCCLBase

/// An operation that has not moved for a while at a member, and whom it waits for there. What peers log, what a failed call
/// says and what `pccl status --stuck` prints is its `text`.
package struct StuckOperation: Hashable, Sendable {
    package struct Culprit: Hashable, Sendable {
        package enum Reason: UInt8, Sendable, CaseIterable {
            /// Its caller has not called.
            case hasNotCalled = 0
            /// It has called, and what it is to send does not come.
            case sendsNothing = 1
            /// What is sent to it is not taken.
            case takesNothing = 2
            /// It has not said that it holds the whole result.
            case isNotPrepared = 3
        }
        package var peer: PeerID
        package var reason: Reason
        /// For how long nothing has come of it.
        package var milliseconds: UInt32
        /// Of what it has to send to the reporter in this operation.
        package var receivedBytes: UInt64
        package var expectedBytes: UInt64
        /// Since when nothing at all came over the link to it. Nil: there is no link.
        package var silentMilliseconds: UInt32?

        package init(
            peer: PeerID, reason: Reason, milliseconds: UInt32, receivedBytes: UInt64 = 0, expectedBytes: UInt64 = 0,
            silentMilliseconds: UInt32?
        ) {
            self.peer = peer
            self.reason = reason
            self.milliseconds = milliseconds
            self.receivedBytes = receivedBytes
            self.expectedBytes = expectedBytes
            self.silentMilliseconds = silentMilliseconds
        }
    }

    package var tag: Tag
    package var descriptor: OperationDescriptor
    /// Since the reporter's call.
    package var milliseconds: UInt32
    package var worldSize: UInt16
    /// Members that are known to have called it, and to hold its result, the reporter included.
    package var called: UInt16
    package var prepared: UInt16
    /// Some of those that it waits for; none while the master is to say what becomes of it.
    package var culprits: [Culprit]
    /// Further ones.
    package var moreCulprits: UInt16

    package init(
        tag: Tag, descriptor: OperationDescriptor, milliseconds: UInt32, worldSize: UInt16, called: UInt16,
        prepared: UInt16, culprits: [Culprit], moreCulprits: UInt16 = 0
    ) {
        self.tag = tag
        self.descriptor = descriptor
        self.milliseconds = milliseconds
        self.worldSize = worldSize
        self.called = called
        self.prepared = prepared
        self.culprits = culprits
        self.moreCulprits = moreCulprits
    }
}

// MARK: - in words

extension StuckOperation {
    /// "tag 7, all-reduce(sum, 4000000 × float32, direct), has waited 1.7 s for peer 3: it has called, and brought 12.4 of
    /// 16.0 MB; its last byte came 1.6 s ago. 3 of 3 have called, 0 are prepared: no verdict yet"
    package var text: String {
        let head = "\(tag), \(descriptor), "
        let state = "\(called) of \(worldSize) have called, \(prepared) \(prepared == 1 ? "is" : "are") prepared"
        guard !culprits.isEmpty else {
            return head + "was interrupted after \(Self.seconds(milliseconds)), and the master's verdict is awaited. "
                + state
        }
        let parts = culprits.enumerated().map { index, culprit in
            (index == 0 ? "has waited " : "") + "\(Self.seconds(culprit.milliseconds)) for \(culprit.text)"
        }
        let more = moreCulprits > 0 ? "; and for \(moreCulprits) more" : ""
        return head + parts.joined(separator: "; ") + more + ". \(state): no verdict yet"
    }

    package static func seconds(_ milliseconds: UInt32) -> String {
        let tenths = (UInt64(milliseconds) + 50) / 100
        return "\(tenths / 10).\(tenths % 10) s"
    }

    /// "12.4 of 16.0 MB"
    static func amount(_ received: UInt64, of expected: UInt64) -> String {
        let (unit, size): (String, UInt64) =
            expected >= 10_000_000_000 ? ("GB", 1_000_000_000) : expected >= 10_000_000 ? ("MB", 1_000_000) : ("B", 1)
        func number(_ bytes: UInt64) -> String {
            guard size > 1 else { return "\(bytes)" }
            let tenths = bytes / (size / 10)
            return "\(tenths / 10).\(tenths % 10)"
        }
        return "\(number(received)) of \(number(expected)) \(unit)"
    }
}

extension StuckOperation.Culprit {
    package var text: String {
        let what =
            switch reason {
            case .hasNotCalled: "it has not called"
            case .sendsNothing where expectedBytes == 0: "it has called, and nothing comes of it"
            case .sendsNothing:
                "it has called, and brought \(StuckOperation.amount(receivedBytes, of: expectedBytes))"
            case .takesNothing: "it has called, and does not take what is sent to it"
            case .isNotPrepared: "it does not say that it holds the result"
            }
        let link = silentMilliseconds.map { "its last byte came \(StuckOperation.seconds($0)) ago" }
        return "\(peer): \(what); \(link ?? "there is no link to it")"
    }
}

// MARK: - bytes

extension ByteWriter {
    mutating func write(_ operations: [StuckOperation]) {
        write(operations) { w, operation in
            w.write(operation.tag.value)
            w.write(operation.descriptor)
            w.write(operation.milliseconds)
            w.write(operation.worldSize)
            w.write(operation.called)
            w.write(operation.prepared)
            w.write(operation.culprits) { w, culprit in
                w.write(culprit.peer.value)
                w.write(culprit.reason.rawValue)
                w.write(culprit.milliseconds)
                w.write(culprit.receivedBytes)
                w.write(culprit.expectedBytes)
                w.write(culprit.silentMilliseconds != nil)
                w.write(culprit.silentMilliseconds ?? 0)
            }
            w.write(operation.moreCulprits)
        }
    }
}

extension ByteReader {
    mutating func readStuckOperations() throws(WireError) -> [StuckOperation] {
        try readList("stuck operations", limit: WireLimits.stuckOperations) { (r) throws(WireError) in
            StuckOperation(
                tag: Tag(try r.read()), descriptor: try r.readDescriptor(), milliseconds: try r.read(),
                worldSize: try r.read(), called: try r.read(), prepared: try r.read(),
                culprits: try r.readList("culprits", limit: WireLimits.culprits) { (r) throws(WireError) in
                    try r.readCulprit()
                },
                moreCulprits: try r.read())
        }
    }

    private mutating func readCulprit() throws(WireError) -> StuckOperation.Culprit {
        let peer = PeerID(try read())
        let raw = try read(UInt8.self)
        guard let reason = StuckOperation.Culprit.Reason(rawValue: raw) else {
            throw .unknownValue(field: "reason", value: UInt64(raw))
        }
        let (milliseconds, received, expected): (UInt32, UInt64, UInt64) = (try read(), try read(), try read())
        let isLinked = try readBool()
        let silent: UInt32 = try read()
        // There is one way to write it.
        guard isLinked || silent == 0 else { throw .unknownValue(field: "silence", value: UInt64(silent)) }
        return StuckOperation.Culprit(
            peer: peer, reason: reason, milliseconds: milliseconds, receivedBytes: received, expectedBytes: expected,
            silentMilliseconds: isLinked ? silent : nil)
    }
}
