import PCCLBase

/// Who asks to be registered.
package struct Hello: Hashable, Sendable {
    package var group: GroupID
    /// Where other peers may dial, at the address this connection comes from and at `addresses`.
    package var listenPort: UInt16
    package var addresses: [SocketAddress]
    package var stripes: UInt16
    /// Nil: it comes and goes by itself.
    package var ensemble: Ensemble?

    package init(
        group: GroupID, listenPort: UInt16, addresses: [SocketAddress], stripes: UInt16, ensemble: Ensemble? = nil
    ) {
        self.group = group
        self.listenPort = listenPort
        self.addresses = addresses
        self.stripes = stripes
        self.ensemble = ensemble
    }
}

extension ByteWriter {
    mutating func write(_ hello: Hello) {
        write(hello.group.value)
        write(hello.listenPort)
        write(hello.stripes)
        write(hello.addresses) { $0.write($1) }
        write(hello.ensemble)
    }

    /// A size of 0 is none.
    package mutating func write(_ ensemble: Ensemble?) {
        write(UInt16(ensemble?.size ?? 0))
        if let ensemble { write(ensemble.id) }
    }
}

extension ByteReader {
    mutating func readHello() throws(WireError) -> Hello {
        let group = GroupID(try read())
        let (port, stripes): (UInt16, UInt16) = (try read(), try read())
        return Hello(
            group: group, listenPort: port, addresses: try readAddresses(), stripes: stripes,
            ensemble: try readEnsemble())
    }

    package mutating func readEnsemble() throws(WireError) -> Ensemble? {
        let size = Int(try read(UInt16.self))
        guard size > 0 else { return nil }
        guard size <= Ensemble.largestSize else {
            throw .tooMany(field: "members of an ensemble", count: size, limit: Ensemble.largestSize)
        }
        return Ensemble(id: try read(), size: size)
    }
}
