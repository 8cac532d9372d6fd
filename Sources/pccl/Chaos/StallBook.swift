import PCCLBase

/// How long members went without a completed operation, and for which fault.
///
///     calm ──a fault──▶ episode, more faults ──every peer has completed what it began after the last──▶ calm
///
/// What ends in calm is the usual: transfers, the checks of their results, and a machine that has other things to do.
struct StallBook {
    /// What docs/chaos.md promises for a kind of fault, beyond the usual.
    static func promise(for kind: FaultKind, deadTime: Interval) -> Interval? {
        switch kind {
        case .kill, .leave: .milliseconds(150)
        case .stop: deadTime * 3 / 2
        // The group waits as long as links break and stand again, or for a newcomer.
        case .cut, .oneway, .delay, .join, .master: nil
        }
    }

    struct Episode: Equatable {
        var faults: [Fault]
        var began: Instant
        var longest = Interval(nanoseconds: 0)
        var peer: Int?
        /// Nil where a fault has no promise of its own.
        var limit: Interval?

        var isTooLong: Bool { limit.map { longest > $0 } ?? false }
        /// Of one kind only, so that its stall is due to nothing else.
        var kind: FaultKind? { Set(faults.map(\.kind)).count == 1 ? faults.first?.kind : nil }
    }

    private let deadTime: Interval
    private(set) var episode: Episode?
    private var lastCompletion: [Int: Instant] = [:]
    private var usualGaps: [Interval] = []
    private var nextUsual = 0
    /// As many operations of each peer as a few seconds see.
    private static let usualGapsKept = 1000
    private static let usualGapsNeeded = 200

    private(set) var longest: [FaultKind: Interval] = [:]
    private(set) var faults: [FaultKind: Int] = [:]

    init(deadTime: Interval) { self.deadTime = deadTime }

    var usual: Interval { usualGaps.max() ?? Interval(nanoseconds: 0) }

    /// Enough was seen in calm to judge by it.
    var knowsUsual: Bool { usualGaps.count >= Self.usualGapsNeeded }

    /// Gives how long the peer was without a completed operation, if it was in calm.
    @discardableResult mutating func completed(_ peer: Int, at now: Instant) -> Interval? {
        defer { lastCompletion[peer] = max(now, lastCompletion[peer] ?? now) }
        guard let last = lastCompletion[peer] else { return nil }
        let gap = now - last
        if var current = episode, now > current.began {
            if gap > current.longest { (current.longest, current.peer) = (gap, peer) }
            episode = current
            return nil
        }
        if usualGaps.count < Self.usualGapsKept {
            usualGaps.append(gap)
        } else {
            usualGaps[nextUsual] = gap
            nextUsual = (nextUsual + 1) % Self.usualGapsKept
        }
        return gap
    }

    /// The peer is no survivor: its next completion begins a new count.
    mutating func interrupted(_ peer: Int) { lastCompletion[peer] = nil }

    mutating func injected(_ fault: Fault, at now: Instant) {
        faults[fault.kind, default: 0] += 1
        let promise = Self.promise(for: fault.kind, deadTime: deadTime)
        if var current = episode {
            current.faults.append(fault)
            current.limit = current.limit.flatMap { limit in promise.map { limit + $0 } }
            episode = current
        } else {
            episode = Episode(faults: [fault], began: now, limit: promise.map { $0 + usual })
        }
    }

    /// Ends the episode, and gives it.
    mutating func calmed() -> Episode? {
        defer { episode = nil }
        if let episode, let kind = episode.kind {
            longest[kind] = max(longest[kind] ?? episode.longest, episode.longest)
        }
        return episode
    }
}
