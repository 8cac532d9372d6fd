/// What the members of a group do together with their buffers. The numbers are those of frames.
package enum Collective: Hashable, Sendable {
    /// Every member gets the reduction of all contributions.
    case allReduce
    /// Every member gets everybody's block, in the order of ranks.
    case allGather
    /// The member of each rank gets the reduction of the block of that number.
    case reduceScatter
    /// Every member gets what the member of this rank has.
    case broadcast(root: UInt16)
    /// Nobody goes on before all have come.
    case barrier

    package var isReduction: Bool { self == .allReduce || self == .reduceScatter }
    /// All members end with the same contents, so that any of them can give a part to another.
    package var hasOneResult: Bool { self != .reduceScatter }
    /// Which path the bytes take where this one was chosen for an all-reduce: a broadcast of few bytes, and no other, goes
    /// from one member to all.
    package func suited(_ algorithm: Algorithm) -> Algorithm {
        switch (self, algorithm) {
        case (.allReduce, _), (.broadcast, .oneShot), (.allGather, .ring), (.reduceScatter, .ring): algorithm
        default: .direct
        }
    }
}

/// Which path the bytes of a collective take.
package enum Algorithm: UInt8, Sendable, CaseIterable {
    /// Every rank owns one chunk, receives all contributions to it and sends the result to everybody.
    case direct = 1
    /// Chunks travel around the ring of ranks twice, half of them either way: once to be summed, once as results.
    case ring = 2
    /// Everybody sends everything to everybody, and folds it all by itself.
    case oneShot = 3
    /// Sums within each site, then between sites, and back: each byte crosses between two sites once each way.
    case twoLevel = 4
}

/// What all members of an operation must agree on. It travels with the first frame of an operation, and members whose
/// descriptors differ get an argument error that shows both.
package struct OperationDescriptor: Hashable, Sendable, CustomStringConvertible {
    package var collective: Collective
    /// Of elements: of the buffer that all members' blocks fit into, where there are such.
    package var count: UInt64
    package var type: DataType
    package var operation: ReduceOperation
    package var algorithm: Algorithm
    package var codec: Codec
    /// Of the view that it is for: in any other, buffers do not fit or ranks are not those that were meant. 0: any.
    package var worldSize: UInt16

    package init(
        _ collective: Collective = .allReduce, count: UInt64, type: DataType, operation: ReduceOperation,
        algorithm: Algorithm, codec: Codec = .none, worldSize: UInt16 = 0
    ) {
        self.worldSize = worldSize
        self.collective = collective
        self.count = count
        self.type = type
        self.operation = operation
        self.algorithm = algorithm
        self.codec = codec
    }

    /// Of the caller's buffer.
    package var byteCount: UInt64 { count * UInt64(type.byteCount) }
    /// Of all contributions of one member, and of the result of an all-reduce, as they travel.
    package var wireByteCount: UInt64 {
        guard codec != .none, let count = Int(exactly: count) else { return byteCount }
        return UInt64(codec.layout(of: type).byteCount(count))
    }
    /// Of sums that are not finished, as they travel: accumulators are wider where an element could not hold the sum.
    package var partialWireByteCount: UInt64 {
        codec == .none ? count * UInt64(type.partialByteCount(operation)) : wireByteCount
    }
    package var description: String {
        let codec = codec == .none ? "" : " as \(codec)"
        let what = "\(count) × \(type)\(codec), \(algorithm))"
        return switch collective {
        case .allReduce: "all-reduce(\(operation), \(what)"
        case .allGather: "all-gather(\(what)"
        case .reduceScatter: "reduce-scatter(\(operation), \(what)"
        case .broadcast(let root): "broadcast(from rank \(root), \(what)"
        case .barrier: "barrier"
        }
    }
}
