import CPCCL
import PCCL

@implementation @c
public func pcclAllReduce(
    _ sendbuf: UnsafeRawPointer!, _ recvbuf: UnsafeMutableRawPointer!,
    _ descriptor: UnsafePointer<pcclReduceDescriptor_t>!, _ communicator: OpaquePointer!,
    _ reduceInfoOut: UnsafeMutablePointer<pcclReduceInfo_t>?
) -> pcclResult_t {
    result("pcclAllReduce") { () throws(PCCLError) in
        let communicator = try Handles.communicator(communicator)
        let info = try launch(sendbuf, recvbuf, descriptor, communicator).wait()
        reduceInfoOut?.pointee = pcclReduceInfo_t(info)
    }
}

@implementation @c
public func pcclAllReduceAsync(
    _ sendbuf: UnsafeRawPointer!, _ recvbuf: UnsafeMutableRawPointer!,
    _ descriptor: UnsafePointer<pcclReduceDescriptor_t>!, _ communicator: OpaquePointer!,
    _ reduceHandleOut: UnsafeMutablePointer<pcclAsyncReduceOp_t>!
) -> pcclResult_t {
    result("pcclAllReduceAsync") { () throws(PCCLError) in
        let object = try Handles.communicator(communicator)
        try object.requireMembership()
        let out = try required(reduceHandleOut, "reduce_handle_out")
        let handle = try launch(sendbuf, recvbuf, descriptor, object)
        out.pointee = pcclAsyncReduceOp_t(comm: communicator, tag: handle.tag)
    }
}

@implementation @c
public func pcclAwaitAsyncReduce(
    _ reduceHandle: UnsafePointer<pcclAsyncReduceOp_t>!, _ reduceInfoOut: UnsafeMutablePointer<pcclReduceInfo_t>?
) -> pcclResult_t {
    result("pcclAwaitAsyncReduce") { () throws(PCCLError) in
        guard Handles.isInitialized.withLock({ $0 }) else {
            throw PCCLError(.notInitialized, "pcclInit was not called")
        }
        let handle = try required(reduceHandle, "reduce_handle").pointee
        let communicator = try Handles.communicator(handle.comm)
        guard let operation = communicator.handle(tag: handle.tag) else {
            throw PCCLError(
                .invalidArgument, "no operation with tag \(handle.tag) is in flight: it was awaited, or never launched")
        }
        let info = try operation.wait()
        reduceInfoOut?.pointee = pcclReduceInfo_t(info)
    }
}

@implementation @c
public func pcclAllReduceMultipleWithRetry(
    _ descriptors: UnsafePointer<pcclReduceOpDescriptor_t>!, _ count: Int, _ communicator: OpaquePointer!,
    _ reduceInfoOut: UnsafeMutablePointer<pcclReduceInfo_t>?, _ maxInFlight: CInt
) -> pcclResult_t {
    result("pcclAllReduceMultipleWithRetry") { () throws(PCCLError) in
        let communicator = try Handles.communicator(communicator)
        try communicator.requireMembership()
        let descriptors = try required(descriptors, "descriptors")
        guard count > 0 else { throw PCCLError(.invalidArgument, "no operands are given") }
        guard maxInFlight > 0 else { throw PCCLError(.invalidArgument, "max_in_flight is \(maxInFlight)") }
        var operands: [ReduceOperand] = []
        for i in 0..<count {
            let one = descriptors[i]
            operands.append(try operand(one.sendbuf, one.recvbuf, one.descriptor))
        }
        let info = try communicator.allReduceWithRetry(operands, maxInFlight: Int(maxInFlight))
        reduceInfoOut?.pointee = pcclReduceInfo_t(info)
    }
}

private func launch(
    _ sendbuf: UnsafeRawPointer?, _ recvbuf: UnsafeMutableRawPointer?,
    _ descriptor: UnsafePointer<pcclReduceDescriptor_t>?, _ communicator: Communicator
) throws(PCCLError) -> AllReduceHandle {
    try communicator.requireMembership()
    let descriptor = try required(descriptor, "descriptor").pointee
    return try communicator.allReduceAsync(try operand(sendbuf, recvbuf, descriptor))
}

/// Checks a descriptor in the order that the header gives.
private func operand(
    _ sendbuf: UnsafeRawPointer?, _ recvbuf: UnsafeMutableRawPointer?, _ descriptor: pcclReduceDescriptor_t
) throws(PCCLError) -> ReduceOperand {
    let send = try required(sendbuf, "sendbuf")
    let receive = try required(recvbuf, "recvbuf")
    let algorithm = descriptor.quantization_options.algorithm
    guard let type = DataType(rawValue: descriptor.src_descriptor.datatype.rawValue) else {
        throw PCCLError(.invalidArgument, "\(descriptor.src_descriptor.datatype.rawValue) is no data type")
    }
    let quantized = descriptor.quantization_options.quantized_datatype
    if algorithm != pcclQuantNone, DataType(rawValue: quantized.rawValue) == nil {
        throw PCCLError(.invalidArgument, "\(quantized.rawValue) is no data type to quantise to")
    }
    guard [pcclQuantNone, pcclQuantMinMax, pcclQuantZeroPointScale].contains(algorithm) else {
        throw PCCLError(.invalidArgument, "\(algorithm.rawValue) is no quantisation algorithm")
    }
    guard let operation = ReduceOperation(rawValue: descriptor.op.rawValue) else {
        throw PCCLError(.invalidArgument, "\(descriptor.op.rawValue) is no reduce operation")
    }
    guard let count = Int(exactly: descriptor.count) else {
        throw PCCLError(.invalidArgument, "\(descriptor.count) elements do not fit into memory")
    }
    let operand = ReduceOperand(
        send: send, receive: receive, count: count, type: type, operation: operation, tag: descriptor.tag)
    try operand.validate()
    if algorithm != pcclQuantNone {
        throw PCCLError(.invalidUsage, "values cannot be quantised in this release: set the algorithm to none")
    }
    return operand
}

extension pcclReduceInfo_t {
    fileprivate init(_ info: ReduceInfo) {
        self.init(
            local_world_size: UInt32(info.worldSize), tx_bytes: info.sentBytes, rx_bytes: info.receivedBytes)
    }
}
