import PCCLBase
import Testing

@Suite("Socket addresses")
struct SocketAddressTests {
    private func v6(_ groups: [UInt16]) -> SocketAddress.Host {
        func half(_ range: Range<Int>) -> UInt64 { groups[range].reduce(0) { $0 << 16 | UInt64($1) } }
        return .v6(high: half(0..<4), low: half(4..<8))
    }

    @Test("an IPv4 address is four decimal numbers")
    func v4() {
        #expect(SocketAddress(.v4(0xc0a8_0001), port: 48150).description == "192.168.0.1:48150")
        #expect(SocketAddress(.v4(0), port: 0).description == "0.0.0.0:0")
        #expect(SocketAddress(.v4(.max), port: 65535).description == "255.255.255.255:65535")
        #expect(SocketAddress.loopback(port: 1).hostDescription == "127.0.0.1")
    }

    @Test(
        "an IPv6 address is written as RFC 5952 recommends",
        arguments: [
            ([0, 0, 0, 0, 0, 0, 0, 0], "::"),
            ([0, 0, 0, 0, 0, 0, 0, 1], "::1"),
            ([1, 0, 0, 0, 0, 0, 0, 0], "1::"),
            // Section 4.1: no leading zeros. 4.3: lower case.
            ([0x2001, 0xdb8, 0xaaaa, 0xbbbb, 0xcccc, 0xdddd, 0xeeee, 0x0001], "2001:db8:aaaa:bbbb:cccc:dddd:eeee:1"),
            // 4.2.1: shortened as much as possible. 4.2.2: a single zero group is not shortened.
            ([0x2001, 0xdb8, 0, 0, 0, 0, 2, 1], "2001:db8::2:1"),
            ([0x2001, 0xdb8, 0, 1, 1, 1, 1, 1], "2001:db8:0:1:1:1:1:1"),
            // 4.2.3: the longest run; the first among equal ones.
            ([0x2001, 0, 0, 1, 0, 0, 0, 1], "2001:0:0:1::1"),
            ([0x2001, 0xdb8, 0, 0, 1, 0, 0, 1], "2001:db8::1:0:0:1"),
            ([0, 0, 1, 2, 3, 4, 0, 0], "::1:2:3:4:0:0"),
            ([1, 2, 3, 4, 5, 6, 0, 0], "1:2:3:4:5:6::"),
            ([0, 1, 0, 1, 0, 1, 0, 1], "0:1:0:1:0:1:0:1"),
        ] as [([UInt16], String)])
    func v6Text(groups: [UInt16], text: String) {
        let address = SocketAddress(v6(groups), port: 80)
        #expect(address.hostDescription == text)
        #expect(address.description == "[\(text)]:80")
    }
}
