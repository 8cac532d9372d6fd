import PCCLBase

enum FaultKind: String, CaseIterable, Hashable, Sendable {
    case kill, stop, cut, oneway, delay, leave, join, master

    /// Those that need links of their own, and so a lab.
    static let ofLinks: Set<FaultKind> = [.cut, .oneway, .delay]
    static let standard: [FaultKind] = allCases

    static let list = allCases.map(\.rawValue).joined(separator: ",")

    /// How often a kind is drawn, beside the others.
    fileprivate var weight: Int {
        switch self {
        case .kill: 5
        case .stop: 3
        case .leave, .join, .cut, .oneway, .delay: 2
        case .master: 1
        }
    }
}

/// One end of a link: a peer's slot, or the master.
enum LinkEnd: Hashable, Sendable, CustomStringConvertible {
    case slot(Int)
    case master

    var description: String {
        switch self {
        case .slot(let slot): "slot \(slot)"
        case .master: "the master"
        }
    }
}

struct LinkPair: Hashable, Sendable {
    var a: LinkEnd
    var b: LinkEnd
}

enum Fault: Hashable, Sendable, CustomStringConvertible {
    /// SIGKILL.
    case kill(slot: Int)
    /// SIGSTOP, and SIGCONT after so long.
    case stop(slot: Int, Interval)
    /// Asks the peer to leave when it is between two rounds.
    case leave(slot: Int)
    /// A new peer.
    case join(slot: Int)
    /// Nothing passes between the two, for so long.
    case cut(LinkPair, Interval)
    /// Nothing passes from the first to the second.
    case oneway(LinkPair, Interval)
    /// Packets take longer.
    case delay(LinkPair, milliseconds: Int, Interval)
    /// SIGKILL to the master, and a new one after so long.
    case master(downFor: Interval)

    var kind: FaultKind {
        switch self {
        case .kill: .kill
        case .stop: .stop
        case .leave: .leave
        case .join: .join
        case .cut: .cut
        case .oneway: .oneway
        case .delay: .delay
        case .master: .master
        }
    }

    /// How long it is there; what happens at once has none.
    var duration: Interval {
        switch self {
        case .kill, .leave, .join: Interval(nanoseconds: 0)
        case .stop(_, let time), .cut(_, let time), .oneway(_, let time), .delay(_, _, let time), .master(let time):
            time
        }
    }

    /// The peers that the others may rightly take for lost because of it.
    func touches(slot: Int) -> Bool {
        switch self {
        case .kill(let other), .stop(let other, _), .leave(let other), .join(let other): slot == other
        case .cut(let pair, _), .oneway(let pair, _), .delay(let pair, _, _):
            pair.a == .slot(slot) || pair.b == .slot(slot)
        // It comes back, and its members with it.
        case .master: false
        }
    }

    var description: String {
        func shown(_ time: Interval) -> String { "for \(time.milliseconds) ms" }
        return switch self {
        case .kill(let slot): "kill slot \(slot)"
        case .stop(let slot, let time): "stop slot \(slot) \(shown(time))"
        case .leave(let slot): "slot \(slot) leaves"
        case .join(let slot): "slot \(slot) joins"
        case .cut(let pair, let time): "cut between \(pair.a) and \(pair.b) \(shown(time))"
        case .oneway(let pair, let time): "cut from \(pair.a) to \(pair.b) \(shown(time))"
        case .delay(let pair, let milliseconds, let time):
            "\(milliseconds) ms between \(pair.a) and \(pair.b) \(shown(time))"
        case .master(let time): "kill the master, down \(shown(time))"
        }
    }
}

/// Draws faults one after the other. What comes next is a function of the seed, of what was drawn before, and of the peers
/// that live: with the same answers to these questions, two runs have the same faults.
struct ChaosPlan {
    struct Options: Equatable, Sendable {
        var kinds = FaultKind.standard
        /// How many peers the group has on average.
        var peers = 4
        var deadTime = Interval.seconds(1)
    }

    /// The processes at the moment.
    struct Population: Equatable, Sendable {
        /// Slots of peers that run and were not told to leave.
        var living: [Int]
        /// Slots without a process, the one that was free for the longest time first.
        var free: [Int]
    }

