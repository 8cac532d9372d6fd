import PCCLBase
import PCCLCompute
import PCCLEngine
import PCCLMembership
import PCCLSession
import PCCLTransport

/// This process as a peer of a run: it connects to a master, is admitted to a group, and reduces with the group's other
/// members.
///
/// Any thread may call any method; those that say so block the calling thread. A communicator that is not destroyed is
/// destroyed with its last reference.
///
///     let communicator = try Communicator(.init(master: .init(host: "10.0.0.1", port: 48148)))
///     try communicator.connect()
///     while training {
///         if try communicator.arePeersPending() { try communicator.updateTopology() }
///         try gradients.withUnsafeMutableBufferPointer { buffer throws(PCCLError) in
///             _ = try communicator.allReduce(buffer, .average, tag: 0)
///         }
///     }
public final class Communicator: Sendable {
    public struct Configuration: Sendable {
        /// The master's addresses, tried in this order, and before those of `PCCL_MASTERS`.
        public var masters: [SocketAddress]
        /// Peers reduce with the peers of the same group only.
        public var peerGroup: UInt32
        /// Connections to each other peer; 0 lets the library choose. The larger wish of two peers counts.
        public var stripesPerLink: Int
        /// The dead time in seconds, from which all time-outs derive; nil: `PCCL_TIMEOUT`, or 5. Once connected, the
        /// master's counts.
        public var timeoutSeconds: Double?
        /// A folder with the certificates that this peer shows to the master and to other peers, and asks them for: `ca.pem`,
        /// `certificate.pem`, `key.pem` and maybe `revoked.pem`. Nil: `PCCL_KEYS`; empty: none.
        public var keys: String?
        /// A secret of the run, at least 16 bytes: who does not know it is refused, and it never travels. Nil: what `PCCL_TOKEN`
        /// or the file named by `PCCL_TOKEN_FILE` holds; empty: none.
        public var joinToken: String?
        /// The other peers that this one is admitted and lost with; nil: none. Join points, and the question whether peers are
        /// pending, are then one for all groups that such peers are in: each of them waits for the members of all.
        public var ensemble: Ensemble?
        /// How contents of the shared state are compared; nil: `PCCL_STATE_HASH`, or XXH3. All members must agree.
        package var stateHash: HashFunction?
        /// Nil: `PCCL_ALGORITHM`, or by world size. All members must agree.
        package var algorithm: Algorithm?

        public init(master: SocketAddress, peerGroup: UInt32 = 0, stripesPerLink: Int = 0) {
            masters = [master]
            self.peerGroup = peerGroup
            self.stripesPerLink = stripesPerLink
        }
    }

    /// World sizes as of now.
    public struct Attributes: Hashable, Sendable {
        /// Members of this peer's group, this peer included.
        public let worldSize: Int
        /// Admitted peers of all groups.
        public let globalWorldSize: Int
        /// Groups that have members.
        public let groupCount: Int
        public let largestGroupWorldSize: Int
        /// This peer's place among its group's members, which are in the same order at each of them. May change with
        /// every change of the world size.
        public let rank: Int
    }

    /// Who is admitted and lost with this peer.
    public let ensemble: Ensemble?
    let session: PeerSession
    let stateHash: HashFunction
    let handles = Guarded<[UInt64: OperationHandle]>([:])
    /// By name: of the chunks of the shared state, when it was last synchronised.
    let stateHashes = Guarded<[String: [ContentHash]]>([:])
    private let feedbacks = Guarded<[UInt64: ErrorFeedback]>([:])

    /// Connections of one link.
    public static let largestStripes = 256

