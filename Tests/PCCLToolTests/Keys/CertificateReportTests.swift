import Glibc
import Testing

@testable import pccl

@Suite("pccl keys show")
struct CertificateReportTests {
    let shop: KeysWorkshop
    let authority: Authority
    let folder: String

    init() throws {
        shop = try KeysWorkshop()
        authority = try shop.makeAuthority()
        folder = try authority.issue("alpha", .peer, days: 10).folder
    }

    private func line(_ what: String, of path: String? = nil, now: Moment = .now) throws -> (text: String, isBad: Bool)
    {
        let report = try CertificateReport(of: path ?? folder, now: now)
        let line = report.lines.first { $0.hasPrefix(what + " ") }
        return (line.map { String($0.dropFirst(12)) } ?? "", report.isBad)
    }

    @Test("a folder as it was issued is good, and so is its certificate by name")
    func good() throws {
        for path in [folder, folder + "/", "\(folder)/certificate.pem"] {
            let report = try CertificateReport(of: path)
            #expect(!report.isBad)
            #expect(report.lines[0] == "name        alpha" && report.lines[1] == "role        peer")
        }
        #expect(try line("key").text == "matches")
        #expect(try line("verifies").text.hasPrefix("yes, with "))
        let end = try #require(authority.index.entries.first).notAfter
        let later = Moment(seconds: end.seconds - 2 * Moment.day)
        #expect(try line("not after", now: later).text == "\(end.minute) (2 days left)")
    }

    @Test("the authority's own certificate is shown as one")
    func ofTheAuthority() throws {
        let report = try CertificateReport(of: "\(shop.authorityPath)/ca.pem")
        #expect(!report.isBad && report.lines[1] == "role        authority")
        #expect(
            problem { () throws(KeysProblem) in
                _ = try CertificateReport(of: shop.authorityPath)
            }?.contains("`pccl keys list") == true)
    }

    @Test("expired, revoked, and of another authority: bad, with the reason")
    func bad() throws {
        let late = try line("verifies", now: Moment.now.adding(days: 11))
        #expect(late.isBad && late.text == "no: certificate has expired")
        let early = try line("verifies", now: Moment.now.adding(days: -1))
        #expect(early.isBad && early.text.hasPrefix("no: "))
        let other = try Authority.make(in: "\(shop.folder)/other", name: "the authority", days: 10)
        let ours = try shop.bytes("\(folder)/ca.pem")
        try shop.write(try shop.bytes("\(other.folder)/ca.pem"), to: "\(folder)/ca.pem")
        #expect(try line("verifies").isBad)
        try shop.write(ours, to: "\(folder)/ca.pem")
        #expect(try !line("verifies").isBad)
        _ = try authority.revoke("alpha")
        let revoked = try line("verifies")
        #expect(revoked.isBad && revoked.text == "no: certificate revoked")
    }

    @Test("a key of another certificate, one that others can read, and what is missing")
    func keys() throws {
        #expect(chmod("\(folder)/key.pem", 0o644) == 0)
        #expect(try line("key").isBad)
        try KeyFile(name: "key.pem", bytes: try PrivateKey().pem, isSecret: true).replace(in: folder)
        #expect(try line("key").isBad && line("key").text.hasSuffix("is of another certificate"))
        #expect(unlink("\(folder)/key.pem") == 0)
        #expect(try !line("key").isBad && line("key").text.hasPrefix("there is no "))
        #expect(unlink("\(folder)/revoked.pem") == 0)
        #expect(try line("verifies").isBad)
    }

    /// As the transport sees it: a certificate that names no role has each.
    @Test(
        "roles of a certificate that was made in another way, which cannot write to the terminal",
        arguments: [
            ("URI:pccl:master,URI:pccl:peer", "master and peer"), ("DNS:alpha", "master and peer"),
            ("DNS:alpha,URI:pccl:peer", "peer"), ("URI:pccl:boss", "none that this release knows: nobody takes it"),
            ("URI:pccl:peers", "none that this release knows: nobody takes it"),
        ])
    func strangers(names: String, role: String) throws {
        let made = try shop.openssl(
            "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", "s.key",
            "-out",
            "s.pem", "-subj", "/CN=a\u{1b}b", "-addext", "basicConstraints=CA:FALSE", "-addext",
            "subjectAltName=\(names)")
        #expect(made.status == 0)
        let report = try CertificateReport(of: "\(shop.folder)/s.pem")
        #expect(report.isBad && report.lines[0] == "name        a b" && report.lines[1] == "role        \(role)")
    }

    @Test("what is no certificate, or not there, is said")
    func nothing() throws {
        try shop.write(Array("no certificate".utf8), to: "\(shop.folder)/n.pem")
        for path in ["\(shop.folder)/n.pem", "\(shop.folder)/nothing", shop.folder] {
            #expect(problem { () throws(KeysProblem) in _ = try CertificateReport(of: path) } != nil)
        }
    }
}
