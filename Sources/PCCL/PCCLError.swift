/// Why a call failed. `code` says what kind of failure it is and what state things are in; `reason` tells the story:
/// which peer, which address, what was expected.
public struct PCCLError: Error, Hashable, Sendable, CustomStringConvertible {
    public enum Code: UInt32, Sendable, CaseIterable {
        case notInitialized = 1
        /// A bug of this library.
        case internalError
        /// The arguments are wrong, or differ from those of another member. Nothing was changed.
        case invalidArgument
        /// The call does not fit the state: not connected, connected already, members in calls that wait for each other.
        case invalidUsage
        /// The group has no other member to reduce with.
        case tooFewPeers
        /// The master cannot be reached, is no master, refused this peer or declared it lost.
        case masterConnectionFailed
        case rankConnectionFailed
        /// A member was lost. The input is whole, the view is new, and the call may be tried again.
        case rankConnectionLost
        case noSharedStateAvailable
        /// Operations were launched and not awaited.
        case pendingAsyncOps
        case updateTopologyFailed
        case topologyOptimizationFailed
    }

    public let code: Code
    public let reason: String

    public init(_ code: Code, _ reason: String) {
        self.code = code
        self.reason = reason
    }

    public var description: String { "\(code): \(reason)" }
}