    /// Opens a port for other peers and starts a thread. Does not connect yet.
    /// Throws `.invalidArgument` for a configuration out of range and for keys or a token that cannot be used,
    /// `.internalError` when the system refuses.
    public init(_ configuration: Configuration) throws(PCCLError) {
        guard (0...Communicator.largestStripes).contains(configuration.stripesPerLink) else {
            throw PCCLError(
                .invalidArgument,
                "\(configuration.stripesPerLink) connections per link; 0 to \(Communicator.largestStripes) are possible"
            )
        }
        ensemble = configuration.ensemble
        if let size = configuration.ensemble?.size, !(1...Ensemble.largestSize).contains(size) {
            throw PCCLError(
                .invalidArgument, "an ensemble of \(size) peers; 1 to \(Ensemble.largestSize) are possible")
        }
        stateHash = configuration.stateHash ?? Environment.process.stateHash
        var timeouts = Environment.process.timeouts
        if let seconds = configuration.timeoutSeconds {
            guard (0.1...3600).contains(seconds) else {
                throw PCCLError(.invalidArgument, "a time-out of \(seconds) s; 0.1 to 3600 are possible")
            }
            timeouts = Timeouts(deadTime: .seconds(seconds))
        }
        let credentials: Credentials
        do throws(Credentials.Problem) {
            credentials = try Environment.process.credentials(keys: configuration.keys, token: configuration.joinToken)
        } catch {
            throw PCCLError(.invalidArgument, error.description)
        }
        do {
            var session = PeerSession.Configuration(
                master: Communicator.masters(configuration), group: GroupID(configuration.peerGroup),
                stripesPerLink: UInt16(configuration.stripesPerLink), timeouts: timeouts,
                portBase: Environment.process.portBase,
                algorithm: configuration.algorithm ?? Environment.process.algorithm,
                links: Environment.process.links)
            session.deviceWindowBytes = Environment.process.deviceWindowBytes
            session.deviceRoundBytes = Environment.process.deviceRoundBytes
            session.devicePieceBytes = Environment.process.devicePieceBytes
            session.advertised = Environment.process.advertised
            session.interfaces = Environment.process.interfaces
            session.ensemble = configuration.ensemble
            session.credentials = credentials
            session.recorder = Environment.process.recorder
            session.recorder.release = Release.version
            self.session = try PeerSession(session)
        } catch {
            throw PCCLError(.internalError, error.description)
        }
    }

    deinit { session.close() }

    private static func masters(_ configuration: Configuration) -> [SocketAddress] {
        Environment.process.masters.reduce(into: configuration.masters) { known, master in
            do throws(PCCLError) {
                for address in try SocketAddress.all(host: master.host, port: master.port)
                where !known.contains(address) {
                    known.append(address)
                }
            } catch {
                Log.write(.error, "PCCL_MASTERS: \(error.reason); it is left out")
            }
        }
    }

    // MARK: all-reduce

    /// Begins to reduce and returns. Members may launch their tags in any order. `onLoss` says what is to become of it when a
    /// member is lost meanwhile.
    ///
    /// Throws `.invalidArgument` for a count below 1, sizes that overflow, buffers that overlap in part, or a tag that was
    /// launched and not awaited; `.invalidUsage` when not connected; `.tooFewPeers` when alone.
    public func allReduceAsync(
        _ operand: ReduceOperand, onLoss: LossPolicy = .abort
    ) throws(PCCLError) -> OperationHandle {
        try operand.validate()
        try requireOthers()
        return try launch(
            operand.descriptor, tag: operand.tag, send: operand.send, receive: operand.receive,
            stream: operand.cudaStream, hasErrorFeedback: operand.hasErrorFeedback, onLoss: onLoss)
    }

    @discardableResult
    func requireOthers() throws(PCCLError) -> ViewSnapshot {
        let view = try requireView()
        guard view.worldSize >= 2 else {
            throw PCCLError(.tooFewPeers, "this peer is the only member of its group")
        }
        return view
    }

    /// Of what was checked. Throws `.invalidArgument` for a tag in flight, `.internalError` without memory, or when a device
    /// does not give its own.
    func launch(
        _ descriptor: OperationDescriptor, tag: UInt64, send: UnsafeRawPointer, receive: UnsafeMutableRawPointer,
        stream: OpaquePointer? = nil, hasErrorFeedback: Bool = false, onLoss: LossPolicy
    ) throws(PCCLError) -> OperationHandle {
        // Looked at first, for what was lost in an operation in flight must not be forgotten by one that is refused.
        guard handle(tag: tag) == nil else {
            throw PCCLError(.invalidArgument, "tag \(tag) was launched and not awaited")
        }
        // What was lost before is kept on the host.
        let device = try deviceBuffers(
            descriptor, send: send, receive: receive, stream: stream, isCodedOnDevice: !hasErrorFeedback)
        let feedback = hasErrorFeedback && descriptor.codec != .none ? try feedback(descriptor, tag: tag) : nil
        let completion = PeerSession.OperationCompletion()
        let handle = OperationHandle(
            tag: tag, count: Int(descriptor.count), completion, device: device, owner: self)
        let isFree = handles.withLock { handles in
            if handles[tag] != nil { return false }
            handles[tag] = handle
            return true
        }
        guard isFree else {
            throw PCCLError(.invalidArgument, "tag \(tag) was launched and not awaited")
        }
        session.launch(
            Tag(tag), descriptor,
            ReduceBuffers(send: send, receive: receive, feedback: feedback, device: device),
            onLoss: onLoss, completion)
        return handle
    }

