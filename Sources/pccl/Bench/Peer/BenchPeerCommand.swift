import ArgumentParser
import Glibc
import PCCL

/// One measured peer, as a process of its own: of our library or of the raw pump. Only `pccl bench` starts it.
struct BenchPeerCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "bench-peer", abstract: "One peer of a measurement.", shouldDisplay: false)

    @Option var socket: String
    @Option var rank: Int
    @Flag var pump = false

    func run() throws {
        signal(SIGPIPE, SIG_IGN)
        let bytesBefore = ProcessMemory.residentBytes()
        let parent = try ParentConnection(path: socket)
        do {
            try serve(parent, bytesBefore)
        } catch {
            parent.say(ControlLine("failed", text: String(describing: error)))
            throw ExitCode(1)
        }
    }

    private func serve(_ parent: ParentConnection, _ bytesBefore: Int) throws {
        var hello = ControlLine("hello")
        hello["rank"] = String(rank)
        let listener = pump ? try TCPListener() : nil
        if let listener { hello["port"] = String(listener.port) }
        parent.say(hello)

        guard let begin = parent.next() else { return }
        let work = try BenchWork(of: begin)
        let peers = try begin.number("peers")
        let peer: any PeerUnderTest
        let text: String
        if let listener {
            peer = try RawPump(
                rank: rank, ports: try begin.numbers("ports"), stripes: max(work.stripes, 1),
                bytesPerElement: work.type.byteCount, listener: listener)
            text = "one thread, \(max(work.stripes, 1)) connection\(work.stripes > 1 ? "s" : "") a pair"
        } else {
            guard let master = HostAndPort(parsing: try begin.text("master")) else { throw begin.isMalformed("master") }
            let ours = PCCLUnderTest(
                try Communicator(
                    Communicator.Configuration(
                        master: SocketAddress(host: master.host, port: master.port),
                        peerGroup: UInt32(try begin.number("group")), stripesPerLink: work.stripes)), work)
            try ours.gather(peers)
            peer = ours
            text = BenchLibrary.ourText
        }
        parent.say(ControlLine("ready", text: text))

        let taker = TurnTaker(work: work, peers: peers, rank: rank, peer: peer, bytesBefore: bytesBefore)
        while let line = parent.next(), line.word == "turn" {
            parent.say(try taker.take(BenchTurn(of: line)).line)
        }
        (peer as? PCCLUnderTest)?.communicator.destroy()
    }
}
