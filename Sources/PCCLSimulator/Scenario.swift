import PCCLBase

/// What a seed stands for: who takes part, what their programs are, how the network is and what goes wrong when.
///
/// Each place ("slot") is an address at which processes may live one after the other.
package struct Scenario {
    enum Fault {
        /// Bytes from one node to the other wait until the end of the block.
        case block(from: Int, to: Int, Interval)
        case resetLink(Int, Int)
        case resetControl(Int)
        /// kill -9: the kernel still closes the connections. Silent: the machine is off, nothing tells of it.
        case crash(Int, silent: Bool)
        case hang(Int, Interval)
        case spawn(Int)
        case leave(Int)
        case garbage(Int)
        case stranger
        case masterCrash
        /// Dies while it sends a view or a verdict, so that some have it and some have not.
        case masterCrashInSending
        case masterHang(Interval)
        /// An engine has no memory for its operations.
        case exhaust(Int)
    }

    /// One sequence of calls with the same tag; each begins when the one before has ended.
    struct Lane {
        var tag: Tag
        var descriptor: OperationDescriptor
        var repeats: Int
        var onLoss = LossPolicy.abort

        /// What its caller asks for who knows of so many members. Of collectives with a block for each rank, the descriptor
        /// of the lane has one block.
        func descriptor(worldSize: Int) -> OperationDescriptor {
            var asked = descriptor
            switch descriptor.collective {
            case .allReduce, .barrier: return asked
            case .allGather, .reduceScatter: asked.count *= UInt64(worldSize)
            case .broadcast(let root): asked.collective = .broadcast(root: root % UInt16(max(worldSize, 1)))
            }
            asked.worldSize = UInt16(worldSize)
            return asked
        }
    }

    enum Misuse {
        case none
        /// Goes on to the next round without its operations.
        case skipsOperations(round: Int)
        /// Votes where the others ask.
        case votesInsteadOfAsking(round: Int)
        /// Votes to join where the others optimise.
        case votesInsteadOfOptimizing(round: Int)
        /// Reduces another number of elements.
        case otherCount(round: Int)
    }

    struct Program {
        var rounds: Int
        var reconnects: Int
        var think: Interval
        /// How many lanes are in flight at once; all at once in any order, fewer in the order of the lanes.
        var window: Int
        var inPlaceOneIn: Int
        var misuse = Misuse.none
    }

    var deadTime: Interval
    var slots: Int
    var groupOfSlot: [GroupID] = []
    var programs: [Program] = []
    var latency: [Interval] = []
    var lanes: [Lane] = []
    var stripes: Int
    var segmentElements: Int
    /// Callers ask whether peers are pending while their operations run.
    var asksDuringOperations: Bool
    /// Members optimise their topology at the end of every so-many-th round; never if 0.
    var optimizesEvery = 0
    /// Members synchronise their shared state at the end of every so-many-th round; never if 0.
    var synchronizesEvery = 0
    /// The process at slot 0 gives its state, and all others take it.
    var hasOneSender = false
    /// From node to node: bytes per second, hundredths of them.
    var rate: [UInt64] = []
    /// (greater slot, smaller slot): neither reaches the other.
    var firewalled: [(Int, Int)] = []
    var faults: [(at: Instant, fault: Fault)] = []
    /// All programs are right, so nobody may be refused.
    var isRight = true

    /// Members wait for a master that is gone, and attach again.
    var masterGrace = Interval.milliseconds(0)
    /// Nil: a master that crashes stays away.
    var masterReturnsAfter: Interval?
    var keepsJournal = true

    /// So many slots from the first are nodes of two processes each, one in either group, that come as an ensemble.
    var nodeSlots = 0

    /// Zero: nobody is lost for being late.
    var stragglerDeadline = Interval.milliseconds(0)

    var timeouts: Timeouts {
        Timeouts(deadTime: deadTime, masterGrace: masterGrace, stragglerDeadline: stragglerDeadline)
    }
    var master: Int { slots }
    /// Long after the last fault and the slowest caller.
    var horizon: Instant { Instant(nanoseconds: 0) + deadTime * 300 }

    init(_ r: inout RandomSource) {
        deadTime = r.oneIn(4) ? .milliseconds(500) : .seconds(5)
        slots = 2 + r.below(4) + (r.oneIn(4) ? 1 : 0)
        stripes = 1 + r.below(3)
        segmentElements = 1 + r.below(3)
        asksDuringOperations = r.oneIn(3)

        let groups = r.oneIn(5) ? 2 : 1
        let unit = deadTime / 5000  // A millisecond for the default dead time.
        let slowSlot = r.oneIn(6) ? r.below(slots) : -1
        for slot in 0..<slots {
            groupOfSlot.append(GroupID(UInt32(r.below(groups))))
            let isSlowCaller = r.oneIn(12)
            programs.append(
                Program(
                    rounds: 1 + r.below(4), reconnects: r.below(3),
                    think: unit * UInt64(isSlowCaller ? 500 + r.below(4000) : 1 + r.below(40)),
                    window: r.oneIn(3) ? 1 + r.below(2) : .max, inPlaceOneIn: 1 + r.below(3)))
            faults.append(
                (Instant(nanoseconds: 0) + unit * UInt64(r.oneIn(3) ? r.below(3000) : r.below(100)), .spawn(slot)))
        }
        let base = 1 + r.below(20)
        for from in 0...slots {
            for to in 0...slots {
                let slow = from == slowSlot || to == slowSlot ? 10 : 1
                latency.append(deadTime / 20_000 * UInt64((base + r.below(base)) * slow))
            }
        }
        for i in 0..<1 + r.below(4) {
            lanes.append(
                Lane(
                    tag: Tag(UInt64(i * 7 + 3)),
                    descriptor: OperationDescriptor(
                        count: UInt64(1 + r.below(10)), type: .uint64, operation: .sum,
                        algorithm: r.oneIn(2) ? .direct : .ring),
                    repeats: 1 + r.below(2)))
        }
        if r.oneIn(8), slots > 2 {
            let a = r.below(slots)
            let b = (a + 1 + r.below(slots - 1)) % slots
            firewalled.append((max(a, b), min(a, b)))
        }
        if r.oneIn(8) {
            isRight = false
            let round = r.below(2)
            programs[r.below(slots)].misuse =
                switch r.below(3) {
                case 0: .skipsOperations(round: round)
                case 1: .votesInsteadOfAsking(round: round)
                default: .otherCount(round: round)
                }
        }
        addFaults(&r, unit)
        addTopology(&r)
        addReturns(r, unit)
        addPolicies(r)
        addSwarm(r, unit)
        addSharing(r)
        addCollectives(r)
        addNodes(r)
    }

    /// From a source of its own, so that all else is as it was when each process came by itself. The processes of a node
    /// run the same program; a launcher starts them together, and ends both where one of them cannot take part.
    private mutating func addNodes(_ source: RandomSource) {
        var copy = source
        var r = RandomSource(seed: copy.next() ^ 0x6e6f_6465)
        guard slots > 3, r.oneIn(4) else { return }
        nodeSlots = slots / 2 * 2
        isRight = true
        for slot in 0..<slots {
            groupOfSlot[slot] = GroupID(UInt32(slot < nodeSlots ? slot % 2 : 2))
            programs[slot].misuse = .none
            guard slot < nodeSlots else { continue }
            programs[slot].rounds = programs[slot / 2 * 2].rounds
            programs[slot].reconnects = 0
        }
        // Where one of a node is sent away, so are all, and come again as another node.
        for _ in 0..<r.below(4) {
            faults.append(
                (Instant(nanoseconds: 0) + deadTime / 5000 * UInt64(r.below(4000)), .spawn(r.below(nodeSlots))))
        }
    }

    /// The slots of the node of this one, if it is of a node.
    func node(of slot: Int) -> Range<Int>? { slot < nodeSlots ? slot / 2 * 2..<slot / 2 * 2 + 2 : nil }

    /// From a source of its own, so that all else is as it was when there were all-reduces only.
    private mutating func addCollectives(_ source: RandomSource) {
        var copy = source
        var r = RandomSource(seed: copy.next() ^ 0x636f_6c6c)
        guard r.oneIn(2) else { return }
        for lane in lanes.indices where r.oneIn(2) {
            lanes[lane].onLoss = .abort
            lanes[lane].descriptor.algorithm = r.oneIn(2) ? .direct : .ring
            switch r.below(4) {
            case 0: lanes[lane].descriptor.collective = .allGather
            case 1: lanes[lane].descriptor.collective = .reduceScatter
            case 2:
                lanes[lane].descriptor.collective = .broadcast(root: UInt16(r.below(slots)))
                lanes[lane].descriptor.algorithm = r.oneIn(2) ? .direct : .oneShot
            default:
                lanes[lane].descriptor.collective = .barrier
                lanes[lane].onLoss = r.oneIn(2) ? .resumeWhole : .abort
                lanes[lane].descriptor.count = 0
            }
        }
    }

    /// From a source of its own, so that all else is as it was when there was none.
    private mutating func addSharing(_ source: RandomSource) {
        var copy = source
        var r = RandomSource(seed: copy.next() ^ 0x7368_6172)
        guard r.oneIn(2) else { return }
        synchronizesEvery = 1 + r.below(2)
        hasOneSender = r.oneIn(4)
    }

    /// Where all kinds of faults come now and then, few come twice. So in some scenarios there are a few kinds only, and many
    /// of each: a swarm, after Groce and others, 2012.
    private mutating func addSwarm(_ source: RandomSource, _ unit: Interval) {
        var copy = source
        var r = RandomSource(seed: copy.next() ^ 0x7377_6172)
        guard r.oneIn(4) else { return }
        let kinds = (0..<1 + r.below(3)).map { _ in r.below(20) }
        for _ in 0..<4 + r.below(9) { addFault(kinds[r.below(kinds.count)], &r, unit) }
    }

    /// From a source of its own, so that all else is as it was when everybody gave up.
    private mutating func addPolicies(_ source: RandomSource) {
        var copy = source
        var r = RandomSource(seed: copy.next() ^ 0x706f_6c69)
        for lane in lanes.indices where r.oneIn(2) {
            lanes[lane].onLoss = r.oneIn(3) ? .resumeWhole : .resume
            // Long enough to be interrupted.
            if r.oneIn(2) { lanes[lane].descriptor.count = UInt64(10 + r.below(50)) }
        }
        if r.oneIn(8) {
            faults.append((Instant(nanoseconds: 0) + deadTime / 5000 * UInt64(r.below(1000)), .exhaust(r.below(slots))))
        }
        if r.oneIn(8) { stragglerDeadline = deadTime / 10 * UInt64(1 + r.below(30)) }
    }

    /// From a source of its own, so that all else is as it was when nobody came back.
    private mutating func addReturns(_ source: RandomSource, _ unit: Interval) {
        var copy = source
        var r = RandomSource(seed: copy.next() ^ 0x7265_7475)
        guard r.oneIn(2) else { return }
        masterGrace = deadTime * 12
        guard !r.oneIn(6) else { return }
        // A master that comes back when some members have given it up and others have not divides right programs.
        masterReturnsAfter = unit * UInt64(r.oneIn(3) ? 1 + r.below(20) : 1 + r.below(6000))
        keepsJournal = !r.oneIn(4)
        for _ in 0..<r.below(4) {
            let at = Instant(nanoseconds: 0) + unit * UInt64(r.below(r.oneIn(4) ? 12_000 : 1000))
            faults.append((at, r.oneIn(3) ? .masterCrash : .masterCrashInSending))
        }
        for _ in 0..<r.below(3) {
            faults.append((Instant(nanoseconds: 0) + unit * UInt64(r.below(2000)), .resetControl(r.below(slots))))
        }
    }

    /// Drawn last, so that what came before is as it was when there was none.
    private mutating func addTopology(_ r: inout RandomSource) {
        optimizesEvery = r.oneIn(2) ? 1 + r.below(2) : 0
        let isUneven = r.oneIn(2)
        for _ in 0...slots {
            for _ in 0...slots {
                rate.append(UInt64((isUneven ? 1 + r.below(100) : 50) * 10_000))
            }
        }
        for lane in lanes.indices where r.oneIn(4) { lanes[lane].descriptor.algorithm = .oneShot }
        if !isRight, optimizesEvery > 0, r.oneIn(3) {
            programs[r.below(slots)].misuse = .votesInsteadOfOptimizing(round: r.below(2))
        }
        addSites(r)
    }

    /// From a source of its own, so that all else is as it was when there were none.
    private mutating func addSites(_ source: RandomSource) {
        var copy = source
        var r = RandomSource(seed: copy.next() ^ 0x7369_7465)
        for lane in lanes.indices where r.oneIn(4) { lanes[lane].descriptor.algorithm = .twoLevel }
        guard r.oneIn(2) else { return }
        // Between two sites, rates that members come to know are so low that going by sites pays.
        for from in 0...slots {
            for to in 0...slots where from % 2 != to % 2 { rate[from * (slots + 1) + to] /= 40 }
        }
    }

    private mutating func addFaults(_ r: inout RandomSource, _ unit: Interval) {
        for _ in 0..<r.below(5) { addFault(nil, &r, unit) }
    }

    /// Of this kind, or of any.
    private mutating func addFault(_ kind: Int?, _ r: inout RandomSource, _ unit: Interval) {
        // Most of a schedule happens in its first second; losses have their consequences a dead time later.
        let window = r.oneIn(4) ? 12_000 : 1000
        let at = Instant(nanoseconds: 0) + unit * UInt64(r.below(window))
        let slot = r.below(slots)
        let other = (slot + 1 + r.below(slots)) % (slots + 1)  // The master, or another slot.
        let short = deadTime / 100 * UInt64(1 + r.below(70))
        let long = deadTime / 10 * UInt64(12 + r.below(20))
        let drawn = r.below(20)
        switch kind ?? drawn {
        case 0...2: faults.append((at, .block(from: slot, to: other, short)))
        case 3: faults.append((at, .block(from: slot, to: other, long)))
        case 4:
            // Two peers may lose sight of each other for good: then one of them has to go. The master may not.
            let length = other < slots && r.oneIn(2) ? deadTime * 1000 : long
            faults.append((at, .block(from: slot, to: other, length)))
            faults.append((at, .block(from: other, to: slot, length)))
        case 5...7: if other < slots { faults.append((at, .resetLink(slot, other))) }
        case 8: faults.append((at, .resetControl(slot)))
        case 9...12:
            faults.append((at, .crash(slot, silent: r.oneIn(3))))
            if r.oneIn(2) { faults.append((at + unit * UInt64(1 + r.below(8000)), .spawn(slot))) }
        case 13: faults.append((at, .hang(slot, r.oneIn(2) ? short : long)))
        case 14, 15: faults.append((at, .leave(slot)))
        case 16: faults.append((at, .garbage(slot)))
        case 17: faults.append((at, .stranger))
        case 18: if r.oneIn(2) { faults.append((at, r.oneIn(3) ? .masterCrash : .masterCrashInSending)) }
        default: faults.append((at, .masterHang(r.oneIn(3) ? long : short)))
        }
    }
}
