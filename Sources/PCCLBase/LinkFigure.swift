/// What a peer knows of its way to another, from what it has sent there. Nil: nothing was measured.
package struct LinkFigure: Hashable, Sendable {
    package var peer: PeerID
    package var bytesPerSecond: UInt64?
    /// One way: half of the shortest round trip.
    package var latencyNanoseconds: UInt64?

    package init(peer: PeerID, bytesPerSecond: UInt64? = nil, latencyNanoseconds: UInt64? = nil) {
        self.peer = peer
        self.bytesPerSecond = bytesPerSecond
        self.latencyNanoseconds = latencyNanoseconds
    }
}
