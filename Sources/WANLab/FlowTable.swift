import PCCLBase

/// The TCP connections that have been seen, so that one of them can be stalled or reset.
struct FlowTable {
    struct Flow {
        var key: Key
        var bytes: UInt64 = 0
        /// The last acknowledgement number that each end has sent: what it expects next.
        var expected: (low: UInt32?, high: UInt32?) = (nil, nil)
        var isClosed = false
        var affliction: Affliction?
    }

    enum Affliction: Equatable {
        /// Nothing passes, either way, until then; nil for until it is told otherwise.
        case stalled(until: Instant?)
        /// Nothing passes, and whoever sends is told that the connection is no more.
        case reset
    }

    /// The two ends, the node with the lower number first, packed so that a look-up costs little.
    struct Key: Hashable {
        var packed: UInt64

        init(low: Int, high: Int, lowPort: UInt16, highPort: UInt16, isV6: Bool) {
            packed = UInt64(low) << 48 | UInt64(high) << 40 | UInt64(lowPort) << 16 | UInt64(highPort)
            if isV6 { packed |= 1 << 63 }
        }

        var low: Int { Int(packed >> 48 & 0xFF) }
        var high: Int { Int(packed >> 40 & 0xFF) }
        var lowPort: UInt16 { UInt16(truncatingIfNeeded: packed >> 16) }
        var highPort: UInt16 { UInt16(truncatingIfNeeded: packed) }
        var isV6: Bool { packed >> 63 == 1 }
    }

    private(set) var flows: [Flow] = []
    private var indices: [Key: Int32] = [:]
    /// More connections than a lab of this size has; a program that opens and closes without end begins anew.
    private static let mostFlows = 1 << 16

    subscript(index: Int32) -> Flow {
        get { flows[Int(index)] }
        _modify { yield &flows[Int(index)] }
    }

    /// Notes a packet, and says which connection it is of.
    mutating func note(_ headers: Headers, _ tcp: Headers.TCP, wireBytes: Int) -> Int32 {
        let isFromLow = headers.source < headers.destination
        let key = Key(
            low: min(headers.source, headers.destination), high: max(headers.source, headers.destination),
            lowPort: isFromLow ? tcp.sourcePort : tcp.destinationPort,
            highPort: isFromLow ? tcp.destinationPort : tcp.sourcePort, isV6: headers.isV6)
        let index = indices[key] ?? add(key)
        let isOpening = tcp.flags & (Headers.syn | Headers.ack) == Headers.syn
        // The ports are used again: another connection, to which nothing was done. While one is stalled, a repeated SYN
        // is still its own.
        if isOpening, flows[Int(index)].isClosed || flows[Int(index)].affliction == .reset {
            flows[Int(index)] = Flow(key: key)
        }
        flows[Int(index)].bytes += UInt64(wireBytes)
        if tcp.flags & (Headers.fin | Headers.rst) != 0 { flows[Int(index)].isClosed = true }
        if tcp.flags & Headers.ack != 0 {
            if isFromLow {
                flows[Int(index)].expected.low = tcp.acknowledgement
            } else {
                flows[Int(index)].expected.high = tcp.acknowledgement
            }
        }
        return index
    }

    private mutating func add(_ key: Key) -> Int32 {
        if flows.count == Self.mostFlows { forgetClosed() }
        let index = Int32(flows.count)
        flows.append(Flow(key: key))
        indices[key] = index
        return index
    }

    /// Numbers of flows that packets on their way carry become wrong; all they are used for is to find an affliction, so
    /// at worst a packet of a closed connection passes or does not.
    private mutating func forgetClosed() {
        let kept = flows.filter { !$0.isClosed && $0.affliction == nil }
        flows = kept.count < Self.mostFlows ? kept : []
        indices = [:]
        for (index, flow) in flows.enumerated() { indices[flow.key] = Int32(index) }
    }

    /// Of the connections between two nodes that fit the choice, the one that carried most. Nil if there is none.
    func chosen(_ choice: FlowChoice) -> Int32? {
        let (low, high) = (min(choice.a, choice.b), max(choice.a, choice.b))
        let fitting = flows.indices.filter { index in
            let flow = flows[index]
            return flow.key.low == low && flow.key.high == high && !flow.isClosed && flow.affliction == nil
                && (choice.port == nil || choice.port == flow.key.lowPort || choice.port == flow.key.highPort)
        }
        return fitting.max { flows[$0].bytes < flows[$1].bytes }.map { Int32($0) }
    }
}

/// One TCP connection between two nodes: the one with that port at either end, or else the one that has carried most.
package struct FlowChoice: Equatable, Sendable {
    package var a: Int
    package var b: Int
    package var port: UInt16?

    package init(a: Int, b: Int, port: UInt16? = nil) {
        self.a = a
        self.b = b
        self.port = port
    }
}
