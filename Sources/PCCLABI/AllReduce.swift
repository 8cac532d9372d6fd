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
        let info = try launch(sendbuf, recvbuf, descriptor, communicator, Options()).wait()
        reduceInfoOut?.pointee = pcclReduceInfo_t(info)
    }
}

@implementation @c
public func pcclAllReduceWithOptions(
    _ sendbuf: UnsafeRawPointer!, _ recvbuf: UnsafeMutableRawPointer!,
    _ descriptor: UnsafePointer<pcclReduceDescriptor_t>!, _ communicator: OpaquePointer!,
    _ options: UnsafePointer<pcclReduceOptions_t>?, _ reduceInfoOut: UnsafeMutablePointer<pcclReduceInfo_t>?,
    _ partsOut: UnsafeMutablePointer<pcclReducePart_t>?,
    _ partsCapacity: Int, _ partCountOut: UnsafeMutablePointer<Int>?
) -> pcclResult_t {
    result("pcclAllReduceWithOptions") { () throws(PCCLError) in
        let communicator = try Handles.communicator(communicator)
        let parts = try PartsOut(partsOut, partsCapacity, partCountOut)
        let options = try Options(options)
        let info = try launch(sendbuf, recvbuf, descriptor, communicator, options).wait()
        reduceInfoOut?.pointee = pcclReduceInfo_t(info)
        parts.write(info, count: Int(descriptor.pointee.count))
    }
}

@implementation @c
public func pcclAllReduceAsync(
    _ sendbuf: UnsafeRawPointer!, _ recvbuf: UnsafeMutableRawPointer!,
    _ descriptor: UnsafePointer<pcclReduceDescriptor_t>!, _ communicator: OpaquePointer!,
    _ reduceHandleOut: UnsafeMutablePointer<pcclAsyncReduceOp_t>!
) -> pcclResult_t {
    result("pcclAllReduceAsync") { () throws(PCCLError) in
        try launchAsync(sendbuf, recvbuf, descriptor, communicator, Options(), reduceHandleOut)
    }
}

@implementation @c
public func pcclAllReduceAsyncWithOptions(
    _ sendbuf: UnsafeRawPointer!, _ recvbuf: UnsafeMutableRawPointer!,
    _ descriptor: UnsafePointer<pcclReduceDescriptor_t>!, _ communicator: OpaquePointer!,
    _ options: UnsafePointer<pcclReduceOptions_t>?, _ reduceHandleOut: UnsafeMutablePointer<pcclAsyncReduceOp_t>!
) -> pcclResult_t {
    result("pcclAllReduceAsyncWithOptions") { () throws(PCCLError) in
        _ = try Handles.communicator(communicator)
        try launchAsync(sendbuf, recvbuf, descriptor, communicator, try Options(options), reduceHandleOut)
    }
}

@implementation @c
public func pcclAwaitAsyncReduce(
    _ reduceHandle: UnsafePointer<pcclAsyncReduceOp_t>!, _ reduceInfoOut: UnsafeMutablePointer<pcclReduceInfo_t>?
) -> pcclResult_t {
    result("pcclAwaitAsyncReduce") { () throws(PCCLError) in
        let info = try operation(reduceHandle).wait()
        reduceInfoOut?.pointee = pcclReduceInfo_t(info)
    }
}

@implementation @c
public func pcclAwaitAsyncReduceParts(
    _ reduceHandle: UnsafePointer<pcclAsyncReduceOp_t>!, _ reduceInfoOut: UnsafeMutablePointer<pcclReduceInfo_t>?,
    _ partsOut: UnsafeMutablePointer<pcclReducePart_t>?, _ partsCapacity: Int,
    _ partCountOut: UnsafeMutablePointer<Int>?
) -> pcclResult_t {
    result("pcclAwaitAsyncReduceParts") { () throws(PCCLError) in
        let operation = try operation(reduceHandle)
        let parts = try PartsOut(partsOut, partsCapacity, partCountOut)
        let info = try operation.wait()
        reduceInfoOut?.pointee = pcclReduceInfo_t(info)
        parts.write(info, count: operation.count)
    }
}