    /// Nil: all of it is memory of the host.
    private func deviceBuffers(
        _ descriptor: OperationDescriptor, send: UnsafeRawPointer, receive: UnsafeMutableRawPointer,
        stream: OpaquePointer?, isCodedOnDevice: Bool
    ) throws(PCCLError) -> DeviceBuffers? {
        let whole = Int(descriptor.count) * descriptor.type.byteCount
        let block = whole / max(Int(descriptor.worldSize), 1)
        let (sent, received) =
            switch descriptor.collective {
            case .allReduce, .broadcast: (whole, whole)
            case .allGather: (block, whole)
            case .reduceScatter: (whole, block)
            case .barrier: (0, 0)
            }
        do {
            let buffers = try DeviceBuffers(
                send: send, sendCount: sent, receive: receive, receiveCount: received, stream: stream)
            guard let buffers else { return nil }
            // Here, and not later on the thread that others wait for.
            let lent = ReduceBuffers(send: send, receive: receive, device: buffers)
            try session.stage(descriptor, lent, isCodedOnDevice: isCodedOnDevice)
            return buffers
        } catch {
            throw PCCLError(.internalError, error.description)
        }
    }

    /// What was lost with this tag so far: nothing, if that was with another count or type.
    private func feedback(_ descriptor: OperationDescriptor, tag: UInt64) throws(PCCLError) -> ErrorFeedback? {
        let count = Int(descriptor.count)
        let feedback: ErrorFeedback? = feedbacks.withLock { feedbacks in
            if let kept = feedbacks[tag], kept.count == count, kept.type == descriptor.type { return kept }
            feedbacks[tag] = nil
            let new = ErrorFeedback(count: count, type: descriptor.type)
            feedbacks[tag] = new
            return new
        }
        guard let feedback else {
            throw PCCLError(.internalError, "no memory for the error feedback of tag \(tag)")
        }
        return feedback
    }

    /// Forgets what coding has lost with this tag, and frees the memory: 8 bytes for an element, 16 for one of float64. Of
    /// an operation in flight it is forgotten when that ends. False if there was nothing.
    @discardableResult
    public func freeErrorFeedback(tag: UInt64) -> Bool { feedbacks.withLock { $0.removeValue(forKey: tag) != nil } }

    /// Forgets the tag once its outcome was taken.
    func forget(_ handle: OperationHandle) {
        handles.withLock { handles in
            if handles[handle.tag] === handle { handles[handle.tag] = nil }
        }
    }

    /// The operation with this tag that was launched and not awaited.
    public func handle(tag: UInt64) -> OperationHandle? { handles.withLock { $0[tag] } }

    /// Reduces and waits. Throws what `allReduceAsync` and `OperationHandle.wait` throw.
    @discardableResult
    public func allReduce(_ operand: ReduceOperand, onLoss: LossPolicy = .abort) throws(PCCLError) -> ReduceInfo {
        try allReduceAsync(operand, onLoss: onLoss).wait()
    }

