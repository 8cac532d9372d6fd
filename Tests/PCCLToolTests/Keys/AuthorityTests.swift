import Dispatch
import Glibc
import Testing

@testable import pccl

@Suite("pccl keys")
struct AuthorityTests {
    let shop: KeysWorkshop

    init() throws { shop = try KeysWorkshop() }

    // MARK: - init

    @Test("an authority is a folder for its owner alone, and appears as a whole")
    func folder() throws {
        _ = try shop.makeAuthority()
        #expect(shop.names(in: shop.authorityPath) == ["ca-key.pem", "ca.pem", "issued.txt", "revoked.pem"])
        #expect(shop.names(in: shop.folder) == ["authority"])
        #expect(try shop.mode(shop.authorityPath) == 0o700)
        #expect(try shop.mode("\(shop.authorityPath)/ca-key.pem") == 0o600)
    }

    @Test("openssl sees an authority that may have no others below it, for as long as was asked")
    func authorityCertificate() throws {
        _ = try shop.makeAuthority(days: 100)
        let text = try shop.openssl("x509", "-noout", "-text", "-in", "authority/ca.pem").text
        #expect(text.contains("Version: 3 (0x2)"))
        #expect(text.contains("Subject: CN = the authority"))
        #expect(text.contains("X509v3 Basic Constraints: critical\n                CA:TRUE, pathlen:0"))
        #expect(text.contains("X509v3 Key Usage: critical\n                Certificate Sign, CRL Sign\n"))
        #expect(text.contains("Signature Algorithm: ecdsa-with-SHA256") && text.contains("NIST CURVE: P-256"))
        #expect(try shop.openssl("x509", "-noout", "-checkend", "\(99 * 86400)", "-in", "authority/ca.pem").status == 0)
        #expect(
            try shop.openssl("x509", "-noout", "-checkend", "\(101 * 86400)", "-in", "authority/ca.pem").status == 1)
        #expect(
            try shop.openssl("verify", "-x509_strict", "-CAfile", "authority/ca.pem", "authority/ca.pem").status == 0)
    }

    @Test("the first list is empty, signed, and holds as long as the authority")
    func emptyList() throws {
        let authority = try shop.makeAuthority()
        let outcome = try shop.openssl(
            "crl", "-noout", "-text", "-crlnumber", "-CAfile", "authority/ca.pem", "-in", "authority/revoked.pem")
        #expect(outcome.text.contains("verify OK") && outcome.text.contains("No Revoked Certificates."))
        #expect(outcome.text.contains("crlNumber=0x01\n"))
        #expect(try shop.nextUpdate() == authority.certificate.notAfter)
    }

    @Test("what is there already is left alone: an authority, other files, a file")
    func nothingOverwritten() throws {
        _ = try shop.makeAuthority()
        let key = try shop.bytes("\(shop.authorityPath)/ca-key.pem")
        #expect(
            problem { () throws(KeysProblem) in
                _ = try Authority.make(in: shop.authorityPath + "/", name: "again", days: 1)
            }?.contains("is an authority already") == true)
        #expect(try shop.bytes("\(shop.authorityPath)/ca-key.pem") == key)

        try shop.write([1], to: "\(shop.folder)/file")
        for path in [shop.folder, "\(shop.folder)/file"] {
            #expect(
                problem { () throws(KeysProblem) in
                    _ = try Authority.make(in: path, name: "again", days: 1)
                }?.contains("is there already") == true)
        }
        #expect(
            problem { () throws(KeysProblem) in
                _ = try Authority.make(in: "\(shop.folder)/no/where", name: "again", days: 1)
            }?.contains("make it first") == true)
        #expect(shop.names(in: shop.folder) == ["authority", "file"])
    }

    @Test("an empty folder becomes one, whoever could read it before")
    func emptyFolder() throws {
        #expect(mkdir(shop.authorityPath, 0o755) == 0)
        _ = try shop.makeAuthority()
        #expect(try shop.mode(shop.authorityPath) == 0o700)
    }

    // MARK: - issue

    @Test("openssl sees what a certificate may be used for, and by whom", arguments: KeyRole.allCases)
    func memberCertificate(role: KeyRole) throws {
        let authority = try shop.makeAuthority()
        let issued = try authority.issue("alpha", role, days: 90)
        #expect(issued.folder == "\(shop.authorityPath)/alpha")
        #expect(shop.names(in: issued.folder) == ["ca.pem", "certificate.pem", "key.pem", "revoked.pem"])
        #expect(try shop.mode("\(issued.folder)/key.pem") == 0o600)

        let text = try shop.openssl("x509", "-noout", "-text", "-in", "authority/alpha/certificate.pem").text
        #expect(text.contains("Subject: CN = alpha\n") && text.contains("Issuer: CN = the authority\n"))
        #expect(text.contains("X509v3 Basic Constraints: critical\n                CA:FALSE"))
        #expect(text.contains("X509v3 Key Usage: critical\n                Digital Signature\n"))
        #expect(text.contains("TLS Web Server Authentication, TLS Web Client Authentication"))
        #expect(text.contains("X509v3 Subject Alternative Name: \n                URI:pccl:\(role.rawValue)\n"))
        #expect(text.contains("X509v3 Subject Key Identifier") && text.contains("X509v3 Authority Key Identifier"))
        #expect(text.contains("Signature Algorithm: ecdsa-with-SHA256") && text.contains("NIST CURVE: P-256"))
        for purpose in ["sslserver", "sslclient"] {
            #expect(try shop.verify("authority/alpha", purpose: purpose).status == 0)
        }
        let key = try shop.openssl("pkey", "-pubout", "-in", "authority/alpha/key.pem").text
        #expect(try shop.openssl("x509", "-noout", "-pubkey", "-in", "authority/alpha/certificate.pem").text == key)
    }

    @Test("a certificate holds from an hour ago, for other clocks, to its last day, and its serial is 128 random bits")
    func times() throws {
        let now = Moment.now
        let authority = try shop.makeAuthority(now: now)
        let entries = try (0..<8).map { try authority.issue("peer\($0)", .peer, days: 7, now: now).entry }
        #expect(Set(entries.map { $0.serial.prefix(4) }).count > 1)
        #expect(entries.allSatisfy { $0.serial.count == 32 && $0.notAfter == now.adding(days: 7) })
        let path = "\(shop.authorityPath)/peer0/certificate.pem"
        let certificate = try Certificate(pem: try shop.bytes(path), path: path)
        #expect(certificate.notBefore == Moment(seconds: now.seconds - 3600))
        #expect(certificate.notAfter == now.adding(days: 7))
        let serial = try shop.openssl("x509", "-noout", "-serial", "-in", "authority/peer0/certificate.pem").text
        #expect(serial.lowercased() == "serial=\(entries[0].serial)\n")
    }

    @Test("no certificate outlives its authority, and the text says how long it may live")
    func lifetimes() throws {
        let now = Moment.now
        let authority = try shop.makeAuthority(days: 100, now: now)
        let later = now.adding(days: 40)
        #expect(
            problem { () throws(KeysProblem) in
                _ = try authority.issue("alpha", .peer, days: 61, now: later)
            }?.hasSuffix("--days 60 is the most") == true)
        #expect(shop.names(in: shop.authorityPath).contains("alpha") == false && authority.index.entries.isEmpty)
        #expect(
            try authority.issue("alpha", .peer, days: 60, now: later).entry.notAfter == authority.certificate.notAfter)

        #expect(
            problem { () throws(KeysProblem) in
                _ = try authority.issue("beta", .peer, days: 1, now: now.adding(days: 100))
            }?.contains("`pccl keys init`") == true)
        #expect(
            problem { () throws(KeysProblem) in
                _ = try authority.issue("beta", .peer, days: 1, now: now.adding(days: -2))
            }?.contains("set this machine's clock") == true)
    }

    @Test("openssl refuses a certificate that has expired")
    func expired() throws {
        let past = Moment.now.adding(days: -100)
        let authority = try shop.makeAuthority(now: past)
        _ = try authority.issue("alpha", .peer, days: 90, now: past)
        let outcome = try shop.verify("authority/alpha", purpose: "sslserver")
        #expect(outcome.status != 0 && outcome.text.contains("certificate has expired"))
    }

    @Test("a folder that is there is left alone, unless its certificate is to be replaced by one of the same name")
    func replacing() throws {
        let authority = try shop.makeAuthority()
        let first = try authority.issue("alpha", .peer, days: 10)
        let old = try shop.bytes("\(first.folder)/certificate.pem")
        #expect(
            problem { () throws(KeysProblem) in
                _ = try authority.issue("alpha", .peer, days: 10)
            }?.contains("--replace") == true)
        #expect(
            problem { () throws(KeysProblem) in
                _ = try authority.issue("beta", .peer, days: 10, replacing: true)
            }?.contains("leave out --replace") == true)
        #expect(
            problem { () throws(KeysProblem) in
                _ = try authority.issue("beta", .peer, days: 10, to: first.folder, replacing: true)
            }?.contains("is of alpha") == true)
        #expect(try shop.bytes("\(first.folder)/certificate.pem") == old)
        #expect(authority.index.entries == [first.entry])

        try shop.write([1, 2], to: "\(first.folder)/notes")
        let second = try authority.issue("alpha", .peer, days: 20, replacing: true)
        #expect(second.others == [first.entry])
        #expect(try shop.verify("authority/alpha", purpose: "sslclient").status == 0)
        #expect(try CertificateReport(of: first.folder).isBad == false)
        #expect(try shop.bytes("\(first.folder)/notes") == [1, 2])
        #expect(try Authority(in: shop.authorityPath).index.entries == [first.entry, second.entry])
    }

    @Test("one name is not master and peer at a time")
    func oneRole() throws {
        let authority = try shop.makeAuthority()
        _ = try authority.issue("alpha", .peer, days: 10)
        #expect(
            problem { () throws(KeysProblem) in
                _ = try authority.issue("alpha", .master, days: 10, to: "\(shop.folder)/other")
            }?.contains("alpha is a peer until") == true)
        _ = try authority.revoke("alpha")
        #expect(try authority.issue("alpha", .master, days: 10, to: "\(shop.folder)/other").entry.role == .master)
    }

    @Test("a name that is a file of the authority makes no entry")
    func namesOfFiles() throws {
        let authority = try shop.makeAuthority()
        for name in ["ca.pem", "issued.txt"] {
            #expect(problem { () throws(KeysProblem) in _ = try authority.issue(name, .peer, days: 1) } != nil)
        }
        #expect(try Authority(in: shop.authorityPath).index.entries.isEmpty)
    }

    @Test("who issue at the same time wait for each other")
    func sideBySide() throws {
        _ = try shop.makeAuthority()
        let path = shop.authorityPath
        DispatchQueue.concurrentPerform(iterations: 8) { number in
            _ = try? Authority(in: path, isLocked: true).issue("peer\(number)", .peer, days: 1)
        }
        #expect(Set(try Authority(in: path).index.entries.map(\.name)) == Set((0..<8).map { "peer\($0)" }))
    }

    @Test("an authority without its key, with another's, or with one that others can read signs nothing")
    func keyOfTheAuthority() throws {
        let authority = try shop.makeAuthority()
        let issuing = { () throws(KeysProblem) in _ = try authority.issue("alpha", .peer, days: 1) }
        let path = "\(shop.authorityPath)/ca-key.pem"
        let key = try shop.bytes(path)
        #expect(chmod(path, 0o640) == 0)
        #expect(problem(issuing)?.contains("chmod 600") == true)
        #expect(chmod(path, 0o600) == 0)
        try shop.write(try PrivateKey().pem, to: path)
        #expect(chmod(path, 0o600) == 0)
        #expect(problem(issuing)?.contains("is not the key of") == true)
        try shop.write([], to: path)
        #expect(problem(issuing)?.contains("holds no private key") == true)
        #expect(unlink(path) == 0)
        #expect(problem(issuing)?.contains("is gone") == true)
        #expect(authority.index.entries.isEmpty && !shop.names(in: shop.authorityPath).contains("alpha"))
        try KeyFile(name: "ca-key.pem", bytes: key, isSecret: true).replace(in: shop.authorityPath)
        #expect(problem(issuing) == nil)
    }

    @Test("a folder that is no authority, and one whose index is gone, say so")
    func noAuthority() throws {
        for path in [shop.folder, "\(shop.folder)/nowhere"] {
            for isLocked in [false, true] {
                #expect(
                    problem { () throws(KeysProblem) in
                        _ = try Authority(in: path, isLocked: isLocked)
                    }?.contains("is no authority") == true)
            }
        }
        _ = try shop.makeAuthority()
        #expect(unlink("\(shop.authorityPath)/issued.txt") == 0)
        #expect(
            problem { () throws(KeysProblem) in
                _ = try Authority(in: shop.authorityPath)
            }?.contains("put it back from a copy") == true)
    }
}
