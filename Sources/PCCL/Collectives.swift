import PCCLBase

/// What an all-gather or a reduce-scatter works on: elements of `type` of any alignment, a block of the same size for each
/// member in the larger of the two buffers. The memory is lent to the library from the launch until the outcome is known,
/// and is not to be read or written by others meanwhile.
///
/// In place: the smaller buffer is this member's block of the larger one, which begins `rank` blocks into it.
public struct BlockBuffers: @unchecked Sendable {
    public var send: UnsafeRawPointer
    /// In elements.
    public var sendCount: Int
    public var receive: UnsafeMutableRawPointer
    /// In elements.
    public var receiveCount: Int
    public var type: DataType
    /// As that of `ReduceOperand`.
    public var cudaStream: OpaquePointer?

    public init(
        send: UnsafeRawPointer, sendCount: Int, receive: UnsafeMutableRawPointer, receiveCount: Int, type: DataType
    ) {
        self.send = send
        self.sendCount = sendCount
        self.receive = receive
        self.receiveCount = receiveCount
        self.type = type
    }

    public init<T: Reducible>(from source: UnsafeBufferPointer<T>, into target: UnsafeMutableBufferPointer<T>) {
        self.init(
            send: source.someAddress, sendCount: source.count, receive: target.someAddress,
            receiveCount: target.count, type: T.dataType)
    }
}

/// The collectives beside the all-reduce. As there, members' calls with the same tag belong together, all members get the
/// same outcome, and any thread may call.
///
/// Buffers have a block for each member, and ranks name members, of the view that the caller knows. Where a member was lost
/// that it does not know of yet, they throw `.rankConnectionLost`, as they do when one is lost meanwhile: inputs are whole
/// then, what was to be received is undefined, the attributes are new, and the call may be repeated with other buffers. None
/// of them but the barrier goes on in a smaller view by itself.
extension Communicator {
    /// Begins to bring everybody's block to everybody, in the order of ranks.
    ///
    /// S (P-1)/P bytes out of each member for S bytes received; one one-way delay, around a ring P-1. Results are written
    /// where they are to lie: nothing is copied but the own block, unless it lies there already.
    ///
    /// Throws `.invalidArgument` for an empty block, if the members' blocks are not as many as there are members, for buffers
    /// that overlap in any other way than in place, and for a tag that was launched and not awaited; `.rankConnectionLost` if
    /// there are fewer members than blocks; `.invalidUsage` when not connected; `.tooFewPeers` when alone.
    public func allGatherAsync(_ buffers: BlockBuffers, tag: UInt64) throws(PCCLError) -> OperationHandle {
        try check(buffers, block: buffers.sendCount, all: buffers.receiveCount)
        return try launch(
            OperationDescriptor(
                .allGather, count: UInt64(buffers.receiveCount), type: buffers.type, operation: .sum,
                algorithm: .direct, worldSize: UInt16(buffers.receiveCount / buffers.sendCount)),
            tag: tag, send: buffers.send, receive: buffers.receive, stream: buffers.cudaStream, onLoss: .abort)
    }

    /// Begins to reduce everybody's blocks, of which each member gets the one of its rank.
    ///
    /// S (P-1)/P bytes out of each member for S bytes of input, in the order of folding of the all-reduce. With a codec the
    /// contributions travel as codes; the result, which nobody else gets, is not coded. `errorFeedback` is as in
    /// `ReduceOperand`.
    ///
    /// Throws as `allGatherAsync`, and `.invalidArgument` for a codec that does not suit the type.
    public func reduceScatterAsync(
        _ buffers: BlockBuffers, _ operation: ReduceOperation, tag: UInt64, codec: Codec = .none,
        errorFeedback: Bool = false
    ) throws(PCCLError) -> OperationHandle {
        try codec.validate(for: buffers.type)
        guard !errorFeedback || operation == .sum || operation == .average else {
            throw PCCLError(.invalidArgument, "error feedback is for sums and averages, not for \(operation)")
        }
        try check(buffers, block: buffers.receiveCount, all: buffers.sendCount)
        return try launch(
            OperationDescriptor(
                .reduceScatter, count: UInt64(buffers.sendCount), type: buffers.type, operation: operation,
                algorithm: .direct, codec: codec.format == .none ? .none : codec,
                worldSize: UInt16(buffers.sendCount / buffers.receiveCount)),
            tag: tag, send: buffers.send, receive: buffers.receive, stream: buffers.cudaStream,
            hasErrorFeedback: errorFeedback, onLoss: .abort)
    }