    struct Draw: Equatable, Sendable {
        /// Counted from the moment when nothing more is to be seen of the faults before, or, if it comes on top of them,
        /// from the one before it.
        var pause: Interval
        var fault: Fault
        /// The next one comes while this one still works.
        var isFollowedAtOnce: Bool
    }

    /// A loss must leave a group behind: two that reduce with each other, so that there is something to check.
    private static let fewestSurvivors = 2
    private static let longestPause = Interval.milliseconds(150)

    private let options: Options
    private var random: RandomSource
    private var wasFollowedAtOnce = false

    init(seed: UInt64, options: Options) {
        self.options = options
        random = RandomSource(seed: seed)
    }

    /// Nil if no kind of fault is possible now.
    mutating func next(_ population: Population) -> Draw? {
        let possible = options.kinds.filter { isPossible($0, population) }
        guard let kind = drawKind(possible, population) else { return nil }
        let pause = upTo(Self.longestPause)
        let fault = fault(kind, population)
        // Two at a time are hard enough to explain, and a third would come too late to meet the first.
        let isFollowedAtOnce = !wasFollowedAtOnce && random.oneIn(5)
        wasFollowedAtOnce = isFollowedAtOnce
        return Draw(pause: pause, fault: fault, isFollowedAtOnce: isFollowedAtOnce)
    }

    private func isPossible(_ kind: FaultKind, _ population: Population) -> Bool {
        switch kind {
        case .kill, .leave: population.living.count > Self.fewestSurvivors
        case .stop, .cut, .oneway, .delay: population.living.count >= Self.fewestSurvivors
        case .join: !population.free.isEmpty && population.living.count <= options.peers + 1
        case .master: true
        }
    }

    /// Joins are drawn as often as losses where the group has its size, and more often where it is smaller.
    private mutating func drawKind(_ possible: [FaultKind], _ population: Population) -> FaultKind? {
        if possible.contains(.join), population.living.count <= Self.fewestSurvivors { return .join }
        let missing = max(0, options.peers - population.living.count)
        let weights = possible.map { $0 == .join ? $0.weight + missing * 6 : $0.weight }
        var place = weights.reduce(0, +)
        guard place > 0 else { return nil }
        place = random.below(place)
        for (kind, weight) in zip(possible, weights) {
            if place < weight { return kind }
            place -= weight
        }
        return nil
    }

    private mutating func fault(_ kind: FaultKind, _ population: Population) -> Fault {
        switch kind {
        case .kill: .kill(slot: one(of: population.living))
        case .stop: .stop(slot: one(of: population.living), aroundDeadTime())
        case .leave: .leave(slot: one(of: population.living))
        case .join: .join(slot: population.free[0])
        case .cut: .cut(pair(population.living), aroundDeadTime())
        case .oneway: .oneway(pair(population.living), aroundDeadTime())
        case .delay:
            .delay(pair(population.living), milliseconds: 10 + random.below(190), aroundDeadTime())
        case .master: .master(downFor: upTo(options.deadTime))
        }
    }

    /// Half of them are over before anybody is given up, the others long after.
    private mutating func aroundDeadTime() -> Interval {
        random.oneIn(2) ? upTo(options.deadTime) : options.deadTime + upTo(options.deadTime)
    }

    private mutating func upTo(_ longest: Interval) -> Interval {
        Interval(nanoseconds: random.next() % longest.nanoseconds)
    }

    private mutating func one(of slots: [Int]) -> Int { slots[random.below(slots.count)] }

    private mutating func pair(_ living: [Int]) -> LinkPair {
        let first = one(of: living)
        let others = living.filter { $0 != first }
        // The link to the master is one of a peer's links, no more.
        let other = random.below(others.count + 1)
        let ends = (LinkEnd.slot(first), other < others.count ? LinkEnd.slot(others[other]) : .master)
        return random.oneIn(2) ? LinkPair(a: ends.0, b: ends.1) : LinkPair(a: ends.1, b: ends.0)
    }
}

extension Interval {
    static func + (a: Interval, b: Interval) -> Interval { Interval(nanoseconds: a.nanoseconds + b.nanoseconds) }
}
