import PCCLBase

/// A peer as others need to know it: who it is and where its listener is.
package struct Member: Hashable, Sendable {
    package var id: PeerID
    /// Tried in this order by whoever dials.
    package var addresses: [SocketAddress]
    /// Connections this peer wants for each link.
    package var stripes: UInt16

    package init(id: PeerID, addresses: [SocketAddress], stripes: UInt16) {
        self.id = id
        self.addresses = addresses
        self.stripes = stripes
    }
}

/// What `pcclGetAttribute` tells beyond a peer's own group: admitted peers only.
package struct WorldCounts: Hashable, Sendable {
    package var globalWorldSize: UInt32
    package var groupCount: UInt32
    package var largestGroupWorldSize: UInt32
    package init(globalWorldSize: UInt32, groupCount: UInt32, largestGroupWorldSize: UInt32) {
        self.globalWorldSize = globalWorldSize
        self.groupCount = groupCount
        self.largestGroupWorldSize = largestGroupWorldSize
    }
}

extension ByteWriter {
    package mutating func write(_ address: SocketAddress) {
        switch address.host {
        case .v4(let bits):
            write(UInt8(4))
            write(bits)
        case .v6(let high, let low):
            write(UInt8(6))
            write(high)
            write(low)
        }
        write(address.port)
    }
    package mutating func write(_ member: Member) {
        write(member.id.value)
        write(member.stripes)
        write(member.addresses) { $0.write($1) }
    }
    package mutating func write(_ counts: WorldCounts) {
        write(counts.globalWorldSize)
        write(counts.groupCount)
        write(counts.largestGroupWorldSize)
    }
}

extension ByteReader {
    package mutating func readAddress() throws(WireError) -> SocketAddress {
        let family = try read(UInt8.self)
        let host: SocketAddress.Host
        switch family {
        case 4: host = .v4(try read())
        case 6: host = .v6(high: try read(), low: try read())
        default: throw .unknownValue(field: "address family", value: UInt64(family))
        }
        return SocketAddress(host, port: try read())
    }
    package mutating func readAddresses() throws(WireError) -> [SocketAddress] {
        try readList("addresses", limit: WireLimits.addresses) { (r) throws(WireError) in try r.readAddress() }
    }
    package mutating func readMember() throws(WireError) -> Member {
        let id = PeerID(try read())
        let stripes: UInt16 = try read()
        return Member(id: id, addresses: try readAddresses(), stripes: stripes)
    }
    package mutating func readMembers() throws(WireError) -> [Member] {
        try readList("members", limit: WireLimits.members) { (r) throws(WireError) in try r.readMember() }
    }
    package mutating func readPeers() throws(WireError) -> [PeerID] {
        try readList("peers", limit: WireLimits.members) { (r) throws(WireError) in PeerID(try r.read()) }
    }
    package mutating func readCounts() throws(WireError) -> WorldCounts {
        WorldCounts(globalWorldSize: try read(), groupCount: try read(), largestGroupWorldSize: try read())
    }
}
