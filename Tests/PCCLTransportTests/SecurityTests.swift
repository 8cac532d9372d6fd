import Glibc
import PCCLBase
import PCCLTestSupport
@testable import PCCLTransport
import PCCLWire
import Testing

/// What somebody shows, by the name of a folder in Tests/Data/keys, and the token he knows.
struct Shown: Sendable, CustomStringConvertible {
    var keys: String?
    var token: String?
    init(_ keys: String? = nil, token: String? = nil) {
        self.keys = keys
        self.token = token
    }
    static let here = String(#filePath.dropLast("PCCLTransportTests/SecurityTests.swift".count))
    func credentials() throws -> Credentials {
        try Credentials(keys: keys.map { "\(Shown.here)Data/keys/\($0)" }, token: token, tokenFile: nil)
    }
    var description: String { "\(keys ?? "no keys"), \(token ?? "no token")" }
}

private let ours = "a token of sixteen bytes or more"
private let another = "another token of that length too"

/// Two ends of one connection, moved by the test's thread.
private struct Ends {
    let dialler: Channel
    let acceptor: Channel

    init(_ a: Shown, _ b: Shown, to other: Channel.Role = .peer, runs: (RunID?, RunID?) = (nil, nil)) throws {
        let (x, y) = socketPair()
        dialler = Channel(Socket(owning: x), .dialler, to: other, try a.credentials(), run: runs.0)
        acceptor = Channel(Socket(owning: y), .acceptor, to: .peer, try b.credentials(), run: runs.1)
    }

    /// What became of both: "open", or why not. TLS 1.3 tells who dials of a refusal with the first bytes only.
    func outcome() -> (dialler: String, acceptor: String) {
        var ends: [String?] = [nil, nil]
        for _ in 0..<200 {
            for (i, channel) in [dialler, acceptor].enumerated() where ends[i] == nil {
                switch channel.open() {
                case .open: ends[i] = "open"
                case .waits: break
                case .failed(let reason):
                    ends[i] = reason
                    shutdown(channel.descriptor, CInt(SHUT_WR))
                }
            }
            if ends[0] != nil, ends[1] != nil { break }
        }
        if ends[0] == "open", ends[1] != "open" {
            var byte: UInt8 = 0
            if case .failed(let reason) = dialler.read(into: &byte, count: 1) { ends[0] = reason }
        }
        return (ends[0] ?? "it waits", ends[1] ?? "it waits")
    }
}

@Suite("Who is let in", .timeLimit(.minutes(2)))
struct SecurityTests {
    @Test(
        "both sides show what they are asked for",
        arguments: [
            (Shown(), Shown()), (Shown(token: ours), Shown(token: " \(ours)\n")), (Shown("peer"), Shown("peer")),
            (Shown("peer"), Shown("both")), (Shown("unnamed"), Shown("peer")),
            (Shown("peer", token: ours), Shown("peer", token: ours)),
        ])
    func accepted(_ a: Shown, _ b: Shown) throws {
        let ends = try Ends(a, b)
        #expect(ends.outcome() == ("open", "open"))
        #expect(ends.dialler.isProtected == (a.keys != nil) && ends.acceptor.isProtected == (a.keys != nil))
    }

    @Test(
        "who shows what he should not is refused, and both are told why",
        arguments: [
            (
                "expired", "peer", "it refused our certificate: it has expired",
                "(expired) was refused: certificate has expired"
            ),
            (
                "revoked", "peer", "it refused our certificate: it was revoked",
                "(revoked) was refused: certificate revoked"
            ),
            (
                "foreign", "peer", "it refused our certificate: it is of another authority",
                "(foreign) was refused: unable to get local issuer certificate"
            ),
            (
                "master", "peer", "it refused our certificate: it is for another role",
                "(master) was refused: it is for another role"
            ),
            (
                "peer", "expired", "(expired) was refused: certificate has expired",
                "it refused our certificate: it has expired"
            ),
            (
                "peer", "master", "(master) was refused: it is for another role",
                "it refused our certificate: it is for another role"
            ),
        ])
    func refused(_ a: String, _ b: String, _ atDialler: String, _ atAcceptor: String) throws {
        let outcome = try Ends(Shown(a), Shown(b)).outcome()
        #expect(outcome.dialler.contains(atDialler) && outcome.acceptor.contains(atAcceptor), "\(outcome)")
    }

