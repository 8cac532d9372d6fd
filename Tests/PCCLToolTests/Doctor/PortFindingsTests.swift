import PCCLBase
import Testing

@testable import pccl

@Suite("What a doctor says of ports and addresses")
struct PortFindingsTests {
    @Test("a master's port that is taken is no fault, for who is a peer does not need it")
    func masterPort() {
        let master = machine { $0.ports.master = .taken(.answered) }.finding("master's port")
        #expect(master?.weight == .note)
        #expect(master?.text.contains("a pccl-master listens there already") == true)
        let other = machine { $0.ports.master = .taken(.silent) }.finding("master's port")
        #expect(other?.change?.commands == ["ss -ltnp 'sport = :48148'"])
    }

    @Test("a peer takes the next port, from its own base on")
    func peerPort() {
        let next = machine { $0.ports.peer = .free(48153) }.finding("peers' ports")
        #expect(next?.weight == .ok)
        #expect(next?.text.contains("48153") == true)
        let own = machine {
            $0.variables["PCCL_PORT_BASE"] = "9000"
            $0.ports.peer = .free(9000)
        }.finding("peers' ports")
        #expect(own?.text.hasPrefix("9000 is free") == true)
    }

    @Test("ports of which none is to be had are to be others, for no firewall knows what the system chooses")
    func noneFree() {
        let finding = machine {
            $0.variables["PCCL_PORT_BASE"] = "80"
            $0.ports.peer = .noneFree("Permission denied")
        }.finding("peers' ports")
        #expect(finding?.weight == .change)
        #expect(finding?.change?.commands == ["export PCCL_PORT_BASE=48150"])
    }

    @Test("it is a fault when no port at all can be listened at")
    func refused() {
        #expect(machine { $0.ports.peer = .refused("no") }.finding("peers' ports")?.weight == .fault)
    }

    @Test("ports that outgoing connections may take are noted, and those reserved before are kept")
    func outgoing() {
        let setting = "net.ipv4.ip_local_reserved_ports"
        let exposed = machine {
            $0.ports.outgoing = 32768...60999
            $0.ports.reserved = [8080...8080]
        }.finding(setting)
        #expect(exposed?.change?.commands == ["sysctl -w \(setting)=\"8080,48148,48150-48165\""])
        let half = machine {
            $0.ports.outgoing = 32768...60999
            $0.ports.reserved = [48140...48148]
        }.finding(setting)
        #expect(half?.change?.commands == ["sysctl -w \(setting)=\"48140-48148,48150-48165\""])
        let reserved = machine {
            $0.ports.outgoing = 32768...60999
            $0.ports.reserved = [48148...48165]
        }.finding(setting)
        #expect(reserved?.weight == .ok)
        #expect(machine { $0.ports.outgoing = 50000...60999 }.finding(setting)?.weight == .ok)
    }

    // MARK: - addresses

    private func addresses(_ list: [(String, SocketAddress.Host)], _ variables: [String: String] = [:]) -> Finding? {
        machine {
            $0.ports.addresses = list.map { .init(interface: $0.0, host: $0.1) }
            $0.variables = variables
        }.finding("addresses")
    }

    private static let publicHost = SocketAddress.Host.v4(0xcb00_7107)
    private static let privateHost = SocketAddress.Host.v4(0x0a00_0001)

    @Test("the three addresses are named that a peer tells")
    func told() {
        let finding = addresses((0..<4).map { ("eth\($0)", Self.publicHost) })
        #expect(finding?.weight == .ok)
        #expect(finding?.text.contains("(eth2)") == true)
        #expect(finding?.text.contains("(eth3)") == false)
    }

    @Test("addresses of chosen interfaces are all told, and first")
    func chosen() {
        let finding = addresses((0..<4).map { ("eth\($0)", Self.publicHost) }, ["PCCL_INTERFACE": "eth"])
        #expect(finding?.text.contains("(eth3), and at last the address that the master sees") == true)
        #expect(addresses([], ["PCCL_INTERFACE": "ib"])?.weight == .change)
        #expect(addresses([])?.weight == .note)
    }

    @Test("what PCCL_ADVERTISE says is all that is said")
    func advertised() {
        let finding = addresses([("eth0", Self.privateHost)], ["PCCL_ADVERTISE": "203.0.113.7:48150"])
        #expect(finding?.weight == .ok)
        #expect(finding?.text.contains("203.0.113.7:48150") == true)
    }

    @Test("addresses of virtual interfaces are to be left out")
    func virtual() {
        let finding = addresses([("eth0", Self.publicHost), ("docker0", Self.privateHost), ("br-0a", Self.privateHost)])
        #expect(finding?.change?.commands == ["export PCCL_INTERFACE='^docker,br-'"])
    }

    @Test("private addresses alone are noted")
    func privateOnly() {
        #expect(addresses([("eth0", Self.privateHost)])?.weight == .note)
        #expect(addresses([("eth0", Self.privateHost), ("eth1", Self.publicHost)])?.weight == .ok)
    }

    @Test(
        "private is what RFC 1918, 6598 and 4193 say",
        arguments: [
            (0x0aff_ffff, true), (0x0b00_0000, false), (0xac10_0000, true), (0xac1f_ffff, true), (0xac20_0000, false),
            (0xc0a8_0001, true), (0xc0a9_0001, false), (0x6440_0000, true), (0x647f_ffff, true), (0x6480_0000, false),
            (0x7f00_0001, true), (0xcb00_7107, false),
        ] as [(UInt32, Bool)])
    func privateAddresses(bits: UInt32, isPrivate: Bool) {
        #expect(Machine.isPrivate(.v4(bits)) == isPrivate)
    }

    @Test("so it is with those of IPv6")
    func privateV6() {
        #expect(Machine.isPrivate(.v6(high: 0xfd00_0000_0000_0000, low: 2)))
        #expect(Machine.isPrivate(.v6(high: 0, low: 1)))
        #expect(!Machine.isPrivate(.v6(high: 0x2001_0db8_0000_0000, low: 1)))
    }

    @Test("a clock that is not synchronised is noted only")
    func clock() {
        #expect(machine { $0.clock = .unsynchronised }.finding("system clock")?.weight == .note)
    }
}
