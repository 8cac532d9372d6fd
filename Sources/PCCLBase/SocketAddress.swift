/// An IPv4 or IPv6 address with a port, in the host's terms.
public struct SocketAddress: Hashable, Sendable, CustomStringConvertible {
    public enum Host: Hashable, Sendable {
        /// Four bytes, most significant first.
        case v4(UInt32)
        /// Sixteen bytes, most significant first.
        case v6(high: UInt64, low: UInt64)
    }
    public var host: Host
    public var port: UInt16

    public init(_ host: Host, port: UInt16) {
        self.host = host
        self.port = port
    }

    public static func loopback(port: UInt16) -> SocketAddress { SocketAddress(.v4(0x7f00_0001), port: port) }

    /// `0.0.0.0` or `::`.
    package var isUnspecified: Bool {
        switch host {
        case .v4(let bits): bits == 0
        case .v6(let high, let low): high | low == 0
        }
    }

    public var description: String {
        switch host {
        case .v4: "\(hostDescription):\(port)"
        case .v6: "[\(hostDescription)]:\(port)"
        }
    }

    /// The address alone, as one would type it.
    public var hostDescription: String {
        switch host {
        case .v4(let bits):
            return (0..<4).map { String((bits >> (24 - 8 * UInt32($0))) & 255) }.joined(separator: ".")
        case .v6(let high, let low):
            return SocketAddress.compressed(high: high, low: low)
        }
    }

    /// RFC 5952: lower case, no leading zeros, the longest run of two or more zero groups as `::`.
    private static func compressed(high: UInt64, low: UInt64) -> String {
        let groups = (0..<8).map { i -> UInt16 in
            let half = i < 4 ? high : low
            return UInt16(truncatingIfNeeded: half >> (48 - 16 * UInt64(i & 3)))
        }
        var best = 0..<0
        var start = 0
        while start < 8 {
            var end = start
            while end < 8 && groups[end] == 0 { end += 1 }
            if end - start >= 2 && end - start > best.count { best = start..<end }
            start = max(end, start + 1)
        }
        let hex = { (range: Range<Int>) in groups[range].map { String($0, radix: 16) }.joined(separator: ":") }
        return best.isEmpty ? hex(0..<8) : hex(0..<best.lowerBound) + "::" + hex(best.upperBound..<8)
    }
}
