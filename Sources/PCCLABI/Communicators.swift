import CPCCL
import PCCL

@implementation @c
public func pcclInit() -> pcclResult_t {
    Handles.isInitialized.withLock { $0 = true }
    return pcclSuccess
}

@implementation @c
public func pcclCreateCommunicator(
    _ params: UnsafePointer<pcclCommCreateParams_t>!, _ commOut: UnsafeMutablePointer<OpaquePointer?>!
) -> pcclResult_t {
    result("pcclCreateCommunicator") { () throws(PCCLError) in try createCommunicator(params, nil, commOut) }
}

@implementation @c
public func pcclCreateCommunicatorInEnsemble(
    _ params: UnsafePointer<pcclCommCreateParams_t>!, _ ensemble: UnsafePointer<pcclEnsemble_t>!,
    _ commOut: UnsafeMutablePointer<OpaquePointer?>!
) -> pcclResult_t {
    result("pcclCreateCommunicatorInEnsemble") { () throws(PCCLError) in
        let ensemble = try required(ensemble, "ensemble").pointee
        guard ensemble.reserved == 0 else { throw PCCLError.laterRelease }
        try createCommunicator(params, Ensemble(id: ensemble.id, size: Int(ensemble.size)), commOut)
    }
}

private func createCommunicator(
    _ params: UnsafePointer<pcclCommCreateParams_t>?, _ ensemble: Ensemble?,
    _ commOut: UnsafeMutablePointer<OpaquePointer?>?
) throws(PCCLError) {
    guard Handles.isInitialized.withLock({ $0 }) else {
        throw PCCLError(.notInitialized, "pcclInit was not called")
    }
    let params = try required(params, "params").pointee
    let out = try required(commOut, "comm_out")
    var configuration = Communicator.Configuration(
        master: try SocketAddress(params.master_address), peerGroup: params.peer_group,
        stripesPerLink: Int(min(params.p2p_connection_pool_size, UInt32(Communicator.largestStripes))))
    configuration.ensemble = ensemble
    let communicator = try Communicator(configuration)
    let pointer = Handles.pointer(to: communicator)
    Handles.communicators.withLock { $0[pointer] = communicator }
    out.pointee = pointer
}

@implementation @c
public func pcclGetAttribute(
    _ communicator: OpaquePointer!, _ attribute: pcclAttribute_t, _ attributeOut: UnsafeMutablePointer<CInt>!
) -> pcclResult_t {
    result("pcclGetAttribute") { () throws(PCCLError) in
        let communicator = try Handles.communicator(communicator)
        let out = try required(attributeOut, "p_attribute_out")
        let known = [
            PCCL_ATTRIBUTE_GLOBAL_WORLD_SIZE, PCCL_ATTRIBUTE_PEER_GROUP_WORLD_SIZE,
            PCCL_ATTRIBUTE_NUM_DISTINCT_PEER_GROUPS, PCCL_ATTRIBUTE_LARGEST_PEER_GROUP_WORLD_SIZE,
        ]
        guard known.contains(attribute) else {
            throw PCCLError(.invalidArgument, "\(attribute.rawValue) is no attribute")
        }
        let attributes = try communicator.attributes()
        let value =
            switch attribute {
            case PCCL_ATTRIBUTE_GLOBAL_WORLD_SIZE: attributes.globalWorldSize
            case PCCL_ATTRIBUTE_PEER_GROUP_WORLD_SIZE: attributes.worldSize
            case PCCL_ATTRIBUTE_NUM_DISTINCT_PEER_GROUPS: attributes.groupCount
            default: attributes.largestGroupWorldSize
            }
        out.pointee = CInt(clamping: value)
    }
}

@implementation @c
public func pcclDestroyCommunicator(_ communicator: OpaquePointer!) -> pcclResult_t {
    result("pcclDestroyCommunicator") { () throws(PCCLError) in
        let object = try Handles.communicator(communicator)
        // Out of the table first: of two threads that destroy it at once, one is told that it is gone.
        let isFirst = Handles.communicators.withLock { $0.removeValue(forKey: communicator) } != nil
        guard isFirst else { throw PCCLError(.invalidArgument, "another thread destroys the communicator") }
        object.destroy()
    }
}

@implementation @c
public func pcclConnect(_ communicator: OpaquePointer!) -> pcclResult_t {
    result("pcclConnect") { () throws(PCCLError) in try Handles.communicator(communicator).connect() }
}

@implementation @c
public func pcclUpdateTopology(_ communicator: OpaquePointer!) -> pcclResult_t {
    result("pcclUpdateTopology") { () throws(PCCLError) in try Handles.communicator(communicator).updateTopology() }
}

@implementation @c
public func pcclArePeersPending(
    _ communicator: OpaquePointer!, _ pendingOut: UnsafeMutablePointer<CBool>!
) -> pcclResult_t {
    result("pcclArePeersPending") { () throws(PCCLError) in
        let communicator = try Handles.communicator(communicator)
        let out = try required(pendingOut, "pending_out")
        out.pointee = try communicator.arePeersPending()
    }
}

@implementation @c
public func pcclOptimizeTopology(_ communicator: OpaquePointer!) -> pcclResult_t {
    result("pcclOptimizeTopology") { () throws(PCCLError) in
        try Handles.communicator(communicator).optimizeTopology()
    }
}

@implementation @c
public func pcclDumpRecorder(_ communicator: OpaquePointer!, _ path: UnsafePointer<CChar>!) -> pcclResult_t {
    result("pcclDumpRecorder") { () throws(PCCLError) in
        let communicator = try Handles.communicator(communicator)
        guard let path else { throw PCCLError(.invalidArgument, "path is null") }
        try communicator.dumpRecorder(to: String(cString: path))
    }
}

@implementation @c
public func pcclGetBuildInfo(_ info: UnsafeMutablePointer<pcclBuildInfo_t>!) -> pcclResult_t {
    result("pcclGetBuildInfo") { () throws(PCCLError) in
        try required(info, "info").pointee = pcclBuildInfo_t(has_cuda_support: true)
    }
}
