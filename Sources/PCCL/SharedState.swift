public import PCCLBase
import PCCLCompute
import PCCLEngine
import PCCLMembership
import PCCLSession
import PCCLTransport
import PCCLWire

/// What a member is ready to do when a shared state is synchronised.
public typealias SharedStateStrategy = PCCLBase.SharedStateStrategy

/// Named tensors that all members of a group are to hold alike, and which version of them this is. The memory is the
/// caller's, and lent for the time of `synchronize`.
public struct SharedState: @unchecked Sendable {
    public struct Entry {
        /// Unique in its state, and the same at all members. At most 1024 bytes of UTF-8.
        public var name: String
        public var memory: UnsafeMutableRawPointer
        /// In elements; may be 0.
        public var count: Int
        public var type: DataType
        /// Members may hold different values: it is neither compared nor sent.
        public var mayDiffer: Bool
        /// The caller's word that nobody has written it since this communicator last synchronised an entry of this name and
        /// size: its content is taken to be what it was then, and not looked at.
        public var isUnchanged: Bool
        /// What a snapshot says of its form: as many extents as there are dimensions, whose product is `count`. Nil: `[count]`.
        public var shape: [Int]?

        public init(
            _ name: String, _ memory: UnsafeMutableRawPointer, count: Int, type: DataType, mayDiffer: Bool = false,
            isUnchanged: Bool = false, shape: [Int]? = nil
        ) {
            self.name = name
            self.memory = memory
            self.count = count
            self.type = type
            self.mayDiffer = mayDiffer
            self.isUnchanged = isUnchanged
            self.shape = shape
        }

        public init<T: Reducible>(
            _ name: String, _ buffer: UnsafeMutableBufferPointer<T>, mayDiffer: Bool = false, isUnchanged: Bool = false,
            shape: [Int]? = nil
        ) {
            self.init(
                name, buffer.someAddress, count: buffer.count, type: T.dataType, mayDiffer: mayDiffer,
                isUnchanged: isUnchanged, shape: shape)
        }
    }

    /// One more than at the last synchronisation; the first may be any.
    public var revision: UInt64
    /// In any order.
    public var entries: [Entry]

    public init(revision: UInt64 = 0, _ entries: [Entry] = []) {
        self.revision = revision
        self.entries = entries
    }
}

extension SharedState.Entry {
    /// Copies what it holds to memory of the host, wherever it is; what was put on a device's default stream before comes
    /// before. Throws `.invalidArgument` for another number of bytes; `.internalError` with the driver's own error.
    public func copyOut(into bytes: UnsafeMutableRawBufferPointer) throws(PCCLError) {
        try requireSize(bytes.count)
        guard byteCount > 0, let to = bytes.baseAddress else { return }
        try asked { () throws(DeviceError) in
            guard let device = try DeviceTensor(memory, byteCount: byteCount) else {
                return to.copyMemory(from: memory, byteCount: byteCount)
            }
            try device.read(0..<byteCount, into: to)
        }
    }

    /// Copies from memory of the host, as `copyOut` does to it.
    public func copyIn(from bytes: UnsafeRawBufferPointer) throws(PCCLError) {
        try requireSize(bytes.count)
        guard byteCount > 0, let from = bytes.baseAddress else { return }
        try asked { () throws(DeviceError) in
            guard let device = try DeviceTensor(memory, byteCount: byteCount) else {
                return memory.copyMemory(from: from, byteCount: byteCount)
            }
            try device.write(bytes, at: 0)
        }
    }

    private func requireSize(_ count: Int) throws(PCCLError) {
        guard count == byteCount else {
            throw PCCLError(.invalidArgument, "\(count) bytes for the \(byteCount) of \"\(name)\"")
        }
    }
}

/// What a synchronisation has moved to and from this peer, in bytes of tensors and hashes.
public struct SynchronizationInfo: Hashable, Sendable {
    public var sentBytes: UInt64
    public var receivedBytes: UInt64
    public init(sentBytes: UInt64, receivedBytes: UInt64) {
        self.sentBytes = sentBytes
        self.receivedBytes = receivedBytes
    }
}

