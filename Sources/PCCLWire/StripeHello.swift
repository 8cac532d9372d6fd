import PCCLBase

/// The first thing a dialling peer says on a stripe, after the preamble. Of two peers the one with the greater id dials; the
/// other may offer it a connection, on which it is then greeted as if it had been dialled.
package struct StripeHello: Hashable, Sendable {
    package static let byteCount = 41
    package var run: RunID
    package var from: PeerID
    package var to: PeerID
    /// Counts the dialler's attempts at this link: stripes of one attempt make one link.
    package var attempt: UInt32
    package var stripe: UInt16
    /// How many stripes make the link. 0: the link of that attempt stands, and this is a further stripe of it.
    package var stripeCount: UInt16
    /// Headers and payloads of the link are followed by their CRC-32C.
    package var isSummed: Bool

    /// As a stripe count: this is an offer, one of as many as the link will have stripes. `attempt` tells offers apart.
    package static let offer = UInt16.max

    package init(
        run: RunID, from: PeerID, to: PeerID, attempt: UInt32, stripe: UInt16, stripeCount: UInt16,
        isSummed: Bool = false
    ) {
        self.isSummed = isSummed
        self.run = run
        self.from = from
        self.to = to
        self.attempt = attempt
        self.stripe = stripe
        self.stripeCount = stripeCount
    }

    package var bytes: [UInt8] {
        var w = ByteWriter()
        w.write(run.high)
        w.write(run.low)
        w.write(from.value)
        w.write(to.value)
        w.write(attempt)
        w.write(stripe)
        w.write(stripeCount)
        w.write(isSummed)
        return w.bytes
    }

    package init(_ bytes: [UInt8]) throws(WireError) {
        var r = ByteReader(bytes)
        run = RunID(high: try r.read(), low: try r.read())
        from = PeerID(try r.read())
        to = PeerID(try r.read())
        attempt = try r.read()
        stripe = try r.read()
        stripeCount = try r.read()
        isSummed = try r.readBool()
        let isOffer = stripeCount == StripeHello.offer && stripe < WireLimits.stripesPerLink
        guard isOffer || (stripeCount <= WireLimits.stripesPerLink && (stripeCount == 0 || stripe < stripeCount)) else {
            throw .unknownValue(field: "stripe", value: UInt64(stripe))
        }
        try r.finish()
    }
}

/// The listening peer's one-byte answer to a `StripeHello`: the stripe is part of the link from then on.
package enum StripeAnswer: UInt8, Sendable {
    case accepted = 1
    case otherRun = 2
    case notMe = 3
    case unknownPeer = 4
    /// There is no such link, or it has stripes enough.
    case noSuchLink = 5
}
