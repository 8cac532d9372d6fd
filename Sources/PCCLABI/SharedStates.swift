import CPCCL
import PCCL

@implementation @c
public func pcclSynchronizeSharedState(
    _ communicator: OpaquePointer!, _ sharedState: UnsafeMutablePointer<pcclSharedState_t>!,
    _ strategy: pcclSharedStateSyncStrategy_t, _ syncInfoOut: UnsafeMutablePointer<pcclSharedStateSyncInfo_t>?
) -> pcclResult_t {
    result("pcclSynchronizeSharedState") { () throws(PCCLError) in
        try synchronize(communicator, sharedState, strategy, nil, syncInfoOut)
    }
}

@implementation @c
public func pcclSynchronizeSharedStateWithOptions(
    _ communicator: OpaquePointer!, _ sharedState: UnsafeMutablePointer<pcclSharedState_t>!,
    _ strategy: pcclSharedStateSyncStrategy_t, _ options: UnsafePointer<pcclSyncOptions_t>?,
    _ syncInfoOut: UnsafeMutablePointer<pcclSharedStateSyncInfo_t>?
) -> pcclResult_t {
    result("pcclSynchronizeSharedStateWithOptions") { () throws(PCCLError) in
        try synchronize(communicator, sharedState, strategy, options, syncInfoOut)
    }
}

@implementation @c
public func pcclReadTensor(
    _ tensor: UnsafePointer<pcclTensorInfo_t>!, _ to: UnsafeMutableRawPointer!
) -> pcclResult_t {
    result("pcclReadTensor") { () throws(PCCLError) in
        let entry = try SharedState.entry(try required(tensor, "tensor").pointee, 0)
        guard let to else { throw PCCLError(.invalidArgument, "to is null") }
        try SharedState([entry]).validate()
        try entry.copyOut(into: UnsafeMutableRawBufferPointer(start: to, count: entry.count * entry.type.byteCount))
    }
}

@implementation @c
public func pcclWriteTensor(
    _ tensor: UnsafePointer<pcclTensorInfo_t>!, _ from: UnsafeRawPointer!
) -> pcclResult_t {
    result("pcclWriteTensor") { () throws(PCCLError) in
        let entry = try SharedState.entry(try required(tensor, "tensor").pointee, 0)
        guard let from else { throw PCCLError(.invalidArgument, "from is null") }
        try SharedState([entry]).validate()
        try entry.copyIn(from: UnsafeRawBufferPointer(start: from, count: entry.count * entry.type.byteCount))
    }
}

private func synchronize(
    _ communicator: OpaquePointer?, _ sharedState: UnsafeMutablePointer<pcclSharedState_t>?,
    _ strategy: pcclSharedStateSyncStrategy_t, _ options: UnsafePointer<pcclSyncOptions_t>?,
    _ syncInfoOut: UnsafeMutablePointer<pcclSharedStateSyncInfo_t>?
) throws(PCCLError) {
    let communicator = try Handles.communicator(communicator)
    let given = try required(sharedState, "shared_state")
    guard let strategy = UInt8(exactly: strategy.rawValue).flatMap(SharedStateStrategy.init) else {
        throw PCCLError(.invalidArgument, "\(strategy.rawValue) is no strategy")
    }
    let unchanged = try PCCLABI.options(options, pcclSyncOptions_t()).unchanged
    try communicator.requireMembership()
    var state = try SharedState(given.pointee)
    if let unchanged { for entry in state.entries.indices { state.entries[entry].isUnchanged = unchanged[entry] } }
    let info = try communicator.synchronize(&state, strategy)
    given.pointee.revision = state.revision
    syncInfoOut?.pointee = pcclSharedStateSyncInfo_t(tx_bytes: info.sentBytes, rx_bytes: info.receivedBytes)
}

extension SharedState {
    init(_ state: pcclSharedState_t) throws(PCCLError) {
        self.init(revision: state.revision)
        guard (0...SharedState.largestCount).contains(state.count) else {
            throw PCCLError(.invalidArgument, "\(state.count) entries; \(SharedState.largestCount) are possible")
        }
        guard state.count > 0 else { return }
        let infos = try required(state.infos, "shared_state->infos")
        for index in 0..<state.count { entries.append(try SharedState.entry(infos[index], index)) }
    }

    fileprivate static func entry(_ info: pcclTensorInfo_t, _ index: Int) throws(PCCLError) -> Entry {
        guard let pointer = info.name else { throw PCCLError(.invalidArgument, "entry \(index) has no name") }
        guard let name = String(validatingCString: pointer) else {
            throw PCCLError(.invalidArgument, "the name of entry \(index) is not UTF-8")
        }
        guard let type = DataType(rawValue: info.datatype.rawValue) else {
            throw PCCLError(.invalidArgument, "\"\(name)\": \(info.datatype.rawValue) is no data type")
        }
        switch info.device_type {
        case pcclDeviceCpu: break
        case pcclDeviceCuda:
            if let obstacle = CUDAStatus.current.obstacle {
                throw PCCLError(
                    .invalidUsage, "\"\(name)\" is said to be in the memory of a CUDA device, and \(obstacle)")
            }
        default: throw PCCLError(.invalidArgument, "\"\(name)\": \(info.device_type.rawValue) is no device type")
        }
        guard info.data != nil || info.count == 0 else {
            throw PCCLError(.invalidArgument, "\"\(name)\": data is null")
        }
        return Entry(
            name, info.data ?? UnsafeMutableRawPointer(bitPattern: -1).unsafelyUnwrapped, count: info.count, type: type,
            mayDiffer: info.allow_content_inequality)
    }
}
