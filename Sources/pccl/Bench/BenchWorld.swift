import Glibc
import PCCL

/// The peers of one library.
final class BenchWorld {
    /// The connection of one peer.
    final class Member {
        let descriptor: CInt
        var lines: [ControlLine] = []
        /// Where it listens, if it said so.
        var port: Int?
        /// Why it cannot take part, if it said so.
        var refusal: String?
        private var reader: LineReader
        var hasEnded: Bool { reader.hasEnded }

        init(_ descriptor: CInt) {
            self.descriptor = descriptor
            reader = LineReader(descriptor: descriptor)
        }

        deinit { Glibc.close(descriptor) }

        func hear() { lines += reader.read().map { ControlLine(parsing: $0) } }
        func say(_ line: ControlLine) { writeAll(line.written + "\n", to: descriptor) }
    }

    let library: BenchLibrary
    let peers: Int
    /// The peers whose processes are started here: all of them, or one where others start theirs.
    let ranks: Range<Int>
    let work: BenchWork
    /// Of a run that spans hosts; nil: our own libraries get a master of their own.
    var masterAddress: SocketAddress?
    /// Nil: the processes of gloo are all here, and meet at a file.
    var glooMeeting: GlooMeeting?
    /// Why it cannot be measured.
    var refusal: String?
    /// What it says of itself: name and version.
    var text = ""
    var processes: [PeerProcess] = []
    /// By rank; nil for those of other hosts, before they have come, and after they were let go.
    var members: [Member?]
    /// Connected, and not yet known by rank.
    private var strangers: [Member] = []
    private(set) var socketPath = ""
    private var listener: CInt = -1
    var master: Master?
    /// Its processes have another parent, which we started.
    var isLaunched = false
    var isEnding = false

    init(_ library: BenchLibrary, peers: Int, ranks: Range<Int>, work: BenchWork) {
        self.library = library
        self.peers = peers
        self.ranks = ranks
        self.work = library.adapted(work)
        members = Array(repeating: nil, count: peers)
    }

    deinit {
        master?.destroy()
        if listener >= 0 { close(listener) }
    }

    var hasAll: Bool { ranks.allSatisfy { members[$0] != nil } }

    var descriptors: [CInt] {
        let connections = (members.compactMap { $0 } + strangers).filter { !$0.hasEnded }.map(\.descriptor)
        return connections + (listener >= 0 ? [listener] : [])
    }

    /// Each world has a socket of its own, so that a late process of one is not taken for another's.
    func listen(at folder: String) throws(BenchFailure) {
        socketPath = "\(folder)/\(library.rawValue).\(peers).socket"
        listener = try UnixSocket.listen(path: socketPath)
        _ = fcntl(listener, F_SETFL, O_NONBLOCK)
    }

    /// Takes what has come, without waiting.
    func hear() throws(BenchFailure) {
        for process in processes { _ = process.readReports() }
        while listener >= 0 {
            let descriptor = accept(listener, nil, nil)
            if descriptor < 0 { break }
            _ = fcntl(descriptor, F_SETFD, FD_CLOEXEC)
            strangers.append(Member(descriptor))
        }
        for member in members + strangers { member?.hear() }
        for stranger in strangers {
            guard let hello = stranger.lines.first, hello.word == "hello" else { continue }
            stranger.lines.removeFirst()
            let rank = try hello.number("rank")
            guard ranks.contains(rank), members[rank] == nil else {
                throw BenchFailure("\(library.rawValue): a process too many has come: \(hello.written)")
            }
            stranger.port = hello["port"].flatMap { Int($0) }
            stranger.refusal = hello["text"]
            members[rank] = stranger
        }
        strangers.removeAll { stranger in stranger.hasEnded || members.contains { $0 === stranger } }
    }

    /// Throws when one of its processes said that it failed, or is gone.
    func check() throws(BenchFailure) {
        if isEnding { return }
        let gone = processes.first { $0.hasEnded() }
        // What a process said just before it went says more than that it is gone.
        if gone != nil { try hear() }
        for (rank, member) in members.enumerated() {
            guard let failed = member?.lines.first(where: { $0.word == "failed" }) else { continue }
            throw BenchFailure("\(library.rawValue), peer \(rank): \(failed["text"] ?? "")")
        }
        guard let gone else { return }
        let said = gone.diagnostics.isEmpty ? "" : "; it said: " + gone.diagnostics.joined(separator: " | ")
        let end =
            switch gone.end {
            case .exit(let status): "has ended with status \(status)"
            case .signal(let number): "was ended by signal \(number)"
            case nil: "is gone"
            }
        throw BenchFailure("\(library.rawValue): process \(gone.pid) \(end)\(said)")
    }
}
