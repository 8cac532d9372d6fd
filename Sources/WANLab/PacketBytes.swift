import PCCLBase

/// The ten bytes that a TUN device with `IFF_VNET_HDR` puts before each packet (virtio 1.2, section 5.1.6), in the
/// machine's own byte order.
package enum VirtioHeader {
    package static let size = 10
    static let gsoTypeOffset = 1
    static let gsoSizeOffset = 4
    static let gsoTCPv4: UInt8 = 1
    static let gsoTCPv6: UInt8 = 4
    static let gsoECN: UInt8 = 0x80
}

/// The addresses of a lab: its nodes are numbered, and their addresses follow from that.
package enum LabAddress {
    static let v4Network: UInt32 = 0x0A4D_0000  // 10.77.0.0/24
    static let v6Network: UInt64 = 0xFD77_0000_0000_0000  // fd77::/64

    package static func v4(node: Int) -> UInt32 { v4Network | UInt32(node + 1) }
    package static func v6(node: Int) -> (high: UInt64, low: UInt64) { (v6Network, UInt64(node + 1)) }
    package static func v4Text(node: Int) -> String { SocketAddress(.v4(v4(node: node)), port: 0).hostDescription }
    package static func v6Text(node: Int) -> String {
        SocketAddress(.v6(high: v6Network, low: UInt64(node + 1)), port: 0).hostDescription
    }
}

/// What the relay has to know of a packet's headers.
struct Headers {
    var isV6: Bool
    var source: Int
    var destination: Int
    /// Nil for all that is not TCP, and for what is only a fragment.
    var tcp: TCP?

    struct TCP {
        var offset: Int
        var headerBytes: Int
        var sourcePort: UInt16
        var destinationPort: UInt16
        var sequence: UInt32
        var acknowledgement: UInt32
        var flags: UInt8
    }

    static let tcpProtocol: UInt8 = 6
    static let fin: UInt8 = 0x01
    static let syn: UInt8 = 0x02
    static let rst: UInt8 = 0x04
    static let psh: UInt8 = 0x08
    static let ack: UInt8 = 0x10
    static let cwr: UInt8 = 0x80

    /// Nil for what is not from one node of the lab to another.
    init?(_ bytes: UnsafeMutableRawPointer, count: Int, nodeCount: Int) {
        guard count >= 20 else { return nil }
        let offset: Int
        switch bytes.byte(0) >> 4 {
        case 4:
            isV6 = false
            source = Int(bytes.big32(12) &- LabAddress.v4(node: 0))
            destination = Int(bytes.big32(16) &- LabAddress.v4(node: 0))
            offset = Int(bytes.byte(0) & 15) * 4
            let isFragment = bytes.big16(6) & 0x3FFF != 0
            tcp =
                bytes.byte(9) == Self.tcpProtocol && !isFragment
                ? TCP(bytes, offset: offset, count: count) : nil
        case 6:
            guard count >= 40 else { return nil }
            isV6 = true
            guard bytes.big64(8) == LabAddress.v6Network, bytes.big64(24) == LabAddress.v6Network else { return nil }
            source = Int(truncatingIfNeeded: bytes.big64(16) &- 1)
            destination = Int(truncatingIfNeeded: bytes.big64(32) &- 1)
            offset = 40
            tcp = bytes.byte(6) == Self.tcpProtocol ? TCP(bytes, offset: offset, count: count) : nil
        default: return nil
        }
        let nodes = 0..<nodeCount
        guard nodes.contains(source), nodes.contains(destination), source != destination else { return nil }
    }
}

extension Headers.TCP {
    init?(_ bytes: UnsafeMutableRawPointer, offset: Int, count: Int) {
        guard offset >= 20, count >= offset + 20 else { return nil }
        self.offset = offset
        headerBytes = Int(bytes.byte(offset + 12) >> 4) * 4
        guard headerBytes >= 20, offset + headerBytes <= count else { return nil }
        sourcePort = bytes.big16(offset)
        destinationPort = bytes.big16(offset + 2)
        sequence = bytes.big32(offset + 4)
        acknowledgement = bytes.big32(offset + 8)
        flags = bytes.byte(offset + 13)
    }
}

