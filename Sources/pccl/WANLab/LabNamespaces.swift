import CShims
import Glibc
import WANLab

/// The network namespaces of one lab, where `ip netns` finds them too, and the TUN device in each.
struct LabNamespaces {
    struct Node {
        let name: String
        /// Keeps the namespace reachable for this process.
        let namespace: CInt
        /// The other end of the device in it.
        let tun: CInt
    }

    static let folder = "/run/netns"
    static let prefix = "pccl-lab-"
    static let interface = "wan0"
    /// Packets that wait for the relay: it may be away for a few milliseconds.
    private static let deviceQueueLength: CInt = 4000

    private(set) var nodes: [Node] = []

    static func name(lab: CInt, node: Int) -> String { "\(prefix)\(lab)-\(node)" }

    /// What keeps this process from making a lab, in words; nil if nothing does.
    static func obstacle() -> String? {
        if geteuid() != 0 {
            return "needs root, to make network namespaces and TUN devices: run it with sudo"
        }
        let device = open("/dev/net/tun", O_RDWR | O_CLOEXEC)
        guard device >= 0 else {
            return
                "needs TUN devices, but /dev/net/tun cannot be opened (\(systemError())): load the kernel module `tun`, "
                + "or in a container pass the device on (docker run --device /dev/net/tun --cap-add NET_ADMIN,SYS_ADMIN)"
        }
        close(device)
        return nil
    }

    /// Makes them. To be called while this process has one thread: it walks through the namespaces.
    mutating func make(_ configuration: LabConfiguration, lab: CInt, offload: Bool) throws(LabError) {
        mkdir(Self.folder, 0o755)
        let home = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC)
        guard home >= 0 else { throw LabError("cannot open this process's network namespace: \(systemError())") }
        defer {
            _ = pccl_shim_enter_network_namespace(home)
            close(home)
        }
        for node in 0..<configuration.nodeCount {
            nodes.append(try Self.makeNode(node, configuration, lab: lab, offload: offload))
        }
    }

    private static func makeNode(
        _ node: Int, _ configuration: LabConfiguration, lab: CInt, offload: Bool
    ) throws(LabError) -> Node {
        let name = name(lab: lab, node: node)
        let path = "\(folder)/\(name)"
        guard pccl_shim_leave_network_namespace() == 0 else {
            throw LabError("cannot make a network namespace: \(systemError())")
        }
        close(open(path, O_CREAT | O_RDONLY | O_CLOEXEC, 0o444))
        guard pccl_shim_bind_mount("/proc/thread-self/ns/net", path) == 0 else {
            throw LabError("cannot mount a network namespace at \(path): \(systemError())")
        }
        let namespace = open(path, O_RDONLY | O_CLOEXEC)
        let tun = pccl_shim_open_tun(interface, offload ? 1 : 0)
        guard tun >= 0 else { throw LabError("cannot make a TUN device: \(systemError())") }
        guard
            pccl_shim_set_up_interface(
                interface, CInt(configuration.mtu), deviceQueueLength, LabAddress.v4(node: node), 24) == 0
        else { throw LabError("cannot set up \(interface) in \(name): \(systemError())") }
        // A kernel without IPv6 makes a lab without it.
        var v6 = in6_addr()
        let address = LabAddress.v6(node: node)
        withUnsafeMutableBytes(of: &v6) {
            $0.storeBytes(of: address.high.bigEndian, as: UInt64.self)
            $0.storeBytes(of: address.low.bigEndian, toByteOffset: 8, as: UInt64.self)
        }
        _ = pccl_shim_add_v6_address(interface, &v6, 64)
        return Node(name: name, namespace: namespace, tun: tun)
    }

    /// Runs the body with the calling thread inside a node.
    func inside<Result>(_ node: Int, _ body: () throws -> Result) throws -> Result {
        let home = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC)
        defer {
            _ = pccl_shim_enter_network_namespace(home)
            close(home)
        }
        guard pccl_shim_enter_network_namespace(nodes[node].namespace) == 0 else {
            throw LabError("cannot enter \(nodes[node].name): \(systemError())")
        }
        return try body()
    }
}
