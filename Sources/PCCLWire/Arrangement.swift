import PCCLBase

/// What the members of a view share beside their order: how large each one's chunk is to be, who is near whom, and what was
/// measured of the links between them. The same at every member of an epoch, since layouts and algorithms are chosen from it.
package struct Arrangement: Hashable, Sendable {
    /// By rank; none when all chunks are equal.
    package var shares: [UInt16]
    /// By rank: members of one site have the same number. None unless there are sites that are worth going by.
    package var sites: [UInt16]
    /// Nil while nothing was measured.
    package var figures: SharedFigures?

    package init(shares: [UInt16] = [], sites: [UInt16] = [], figures: SharedFigures? = nil) {
        self.shares = shares
        self.sites = sites
        self.figures = figures
    }

    /// Equal chunks, nothing measured.
    package static let plain = Arrangement()
}

/// What the cost model reads: rounded, so that the next measurement of the same links gives the same figures.
package struct SharedFigures: Hashable, Sendable {
    /// One way, between the two members that are furthest apart.
    package var latencyNanoseconds: UInt64
    /// One way, of the average step along the ring.
    package var hopNanoseconds: UInt64
    /// One way, between the two members of one site that are furthest apart; 0 without sites.
    package var localNanoseconds: UInt64
    /// How fast each algorithm gets through a buffer, latency aside. 0: no rates are known, or it has no use here.
    package var oneShotBytesPerSecond: UInt64
    package var directBytesPerSecond: UInt64
    package var ringBytesPerSecond: UInt64
    package var twoLevelBytesPerSecond: UInt64

    package init(
        latencyNanoseconds: UInt64, hopNanoseconds: UInt64, localNanoseconds: UInt64 = 0,
        oneShotBytesPerSecond: UInt64, directBytesPerSecond: UInt64, ringBytesPerSecond: UInt64,
        twoLevelBytesPerSecond: UInt64 = 0
    ) {
        self.latencyNanoseconds = latencyNanoseconds
        self.hopNanoseconds = hopNanoseconds
        self.localNanoseconds = localNanoseconds
        self.oneShotBytesPerSecond = oneShotBytesPerSecond
        self.directBytesPerSecond = directBytesPerSecond
        self.ringBytesPerSecond = ringBytesPerSecond
        self.twoLevelBytesPerSecond = twoLevelBytesPerSecond
    }
}

extension ByteWriter {
    package mutating func write(_ arrangement: Arrangement) {
        write(arrangement.shares) { $0.write($1) }
        write(arrangement.sites) { $0.write($1) }
        write(arrangement.figures != nil)
        guard let figures = arrangement.figures else { return }
        write(figures.latencyNanoseconds)
        write(figures.hopNanoseconds)
        write(figures.localNanoseconds)
        write(figures.oneShotBytesPerSecond)
        write(figures.directBytesPerSecond)
        write(figures.ringBytesPerSecond)
        write(figures.twoLevelBytesPerSecond)
    }
    package mutating func write(_ figure: LinkFigure) {
        write(figure.peer.value)
        write(figure.bytesPerSecond ?? 0)
        write(figure.latencyNanoseconds ?? 0)
    }
}

extension ByteReader {
    package mutating func readArrangement() throws(WireError) -> Arrangement {
        let shares = try readList("shares", limit: WireLimits.members) { (r) throws(WireError) in
            try r.read(UInt16.self)
        }
        let sites = try readList("sites", limit: WireLimits.members) { (r) throws(WireError) in
            try r.read(UInt16.self)
        }
        guard try readBool() else { return Arrangement(shares: shares, sites: sites) }
        let figures = SharedFigures(
            latencyNanoseconds: try read(), hopNanoseconds: try read(), localNanoseconds: try read(),
            oneShotBytesPerSecond: try read(), directBytesPerSecond: try read(), ringBytesPerSecond: try read(),
            twoLevelBytesPerSecond: try read())
        return Arrangement(shares: shares, sites: sites, figures: figures)
    }
    package mutating func readFigures() throws(WireError) -> [LinkFigure] {
        try readList("link figures", limit: WireLimits.members) { (r) throws(WireError) in
            let peer = PeerID(try r.read())
            let rate: UInt64 = try r.read()
            let latency: UInt64 = try r.read()
            return LinkFigure(
                peer: peer, bytesPerSecond: rate == 0 ? nil : rate, latencyNanoseconds: latency == 0 ? nil : latency)
        }
    }
}