extension Communicator {
    /// Brings all members of the group to the same content of the same tensors. Joint: blocks until all members call it and
    /// all hold it.
    ///
    /// One content is elected: that of most members whose revision is the one that is due and who do not only receive;
    /// among equals that of the lowest rank. Who holds something else receives what differs, from all who have it, chunk by
    /// chunk of 1 MiB, and its revision becomes that of the others. The first synchronisation of a group may have any
    /// revision; from then on one more each time is due. A member that is alone holds what it holds.
    ///
    /// Throws `.invalidArgument` for entries that cannot be; `.pendingAsyncOps` while an operation is not awaited;
    /// `.noSharedStateAvailable`, on all members, if none has the revision that is due and gives it, or if all are lost that
    /// had it; `.invalidUsage` when not connected, when other members wait in another call, or when this peer's state
    /// does not go with the others' (a revision above the one that is due; strategies that cannot be mixed; names, types
    /// or counts that differ; only giving what is not elected): then it is no longer a member, and the others go on without
    /// it. `.masterConnectionFailed` when the master stayed away for the grace, or has declared this peer lost.
    ///
    /// After an error the tensors of a peer that was receiving may be partly old and partly new; `state` is as it was.
    @discardableResult
    public func synchronize(
        _ state: inout SharedState, _ strategy: SharedStateStrategy = .enforcePopular
    ) throws(PCCLError) -> SynchronizationInfo {
        let prepared = try prepare(state, strategy)
        let answer = session.call(.synchronizeState(prepared.offer), state: prepared.memory).wait()
        return try conclude(answer, prepared, &state)
    }

    /// See the blocking `synchronize`. The task works out hashes on its own thread, and others, before it is suspended.
    @discardableResult
    public func synchronize(
        _ state: inout SharedState, _ strategy: SharedStateStrategy = .enforcePopular
    ) async throws(PCCLError) -> SynchronizationInfo {
        let prepared = try prepare(state, strategy)
        let answer = await session.call(.synchronizeState(prepared.offer), state: prepared.memory).outcome()
        return try conclude(answer, prepared, &state)
    }

    private struct Prepared {
        var offer: StateOffer
        var memory: StateMemory
        /// Nobody asks who is alone what it holds, and nobody has looked.
        var isAlone: Bool
    }

    private func prepare(_ state: SharedState, _ strategy: SharedStateStrategy) throws(PCCLError) -> Prepared {
        try state.validate()
        try requireNothingInFlight()
        let isAlone = try requireView().worldSize == 1
        let entries = state.entries.sorted { $0.name.utf8.lexicographicallyPrecedes($1.name.utf8) }
        var devices: [DeviceTensor?] = Array(repeating: nil, count: entries.count)
        if !isAlone {
            for (index, entry) in entries.enumerated() where !entry.mayDiffer {
                devices[index] = try entry.asked { () throws(DeviceError) in
                    try DeviceTensor(entry.memory, byteCount: entry.byteCount)
                }
            }
        }
        let known = stateHashes.withLock { $0 }
        var chunks: [[ContentHash]?] = entries.map { entry in
            guard !entry.mayDiffer else { return nil }
            if isAlone { return Array(repeating: ContentHash(high: 0, low: 0), count: entry.chunkCount) }
            let kept = entry.isUnchanged ? known[entry.name] : nil
            return kept?.count == entry.chunkCount ? kept : []
        }
        for (index, device) in devices.enumerated() {
            guard let device, chunks[index]?.isEmpty ?? false else { continue }
            chunks[index] = try entries[index].asked { [stateHash] () throws(DeviceError) in
                try device.chunkHashes(by: stateHash)
            }
        }
        let unknown = chunks.indices.filter { chunks[$0]?.isEmpty ?? false }
        let hashes = ContentHash.ofChunks(of: unknown.map { entries[$0].bytes }, by: stateHash)
        for (index, hashes) in zip(unknown, hashes) { chunks[index] = hashes }
        let memory = StateMemory(
            zip(zip(entries, devices), chunks).map { place, chunks in
                let (entry, device) = place
                return StateMemory.Tensor(
                    device.map { .device($0) } ?? .host(entry.memory), byteCount: entry.byteCount, chunks: chunks,
                    by: stateHash)
            }, by: stateHash)
        let offer = StateOffer(
            revision: state.revision, strategy: strategy, function: stateHash,
            entries: zip(entries, memory.tensors).map { entry, tensor in
                StateEntry(
                    name: entry.name, type: entry.type, count: UInt64(entry.count), allowsInequality: entry.mayDiffer,
                    hash: tensor.hash)
            })
        return Prepared(offer: offer, memory: memory, isAlone: isAlone)
    }

