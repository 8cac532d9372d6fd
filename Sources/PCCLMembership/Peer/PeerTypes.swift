import PCCLBase
import PCCLWire

/// A blocking membership call of the user, from request to answer.
package struct CallID: Hashable, Comparable, Sendable {
    package let value: UInt64
    package init(_ value: UInt64) { self.value = value }
    package static func < (a: Self, b: Self) -> Bool { a.value < b.value }
}

package enum Call: Hashable, Sendable {
    case connect
    case updateTopology
    case arePeersPending
    case optimizeTopology
    case synchronizeState(StateOffer)
}

package enum CallAnswer: Hashable, Sendable {
    case done
    case pending(Bool)
    case synchronized(revision: UInt64)
    case failed(CallFailure)
}

package enum CallFailure: Hashable, Sendable {
    case alreadyConnected
    case notConnected
    case callInProgress
    case operationsInFlight
    /// This peer is the only member of its group.
    case alone
    /// The master could not be reached, is no master, or did not answer.
    case masterUnreachable(String)
    /// The master refused this peer, or declared it lost.
    case turnedAway(String)
    case masterLost(String)
    /// This peer has left the run: it has no memory for an operation.
    case outOfMemory(String)
    /// Other members wait in another call, or the call was wrong beside theirs.
    case refused(String)
    /// No member has a shared state to give, or none is left that had it.
    case noSharedState
    case destroyed
}

package enum OperationOutcome: Hashable, Sendable {
    /// With `parts` the result was made by several views, each of them some of the elements; the world size is that of the
    /// last.
    case success(worldSize: Int, parts: [ResultPart] = [])
    /// A member was lost; the input is whole and the view is new.
    case memberLost
    case mismatch(String)
    case misuse(String)
    case tooFewPeers
    case notConnected
    case tagInUse
    /// The master is gone and a member too: nobody can say whether the others succeeded. This peer has left the run.
    case masterLost(String)
    /// The engine found no memory for an operation, without which the others would wait: this peer has left the run. Inputs
    /// are whole.
    case outOfMemory(String)
    case destroyed
}

/// A rank's place in a view: what a schedule and the engine need to know.
package struct Assignment: Hashable, Sendable {
    package var epoch: Epoch
    /// In rank order.
    package var members: [PeerID]
    package var rank: Int
    package var arrangement: Arrangement
    package init(epoch: Epoch, members: [PeerID], rank: Int, arrangement: Arrangement = .plain) {
        self.epoch = epoch
        self.members = members
        self.rank = rank
        self.arrangement = arrangement
    }
    package var others: [PeerID] { members.enumerated().filter { $0.offset != rank }.map(\.element) }
}

/// What the attributes of the C API are read from.
package struct ViewSnapshot: Hashable, Sendable {
    package var epoch: Epoch
    package var worldSize: Int
    package var rank: Int
    package var world: WorldCounts
    package init(epoch: Epoch, worldSize: Int, rank: Int, world: WorldCounts) {
        self.epoch = epoch
        self.worldSize = worldSize
        self.rank = rank
        self.world = world
    }
}

/// Who this peer is in its run.
package struct Registration: Hashable, Sendable {
    package var peer: PeerID
    package var run: RunID
    /// With which it may attach to its master again.
    package var secret: PeerSecret
    /// The run's, which the master sets: peers that disagreed about them would take each other for dead.
    package var timeouts: Timeouts
    package init(peer: PeerID, run: RunID, secret: PeerSecret, timeouts: Timeouts) {
        self.peer = peer
        self.run = run
        self.secret = secret
        self.timeouts = timeouts
    }
}
