import PCCLMembership
import PCCLSession

extension Communicator {
    /// Blocks until this peer is admitted: the first peer of a group at once, others when the members meet at a join
    /// point (`updateTopology`). Throws `.invalidUsage` if connected, `.masterConnectionFailed` with the reason if the
    /// master cannot be reached, is none, or turned this peer away; it may be tried again then.
    public func connect() throws(PCCLError) {
        _ = try session.call(.connect).wait().checked(ifLost: .masterConnectionFailed)
    }

    /// The group's join point: blocks until all members call it, and admits the peers that wait. Newcomers that cannot be
    /// reached are turned away without harm to the members.
    /// Throws `.pendingAsyncOps` while an operation is not awaited, `.updateTopologyFailed` when the master stayed away
    /// for the grace or has declared this peer lost, `.invalidUsage` when not connected or when other members wait in another call.
    public func updateTopology() throws(PCCLError) {
        try requireNothingInFlight()
        _ = try session.call(.updateTopology).wait().checked(ifLost: .updateTopologyFailed)
    }

    /// Whether peers wait for a join point. Joint: blocks until all members call it, and gives all the same answer.
    /// Operations may be in flight. Throws `.invalidUsage` when not connected or when the master stayed
    /// away for the grace.
    public func arePeersPending() throws(PCCLError) -> Bool {
        try session.call(.arePeersPending).wait().checked(ifLost: .invalidUsage)
    }

    /// Arranges the group by what is known of its links: blocks until all members call it, then ranks are in the order of
    /// the best ring, chunks are as large as their owners' links are fast, and algorithms are chosen by measured
    /// latencies and rates. Figures come from the transfers so far, which tell most after some operations of a usual size.
    /// Links without any are probed first, one after the other: some milliseconds each in a local network, about a second
    /// each over long distances, a minute in all at most. Admits nobody. If a member is lost meanwhile, the others finish
    /// it.
    /// Throws `.topologyOptimizationFailed` while an operation is not awaited, or when the master stayed away for the
    /// grace or has declared this peer lost; `.invalidUsage` when not connected, alone, or when other members wait in another call.
    public func optimizeTopology() throws(PCCLError) {
        try requireNothingInFlight(else: .topologyOptimizationFailed)
        _ = try session.call(.optimizeTopology).wait().checked(ifLost: .topologyOptimizationFailed)
    }

    /// World sizes as of now; never blocks. Throws `.invalidUsage` when not connected.
    public func attributes() throws(PCCLError) -> Attributes {
        guard let view = session.currentView else { throw PCCLError(.invalidUsage, "not connected") }
        return Attributes(
            worldSize: view.worldSize, globalWorldSize: Int(view.world.globalWorldSize),
            groupCount: Int(view.world.groupCount), largestGroupWorldSize: Int(view.world.largestGroupWorldSize),
            rank: view.rank)
    }

    public var isConnected: Bool { session.currentView != nil }

    /// Throws `.invalidUsage` when not connected, `.masterConnectionFailed` with the reason when this peer was a member
    /// and is no longer.
    public func requireMembership() throws(PCCLError) { _ = try requireView() }

    func requireView() throws(PCCLError) -> ViewSnapshot {
        if let view = session.currentView { return view }
        if let reason = session.departure { throw PCCLError(.masterConnectionFailed, reason) }
        throw PCCLError(.invalidUsage, "not connected")
    }

    func requireNothingInFlight(else code: PCCLError.Code = .pendingAsyncOps) throws(PCCLError) {
        if let tag = handles.withLock({ $0.keys.min() }) {
            throw PCCLError(code, "the operation with tag \(tag) was not awaited")
        }
    }

    /// Leaves the run and ends all threads. Operations in flight end with an error here, and as with a lost peer at the
    /// other members. May be called at any time, also twice.
    public func destroy() {
        session.close()
        // No buffer is used after it: what nobody has waited for comes to its device now.
        for handle in handles.withLock({ Array($0.values) }) { handle.conclude() }
    }
}

/// The same calls for code that may not block its thread: the task is suspended, and nothing else waits.
extension Communicator {
    /// See the blocking `connect`. A task that is cancelled goes on to wait: destroy the communicator to end that.
    public func connect() async throws(PCCLError) {
        _ = try await session.call(.connect).outcome().checked(ifLost: .masterConnectionFailed)
    }

    /// See the blocking `updateTopology`.
    public func updateTopology() async throws(PCCLError) {
        try requireNothingInFlight()
        _ = try await session.call(.updateTopology).outcome().checked(ifLost: .updateTopologyFailed)
    }

    /// See the blocking `arePeersPending`.
    public func arePeersPending() async throws(PCCLError) -> Bool {
        try await session.call(.arePeersPending).outcome().checked(ifLost: .invalidUsage)
    }

    /// See the blocking `optimizeTopology`.
    public func optimizeTopology() async throws(PCCLError) {
        try requireNothingInFlight(else: .topologyOptimizationFailed)
        _ = try await session.call(.optimizeTopology).outcome().checked(ifLost: .topologyOptimizationFailed)
    }
}

extension CallAnswer {
    /// The answer, true for pending peers; or the failure as an error. `lost` is the code of this call for a master that
    /// is gone or has turned this peer away.
    func checked(ifLost lost: PCCLError.Code) throws(PCCLError) -> Bool {
        let failure: CallFailure
        switch self {
        case .done, .synchronized: return false
        case .pending(let arePending): return arePending
        case .failed(let reason): failure = reason
        }
        switch failure {
        case .alreadyConnected: throw PCCLError(.invalidUsage, "connected already")
        case .notConnected: throw PCCLError(.invalidUsage, "not connected")
        case .callInProgress:
            throw PCCLError(.invalidUsage, "another thread waits in a membership call of this communicator")
        case .operationsInFlight:
            throw PCCLError(
                lost == .topologyOptimizationFailed ? lost : .pendingAsyncOps, "operations are in flight")
        case .alone: throw PCCLError(.invalidUsage, "this peer is the only member of its group")
        case .masterUnreachable(let reason): throw PCCLError(.masterConnectionFailed, reason)
        case .turnedAway(let reason): throw PCCLError(lost, "turned away by the master: \(reason)")
        case .masterLost(let reason): throw PCCLError(lost, "the master is lost: \(reason)")
        case .outOfMemory(let reason): throw PCCLError(.internalError, reason)
        case .refused(let reason): throw PCCLError(.invalidUsage, reason)
        case .noSharedState:
            throw PCCLError(
                .noSharedStateAvailable, "no member has the revision that is due to give, or none is left that had it")
        case .destroyed: throw PCCLError(.invalidUsage, "the communicator was destroyed")
        }
    }
}