@implementation @c
public func pcclAllReduceMultipleWithRetry(
    _ descriptors: UnsafePointer<pcclReduceOpDescriptor_t>!, _ count: Int, _ communicator: OpaquePointer!,
    _ reduceInfoOut: UnsafeMutablePointer<pcclReduceInfo_t>?, _ maxInFlight: CInt
) -> pcclResult_t {
    result("pcclAllReduceMultipleWithRetry") { () throws(PCCLError) in
        try reduceMultiple(descriptors, count, communicator, nil, reduceInfoOut, maxInFlight)
    }
}

@implementation @c
public func pcclAllReduceMultipleWithOptions(
    _ descriptors: UnsafePointer<pcclReduceOpDescriptor_t>!, _ count: Int, _ communicator: OpaquePointer!,
    _ options: UnsafePointer<pcclReduceOptions_t>?, _ reduceInfoOut: UnsafeMutablePointer<pcclReduceInfo_t>?,
    _ maxInFlight: CInt
) -> pcclResult_t {
    result("pcclAllReduceMultipleWithOptions") { () throws(PCCLError) in
        _ = try Handles.communicator(communicator)
        let options = try options.map { (options) throws(PCCLError) in try Options(options) }
        try reduceMultiple(descriptors, count, communicator, options, reduceInfoOut, maxInFlight)
    }
}

private func reduceMultiple(
    _ descriptors: UnsafePointer<pcclReduceOpDescriptor_t>?, _ count: Int, _ communicator: OpaquePointer?,
    _ options: Options?, _ reduceInfoOut: UnsafeMutablePointer<pcclReduceInfo_t>?, _ maxInFlight: CInt
) throws(PCCLError) {
    let communicator = try Handles.communicator(communicator)
    try communicator.requireMembership()
    let descriptors = try required(descriptors, "descriptors")
    guard count > 0 else { throw PCCLError(.invalidArgument, "no operands are given") }
    guard maxInFlight > 0 else { throw PCCLError(.invalidArgument, "max_in_flight is \(maxInFlight)") }
    var operands: [ReduceOperand] = []
    for i in 0..<count {
        let one = descriptors[i]
        operands.append(
            try operand(one.sendbuf, one.recvbuf, one.descriptor, options ?? Options(), isOneOfMany: true))
    }
    let info = try communicator.allReduceWithRetry(operands, maxInFlight: Int(maxInFlight), onLoss: options?.onLoss)
    reduceInfoOut?.pointee = pcclReduceInfo_t(info)
}

private func launchAsync(
    _ sendbuf: UnsafeRawPointer?, _ recvbuf: UnsafeMutableRawPointer?,
    _ descriptor: UnsafePointer<pcclReduceDescriptor_t>?, _ communicator: OpaquePointer?, _ options: Options,
    _ reduceHandleOut: UnsafeMutablePointer<pcclAsyncReduceOp_t>?
) throws(PCCLError) {
    let object = try Handles.communicator(communicator)
    try object.requireMembership()
    let out = try required(reduceHandleOut, "reduce_handle_out")
    let handle = try launch(sendbuf, recvbuf, descriptor, object, options)
    out.pointee = pcclAsyncReduceOp_t(comm: communicator, tag: handle.tag)
}

private func operation(_ reduceHandle: UnsafePointer<pcclAsyncReduceOp_t>?) throws(PCCLError) -> OperationHandle {
    guard Handles.isInitialized.withLock({ $0 }) else {
        throw PCCLError(.notInitialized, "pcclInit was not called")
    }
    let handle = try required(reduceHandle, "reduce_handle").pointee
    let communicator = try Handles.communicator(handle.comm)
    guard let operation = communicator.handle(tag: handle.tag) else {
        throw PCCLError(
            .invalidArgument, "no operation with tag \(handle.tag) is in flight: it was awaited, or never launched")
    }
    return operation
}

