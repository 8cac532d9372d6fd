import Glibc
import Testing

import pccl_master

@Suite("Who holds a port")
struct PortHolderTests {
    /// Lines as the kernel writes them: a listener on 127.0.0.1:48148 (BC14), a connection on the same port, and a
    /// listener on another.
    static let table = """
          sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt uid timeout inode
           0: 0100007F:BC14 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 4711 1 0
           1: 0100007F:BC14 0100007F:D431 01 00000000:00000000 00:00000000 00000000 0 0 4712 1 0
           2: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 4713 1 0000000000000000
        """

    @Test("only a listener counts, and only on that port")
    func onlyListenersOfThePort() {
        #expect(PortHolder.listeningInodes(onPort: 48148, in: Self.table) == [4711])
        #expect(PortHolder.listeningInodes(onPort: 22, in: Self.table) == [4713])
        #expect(PortHolder.listeningInodes(onPort: 54321, in: Self.table) == [])
    }

    @Test("an IPv6 address has the port behind its last colon")
    func longAddresses() {
        let zeros = String(repeating: "0", count: 32)
        let line = "0: 00000000000000000000000001000000:BC14 \(zeros):0000 0A 0:0 0:0 0 0 0 99 1"
        #expect(PortHolder.listeningInodes(onPort: 48148, in: line) == [99])
    }

    @Test("lines that are cut short are passed over")
    func shortLines() {
        #expect(PortHolder.listeningInodes(onPort: 48148, in: "0: 0100007F:BC14 00000000:0000 0A\n\nx\n") == [])
    }

    @Test("a process finds itself behind a port that it listens on")
    func findsThisProcess() throws {
        let listener = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        try #require(listener >= 0)
        defer { close(listener) }
        try #require(Glibc.listen(listener, 1) == 0)
        var address = sockaddr_in()
        var length = socklen_t(MemoryLayout<sockaddr_in>.size)
        let named = withUnsafeMutablePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { getsockname(listener, $0, &length) }
        }
        try #require(named == 0)

        let holders = PortHolder.listeners(onPort: UInt16(bigEndian: address.sin_port))
        #expect(holders.contains { $0.process?.id == getpid() && $0.process?.command.isEmpty == false })
    }
}