    @Test("a master proves that it is one: a peer's certificate is not enough")
    func masterRole() throws {
        #expect(try Ends(Shown("peer"), Shown("master"), to: .master).outcome() == ("open", "open"))
        #expect(try Ends(Shown("peer"), Shown("both"), to: .master).outcome() == ("open", "open"))
        let outcome = try Ends(Shown("peer"), Shown("peer"), to: .master).outcome()
        #expect(outcome.dialler == "its certificate (peer) was refused: it is for another role")
        #expect(outcome.acceptor == "it refused our certificate: it is for another role")
    }

    @Test("another token is refused, whether a certificate is good or not there; another run, too")
    func tokens() throws {
        for keys in [nil, "peer"] {
            let outcome = try Ends(Shown(keys, token: another), Shown(keys, token: ours)).outcome()
            #expect(outcome == ("it refused our join token", "its join token is another"))
        }
        let (a, b) = (RunID(high: 1, low: 1), RunID(high: 1, low: 2))
        #expect(try Ends(Shown(token: ours), Shown(token: ours), runs: (a, a)).outcome() == ("open", "open"))
        #expect(try Ends(Shown(token: ours), Shown(token: ours), runs: (nil, b)).outcome() == ("open", "open"))
        #expect(
            try Ends(Shown(token: ours), Shown(token: ours), runs: (a, b)).outcome().dialler == "it is of another run")
    }

    /// What one side says in a first connection is said again in a second one.
    @Test("proofs that were overheard prove nothing in another connection, nor those of the other side")
    func replay() throws {
        let token = try #require(JoinToken(Array(ours.utf8)))
        func opening(_ seed: UInt8) -> TokenOpening {
            TokenOpening(run: nil, number: [UInt8](repeating: seed, count: TokenOpening.numberBytes))
        }
        let none = [UInt8](repeating: 0, count: 32)
        let proof = token.proof(by: .dialler, opening(1), opening(2), binding: none)
        #expect(proof == token.proof(by: .dialler, opening(1), opening(2), binding: none))
        #expect(proof != token.proof(by: .acceptor, opening(1), opening(2), binding: none))
        #expect(proof != token.proof(by: .dialler, opening(1), opening(3), binding: none))
        #expect(proof != token.proof(by: .dialler, opening(3), opening(2), binding: none))
        #expect(proof != token.proof(by: .dialler, opening(1), opening(2), binding: [1] + none.dropFirst()))

        // Whole: an acceptor is sent what a good dialler has said to it before.
        let (x, y) = socketPair()
        let (z, w) = socketPair()
        let first = Channel(Socket(owning: x), .acceptor, to: .peer, try Shown(token: ours).credentials())
        let dialler = Channel(Socket(owning: w), .dialler, to: .peer, try Shown(token: ours).credentials())
        let (wire, far) = (RawSocket(owning: y), RawSocket(owning: z))
        makeBlocking(y)
        makeBlocking(z)
        _ = (first.open(), dialler.open())
        let said = try far.read(Preamble.byteCount + TokenOpening.byteCount)
        try wire.write(said)
        _ = first.open()
        try far.write(try wire.read(Preamble.byteCount + TokenOpening.byteCount))
        _ = dialler.open()
        let overheard = try far.read(TokenOpening.proofBytes)
        try wire.write(overheard)
        #expect(first.open() == .open)
        let (p, q) = socketPair()
        let second = Channel(Socket(owning: p), .acceptor, to: .peer, try Shown(token: ours).credentials())
        let replayer = RawSocket(owning: q)
        try replayer.write(said + overheard)
        #expect(second.open() == .failed("its join token is another"))
    }

