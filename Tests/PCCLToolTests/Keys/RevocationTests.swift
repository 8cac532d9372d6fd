import Foundation
import Testing

@testable import pccl

@Suite("pccl keys revoke")
struct RevocationTests {
    let shop: KeysWorkshop

    init() throws { shop = try KeysWorkshop() }

    private func text(_ list: String) throws -> String {
        try shop.openssl("crl", "-noout", "-text", "-crlnumber", "-CAfile", "authority/ca.pem", "-in", list).text
    }

    @Test("openssl refuses who is revoked, and nobody else")
    func refused() throws {
        let authority = try shop.makeAuthority()
        for name in ["alpha", "beta"] { _ = try authority.issue(name, .peer, days: 10) }
        #expect(try shop.verify("authority/alpha", purpose: "sslclient").status == 0)
        let revocation = try authority.revoke("alpha")
        #expect(revocation.folders == ["\(shop.authorityPath)/alpha", "\(shop.authorityPath)/beta"])
        let outcome = try shop.verify("authority/alpha", purpose: "sslclient")
        #expect(outcome.status != 0 && outcome.text.contains("certificate revoked"))
        #expect(try shop.verify("authority/beta", purpose: "sslclient").status == 0)
    }

    @Test("the list's number grows, it keeps all that were revoked, and holds as long as the authority")
    func numbers() throws {
        let authority = try shop.makeAuthority()
        let serials = try ["a", "b", "c"].map { try authority.issue($0, .peer, days: 10).entry.serial.uppercased() }
        for (count, name) in ["a", "b", "c"].enumerated() {
            _ = try authority.revoke(name)
            let text = try text("authority/revoked.pem")
            #expect(text.contains("verify OK") && text.contains("crlNumber=0x0\(count + 2)\n"))
            #expect(serials.map { text.contains($0) } == (0..<3).map { $0 <= count })
        }
        let path = "\(shop.authorityPath)/revoked.pem"
        let list = try RevocationList(pem: try shop.bytes(path), path: path)
        #expect(list.number == 4 && list.count == 3)
        #expect(try shop.nextUpdate() == authority.certificate.notAfter)
    }

    @Test("a serial, also as openssl writes it, is one certificate; a name is all that it has")
    func serials() throws {
        let authority = try shop.makeAuthority()
        let first = try authority.issue("alpha", .peer, days: 10).entry
        let second = try authority.issue("alpha", .peer, days: 10, replacing: true).entry
        let third = try authority.issue("alpha", .peer, days: 10, replacing: true).entry
        let pairs = stride(from: 0, to: 32, by: 2).map { first.serial.uppercased().dropFirst($0).prefix(2) }
        #expect(try authority.revoke(pairs.joined(separator: ":")).revoked.map(\.serial) == [first.serial])
        #expect(try shop.verify("authority/alpha", purpose: "sslserver").status == 0)
        #expect(try authority.revoke("alpha").revoked.map(\.serial) == [second.serial, third.serial])
        #expect(try shop.verify("authority/alpha", purpose: "sslserver").status != 0)
    }

    @Test("who is unknown is named, and who was revoked before keeps the date")
    func again() throws {
        let authority = try shop.makeAuthority()
        _ = try authority.issue("alpha", .peer, days: 10)
        for unknown in ["beta", String(repeating: "0", count: 32), "alph"] {
            #expect(
                problem { () throws(KeysProblem) in
                    _ = try authority.revoke(unknown)
                }?.contains("`pccl keys list") == true)
        }
        let first = try authority.revoke("alpha", now: .now)
        let again = try authority.revoke("alpha", now: Moment.now.adding(days: 1))
        #expect(!first.isOld && again.isOld && again.revoked == first.revoked)
    }

    @Test("folders of another authority, and without one, get no list of this one")
    func strangers() throws {
        let authority = try shop.makeAuthority()
        let other = try Authority.make(in: "\(shop.folder)/other", name: "the authority", days: 10)
        _ = try authority.issue("alpha", .peer, days: 10, to: "\(shop.folder)/elsewhere")
        _ = try authority.issue("beta", .peer, days: 10)
        _ = try other.issue("alpha", .peer, days: 5, to: "\(shop.authorityPath)/alpha")
        let before = try shop.bytes("\(shop.authorityPath)/alpha/revoked.pem")
        #expect(try authority.revoke("beta").folders == ["\(shop.authorityPath)/beta"])
        #expect(try shop.bytes("\(shop.authorityPath)/alpha/revoked.pem") == before)
    }

    @Test("a command that ended between index and list is made up for by the next one")
    func interrupted() throws {
        let authority = try shop.makeAuthority()
        for name in ["alpha", "beta"] { _ = try authority.issue(name, .peer, days: 10) }
        let path = "\(shop.authorityPath)/revoked.pem"
        let before = try shop.bytes(path)
        _ = try authority.revoke("alpha")
        for damaged in [before, [], Array(before.dropLast(40))] {
            try shop.write(damaged, to: path)
            let name = "peer\(damaged.count)"
            _ = try Authority(in: shop.authorityPath).issue(name, .peer, days: 10)
            #expect(try text("authority/\(name)/revoked.pem").contains("crlNumber=0x02\n"))
            let outcome = try shop.openssl(
                "verify", "-crl_check", "-CAfile", "authority/ca.pem", "-CRLfile", "authority/\(name)/revoked.pem",
                "authority/alpha/certificate.pem")
            #expect(outcome.text.contains("certificate revoked"))
        }
    }
}
