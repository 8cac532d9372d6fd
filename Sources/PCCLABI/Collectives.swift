import CPCCL
import PCCL

@implementation @c
public func pcclGetRank(
    _ communicator: OpaquePointer!, _ rankOut: UnsafeMutablePointer<UInt32>?,
    _ worldSizeOut: UnsafeMutablePointer<UInt32>?
) -> pcclResult_t {
    result("pcclGetRank") { () throws(PCCLError) in
        let attributes = try Handles.communicator(communicator).attributes()
        rankOut?.pointee = UInt32(attributes.rank)
        worldSizeOut?.pointee = UInt32(attributes.worldSize)
    }
}

@implementation @c
public func pcclAllGather(
    _ sendbuf: UnsafeRawPointer!, _ recvbuf: UnsafeMutableRawPointer!,
    _ descriptor: UnsafePointer<pcclCollectiveDescriptor_t>!, _ communicator: OpaquePointer!,
    _ reduceInfoOut: UnsafeMutablePointer<pcclReduceInfo_t>?
) -> pcclResult_t {
    result("pcclAllGather") { () throws(PCCLError) in
        let info = try allGather(sendbuf, recvbuf, descriptor, communicator).wait()
        reduceInfoOut?.pointee = pcclReduceInfo_t(info)
    }
}

@implementation @c
public func pcclAllGatherAsync(
    _ sendbuf: UnsafeRawPointer!, _ recvbuf: UnsafeMutableRawPointer!,
    _ descriptor: UnsafePointer<pcclCollectiveDescriptor_t>!, _ communicator: OpaquePointer!,
    _ reduceHandleOut: UnsafeMutablePointer<pcclAsyncReduceOp_t>!
) -> pcclResult_t {
    result("pcclAllGatherAsync") { () throws(PCCLError) in
        try begin(communicator, reduceHandleOut) { () throws(PCCLError) in
            try allGather(sendbuf, recvbuf, descriptor, communicator)
        }
    }
}

@implementation @c
public func pcclReduceScatter(
    _ sendbuf: UnsafeRawPointer!, _ recvbuf: UnsafeMutableRawPointer!,
    _ descriptor: UnsafePointer<pcclCollectiveDescriptor_t>!, _ communicator: OpaquePointer!,
    _ reduceInfoOut: UnsafeMutablePointer<pcclReduceInfo_t>?
) -> pcclResult_t {
    result("pcclReduceScatter") { () throws(PCCLError) in
        let info = try reduceScatter(sendbuf, recvbuf, descriptor, communicator).wait()
        reduceInfoOut?.pointee = pcclReduceInfo_t(info)
    }
}

@implementation @c
public func pcclReduceScatterAsync(
    _ sendbuf: UnsafeRawPointer!, _ recvbuf: UnsafeMutableRawPointer!,
    _ descriptor: UnsafePointer<pcclCollectiveDescriptor_t>!, _ communicator: OpaquePointer!,
    _ reduceHandleOut: UnsafeMutablePointer<pcclAsyncReduceOp_t>!
) -> pcclResult_t {
    result("pcclReduceScatterAsync") { () throws(PCCLError) in
        try begin(communicator, reduceHandleOut) { () throws(PCCLError) in
            try reduceScatter(sendbuf, recvbuf, descriptor, communicator)
        }
    }
}

@implementation @c
public func pcclBroadcast(
    _ buffer: UnsafeMutableRawPointer!, _ descriptor: UnsafePointer<pcclCollectiveDescriptor_t>!,
    _ communicator: OpaquePointer!, _ reduceInfoOut: UnsafeMutablePointer<pcclReduceInfo_t>?
) -> pcclResult_t {
    result("pcclBroadcast") { () throws(PCCLError) in
        let info = try broadcast(buffer, descriptor, communicator).wait()
        reduceInfoOut?.pointee = pcclReduceInfo_t(info)
    }
}

@implementation @c
public func pcclBroadcastAsync(
    _ buffer: UnsafeMutableRawPointer!, _ descriptor: UnsafePointer<pcclCollectiveDescriptor_t>!,
    _ communicator: OpaquePointer!, _ reduceHandleOut: UnsafeMutablePointer<pcclAsyncReduceOp_t>!
) -> pcclResult_t {
    result("pcclBroadcastAsync") { () throws(PCCLError) in
        try begin(communicator, reduceHandleOut) { () throws(PCCLError) in
            try broadcast(buffer, descriptor, communicator)
        }
    }
}

