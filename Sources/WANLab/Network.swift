import PCCLBase

/// The nodes and the links between them, without sockets and without a clock: packets are handed in with the time, and
/// those that have arrived are fetched. A packet passes, each where it has figures: its node's way out (`up`), the trunk
/// between the two sites, the path of the pair, the receiver's way in (`down`).
///
/// The order of use, in every turn: `advance`, then `receive` for what was read, then `nextDelivery` until nil.
package struct Network {
    package let pool: PacketPool
    package let nodeCount: Int
    private let siteOfNode: [Int]
    let siteCount: Int
    private var links: [Link]
    private var arrivals = ArrivalQueue()
    private var deliveries = Ring<Slot>()
    var flows = FlowTable()

    /// Packets to no node of the lab (multicast, router solicitations), and those for which there was no memory.
    package private(set) var unroutable: UInt64 = 0
    package var outOfMemory: UInt64 = 0
    /// Packets that belonged to a stalled or reset connection.
    package private(set) var withheld: UInt64 = 0

    /// A super-packet longer than that on its slowest link is passed on in pieces: nothing arrives before the last
    /// segment of its piece has, so this is how coarse time is for the receiver.
    private static let longestPieceNanoseconds: UInt64 = 250_000

    /// Turns need not follow each other more closely than that under load; see `leastPause`.
    private static let longestPauseNanoseconds: UInt64 = 200_000
    private static let pausesPerDelay: UInt64 = 50

    /// Sleeping and waking costs more than carrying a packet, so a busy caller may let that much time pass between two
    /// turns: a fiftieth of the shortest way through the lab, and not more than 0.2 ms. Packets are late by as much at
    /// most; the order and times inside the lab are exact all the same.
    package private(set) var leastPause = Interval(nanoseconds: 0)

    private enum Stage: Int8 {
        case up, trunk, path, down, arrived
    }

    package init(_ configuration: LabConfiguration, pool: PacketPool) {
        self.pool = pool
        nodeCount = configuration.nodeCount
        siteCount = max(1, configuration.sites.count)
        var siteOfNode = Array(repeating: 0, count: nodeCount)
        for (site, nodes) in configuration.sites.enumerated() { for node in nodes { siteOfNode[node] = site } }
        self.siteOfNode = siteOfNode
        // Each link draws from its own numbers, so that traffic on one does not change what another loses.
        var seeds = RandomSource(seed: configuration.seed)
        links = (0..<2 * nodeCount + nodeCount * nodeCount + siteCount * siteCount).map { _ in Link(seed: seeds.next())
        }
        for setting in configuration.links { apply(setting) }
    }

    // MARK: Packets in and out

    /// Takes over a packet that a node has sent: `byteCount` bytes of IP packet in the slot, behind their virtio header.
    package mutating func receive(_ slot: Slot, byteCount: Int, at now: Instant) {
        pool[slot] = Packet()
        pool[slot].byteCount = byteCount
        guard let headers = Headers(pool.bytes(slot), count: byteCount, nodeCount: nodeCount) else {
            unroutable += 1
            return pool.giveBack(slot)
        }
        pool.describeSegments(slot, headers: headers)
        pool[slot].from = Int16(headers.source)
        pool[slot].to = Int16(headers.destination)
        if let tcp = headers.tcp {
            let flow = flows.note(headers, tcp, wireBytes: pool[slot].wireBytes)
            pool[slot].flow = flow
            if isWithheld(flow, at: now) {
                withheld += UInt64(pool[slot].segmentCount)
                pool.giveBack(slot)
                if flows[flow].affliction == .reset, tcp.flags & Headers.rst == 0 {
                    sendReset(to: headers.source, flow)
                }
                return
            }
        }
        let segmentsPerPiece = segmentsPerPiece(slot)
        while pool[slot].segmentCount > segmentsPerPiece {
            guard let piece = pool.splitFirst(segmentsPerPiece, of: slot) else {
                outOfMemory += 1
                return pool.giveBack(slot)
            }
            pass(piece, from: .up, at: now)
        }
        pass(slot, from: .up, at: now)
    }

    /// The next packet to write to its node, whose slot the caller then gives back.
    package mutating func nextDelivery() -> Slot? { deliveries.popFirst() }

    /// When something happens next.
    package var nextArrival: Instant? { arrivals.first }

    /// Lets time pass: packets go from link to link, in the order of their arrivals.
    package mutating func advance(to now: Instant) {
        while let (time, link) = arrivals.popFirst(until: now) {
            // After an overtaking there is one entry too many, and its time is not the head's.
            guard links[link].travellers.first?.arrival == time, let traveller = links[link].travellers.popFirst()
            else {
                continue
            }
            if let next = links[link].travellers.first { arrivals.insert(next.arrival, link) }
            let stage = Stage(rawValue: pool[traveller.slot].stage + 1) ?? .arrived
            pass(traveller.slot, from: stage, at: time)
        }
    }

    // MARK: Along the path

    private mutating func pass(_ slot: Slot, from first: Stage, at now: Instant) {
        var stage = first
        while let link = link(at: stage, of: pool[slot]) {
            if !links[link].isOpen {
                pool[slot].stage = stage.rawValue
                return enter(link, slot, at: now)
            }
            stage = Stage(rawValue: stage.rawValue + 1) ?? .arrived
        }
        if let flow = pool[slot].flow, isWithheld(flow, at: now) {
            withheld += UInt64(pool[slot].segmentCount)
            return pool.giveBack(slot)
        }
        deliveries.append(slot)
    }

    private func link(at stage: Stage, of packet: Packet) -> Int? {
        let (from, to) = (Int(packet.from), Int(packet.to))
        switch stage {
        case .up: return up(from)
        case .trunk: return trunk(siteOfNode[from], siteOfNode[to])
        case .path: return path(from, to)
        case .down: return down(to)
        case .arrived: return nil
        }
    }

    private mutating func enter(_ link: Int, _ slot: Slot, at now: Instant) {
        var admitted: Slot = slot
        let room = links[link].admit(pool[slot], at: now)
        if room == 0 { return pool.giveBack(slot) }
        if room < pool[slot].segmentCount {
            guard let front = pool.splitFirst(room, of: slot) else {
                outOfMemory += 1
                return pool.giveBack(slot)
            }
            pool.giveBack(slot)
            admitted = front
        }
        cross(link, admitted, at: now)
    }

    /// Sends what is not lost; a super-packet that loses some of its segments goes on as several.
    private mutating func cross(_ link: Int, _ slot: Slot, at now: Instant) {
        var whole = 0
        for _ in 0..<pool[slot].segmentCount {
            guard links[link].losesNext() else {
                whole += 1
                continue
            }
            if whole > 0 {
                guard let front = pool.splitFirst(whole, of: slot) else {
                    outOfMemory += 1
                    return pool.giveBack(slot)
                }
                send(link, front, at: now)
                whole = 0
            }
            guard pool[slot].segmentCount > 1 else { return pool.giveBack(slot) }
            guard let lost = pool.splitFirst(1, of: slot) else {
                outOfMemory += 1
                return pool.giveBack(slot)
            }
            pool.giveBack(lost)
        }
        send(link, slot, at: now)
    }

    private mutating func send(_ link: Int, _ slot: Slot, at now: Instant) {
        let before = links[link].travellers.first?.arrival
        links[link].send(slot, pool[slot], at: now)
        if let head = links[link].travellers.first?.arrival, head != before { arrivals.insert(head, link) }
    }

    private func segmentsPerPiece(_ slot: Slot) -> Int {
        let packet = pool[slot]
        guard packet.segmentCount > 1 else { return 1 }
        let (from, to) = (Int(packet.from), Int(packet.to))
        let onTheWay = [up(from), trunk(siteOfNode[from], siteOfNode[to]), path(from, to), down(to)]
        guard let rate = onTheWay.compactMap({ links[$0].figures.bitsPerSecond }).min() else {
            return packet.segmentCount
        }
        let bytes = rate / 8 * Self.longestPieceNanoseconds / 1_000_000_000
        return max(1, Int(bytes) / (packet.headerBytes + packet.segmentBytes))
    }

    // MARK: Connections

    private mutating func isWithheld(_ flow: Int32, at now: Instant) -> Bool {
        guard Int(flow) < flows.flows.count else { return false }
        switch flows[flow].affliction {
        case nil: return false
        case .reset, .stalled(until: nil): return true
        case .stalled(let end?):
            if now < end { return true }
            flows[flow].affliction = nil
            return false
        }
    }

    mutating func afflict(_ flow: Int32, _ affliction: FlowTable.Affliction?) {
        flows[flow].affliction = affliction
        guard affliction == .reset else { return }
        sendReset(to: flows[flow].key.low, flow)
        sendReset(to: flows[flow].key.high, flow)
    }

    /// A reset counts only if its number is the one that the receiver expects, which is what the receiver last
    /// acknowledged, since nothing is let through to it any more. Should more have been in its buffers, it answers with its
    /// number, and that answer is answered with a reset again.
    private mutating func sendReset(to node: Int, _ index: Int32) {
        let flow = flows[index]
        let isToLow = node == flow.key.low
        guard let sequence = isToLow ? flow.expected.low : flow.expected.high else { return }
        let reset = pool.makeReset(
            isV6: flow.key.isV6, from: isToLow ? flow.key.high : flow.key.low, to: node,
            sourcePort: isToLow ? flow.key.highPort : flow.key.lowPort,
            destinationPort: isToLow ? flow.key.lowPort : flow.key.highPort, sequence: sequence)
        if let reset { deliveries.append(reset) } else { outOfMemory += 1 }
    }

    // MARK: Links by name

    private func up(_ node: Int) -> Int { node }
    private func down(_ node: Int) -> Int { nodeCount + node }
    private func path(_ from: Int, _ to: Int) -> Int { 2 * nodeCount + from * nodeCount + to }
    private func trunk(_ from: Int, _ to: Int) -> Int { 2 * nodeCount + nodeCount * nodeCount + from * siteCount + to }

    package mutating func apply(_ setting: LinkSetting) {
        for link in indices(of: setting.name) {
            var figures = links[link].figures
            for figure in setting.figures { figure.apply(to: &figures) }
            links[link].figures = figures
        }
        let shortest = pairs(nil, of: nodeCount).map { from, to in
            self.figures(from: from, to: to).reduce(0) { $0 + $1.delay.nanoseconds }
        }.min()
        leastPause.nanoseconds = min((shortest ?? 0) / Self.pausesPerDelay, Self.longestPauseNanoseconds)
    }

    private func indices(of name: LinkName) -> [Int] {
        switch name.ends {
        case .up(let node): return (node.map { [$0] } ?? Array(0..<nodeCount)).map(up)
        case .down(let node): return (node.map { [$0] } ?? Array(0..<nodeCount)).map(down)
        case .access(let node): return (node.map { [$0] } ?? Array(0..<nodeCount)).flatMap { [up($0), down($0)] }
        case .path(let pair): return pairs(pair, of: nodeCount).map { path($0.0, $0.1) }
        case .trunk(let pair): return pairs(pair, of: siteCount).map { trunk($0.0, $0.1) }
        }
    }

    private func pairs(_ pair: LinkName.Pair?, of count: Int) -> [(Int, Int)] {
        (0..<count).flatMap { from in
            (0..<count).filter { to in from != to && (pair?.covers(from: from, to: to) ?? true) }.map { (from, $0) }
        }
    }

    /// The links that have figures or carried something, by name, in a fixed order.
    package var inspected: [(name: String, link: Link)] {
        var all = (0..<nodeCount).map { ("up:\($0)", links[up($0)]) }
        all += (0..<nodeCount).map { ("down:\($0)", links[down($0)]) }
        all += pairs(nil, of: nodeCount).map { ("path:\($0.0)>\($0.1)", links[path($0.0, $0.1)]) }
        all += pairs(nil, of: siteCount).map { ("trunk:\($0.0)>\($0.1)", links[trunk($0.0, $0.1)]) }
        return all.filter { !$0.1.figures.isNeutral || $0.1.counts != Link.Counts() }
    }

    /// The figures on the way from one node to another, in order.
    package func figures(from: Int, to: Int) -> [LinkFigures] {
        [up(from), trunk(siteOfNode[from], siteOfNode[to]), path(from, to), down(to)].map { links[$0].figures }
    }
}

/// The instants at which links have something to hand on: a binary heap. Equal times go by the number of the link, so
/// that a run does not depend on how the heap came about.
private struct ArrivalQueue {
    private var heap: [(time: Instant, link: Int)] = []

    var first: Instant? { heap.first?.time }

    mutating func insert(_ time: Instant, _ link: Int) {
        heap.append((time, link))
        var child = heap.count - 1
        while child > 0 {
            let parent = (child - 1) / 2
            guard precedes(child, parent) else { break }
            heap.swapAt(child, parent)
            child = parent
        }
    }

    mutating func popFirst(until now: Instant) -> (time: Instant, link: Int)? {
        guard let first = heap.first, first.time <= now else { return nil }
        heap.swapAt(0, heap.count - 1)
        heap.removeLast()
        var parent = 0
        while true {
            var least = parent
            for child in [2 * parent + 1, 2 * parent + 2] where child < heap.count && precedes(child, least) {
                least = child
            }
            if least == parent { return first }
            heap.swapAt(parent, least)
            parent = least
        }
    }

    private func precedes(_ a: Int, _ b: Int) -> Bool {
        (heap[a].time, heap[a].link) < (heap[b].time, heap[b].link)
    }
}