    @Test(
        "what cannot be used is said when it is named",
        arguments: [
            (Shown("nobody"), "nobody/ca.pem: No such file or directory"), (Shown(token: "short"), "at least 16 bytes"),
        ])
    func unusable(_ shown: Shown, _ text: String) throws {
        #expect { _ = try shown.credentials() } throws: { "\($0)".contains(text) }
    }

    @Test("a key that belongs to another certificate, a damaged file and a token that is none are refused")
    func unusableFiles() throws {
        let folder = try copy("peer")
        defer { remove(folder) }
        try copy("master", only: ["key.pem"], to: folder)
        #expect { _ = try Credentials(keys: folder, token: nil, tokenFile: nil) } throws: {
            "\($0)".contains("key.pem: key values mismatch")
        }
        try write("rubbish", to: "\(folder)/certificate.pem")
        #expect { _ = try Credentials(keys: folder, token: nil, tokenFile: nil) } throws: {
            "\($0)".contains("certificate.pem: ")
        }
        #expect { _ = try Credentials(keys: nil, token: nil, tokenFile: "\(folder)/certificate.pem") } throws: {
            "\($0)".contains("is no join token")
        }
        try write(ours + "\n", to: "\(folder)/token")
        #expect(try Credentials(keys: nil, token: nil, tokenFile: "\(folder)/token").asksForToken)
        #expect(try !Credentials(keys: "", token: "", tokenFile: "").asksForKeys)
    }

    @Test("keys that are replaced count for the next connection; those that cannot be used do not")
    func rotation() throws {
        let folder = try copy("peer")
        defer { remove(folder) }
        let credentials = try Credentials(keys: folder, token: nil, tokenFile: nil)
        func outcome() throws -> String {
            let (x, y) = socketPair()
            let dialler = Channel(Socket(owning: x), .dialler, to: .peer, credentials)
            let acceptor = Channel(Socket(owning: y), .acceptor, to: .peer, try Shown("peer").credentials())
            for _ in 0..<200 {
                _ = dialler.open()
                switch acceptor.open() {
                case .waits: continue
                case .open: return "open"
                case .failed(let reason): return reason
                }
            }
            return "it waits"
        }
        func outcomeAfterLook() throws -> String {
            credentials.lookAtOnce()
            return try outcome()
        }
        #expect(try outcome() == "open")
        try copy("revoked", only: ["certificate.pem"], to: folder)
        #expect(try outcomeAfterLook() == "open", "a certificate without its key is not taken")
        try copy("revoked", only: ["key.pem"], to: folder)
        #expect(try outcomeAfterLook() == "its certificate (revoked) was refused: certificate revoked")
        try copy("both", only: ["certificate.pem", "key.pem"], to: folder)
        #expect(try outcomeAfterLook() == "open")
    }

    @Test("bytes of all lengths go through both ways, also when room is scarce and keys are renewed")
    func carries() throws {
        let ends = try Ends(Shown("peer"), Shown("peer"))
        #expect(ends.outcome() == ("open", "open"))
        ends.dialler.tls?.bytesPerKey = 50_000
        ends.acceptor.tls?.bytesPerKey = 100_000
        for (from, to) in [(ends.dialler, ends.acceptor), (ends.acceptor, ends.dialler)] {
            let sent = pattern(3_000_001)
            var received: [UInt8] = []
            var at = 0
            var random = RandomSource(seed: 5)
            while received.count < sent.count {
                if at < sent.count {
                    // From another place each time, as when memory was wanted back.
                    let part = Array(sent[at..<min(sent.count, at + 40_000)])
                    if case .bytes(let count) = from.write(part) { at += count }
                }
                let room = Int(random.next() % 30_000) + 1
                var buffer = [UInt8](repeating: 0, count: room)
                let transfer = buffer.withUnsafeMutableBytes { bytes in
                    let half = room / 2
                    return to.read(
                        into: (
                            iovec(iov_base: bytes.baseAddress, iov_len: half),
                            iovec(iov_base: bytes.baseAddress.map { $0 + half }, iov_len: room - half)
                        ))
                }
                if case .bytes(let count) = transfer { received += buffer[..<count] }
                if case .failed(let reason) = transfer { throw Stuck(waitingFor: reason) }
            }
            #expect(received == sent)
        }
    }

    // MARK: files

    private func copy(_ name: String) throws -> String {
        var template = Array("/tmp/pccl-keys-XXXXXX".utf8CString)
        let folder = try #require(mkdtemp(&template).map { String(cString: $0) })
        try copy(name, only: ["ca.pem", "certificate.pem", "key.pem", "revoked.pem"], to: folder)
        return folder
    }
    private func copy(_ name: String, only files: [String], to folder: String) throws {
        for file in files {
            let source = try #require(fopen("\(Shown.here)Data/keys/\(name)/\(file)", "r"))
            var bytes = [UInt8](repeating: 0, count: 1 << 16)
            let count = fread(&bytes, 1, bytes.count, source)
            fclose(source)
            try write(String(decoding: bytes[..<count], as: UTF8.self), to: "\(folder)/\(file)")
        }
    }
    private func write(_ text: String, to path: String) throws {
        let file = try #require(fopen(path, "w"))
        fputs(text, file)
        fclose(file)
        chmod(path, 0o600)
    }
    private func remove(_ folder: String) {
        for file in ["ca.pem", "certificate.pem", "key.pem", "revoked.pem", "token"] { unlink("\(folder)/\(file)") }
        rmdir(folder)
    }
}