@implementation @c
public func pcclBarrier(
    _ tag: UInt64, _ communicator: OpaquePointer!, _ reduceInfoOut: UnsafeMutablePointer<pcclReduceInfo_t>?
) -> pcclResult_t {
    result("pcclBarrier") { () throws(PCCLError) in
        let communicator = try Handles.communicator(communicator)
        try communicator.requireMembership()
        let info = try communicator.barrierAsync(tag: tag).wait()
        reduceInfoOut?.pointee = pcclReduceInfo_t(info)
    }
}

private func allGather(
    _ sendbuf: UnsafeRawPointer?, _ recvbuf: UnsafeMutableRawPointer?,
    _ descriptor: UnsafePointer<pcclCollectiveDescriptor_t>?, _ communicator: OpaquePointer?
) throws(PCCLError) -> OperationHandle {
    let communicator = try Handles.communicator(communicator)
    try communicator.requireMembership()
    let (send, receive) = (try required(sendbuf, "sendbuf"), try required(recvbuf, "recvbuf"))
    let what = try What(descriptor, communicator)
    var buffers = BlockBuffers(
        send: send, sendCount: what.count, receive: receive, receiveCount: what.countOfAll, type: what.type)
    buffers.cudaStream = try Options(what.options).cudaStream
    return try communicator.allGatherAsync(buffers, tag: what.tag)
}

private func reduceScatter(
    _ sendbuf: UnsafeRawPointer?, _ recvbuf: UnsafeMutableRawPointer?,
    _ descriptor: UnsafePointer<pcclCollectiveDescriptor_t>?, _ communicator: OpaquePointer?
) throws(PCCLError) -> OperationHandle {
    let communicator = try Handles.communicator(communicator)
    try communicator.requireMembership()
    let (send, receive) = (try required(sendbuf, "sendbuf"), try required(recvbuf, "recvbuf"))
    let what = try What(descriptor, communicator)
    let options = try Options(what.options)
    var buffers = BlockBuffers(
        send: send, sendCount: what.countOfAll, receive: receive, receiveCount: what.count, type: what.type)
    buffers.cudaStream = options.cudaStream
    return try communicator.reduceScatterAsync(
        buffers, what.operation, tag: what.tag, codec: options.codec(.none), errorFeedback: options.hasErrorFeedback)
}

private func broadcast(
    _ buffer: UnsafeMutableRawPointer?, _ descriptor: UnsafePointer<pcclCollectiveDescriptor_t>?,
    _ communicator: OpaquePointer?
) throws(PCCLError) -> OperationHandle {
    let communicator = try Handles.communicator(communicator)
    try communicator.requireMembership()
    let buffer = try required(buffer, "buffer")
    let what = try What(descriptor, communicator)
    return try communicator.broadcastAsync(
        buffer, count: what.count, type: what.type, root: what.root, tag: what.tag, worldSize: what.worldSize,
        cudaStream: try Options(what.options).cudaStream)
}

private func begin(
    _ communicator: OpaquePointer?, _ reduceHandleOut: UnsafeMutablePointer<pcclAsyncReduceOp_t>?,
    _ launch: () throws(PCCLError) -> OperationHandle
) throws(PCCLError) {
    _ = try Handles.communicator(communicator)
    let out = try required(reduceHandleOut, "reduce_handle_out")
    out.pointee = pcclAsyncReduceOp_t(comm: communicator, tag: try launch().tag)
}

/// A descriptor, checked.
private struct What {
    let tag: UInt64
    let count: Int
    let countOfAll: Int
    let type: DataType
    let operation: ReduceOperation
    let worldSize: Int
    let root: Int
    let options: UnsafePointer<pcclReduceOptions_t>?

    init(
        _ descriptor: UnsafePointer<pcclCollectiveDescriptor_t>?, _ communicator: Communicator
    ) throws(PCCLError) {
        let given = try PCCLABI.options(try required(descriptor, "descriptor"), pcclCollectiveDescriptor_t())
        guard let type = DataType(rawValue: given.datatype.rawValue) else {
            throw PCCLError(.invalidArgument, "\(given.datatype.rawValue) is no data type")
        }
        guard let operation = ReduceOperation(rawValue: given.op.rawValue) else {
            throw PCCLError(.invalidArgument, "\(given.op.rawValue) is no reduce operation")
        }
        guard given.count > 0 else { throw PCCLError(.invalidArgument, "a count of 0: there is nothing to move") }
        let now = try communicator.attributes().worldSize
        worldSize = given.world_size == 0 ? now : Int(given.world_size)
        let (countOfAll, overflows) = given.count.multipliedReportingOverflow(by: worldSize)
        guard !overflows else {
            throw PCCLError(.invalidArgument, "\(given.count) elements of \(worldSize) members do not fit into memory")
        }
        tag = given.tag
        count = given.count
        self.countOfAll = countOfAll
        self.type = type
        self.operation = operation
        root = Int(given.root)
        options = given.options
    }
}