extension PacketPool {
    /// Reads the virtio header into the description: how many packets of the wire this one stands for.
    func describeSegments(_ slot: Slot, headers: Headers) {
        var packet = self[slot]
        packet.headerBytes = headers.tcp.map { $0.offset + $0.headerBytes } ?? 0
        packet.segmentBytes = 0
        packet.segmentCount = 1
        let virtio = memory(slot) + packet.start - VirtioHeader.size
        let type = virtio.byte(VirtioHeader.gsoTypeOffset) & ~VirtioHeader.gsoECN
        let size = Int(virtio.loadUnaligned(fromByteOffset: VirtioHeader.gsoSizeOffset, as: UInt16.self))
        if headers.tcp != nil, type == VirtioHeader.gsoTCPv4 || type == VirtioHeader.gsoTCPv6, size > 0 {
            packet.segmentBytes = size
            packet.segmentCount = max(1, (packet.byteCount - packet.headerBytes + size - 1) / size)
        }
        self[slot] = packet
    }

    /// Cuts the first segments off a super-packet, as a packet of their own; `slot` keeps the others, which must be at
    /// least one. Nil if the pool is empty, and then nothing has changed.
    func splitFirst(_ count: Int, of slot: Slot) -> Slot? {
        precondition(count > 0 && count < self[slot].segmentCount, "a split leaves something on both sides")
        var rest = self[slot]
        let payload = count * rest.segmentBytes
        guard let frontSlot = take(packetBytes: rest.headerBytes + payload) else { return nil }
        var front = rest
        front.start = VirtioHeader.size
        front.byteCount = rest.headerBytes + payload
        front.segmentCount = count
        let framed = VirtioHeader.size + rest.headerBytes
        let old = memory(slot) + rest.start - VirtioHeader.size
        memory(frontSlot).copyMemory(from: old, byteCount: framed + payload)
        // The headers move to just before what is left of the payload; the two places may overlap.
        (old + payload).copyMemory(from: old, byteCount: framed)
        rest.start += payload
        rest.byteCount -= payload
        rest.segmentCount -= count
        self[frontSlot] = front
        self[slot] = rest

        mendHeaders(frontSlot)
        mendHeaders(slot)
        clearFlags(frontSlot, Headers.fin | Headers.psh)  // They belong to the last segment,
        clearFlags(slot, Headers.cwr)  // this one to the first.
        advance(slot, segments: count, payloadBytes: payload)
        return frontSlot
    }

    /// Makes lengths and checksums right after a packet was cut.
    private func mendHeaders(_ slot: Slot) {
        let packet = self[slot]
        let bytes = self.bytes(slot)
        let isV6 = bytes.byte(0) >> 4 == 6
        let oldLength = isV6 ? Int(bytes.big16(4)) + 40 : Int(bytes.big16(2))
        bytes.setBig16(isV6 ? 4 : 2, UInt16(packet.byteCount - (isV6 ? 40 : 0)))
        // The TCP checksum of a super-packet is that of the pseudo header alone, which contains the length.
        let checksumOffset = packet.tcpOffset(bytes) + 16
        var sum = UInt32(bytes.big16(checksumOffset)) + UInt32(packet.byteCount & 0xFFFF)
        sum += UInt32(~UInt16(truncatingIfNeeded: oldLength))
        bytes.setBig16(checksumOffset, Checksum.folded(sum))
        if !isV6 { Checksum.setIPv4(bytes) }
        if packet.segmentCount == 1 {
            let virtio = bytes - VirtioHeader.size
            virtio.storeBytes(of: 0, toByteOffset: VirtioHeader.gsoTypeOffset, as: UInt8.self)
            virtio.storeBytes(of: 0, toByteOffset: VirtioHeader.gsoSizeOffset, as: UInt16.self)
        }
    }

    private func clearFlags(_ slot: Slot, _ flags: UInt8) {
        let bytes = self.bytes(slot)
        let offset = self[slot].tcpOffset(bytes) + 13
        bytes.storeBytes(of: bytes.byte(offset) & ~flags, toByteOffset: offset, as: UInt8.self)
    }

    private func advance(_ slot: Slot, segments: Int, payloadBytes: Int) {
        let bytes = self.bytes(slot)
        let sequenceOffset = self[slot].tcpOffset(bytes) + 4
        bytes.setBig32(sequenceOffset, bytes.big32(sequenceOffset) &+ UInt32(payloadBytes))
        if bytes.byte(0) >> 4 == 4 {
            bytes.setBig16(4, bytes.big16(4) &+ UInt16(segments))
            Checksum.setIPv4(bytes)
        }
    }

