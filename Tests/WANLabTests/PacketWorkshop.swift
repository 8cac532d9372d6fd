import PCCLBase
import StrictJSON
import Testing

@testable import WANLab

/// A network with a virtual clock, and packets made by hand for it.
struct Workshop {
    var network: Network
    let pool: PacketPool
    private(set) var now = Instant(nanoseconds: 0)

    struct Arrival: Equatable {
        var at: Instant
        var to: Int
        var bytes: [UInt8]
        var segments: Int
    }

    init(_ configuration: LabConfiguration, largeSlots: Int = 64, smallSlots: Int = 4096) {
        pool = PacketPool(PacketPool.Sizes(smallSlots: smallSlots, largeSlots: largeSlots))
        network = Network(configuration, pool: pool)
    }

    /// A lab with these links, as a file would give them.
    init(
        nodes: Int = 2, seed: UInt64 = 1, sites: [[Int]] = [], largeSlots: Int = 64, smallSlots: Int = 4096,
        _ links: [(String, String)]
    ) throws {
        var configuration = LabConfiguration(nodeCount: nodes)
        configuration.seed = seed
        configuration.sites = sites
        configuration.links = try links.map { try LinkSetting($0.0, $0.1) }
        try configuration.check()
        self.init(configuration, largeSlots: largeSlots, smallSlots: smallSlots)
    }

    mutating func send(_ bytes: [UInt8], segmentBytes: Int = 0) throws {
        let slot = try #require(pool.take(packetBytes: bytes.count))
        pool.memory(slot).initializeMemory(as: UInt8.self, repeating: 0, count: VirtioHeader.size)
        if segmentBytes > 0 {
            let type = bytes[0] >> 4 == 6 ? VirtioHeader.gsoTCPv6 : VirtioHeader.gsoTCPv4
            pool.memory(slot).storeBytes(of: type, toByteOffset: VirtioHeader.gsoTypeOffset, as: UInt8.self)
            pool.memory(slot).storeBytes(
                of: UInt16(segmentBytes), toByteOffset: VirtioHeader.gsoSizeOffset, as: UInt16.self)
        }
        bytes.withUnsafeBytes {
            UnsafeMutableRawBufferPointer(start: pool.memory(slot) + VirtioHeader.size, count: bytes.count)
                .copyMemory(from: $0)
        }
        network.receive(slot, byteCount: bytes.count, at: now)
    }

    /// Lets time pass up to then, and gives what has arrived, with the instants of arrival.
    mutating func run(until end: Interval = .seconds(1000)) -> [Arrival] {
        let last = Instant(nanoseconds: 0) + end
        var arrivals = collect()
        while let next = network.nextArrival, next <= last {
            now = max(now, next)
            network.advance(to: now)
            arrivals += collect()
        }
        now = max(now, last)
        return arrivals
    }

    private func frameBytes(_ slot: Slot) -> [UInt8] { Array(pool.frame(slot).dropFirst(VirtioHeader.size)) }

    private mutating func collect() -> [Arrival] {
        var arrivals: [Arrival] = []
        while let slot = network.nextDelivery() {
            let packet = pool[slot]
            arrivals.append(
                Arrival(at: now, to: Int(packet.to), bytes: frameBytes(slot), segments: packet.segmentCount))
            pool.giveBack(slot)
        }
        return arrivals
    }
}

extension LinkSetting {
    /// `{"delay_ms": 1}` and the like, without the braces.
    init(_ name: String, _ figures: String) throws {
        guard case .object(let members) = try JSONValue(parsing: "{\(figures)}") else { throw LabError("no object") }
        self.init(name: try LinkName(name), figures: try members.map { try FigureSetting($0.key, $0.value) })
    }
}

/// An IP packet of that size from one node to another: UDP as far as the relay is concerned.
func datagram(_ from: Int, _ to: Int, bytes count: Int, mark: UInt8 = 0, isV6: Bool = false) -> [UInt8] {
    var bytes = [UInt8](repeating: mark, count: count)
    bytes.replaceSubrange(0..<(isV6 ? 40 : 20), with: ipHeader(from, to, count: count, protocol: 17, isV6: isV6))
    return bytes
}

struct Segment {
    var from = 0
    var to = 1
    var sourcePort: UInt16 = 1000
    var destinationPort: UInt16 = 2000
    var sequence: UInt32 = 1
    var acknowledgement: UInt32 = 0
    var flags: UInt8 = Headers.ack
    var payload: [UInt8] = []
    var isV6 = false

    /// With TCP options, as real ones have.
    static let headerBytes = 32

    var bytes: [UInt8] {
        var tcp = [UInt8](repeating: 0, count: Segment.headerBytes)
        tcp.withUnsafeMutableBytes {
            guard let base = $0.baseAddress else { return }
            base.setBig16(0, sourcePort)
            base.setBig16(2, destinationPort)
            base.setBig32(4, sequence)
            base.setBig32(8, acknowledgement)
            base.setBig16(12, 0x8000 | UInt16(flags))
        }
        let length = (isV6 ? 40 : 20) + Segment.headerBytes + payload.count
        return ipHeader(from, to, count: length, protocol: Headers.tcpProtocol, isV6: isV6) + tcp + payload
    }
}

func ipHeader(_ from: Int, _ to: Int, count: Int, protocol number: UInt8, isV6: Bool) -> [UInt8] {
    var header = [UInt8](repeating: 0, count: isV6 ? 40 : 20)
    header.withUnsafeMutableBytes {
        guard let base = $0.baseAddress else { return }
        if isV6 {
            base.setBig16(0, 0x6000)
            base.setBig16(4, UInt16(count - 40))
            base.setBig16(6, UInt16(number) << 8 | 64)
            for (offset, node) in [(8, from), (24, to)] {
                base.setBig16(offset, 0xFD77)
                base.setBig16(offset + 14, UInt16(node + 1))
            }
        } else {
            base.setBig16(0, 0x4500)
            base.setBig16(2, UInt16(count))
            base.setBig16(4, 7000)
            base.setBig16(8, 64 << 8 | UInt16(number))
            base.setBig32(12, LabAddress.v4(node: from))
            base.setBig32(16, LabAddress.v4(node: to))
            Checksum.setIPv4(base)
        }
    }
    return header
}

extension Instant {
    /// Since the virtual clock's beginning.
    var milliseconds: Double { Double(nanoseconds) / 1e6 }
}