    /// Begins to bring what the member of rank `root` has to all others. `worldSize` says for how many members the rank was
    /// meant; nil: for as many as there are now. `cudaStream` is as in `ReduceOperand`.
    ///
    /// The root sends each byte once, and the others pass it on to each other; few bytes it sends to all by itself.
    ///
    /// Throws `.invalidArgument` for a count below 1, a root that is no rank, or a tag that was launched and not awaited;
    /// `.rankConnectionLost` if there are fewer members than `worldSize`; `.invalidUsage` when not connected; `.tooFewPeers`
    /// when alone.
    public func broadcastAsync(
        _ buffer: UnsafeMutableRawPointer, count: Int, type: DataType, root: Int, tag: UInt64, worldSize: Int? = nil,
        cudaStream: OpaquePointer? = nil
    ) throws(PCCLError) -> OperationHandle {
        guard count > 0 else { throw PCCLError(.invalidArgument, "a count of \(count): there is nothing to send") }
        _ = try Span(UnsafeRawPointer(buffer), count: count, type)
        let now = try requireOthers().worldSize
        let worldSize = worldSize ?? now
        try Communicator.check(meant: worldSize, now: now)
        guard (0..<worldSize).contains(root) else {
            throw PCCLError(.invalidArgument, "\(root) is no rank among \(worldSize) members")
        }
        return try launch(
            OperationDescriptor(
                .broadcast(root: UInt16(root)), count: UInt64(count), type: type, operation: .sum, algorithm: .direct,
                worldSize: UInt16(worldSize)),
            tag: tag, send: UnsafeRawPointer(buffer), receive: buffer, stream: cudaStream, onLoss: .abort)
    }

    /// Begins to wait until all members have begun: nobody's handle is done before. When a member is lost, those who are left
    /// wait for each other; who is left alone gets `.rankConnectionLost`.
    ///
    /// Throws `.invalidArgument` for a tag that was launched and not awaited, `.invalidUsage` when not connected,
    /// `.tooFewPeers` when alone.
    public func barrierAsync(tag: UInt64) throws(PCCLError) -> OperationHandle {
        try requireOthers()
        let nothing = UnsafeMutableRawPointer(bitPattern: -1).unsafelyUnwrapped
        return try launch(
            OperationDescriptor(.barrier, count: 0, type: .uint8, operation: .sum, algorithm: .direct), tag: tag,
            send: UnsafeRawPointer(nothing), receive: nothing, onLoss: .resumeWhole)
    }

    private func check(_ buffers: BlockBuffers, block: Int, all: Int) throws(PCCLError) {
        guard block > 0 else { throw PCCLError(.invalidArgument, "a block of \(block) elements") }
        let send = try Span(buffers.send, count: buffers.sendCount, buffers.type)
        let receive = try Span(UnsafeRawPointer(buffers.receive), count: buffers.receiveCount, buffers.type)
        let view = try requireOthers()
        guard all % block == 0 else {
            throw PCCLError(
                .invalidArgument, "\(all) elements are not blocks of \(block) for \(view.worldSize) members")
        }
        try Communicator.check(meant: all / block, now: view.worldSize)
        let before = view.rank * block * buffers.type.byteCount
        let larger = block == buffers.sendCount ? UnsafeRawPointer(buffers.receive) : buffers.send
        let smaller = block == buffers.sendCount ? buffers.send : UnsafeRawPointer(buffers.receive)
        guard send.isApart(from: receive) || smaller == larger + before else {
            throw PCCLError(
                .invalidArgument, "the buffers overlap, and the smaller is not block \(view.rank) of the larger")
        }
    }

    private static func check(meant: Int, now: Int) throws(PCCLError) {
        guard meant <= now else {
            throw PCCLError(.rankConnectionLost, "a member was lost: this is for \(meant) members, and \(now) are left")
        }
        guard meant == now else {
            throw PCCLError(.invalidArgument, "this is for \(meant) members, and the group has \(now)")
        }
    }
}

extension Communicator {
    /// Gathers and waits: `target` has room for as many blocks as there are members.
    @discardableResult
    public func allGather<T: Reducible>(
        _ block: UnsafeBufferPointer<T>, into target: UnsafeMutableBufferPointer<T>, tag: UInt64
    ) throws(PCCLError) -> ReduceInfo {
        try allGatherAsync(BlockBuffers(from: block, into: target), tag: tag).wait()
    }

    /// Reduces and waits: `source` has as many blocks as there are members, and `target` room for one.
    @discardableResult
    public func reduceScatter<T: Reducible>(
        _ source: UnsafeBufferPointer<T>, into target: UnsafeMutableBufferPointer<T>, _ operation: ReduceOperation,
        tag: UInt64, codec: Codec = .none
    ) throws(PCCLError) -> ReduceInfo {
        try reduceScatterAsync(BlockBuffers(from: source, into: target), operation, tag: tag, codec: codec).wait()
    }

    /// Sends the buffer of the member of rank `root` to those of all others, and waits.
    @discardableResult
    public func broadcast<T: Reducible>(
        _ buffer: UnsafeMutableBufferPointer<T>, root: Int, tag: UInt64
    ) throws(PCCLError) -> ReduceInfo {
        try broadcastAsync(buffer.someAddress, count: buffer.count, type: T.dataType, root: root, tag: tag).wait()
    }

    /// Waits until all members have called.
    @discardableResult
    public func barrier(tag: UInt64) throws(PCCLError) -> ReduceInfo { try barrierAsync(tag: tag).wait() }
}
