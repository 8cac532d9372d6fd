/// The payload of a `window` frame: the sender has a window of device memory, and where it is to be told of the receiver's.
package struct WindowInvitation: Hashable, Sendable {
    package static let byteCount = 16 + 16 + 1 + nameBytes
    /// The longest name of a socket that the kernel chooses has six.
    package static let nameBytes = 15

    /// Of the sender's for this receiver, and nobody else's.
    package var token: WindowToken
    /// Of the network in which the socket is: a host, and there a container, which no other has.
    package var network: WindowToken
    /// Of a datagram socket there, in the abstract namespace.
    package var socket: [UInt8]

    package init(token: WindowToken, network: WindowToken, socket: [UInt8]) {
        self.network = network
        precondition(socket.count <= WindowInvitation.nameBytes, "a name of \(socket.count) bytes")
        self.token = token
        self.socket = socket
    }

    package var bytes: [UInt8] {
        var w = ByteWriter()
        w.write(token.high)
        w.write(token.low)
        w.write(network.high)
        w.write(network.low)
        w.write(UInt8(socket.count))
        for i in 0..<WindowInvitation.nameBytes { w.write(i < socket.count ? socket[i] : 0) }
        return w.bytes
    }

    package init(_ bytes: [UInt8]) throws(WireError) {
        var r = ByteReader(bytes)
        token = WindowToken(high: try r.read(), low: try r.read())
        network = WindowToken(high: try r.read(), low: try r.read())
        let count = Int(try r.read(UInt8.self))
        guard count <= WindowInvitation.nameBytes else {
            throw .tooMany(field: "bytes of a socket's name", count: count, limit: WindowInvitation.nameBytes)
        }
        var name: [UInt8] = []
        for i in 0..<WindowInvitation.nameBytes {
            let byte = try r.read(UInt8.self)
            guard i >= count else {
                name.append(byte)
                continue
            }
            guard byte == 0 else { throw .unknownValue(field: "end of a socket's name", value: UInt64(byte)) }
        }
        // Nothing that has a place in the file system.
        guard name.first == 0 else {
            throw .unknownValue(field: "beginning of a socket's name", value: UInt64(name.first ?? 1))
        }
        socket = name
        try r.finish()
    }
}

/// A number that nobody guesses.
package struct WindowToken: Hashable, Sendable {
    package var high: UInt64
    package var low: UInt64
    package init(high: UInt64, low: UInt64) {
        self.high = high
        self.low = low
    }
}

/// What comes to that socket, with the descriptor of a window.
package struct WindowHandOver: Hashable, Sendable {
    package static let byteCount = 32
    package var token: WindowToken
    /// Of the window.
    package var windowBytes: UInt64
    /// What its owner goes through at once: who does otherwise has no use for it.
    package var roundBytes: UInt64

    package init(token: WindowToken, windowBytes: UInt64, roundBytes: UInt64) {
        self.token = token
        self.windowBytes = windowBytes
        self.roundBytes = roundBytes
    }

    package var bytes: [UInt8] {
        var w = ByteWriter()
        w.write(token.high)
        w.write(token.low)
        w.write(windowBytes)
        w.write(roundBytes)
        return w.bytes
    }

    package init(_ bytes: [UInt8]) throws(WireError) {
        var r = ByteReader(bytes)
        token = WindowToken(high: try r.read(), low: try r.read())
        windowBytes = try r.read()
        roundBytes = try r.read()
        try r.finish()
    }
}

/// The payload of a `rounds` frame: so many rounds of an operation through windows its sender has filled, folded and taken.
package struct WindowRounds: Hashable, Sendable {
    package static let byteCount = 12
    package var filled: UInt32
    package var folded: UInt32
    package var taken: UInt32

    package init(filled: UInt32, folded: UInt32, taken: UInt32) {
        self.filled = filled
        self.folded = folded
        self.taken = taken
    }

    package var bytes: [UInt8] {
        var w = ByteWriter()
        w.write(filled)
        w.write(folded)
        w.write(taken)
        return w.bytes
    }

    package init(_ bytes: [UInt8]) throws(WireError) {
        var r = ByteReader(bytes)
        filled = try r.read()
        folded = try r.read()
        taken = try r.read()
        try r.finish()
    }
}
