public import PCCLBase
import PCCLTransport

extension SocketAddress {
    /// The first address that a numeric IPv4 or IPv6 address, or a name, stands for. Looking up a name blocks.
    public init(host: String, port: UInt16) throws(PCCLError) {
        guard let first = try SocketAddress.all(host: host, port: port).first else {
            throw PCCLError(.invalidArgument, "\(host) has no address")
        }
        self = first
    }

    /// All addresses that a name stands for, in the order in which they should be tried.
    public static func all(host: String, port: UInt16) throws(PCCLError) -> [SocketAddress] {
        do {
            return try SocketAddress.resolve(host: host, port: port)
        } catch {
            throw PCCLError(.invalidArgument, error.description)
        }
    }
}
