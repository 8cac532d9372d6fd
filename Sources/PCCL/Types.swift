public import PCCLBase

/// The element types that can be reduced.
public typealias DataType = PCCLBase.DataType
/// How contributions to an element are combined.
public typealias ReduceOperation = PCCLBase.ReduceOperation
/// What becomes of an operation when a member is lost.
public typealias LossPolicy = PCCLBase.LossPolicy
/// A part of a result.
public typealias ResultPart = PCCLBase.ResultPart
/// What travels of floats instead of themselves.
public typealias Codec = PCCLBase.Codec
/// Peers of several groups that are members all together or not at all.
public typealias Ensemble = PCCLBase.Ensemble
/// An address with a port.
public typealias SocketAddress = PCCLBase.SocketAddress

/// A Swift type whose values can be reduced. Types without a Swift counterpart (bfloat16) go through `RawBuffers`.
public protocol Reducible: BitwiseCopyable, Sendable {
    static var dataType: DataType { get }
}

extension UInt8: Reducible { public static var dataType: DataType { .uint8 } }
extension Int8: Reducible { public static var dataType: DataType { .int8 } }
extension UInt16: Reducible { public static var dataType: DataType { .uint16 } }
extension Int16: Reducible { public static var dataType: DataType { .int16 } }
extension UInt32: Reducible { public static var dataType: DataType { .uint32 } }
extension Int32: Reducible { public static var dataType: DataType { .int32 } }
extension UInt64: Reducible { public static var dataType: DataType { .uint64 } }
extension Int64: Reducible { public static var dataType: DataType { .int64 } }
#if !(os(macOS) && arch(x86_64))
    extension Float16: Reducible { public static var dataType: DataType { .float16 } }
#endif
extension Float: Reducible { public static var dataType: DataType { .float32 } }
extension Double: Reducible { public static var dataType: DataType { .float64 } }

/// What one all-reduce works on: `count` elements of `type` at both addresses, of any alignment. In place when they are
/// the same; they must not overlap in part. Either may be memory of a CUDA device: docs/cuda.md. The memory is lent to the library from the launch until the outcome is known,
/// and is not to be read or written by others meanwhile; afterwards the library has forgotten it.
public struct ReduceOperand: @unchecked Sendable {
    public var send: UnsafeRawPointer
    public var receive: UnsafeMutableRawPointer
    /// In elements.
    public var count: Int
    public var type: DataType
    public var operation: ReduceOperation
    /// Names the operation: the members' calls with the same tag belong together.
    public var tag: UInt64
    /// What travels; the same at all members. It must be able to code the type, unless it is `.none`.
    public var codec: Codec
    /// Whether what coding loses of this member's contributions to a sum or an average is kept by the communicator, under
    /// the tag, and added to its next ones, so that in the long run nothing is lost. A matter of each member by itself.
    public var hasErrorFeedback: Bool
    /// The CUDA stream (`CUstream`) that writes what is sent, or has written it; nil: the default stream. Of no meaning for
    /// memory of the host.
    public var cudaStream: OpaquePointer?

    public init(
        send: UnsafeRawPointer, receive: UnsafeMutableRawPointer, count: Int, type: DataType,
        operation: ReduceOperation, tag: UInt64, codec: Codec = .none, errorFeedback: Bool = false
    ) {
        self.send = send
        self.receive = receive
        self.count = count
        self.type = type
        self.operation = operation
        self.tag = tag
        self.codec = codec
        hasErrorFeedback = errorFeedback
    }

    /// In place.
    public init<T: Reducible>(
        _ buffer: UnsafeMutableBufferPointer<T>, _ operation: ReduceOperation, tag: UInt64, codec: Codec = .none,
        errorFeedback: Bool = false
    ) {
        self.init(
            send: UnsafeRawPointer(buffer.someAddress), receive: buffer.someAddress, count: buffer.count,
            type: T.dataType, operation: operation, tag: tag, codec: codec, errorFeedback: errorFeedback)
    }

    /// From one buffer into another of the same length; if the lengths differ the launch is refused.
    public init<T: Reducible>(
        from source: UnsafeBufferPointer<T>, into target: UnsafeMutableBufferPointer<T>,
        _ operation: ReduceOperation, tag: UInt64, codec: Codec = .none, errorFeedback: Bool = false
    ) {
        self.init(
            send: source.someAddress, receive: target.someAddress,
            count: source.count == target.count ? source.count : -1, type: T.dataType, operation: operation, tag: tag,
            codec: codec, errorFeedback: errorFeedback)
    }
}