@Suite("Who is let in over a control connection", .timeLimit(.minutes(2)))
struct ControlSecurityTests {
    private func reasons(_ a: Shown, _ b: Shown) throws -> (String, String) {
        let listener = try Socket.listening(at: .loopback(port: 0))
        let dialler = try ControlEnd(to: .loopback(port: listener.port), try a.credentials())
        makeBlocking(listener.descriptor)
        let accepted = accept(listener.descriptor, nil, nil)
        _ = fcntl(accepted, F_SETFL, fcntl(accepted, F_GETFL) | O_NONBLOCK)
        let acceptor = try ControlEnd(accepted, try b.credentials())
        // What is sent at once is in nobody's way.
        try dialler.send([pattern(100)])
        func end(of control: ControlEnd) throws -> String {
            switch try control.events.take() {
            case .greeted: "greeted"
            case .closed(let reason): reason
            case .message: "a message before a greeting"
            }
        }
        let ends = (try end(of: dialler), try end(of: acceptor))
        if ends == ("greeted", "greeted") {
            #expect(try acceptor.events.take() == .message(pattern(100)))
            for size in ControlConnectionTests.sizes {
                try dialler.send([pattern(size, seed: 1)])
                try acceptor.send([pattern(size, seed: 2)])
                #expect(try acceptor.events.take() == .message(pattern(size, seed: 1)))
                #expect(try dialler.events.take() == .message(pattern(size, seed: 2)))
            }
            try acceptor.send([pattern(1 << 20)])
            try acceptor.closeWhenSent()
            #expect(try dialler.events.take() == .message(pattern(1 << 20)))
            #expect(try dialler.events.take() == .closed("the connection was closed"))
        }
        try dialler.stop()
        try acceptor.stop()
        return ends
    }

    @Test(
        "messages of all sizes, and a last one",
        arguments: [
            Shown("peer"), Shown(token: ours), Shown("peer", token: ours),
        ])
    func carries(_ a: Shown) throws {
        #expect(try reasons(a, Shown(a.keys.map { _ in "master" }, token: a.token)) == ("greeted", "greeted"))
    }