    private func conclude(
        _ answer: CallAnswer, _ prepared: Prepared, _ state: inout SharedState
    ) throws(PCCLError) -> SynchronizationInfo {
        do {
            _ = try answer.checked(ifLost: .masterConnectionFailed)
        } catch {
            // What is there may be neither the one nor the other.
            stateHashes.withLock { $0 = [:] }
            throw error
        }
        let traffic = prepared.memory.traffic
        if let failure = prepared.memory.failure {
            stateHashes.withLock { $0 = [:] }
            throw PCCLError(
                .internalError, "\"\(prepared.offer.entries[failure.entry].name)\": \(failure.error)")
        }
        if case .synchronized(let revision) = answer { state.revision = revision }
        let chunks =
            prepared.isAlone ? [] : zip(prepared.offer.entries, prepared.memory.tensors).map { ($0.name, $1.chunks) }
        stateHashes.withLock { $0 = Dictionary(uniqueKeysWithValues: chunks) }
        return SynchronizationInfo(sentBytes: traffic.sentBytes, receivedBytes: traffic.receivedBytes)
    }
}

extension SharedState {
    /// Entries of one state.
    public static let largestCount = WireLimits.stateEntries

    /// Checks what can be checked without a communicator. Throws `.invalidArgument`.
    public func validate() throws(PCCLError) {
        guard entries.count <= SharedState.largestCount else {
            throw PCCLError(.invalidArgument, "\(entries.count) entries; \(SharedState.largestCount) are possible")
        }
        var names: Set<String> = []
        for entry in entries {
            guard entry.name.utf8.count <= WireLimits.textBytes else {
                throw PCCLError(
                    .invalidArgument,
                    "the name \"\(entry.name.prefix(40))…\" has more than \(WireLimits.textBytes) bytes")
            }
            guard names.insert(entry.name).inserted else {
                throw PCCLError(.invalidArgument, "two entries have the name \"\(entry.name)\"")
            }
            let (bytes, overflows) = entry.count.multipliedReportingOverflow(by: entry.type.byteCount)
            let (_, wraps) = UInt(bitPattern: entry.memory).addingReportingOverflow(UInt(bitPattern: bytes))
            guard entry.count >= 0, !overflows, !wraps || bytes == 0 else {
                throw PCCLError(
                    .invalidArgument, "\(entry.count) elements of \"\(entry.name)\" do not fit into memory")
            }
        }
    }
}

extension SharedState.Entry {
    var byteCount: Int { count * type.byteCount }
    fileprivate var chunkCount: Int { ContentHash.chunkCount(of: byteCount) }
    /// What a device answers about this entry.
    func asked<T>(_ question: () throws(DeviceError) -> T) throws(PCCLError) -> T {
        do { return try question() } catch { throw PCCLError(.internalError, "\"\(name)\": \(error)") }
    }
    var bytes: UnsafeRawBufferPointer { UnsafeRawBufferPointer(start: memory, count: byteCount) }
}