extension ReduceOperand {
    /// Checks what can be checked without a communicator. Throws `.invalidArgument`.
    public func validate() throws(PCCLError) {
        guard count > 0 else {
            throw PCCLError(
                .invalidArgument,
                count < 0 ? "the buffers differ in length" : "a count of 0: there is nothing to reduce")
        }
        let sendBytes = try Span(send, count: count, type)
        let receiveBytes = try Span(UnsafeRawPointer(receive), count: count, type)
        guard send == UnsafeRawPointer(receive) || sendBytes.isApart(from: receiveBytes) else {
            throw PCCLError(.invalidArgument, "the buffers overlap in part")
        }
        try codec.validate(for: type)
        guard !hasErrorFeedback || operation == .sum || operation == .average else {
            throw PCCLError(.invalidArgument, "error feedback is for sums and averages, not for \(operation)")
        }
    }

    /// The algorithm is a matter of the epoch in which the operation starts: see `PeerMachine.Configuration`.
    var descriptor: OperationDescriptor {
        OperationDescriptor(
            count: UInt64(count), type: type, operation: operation, algorithm: .direct,
            codec: codec.format == .none ? .none : codec)
    }
}

/// The addresses of a caller's elements.
struct Span {
    private let start: UInt
    private let end: UInt

    /// Throws `.invalidArgument` if there are no such addresses.
    init(_ base: UnsafeRawPointer, count: Int, _ type: DataType) throws(PCCLError) {
        let (bytes, overflows) = count.multipliedReportingOverflow(by: type.byteCount)
        start = UInt(bitPattern: base)
        let (end, endOverflows) = start.addingReportingOverflow(UInt(bitPattern: bytes))
        guard !overflows, !endOverflows else {
            throw PCCLError(.invalidArgument, "\(count) elements do not fit into memory")
        }
        self.end = end
    }

    func isApart(from other: Span) -> Bool { end <= other.start || other.end <= start }
}

extension Codec {
    /// Throws `.invalidArgument` if it cannot code the type.
    func validate(for type: DataType) throws(PCCLError) {
        guard Codec.blockSizes.contains(blockElements) else {
            throw PCCLError(.invalidArgument, "blocks of \(blockElements) values; 32, 64, 128 and 256 are possible")
        }
        guard format == .none || canCode(type) else {
            throw PCCLError(.invalidArgument, "\(self) cannot code \(type) in fewer bytes")
        }
    }
}

extension UnsafeBufferPointer {
    /// An empty buffer has no address; any will do, for nothing is read from it.
    var someAddress: UnsafeRawPointer {
        UnsafeRawPointer(baseAddress) ?? UnsafeRawPointer(bitPattern: -1).unsafelyUnwrapped
    }
}

extension UnsafeMutableBufferPointer {
    var someAddress: UnsafeMutableRawPointer {
        UnsafeMutableRawPointer(baseAddress) ?? UnsafeMutableRawPointer(bitPattern: -1).unsafelyUnwrapped
    }
}

/// How a collective went.
public struct ReduceInfo: Hashable, Sendable {
    /// How many members took part, and how many members' contributions are in the result of a reduction; if that differs from part to part, in the parts made last.
    public var worldSize: Int
    /// Payload bytes sent and received by this peer, repeated attempts included.
    public var sentBytes: UInt64
    public var receivedBytes: UInt64
    /// Which elements have how many members' contributions, in order; empty when all have those of `worldSize` members.
    /// Others than `LossPolicy.resume` never leave any.
    public var parts: [ResultPart]
    /// How often it was interrupted, by a loss or a broken connection, and went on with what was final.
    public var resumptions: Int
    public init(
        worldSize: Int, sentBytes: UInt64, receivedBytes: UInt64, parts: [ResultPart] = [], resumptions: Int = 0
    ) {
        self.worldSize = worldSize
        self.sentBytes = sentBytes
        self.receivedBytes = receivedBytes
        self.parts = parts
        self.resumptions = resumptions
    }
}