/// How a caller wants an operation to be carried out.
struct Options {
    /// Nil: what is usual for the function.
    var onLoss: LossPolicy?
    var format: Codec.Format?
    var blockElements: Int?
    var rounding = Codec.Rounding.nearest
    var hasErrorFeedback = false
    var cudaStream: OpaquePointer?

    init() {}

    /// Of a struct that may be that of an older release, and shorter.
    init(_ options: UnsafePointer<pcclReduceOptions_t>?) throws(PCCLError) {
        guard options != nil else { return }
        let known = try PCCLABI.options(options, pcclReduceOptions_t())
        guard known.reserved == 0 else { throw PCCLError.laterRelease }
        switch known.on_loss {
        case pcclOnLossAbort: onLoss = .abort
        case pcclOnLossResume: onLoss = .resume
        case pcclOnLossResumeWhole: onLoss = .resumeWhole
        case pcclOnLossUsual: onLoss = nil
        default: throw PCCLError(.invalidArgument, "\(known.on_loss.rawValue) is nothing that a loss could do")
        }
        let coding = try Options(
            codec: known.codec, blockElements: known.block_elements, rounding: known.rounding,
            errorFeedback: known.error_feedback)
        (format, blockElements) = (coding.format, coding.blockElements)
        (rounding, hasErrorFeedback) = (coding.rounding, coding.hasErrorFeedback)
        cudaStream = OpaquePointer(known.cuda_stream)
    }

    /// What a struct says of coding.
    init(
        codec: pcclCodec_t, blockElements block: UInt32, rounding: pcclRounding_t, errorFeedback: UInt32
    ) throws(PCCLError) {
        guard let format = UInt8(exactly: codec.rawValue).flatMap(Codec.Format.init) else {
            throw PCCLError(.invalidArgument, "\(codec.rawValue) is no codec")
        }
        self.format = format == .none ? nil : format
        guard block == 0 || Codec.blockSizes.contains(Int(block)) else {
            throw PCCLError(.invalidArgument, "blocks of \(block); 32, 64, 128 and 256 are possible")
        }
        blockElements = block == 0 ? nil : Int(block)
        guard let rounding = UInt8(exactly: rounding.rawValue).flatMap(Codec.Rounding.init) else {
            throw PCCLError(.invalidArgument, "\(rounding.rawValue) is no way of rounding")
        }
        self.rounding = rounding
        guard errorFeedback <= 1 else {
            throw PCCLError(.invalidArgument, "error_feedback is \(errorFeedback); it is 0 or 1")
        }
        hasErrorFeedback = errorFeedback == 1
    }

    /// Of their own codec, or of the one that the descriptor names.
    func codec(_ ofDescriptor: Codec.Format) -> Codec {
        let format = format ?? ofDescriptor
        return format == .none ? .none : Codec(format, blockElements: blockElements, rounding: rounding)
    }
}

/// Where a caller wants to be told of the parts of a result.
private struct PartsOut {
    let parts: UnsafeMutableBufferPointer<pcclReducePart_t>
    let count: UnsafeMutablePointer<Int>?

    init(
        _ parts: UnsafeMutablePointer<pcclReducePart_t>?, _ capacity: Int, _ count: UnsafeMutablePointer<Int>?
    ) throws(PCCLError) {
        guard parts != nil || capacity == 0 else {
            throw PCCLError(.invalidArgument, "parts_out is null, and parts_capacity \(capacity)")
        }
        self.parts = UnsafeMutableBufferPointer(start: parts, count: max(capacity, 0))
        self.count = count
    }

    func write(_ info: ReduceInfo, count elementCount: Int) {
        let all =
            info.parts.isEmpty ? [ResultPart(elements: 0..<elementCount, worldSize: info.worldSize)] : info.parts
        for (index, part) in all.prefix(parts.count).enumerated() {
            parts[index] = pcclReducePart_t(
                first_element: UInt64(part.elements.lowerBound), element_count: UInt64(part.elements.count),
                world_size: UInt32(part.worldSize))
        }
        count?.pointee = all.count
    }
}

