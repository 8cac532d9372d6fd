import PCCLBase
import Testing

@testable import PCCLTransport

@Suite("Addresses of this machine")
struct NetworkInterfacesTests {
    private let all = [
        ("lo", "127.0.0.1"), ("lo", "::1"), ("eth0", "10.0.0.5"), ("eth0", "fe80::1"), ("eth1", "192.168.1.7"),
        ("docker0", "172.17.0.1"), ("wlan0", "169.254.3.4"), ("eth0", "2001:db8::5"),
    ].compactMap { name, text in
        SocketAddress(numeric: text).map { NetworkInterfaces.Address(interface: name, host: $0.host) }
    }

    @Test(
        "interfaces are chosen by the beginning of their names, exactly, or by exclusion",
        arguments: [
            (nil, ["10.0.0.5", "192.168.1.7", "172.17.0.1", "2001:db8::5"]),
            ("eth", ["10.0.0.5", "192.168.1.7", "2001:db8::5"]), ("=eth0", ["10.0.0.5", "2001:db8::5"]),
            ("=eth", []), ("^docker,wlan", ["10.0.0.5", "192.168.1.7", "2001:db8::5"]),
            ("^=eth0", ["192.168.1.7", "172.17.0.1"]), ("lo", ["127.0.0.1", "::1"]),
            ("^eth", ["172.17.0.1"]),
        ] as [(String?, [String])])
    func chosen(choice: String?, hosts: [String]) {
        let found = NetworkInterfaces.chosen(of: all, choice.flatMap { NetworkInterfaces.Choice($0) })
        #expect(found.map { SocketAddress($0, port: 0).hostDescription } == hosts)
    }

    @Test("a choice that names nothing is none", arguments: ["", "^", "=", "^=,", ","])
    func noChoice(text: String) { #expect(NetworkInterfaces.Choice(text) == nil) }

    @Test("loopback is there to be chosen, and is not by default")
    func realInterfaces() {
        #expect(NetworkInterfaces.addresses(NetworkInterfaces.Choice("lo")).contains(.v4(0x7f00_0001)))
        #expect(!NetworkInterfaces.addresses(nil).contains(.v4(0x7f00_0001)))
    }

    @Test(
        "numeric addresses are read with and without a port",
        arguments: [
            ("10.0.0.5", "10.0.0.5:0"), ("10.0.0.5:48150", "10.0.0.5:48150"), ("2001:db8::5", "[2001:db8::5]:0"),
            ("[2001:db8::5]:7", "[2001:db8::5]:7"), ("[::1]", "[::1]:0"), ("::ffff:10.0.0.5", "10.0.0.5:0"),
        ])
    func numeric(text: String, read: String) { #expect(SocketAddress(numeric: text)?.description == read) }

    @Test(
        "what is none is not read",
        arguments: [
            "", "host", "host:1", "10.0.0", "10.0.0.5:", "10.0.0.5:x", "10.0.0.5:70000", "[::1", "[::1]:", "::1]:5",
        ])
    func notNumeric(text: String) { #expect(SocketAddress(numeric: text) == nil) }
}
