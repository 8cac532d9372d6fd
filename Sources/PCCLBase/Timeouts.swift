/// Every time-out of the library, derived from the one that a user may set (`PCCL_TIMEOUT`, seconds).
package struct Timeouts: Hashable, Sendable {
    /// A peer from which nothing was heard for this long is lost.
    package let deadTime: Interval
    /// How long members wait for a master that is gone. Zero: not at all, and nobody attaches again.
    package let masterGrace: Interval
    /// A member that others have waited for this long, in an operation that it does not call, is lost. Zero: never.
    package let stragglerDeadline: Interval
    package init(
        deadTime: Interval, masterGrace: Interval = .milliseconds(0), stragglerDeadline: Interval = .milliseconds(0)
    ) {
        self.deadTime = deadTime
        self.masterGrace = masterGrace
        self.stragglerDeadline = stragglerDeadline
    }

    package static let defaultDeadTime = Interval.seconds(5)
    package static let standard = Timeouts(
        deadTime: defaultDeadTime, masterGrace: masterGrace(deadTime: defaultDeadTime))

    /// Unless it is set: long enough for a service manager to start the master again, short enough for somebody who waits.
    package static func masterGrace(deadTime: Interval) -> Interval { deadTime * 6 }

    /// Five heartbeats fit into the dead time, so four may be late or lost on the way before a live peer is given up.
    package var heartbeatPeriod: Interval { deadTime / 5 }
    /// A caller that waits for this long names the members who have not come, and members that wait for each other in
    /// different calls are told so.
    package var stragglerPatience: Interval { deadTime / 3 }
    /// When a caller that began to wait at one instant and has waited until another is to look again who is missing.
    package func nextStragglerCheck(since: Instant, at now: Instant) -> Instant {
        let next = now + stragglerPatience
        let deadline = since + stragglerDeadline
        return stragglerDeadline.nanoseconds > 0 && now < deadline ? min(next, deadline) : next
    }
    /// A member that has brought nothing to an operation for this long is named: longer than between two heartbeats.
    package var stuckPatience: Interval { deadTime / 4 }
    /// That often operations in flight are looked at, so that all who stop are named within a third of the dead time: 1/24
    /// until it is seen that it brings nothing more, 1/4, and 1/24 until that is seen.
    package var stuckPeriod: Interval { deadTime / 24 }
    /// How long a broken connection between two peers may wait for the news that one of them is dead, before the view
    /// is rebuilt with both. A killed process resets all its connections within a millisecond or two of each other.
    package var repairGrace: Interval { deadTime / 50 }
    /// How long a connection, its greeting included, may take to be made.
    package var dialPatience: Interval { deadTime }
    /// After the first report of an unreachable peer, how long others may add theirs before one peer is chosen to go.
    package var unreachableGrace: Interval { deadTime / 5 }
    /// Between two attempts to reach a master that is gone: at first, and at most.
    package var firstRedial: Interval { deadTime / 100 }
    package var longestRedial: Interval { deadTime / 5 }
}
