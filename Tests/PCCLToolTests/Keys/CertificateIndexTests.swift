import Testing

@testable import pccl

@Suite("The index of certificates")
struct CertificateIndexTests {
    private static let serial = "0123456789abcdef0123456789abcdef"
    private static let line = "\(serial) peer   2027-02-25T20:05:11Z -                    alpha"

    private func index(_ lines: String...) throws(KeysProblem) -> CertificateIndex {
        try CertificateIndex(parsing: lines.joined(separator: "\n"), path: "issued.txt")
    }

    @Test("what is written is read again")
    func roundTrip() throws {
        var index = CertificateIndex()
        let now = Moment(seconds: 1_800_000_000)
        index.entries = [
            .init(serial: Self.serial, name: "alpha", role: .peer, notAfter: now, revoked: nil),
            .init(serial: String(Self.serial.reversed()), name: "b.c-d_e", role: .master, notAfter: now, revoked: now),
        ]
        #expect(try CertificateIndex(parsing: index.text, path: "") == index)
        #expect(index.text.contains("\(Self.serial) peer   2027-01-15T08:00:00Z -                    alpha\n"))
        #expect(index.listNumber == 2)
    }

    @Test(
        "a line that was not written so is refused, by its number",
        arguments: [
            "x", "\(line) more", String(line.dropFirst()), line.replacing("alpha", with: ".."),
            line.replacing("peer", with: "boss"), line.replacing("2027-02-25", with: "2027-02-30"),
            line.replacing("abcdef", with: "ABCDEF"), line.replacing("-      ", with: "soon   "), line,
        ])
    func damaged(line: String) throws {
        #expect(
            problem { () throws(KeysProblem) in
                _ = try index("# a comment", Self.line, "", line)
            }?.contains("issued.txt, line 4") == true)
    }

    @Test(
        "a name is one of a folder, and no option, and no serial",
        arguments: ["", ".", "..", ".a", "-a", "a/b", "a b", "a\n", "ä", serial, String(repeating: "a", count: 65)])
    func badNames(name: String) {
        #expect(CertificateIndex.objection(toName: name) != nil)
        #expect(throws: (any Error).self) { try KeysIssueCommand.parse(["d", "--role", "peer", "--", name]) }
    }

    @Test(
        "usual names are names",
        arguments: ["alpha", "a", "gpu-7.example.org", "A_1", String(repeating: "a", count: 64)])
    func goodNames(name: String) throws {
        #expect(CertificateIndex.objection(toName: name) == nil)
        #expect(try KeysIssueCommand.parse(["d", name, "--role", "peer"]).days == 90)
    }

    @Test(
        "a lifetime is from a day to a hundred years, and a role is one of two",
        arguments: [
            ["--role", "peer", "--days", "0"], ["--role", "peer", "--days", "36501"], ["--role", "boss"], [],
        ])
    func badOptions(options: [String]) {
        #expect(throws: (any Error).self) { try KeysIssueCommand.parse(["d", "alpha"] + options) }
    }

    @Test("moments are those of the calendar")
    func moments() {
        let leap = Moment(seconds: 951_782_400)
        #expect(leap.timestamp == "2000-02-29T00:00:00Z" && Moment(timestamp: leap.timestamp) == leap)
        #expect(Moment(timestamp: "2100-02-29T00:00:00Z") == nil && Moment(timestamp: "2000-1-01T00:00:00Z") == nil)
        #expect(Moment(seconds: 4_102_444_800).minute == "2100-01-01 00:00 UTC")
    }
}

@Suite("pccl keys list")
struct KeysTableTests {
    @Test("a table that says what ends soon, and of whom nothing is left then")
    func table() throws {
        let shop = try KeysWorkshop()
        let now = Moment.now
        let authority = try shop.makeAuthority(days: 100, now: now)
        _ = try authority.issue("hub", .master, days: 90, now: now)
        _ = try authority.issue("alpha", .peer, days: 14, now: now)
        _ = try authority.issue("beta", .peer, days: 3, now: now)
        _ = try authority.issue("gone", .peer, days: 3, now: now)
        _ = try authority.revoke("gone", now: now)
        let renewed = try authority.issue("beta", .peer, days: 60, replacing: true, now: now)
        let lines = KeysTable(authority, now: now).lines
        #expect(lines[0] == "authority the authority in \(shop.authorityPath): good, 100 days left")
        #expect(
            lines[3...].map { $0.split(separator: " ").filter { $0.count != 32 }.joined(separator: " ") }.prefix(5) == [
                "hub master \(now.adding(days: 90).minute) good, 90 days left",
                "alpha peer \(now.adding(days: 14).minute) expires in 14 days",
                "beta peer \(now.adding(days: 3).minute) expires in 3 days",
                "gone peer \(now.adding(days: 3).minute) revoked \(now.date)",
                "beta peer \(now.adding(days: 60).minute) good, 60 days left",
            ])
        #expect(lines.contains { $0.contains(renewed.entry.serial) })
        #expect(lines.contains("within 14 days nothing good is left of: alpha"))
        let late = KeysTable(authority, now: now.adding(days: 95)).lines
        #expect(late.contains { $0.hasPrefix("within 14 days") && $0.hasSuffix("alpha, beta, hub") })
        #expect(late.contains { $0.hasPrefix("the authority itself ends soon") })
    }
}

@Suite("pccl keys token")
struct TokenTests {
    @Test("a token is 64 digits in a file of one's own, another each time, and never over another")
    func token() throws {
        let shop = try KeysWorkshop()
        for name in ["one", "two"] { try KeyFile.token(named: name).create(in: shop.folder) }
        let (one, two) = (try shop.bytes("\(shop.folder)/one"), try shop.bytes("\(shop.folder)/two"))
        #expect(one != two && one.count == 65 && one.last == UInt8(ascii: "\n"))
        #expect(one.dropLast().allSatisfy { Character(UnicodeScalar($0)).isHexDigit })
        #expect(try shop.mode("\(shop.folder)/one") == 0o600)
        #expect(
            problem { () throws(KeysProblem) in
                try KeyFile.token(named: "one").create(in: shop.folder)
            }?.contains("is there already") == true)
        #expect(try shop.bytes("\(shop.folder)/one") == one && shop.names(in: shop.folder) == ["one", "two"])
    }
}
