import Glibc
import PCCLBase

/// The addresses of this machine at which others might reach it.
package struct NetworkInterfaces: Sendable {
    /// Which interfaces count, by the beginning of their names, as NCCL and others have it: `eth,ib` takes those, `^docker,lo`
    /// all others, `=eth0` that one alone.
    package struct Choice: Hashable, Sendable {
        private let names: [String]
        private let isExclusion: Bool
        private let isExact: Bool

        /// Nil: it names nothing.
        package init?(_ text: String) {
            isExclusion = text.hasPrefix("^")
            let rest = isExclusion ? text.dropFirst() : text[...]
            isExact = rest.hasPrefix("=")
            names = (isExact ? rest.dropFirst() : rest).split(separator: ",").map(String.init)
            guard !names.isEmpty else { return nil }
        }

        package func contains(_ interface: String) -> Bool { names(interface) != isExclusion }

        /// As one to take.
        func takes(_ interface: String) -> Bool { names(interface) && !isExclusion }

        private func names(_ interface: String) -> Bool {
            names.contains { isExact ? interface == $0 : interface.hasPrefix($0) }
        }
    }

    package struct Address: Hashable, Sendable {
        package var interface: String
        package var host: SocketAddress.Host
        package init(interface: String, host: SocketAddress.Host) {
            self.interface = interface
            self.host = host
        }
    }

    /// In the system's order, of interfaces that are up. Addresses that mean something on one link only are left out, and
    /// so is loopback, unless the choice takes in its interface by name.
    package static func addresses(_ choice: Choice?) -> [SocketAddress.Host] {
        chosen(of: all, choice)
    }

    /// The same, with the names of their interfaces.
    package static func named(_ choice: Choice?) -> [Address] { taken(of: all, choice) }

    static func chosen(of all: [Address], _ choice: Choice?) -> [SocketAddress.Host] {
        taken(of: all, choice).map(\.host)
    }

    private static func taken(of all: [Address], _ choice: Choice?) -> [Address] {
        all.filter { address in
            guard !isLinkLocal(address.host) else { return false }
            if isLoopback(address.host) { return choice?.takes(address.interface) ?? false }
            return choice?.contains(address.interface) ?? true
        }
    }

    private static var all: [Address] {
        var list: UnsafeMutablePointer<ifaddrs>?
        guard getifaddrs(&list) == 0 else { return [] }
        defer { freeifaddrs(list) }
        var found: [Address] = []
        var next = list
        while let entry = next?.pointee {
            next = entry.ifa_next
            guard entry.ifa_flags & CUnsignedInt(IFF_UP) != 0, let address = entry.ifa_addr else { continue }
            var storage = sockaddr_storage()
            let size =
                switch CInt(address.pointee.sa_family) {
                case AF_INET: MemoryLayout<sockaddr_in>.size
                case AF_INET6: MemoryLayout<sockaddr_in6>.size
                default: 0
                }
            guard size > 0 else { continue }
            withUnsafeMutableBytes(of: &storage) {
                $0.copyMemory(from: UnsafeRawBufferPointer(start: address, count: size))
            }
            guard let host = SocketAddress(storage)?.host else { continue }
            found.append(Address(interface: String(cString: entry.ifa_name), host: host))
        }
        return found
    }

    private static func isLoopback(_ host: SocketAddress.Host) -> Bool {
        switch host {
        case .v4(let bits): bits >> 24 == 127
        case .v6(let high, let low): high == 0 && low == 1
        }
    }

    private static func isLinkLocal(_ host: SocketAddress.Host) -> Bool {
        switch host {
        case .v4(let bits): bits >> 16 == 0xa9fe
        case .v6(let high, _): high >> 54 == 0xfe80 >> 6
        }
    }
}