private func launch(
    _ sendbuf: UnsafeRawPointer?, _ recvbuf: UnsafeMutableRawPointer?,
    _ descriptor: UnsafePointer<pcclReduceDescriptor_t>?, _ communicator: Communicator, _ options: Options
) throws(PCCLError) -> OperationHandle {
    try communicator.requireMembership()
    let descriptor = try required(descriptor, "descriptor").pointee
    return try communicator.allReduceAsync(
        try operand(sendbuf, recvbuf, descriptor, options), onLoss: options.onLoss ?? .abort)
}

/// Checks a descriptor in the order that the header gives.
private func operand(
    _ sendbuf: UnsafeRawPointer?, _ recvbuf: UnsafeMutableRawPointer?, _ descriptor: pcclReduceDescriptor_t,
    _ options: Options, isOneOfMany: Bool = false
) throws(PCCLError) -> ReduceOperand {
    let send = try required(sendbuf, "sendbuf")
    let receive = try required(recvbuf, "recvbuf")
    let algorithm = descriptor.quantization_options.algorithm
    guard let type = DataType(rawValue: descriptor.src_descriptor.datatype.rawValue) else {
        throw PCCLError(.invalidArgument, "\(descriptor.src_descriptor.datatype.rawValue) is no data type")
    }
    let quantized = descriptor.quantization_options.quantized_datatype
    let quantizedType = DataType(rawValue: quantized.rawValue)
    guard algorithm == pcclQuantNone || quantizedType != nil else {
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
    var operand = ReduceOperand(
        send: send, receive: receive, count: count, type: type, operation: operation, tag: descriptor.tag,
        codec: options.codec(format(algorithm, of: type, as: quantizedType ?? type)),
        errorFeedback: options.hasErrorFeedback)
    operand.cudaStream = options.cudaStream
    if isOneOfMany {
        if !operand.codec.canCode(type) { operand.codec = .none }
        if operand.codec == .none || ![.sum, .average].contains(operation) { operand.hasErrorFeedback = false }
    }
    try operand.validate()
    return operand
}

/// What the two algorithms of the header are here; the values themselves where codes would be no smaller.
private func format(
    _ algorithm: pcclQuantizationAlgorithm_t, of type: DataType, as quantized: DataType
) -> Codec.Format {
    let format: Codec.Format? =
        switch (algorithm, quantized) {
        case (pcclQuantMinMax, .uint8), (pcclQuantMinMax, .int8): .minMax8
        case (pcclQuantMinMax, .uint16), (pcclQuantMinMax, .int16): .minMax16
        case (pcclQuantMinMax, .uint32), (pcclQuantMinMax, .int32): .minMax32
        case (pcclQuantZeroPointScale, .uint8), (pcclQuantZeroPointScale, .int8): .zeroPoint8
        case (pcclQuantZeroPointScale, .uint16), (pcclQuantZeroPointScale, .int16): .zeroPoint16
        case (pcclQuantZeroPointScale, .uint32), (pcclQuantZeroPointScale, .int32): .zeroPoint32
        case (pcclQuantMinMax, .float16), (pcclQuantZeroPointScale, .float16): .float16
        case (pcclQuantMinMax, .bfloat16), (pcclQuantZeroPointScale, .bfloat16): .bfloat16
        default: nil
        }
    guard let format, Codec(format).canCode(type) else { return .none }
    return format
}

@implementation @c
public func pcclFreeErrorFeedback(_ communicator: OpaquePointer!, _ tag: UInt64) -> pcclResult_t {
    result("pcclFreeErrorFeedback") { () throws(PCCLError) in
        guard try Handles.communicator(communicator).freeErrorFeedback(tag: tag) else {
            throw PCCLError(.invalidArgument, "nothing is kept for tag \(tag)")
        }
    }
}

extension pcclReduceInfo_t {
    init(_ info: ReduceInfo) {
        self.init(
            local_world_size: UInt32(info.worldSize), tx_bytes: info.sentBytes, rx_bytes: info.receivedBytes)
    }
}
