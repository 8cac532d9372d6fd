/// Which path the bytes of an all-reduce take.
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
    package var count: UInt64
    package var type: DataType
    package var operation: ReduceOperation
    package var algorithm: Algorithm
    package var codec: Codec

    package init(
        count: UInt64, type: DataType, operation: ReduceOperation, algorithm: Algorithm, codec: Codec = .none
    ) {
        self.count = count
        self.type = type
        self.operation = operation
        self.algorithm = algorithm
        self.codec = codec
    }

    /// Of the caller's buffer.
    package var byteCount: UInt64 { count * UInt64(type.byteCount) }
    /// Of all contributions of one member, and of the result, as they travel.
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
        return "all-reduce(\(operation), \(count) × \(type)\(codec), \(algorithm))"
    }
}