    /// Reduces many buffers, `maxInFlight` at a time (0: as many as there are), until all are reduced, whoever is lost
    /// meanwhile.
    ///
    /// What a loss interrupts is resumed: of an average, a maximum or a minimum what was final is kept, so that its elements
    /// may have the contributions of more or fewer members; a sum or a product has those of the same members in all
    /// elements. `onLoss` overrides that for all operands. The world size of the result is that of the last operand.
    ///
    /// Throws `.tooFewPeers` when this peer is the last of its group: operands that are not reduced are whole then. Throws
    /// any other error of a launch or a wait at once, after all operations in flight have ended.
    public func allReduceWithRetry(
        _ operands: [ReduceOperand], maxInFlight: Int = 0, onLoss: LossPolicy? = nil
    ) throws(PCCLError) -> ReduceInfo {
        guard maxInFlight >= 0 else { throw PCCLError(.invalidArgument, "\(maxInFlight) operations in flight") }
        for operand in operands { try operand.validate() }
        let tags = operands.map(\.tag).sorted()
        if let twice = zip(tags, tags.dropFirst()).first(where: { $0 == $1 }) {
            throw PCCLError(.invalidArgument, "tag \(twice.0) is given to two operands")
        }
        // Found later, others would wait for what is launched before it.
        if let taken = tags.first(where: { handle(tag: $0) != nil }) {
            throw PCCLError(.invalidArgument, "tag \(taken) was launched and not awaited")
        }
        var total = ReduceInfo(worldSize: try requireView().worldSize, sentBytes: 0, receivedBytes: 0)
        let limit = maxInFlight == 0 ? max(operands.count, 1) : maxInFlight
        var waiting = operands[...]
        var flying: [(operand: ReduceOperand, handle: OperationHandle)] = []
        var failure: PCCLError?
        while failure == nil ? !(waiting.isEmpty && flying.isEmpty) : !flying.isEmpty {
            if failure == nil, flying.count < limit, let operand = waiting.first {
                waiting.removeFirst()
                do {
                    let policy = onLoss ?? operand.operation.lossPolicy
                    flying.append((operand, try allReduceAsync(operand, onLoss: policy)))
                } catch {
                    failure = error
                }
                continue
            }
            let oldest = flying.removeFirst()
            let result = oldest.handle.result()
            total.sentBytes += result.sentBytes
            total.receivedBytes += result.receivedBytes
            total.resumptions += result.resumptions
            switch result.error {
            case nil: total.worldSize = result.worldSize
            case .some(let error) where error.code == .rankConnectionLost: waiting.append(oldest.operand)
            case .some(let error): failure = failure ?? error
            }
        }
        if let failure { throw failure }
        return total
    }
}

extension Communicator {
    /// Reduces in place and waits.
    @discardableResult
    public func allReduce<T: Reducible>(
        _ buffer: UnsafeMutableBufferPointer<T>, _ operation: ReduceOperation, tag: UInt64,
        onLoss: LossPolicy = .abort
    ) throws(PCCLError) -> ReduceInfo {
        try allReduce(ReduceOperand(buffer, operation, tag: tag), onLoss: onLoss)
    }

    /// Reduces from one buffer into another of the same length, and waits.
    @discardableResult
    public func allReduce<T: Reducible>(
        from source: UnsafeBufferPointer<T>, into target: UnsafeMutableBufferPointer<T>,
        _ operation: ReduceOperation, tag: UInt64, onLoss: LossPolicy = .abort
    ) throws(PCCLError) -> ReduceInfo {
        try allReduce(ReduceOperand(from: source, into: target, operation, tag: tag), onLoss: onLoss)
    }

    /// Begins to reduce in place. The buffer stays lent until the handle's outcome is known.
    public func allReduceAsync<T: Reducible>(
        _ buffer: UnsafeMutableBufferPointer<T>, _ operation: ReduceOperation, tag: UInt64,
        onLoss: LossPolicy = .abort
    ) throws(PCCLError) -> OperationHandle {
        try allReduceAsync(ReduceOperand(buffer, operation, tag: tag), onLoss: onLoss)
    }

    /// Begins to reduce from one buffer into another. Both stay lent until the handle's outcome is known.
    public func allReduceAsync<T: Reducible>(
        from source: UnsafeBufferPointer<T>, into target: UnsafeMutableBufferPointer<T>,
        _ operation: ReduceOperation, tag: UInt64, onLoss: LossPolicy = .abort
    ) throws(PCCLError) -> OperationHandle {
        try allReduceAsync(ReduceOperand(from: source, into: target, operation, tag: tag), onLoss: onLoss)
    }
}

extension ReduceOperation {
    /// For callers that are not told of parts: a sum of which some elements have more summands than others is of no use to
    /// them, while an average, or an extremum, is what it is in each of its elements.
    fileprivate var lossPolicy: LossPolicy {
        switch self {
        case .sum, .product: .resumeWhole
        case .average, .maximum, .minimum: .resume
        }
    }
}