    @Test(
        "who comes without what is asked for, or with what is not, is told so, and so is the other side",
        arguments: [
            (Shown(), Shown("master"), "asks for a certificate, and this side has no keys", "it came without keys"),
            (Shown("peer"), Shown(), "it does not speak TLS", "it speaks TLS, and this side has no keys"),
            (Shown(), Shown(token: ours), "asks for a join token, and this side has none", "it came without a join token"),
            (Shown(token: ours), Shown(), "it asks for no join token", "asks for a join token, and this side has none"),
            (Shown(token: another), Shown(token: ours), "it refused our join token", "its join token is another"),
            (
                Shown("expired"), Shown("master"), "it refused our certificate: it has expired",
                "certificate has expired"
            ),
            (Shown("peer", token: ours), Shown("master"), "it asks for no join token", "asks for a join token"),
            (Shown("peer"), Shown("master", token: ours), "asks for a join token", "it came without a join token"),
        ])
    func refused(_ a: Shown, _ b: Shown, _ atDialler: String, _ atAcceptor: String) throws {
        let (dialler, acceptor) = try reasons(a, b)
        #expect(dialler.contains(atDialler) && acceptor.contains(atAcceptor), "\(dialler) | \(acceptor)")
    }
}

@Suite("A mesh whose peers show who they are", .timeLimit(.minutes(2)))
struct MeshSecurityTests {
    @Test(
        "links of several stripes carry frames; further stripes and dialling in reverse show the same",
        arguments: [
            Shown("peer"), Shown(token: ours), Shown("both", token: ours),
        ])
    func links(_ shown: Shown) throws {
        let (a, b) = (try MeshEnd(1, stripes: 3, shown.credentials()), try MeshEnd(2, stripes: 3, shown.credentials()))
        try a.want([a.member, b.member])
        try b.want([a.member, b.member])
        #expect(try a.events.take() == .linked(2, stripes: 3))
        #expect(try b.events.take() == .linked(1, stripes: 3))
        for tag in 1...100 as ClosedRange<UInt64> { try a.send(tag, to: 2) }
        var tags: Set<UInt64> = []
        while tags.count < 100 { if case .frame(1, let tag) = try b.events.take() { tags.insert(tag) } }
        for end in [a, b] {
            let other: UInt64 = end === a ? 2 : 1
            let count = try end.stripeCount(to: other)
            try end.addStripe(to: other)
            while try end.stripeCount(to: other) == count {}
        }
        try a.stop()
        try b.stop()
    }

    @Test("a peer that cannot be dialled is reached in reverse")
    func inReverse() throws {
        let shown = Shown("peer", token: ours)
        let (a, b) = (
            try MeshEnd(1, deadTime: .seconds(2), shown.credentials()),
            try MeshEnd(2, deadTime: .seconds(2), shown.credentials())
        )
        // The one that dials is told of a port where nobody is.
        let nowhere = Member(id: PeerID(1), addresses: [.loopback(port: try Socket.freePort())], stripes: 1)
        try a.want([a.member, b.member])
        try b.want([nowhere, b.member])
        #expect(try a.events.take(where: { if case .linked = $0 { true } else { false } }) == .linked(2, stripes: 1))
        #expect(try b.events.take(where: { if case .linked = $0 { true } else { false } }) == .linked(1, stripes: 1))
        try a.stop()
        try b.stop()
    }

    @Test(
        "there is no link with a peer that shows something else",
        arguments: [
            (Shown("peer"), Shown("revoked"), "revoked"), (Shown(token: ours), Shown(token: another), "join token"),
            (Shown("peer"), Shown(), "keys"),
        ])
    func refused(_ first: Shown, _ second: Shown, _ word: String) throws {
        let (a, b) = (
            try MeshEnd(1, deadTime: .seconds(1), first.credentials()),
            try MeshEnd(2, deadTime: .seconds(1), second.credentials())
        )
        try a.want([a.member, b.member])
        try b.want([a.member, b.member])
        guard case .unlinked(1, let reason) = try b.events.take() else { throw Stuck(waitingFor: "a refusal") }
        #expect(reason.contains(word), "\(reason)")
        #expect(try !a.hasLink(to: 2) && !b.hasLink(to: 1))
        try a.stop()
        try b.stop()
    }
}