    /// A TCP reset from one node to another.
    func makeReset(isV6: Bool, from: Int, to: Int, sourcePort: UInt16, destinationPort: UInt16, sequence: UInt32)
        -> Slot?
    {
        let offset = isV6 ? 40 : 20
        guard let slot = take(packetBytes: offset + 20) else { return nil }
        memory(slot).initializeMemory(as: UInt8.self, repeating: 0, count: VirtioHeader.size + offset + 20)
        var packet = Packet()
        packet.byteCount = offset + 20
        packet.from = Int16(from)
        packet.to = Int16(to)
        packet.headerBytes = offset + 20
        self[slot] = packet
        let bytes = self.bytes(slot)
        if isV6 {
            bytes.setBig32(0, 0x6000_0000)
            bytes.setBig16(4, 20)
            bytes.setBig16(6, UInt16(Headers.tcpProtocol) << 8 | 64)
            for (at, node) in [(8, from), (24, to)] {
                bytes.setBig32(at, UInt32(LabAddress.v6Network >> 32))
                bytes.setBig32(at + 12, UInt32(node + 1))
            }
        } else {
            bytes.setBig16(0, 0x4500)
            bytes.setBig16(2, 40)
            bytes.setBig16(8, 64 << 8 | UInt16(Headers.tcpProtocol))
            bytes.setBig32(12, LabAddress.v4(node: from))
            bytes.setBig32(16, LabAddress.v4(node: to))
            Checksum.setIPv4(bytes)
        }
        bytes.setBig16(offset, sourcePort)
        bytes.setBig16(offset + 2, destinationPort)
        bytes.setBig32(offset + 4, sequence)
        bytes.setBig16(offset + 12, 0x5000 | UInt16(Headers.rst))
        Checksum.setTCP(bytes, offset: offset, count: 20)
        return slot
    }
}

extension Packet {
    fileprivate func tcpOffset(_ bytes: UnsafeMutableRawPointer) -> Int {
        bytes.byte(0) >> 4 == 6 ? 40 : Int(bytes.byte(0) & 15) * 4
    }
}

/// The Internet checksum (RFC 1071).
enum Checksum {
    static func folded(_ sum: UInt32) -> UInt16 {
        var sum = sum
        while sum > 0xFFFF { sum = (sum & 0xFFFF) + sum >> 16 }
        return UInt16(sum)
    }

    static func sum(_ bytes: UnsafeMutableRawPointer, from start: Int, count: Int) -> UInt32 {
        var sum: UInt32 = 0
        for offset in stride(from: start, to: start + count & ~1, by: 2) { sum += UInt32(bytes.big16(offset)) }
        if count & 1 == 1 { sum += UInt32(bytes.byte(start + count - 1)) << 8 }
        return UInt32(folded(sum))
    }

    static func setIPv4(_ bytes: UnsafeMutableRawPointer) {
        bytes.setBig16(10, 0)
        bytes.setBig16(10, ~folded(sum(bytes, from: 0, count: Int(bytes.byte(0) & 15) * 4)))
    }

    /// With the pseudo header, over a segment without extension headers.
    static func setTCP(_ bytes: UnsafeMutableRawPointer, offset: Int, count: Int) {
        let addresses = offset == 40 ? (start: 8, count: 32) : (start: 12, count: 8)
        bytes.setBig16(offset + 16, 0)
        let total =
            sum(bytes, from: addresses.start, count: addresses.count) + UInt32(Headers.tcpProtocol) + UInt32(count)
            + sum(bytes, from: offset, count: count)
        bytes.setBig16(offset + 16, ~folded(total))
    }
}

extension UnsafeMutableRawPointer {
    func byte(_ offset: Int) -> UInt8 { load(fromByteOffset: offset, as: UInt8.self) }
    func big16(_ offset: Int) -> UInt16 { loadUnaligned(fromByteOffset: offset, as: UInt16.self).bigEndian }
    func big32(_ offset: Int) -> UInt32 { loadUnaligned(fromByteOffset: offset, as: UInt32.self).bigEndian }
    func big64(_ offset: Int) -> UInt64 { loadUnaligned(fromByteOffset: offset, as: UInt64.self).bigEndian }
    func setBig16(_ offset: Int, _ value: UInt16) {
        storeBytes(of: value.bigEndian, toByteOffset: offset, as: UInt16.self)
    }
    func setBig32(_ offset: Int, _ value: UInt32) {
        storeBytes(of: value.bigEndian, toByteOffset: offset, as: UInt32.self)
    }
}
