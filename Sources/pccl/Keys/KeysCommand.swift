import ArgumentParser
import COpenSSL
import Glibc

/// `pccl keys`: the certificates of a run.
struct KeysCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "keys",
        abstract: "Makes the keys and certificates of a run, and revokes them.",
        discussion: """
            A run has an authority of its own: a folder that stays on one machine, best on one that is no part of the run. \
            It issues a folder for the master and for each peer, and that is copied there. docs/keys.md goes through it.

            All end with 0 when it is done, with 1 when it is not, and then say why; `show` also when something is wrong.

              pccl keys init authority
              pccl keys issue authority hub --role master
              pccl keys issue authority alpha --role peer
              scp -rp authority/alpha alpha:pccl-keys
            """,
        subcommands: [
            KeysInitCommand.self, KeysIssueCommand.self, KeysRevokeCommand.self, KeysListCommand.self,
            KeysShowCommand.self, KeysTokenCommand.self,
        ])

    /// With what went wrong on standard error, and 1.
    fileprivate static func reporting(_ work: () throws(KeysProblem) -> Void) throws {
        do throws(KeysProblem) {
            try work()
        } catch {
            writeAll("pccl keys: \(error)\n", to: STDERR_FILENO)
            throw ExitCode(1)
        }
    }

    fileprivate static func say(_ lines: [String]) { writeAll(lines.joined(separator: "\n") + "\n", to: STDOUT_FILENO) }

    fileprivate static func check(days: Int) throws {
        guard (1...Authority.longestDays).contains(days) else {
            throw ValidationError("--days goes from 1 to \(Authority.longestDays)")
        }
    }
}

struct KeysInitCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "init", abstract: "Makes an authority in a new folder, which only its owner can read.")

    @Argument(help: "The folder.")
    var directory: String

    @Option(help: "What the authority is called in its certificate.")
    var name = "pccl authority"

    @Option(help: "How long it lives. No certificate that it issues lives longer.")
    var days = 3650

    func validate() throws {
        try KeysCommand.check(days: days)
        let hasControls = name.unicodeScalars.contains { $0.properties.generalCategory == .control }
        guard (1...64).contains(name.unicodeScalars.count), !hasControls else {
            throw ValidationError("--name: 1 to 64 characters, and no control characters")
        }
    }

    func run() throws {
        try KeysCommand.reporting { () throws(KeysProblem) in
            let authority = try Authority.make(in: directory, name: name, days: days)
            KeysCommand.say([
                "\(authority.folder) is an authority, until \(authority.certificate.notAfter.date).",
                "Its key, \(authority.folder)/\(Authority.keyName), stays here: who has it can pass for anybody in the run.",
                "Next: pccl keys issue \(authority.folder) NAME --role master|peer",
            ])
        }
    }
}

struct KeysIssueCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "issue", abstract: "Makes a key and a certificate for one machine, in a folder to be copied there."
    )

    @Argument(help: "The authority's folder.")
    var directory: String

    @Argument(help: "The machine's name.")
    var name: String

    @Option(help: "What it is in the run: master or peer.")
    var role: String

    @Option(help: "How long the certificate lives.")
    var days = 90

    @Option(help: ArgumentHelp("The folder that is made. (default: NAME in the authority's)", valueName: "folder"))
    var out: String?

    @Flag(help: "The folder is there, with an older certificate of this name: put the new one in its place.")
    var replace = false

    func validate() throws {
        try KeysCommand.check(days: days)
        guard KeyRole(rawValue: role) != nil else { throw ValidationError("--role is master or peer") }
        if let objection = CertificateIndex.objection(toName: name) { throw ValidationError("\(name): \(objection)") }
    }

    func run() throws {
        guard let role = KeyRole(rawValue: role) else { return }
        try KeysCommand.reporting { () throws(KeysProblem) in
            let authority = try Authority(in: directory, isLocked: true)
            let issued = try authority.issue(name, role, days: days, to: out, replacing: replace)
            var lines = [
                "\(name) is a \(role.rawValue) until \(issued.entry.notAfter.date), serial \(issued.entry.serial).",
                "Copy the folder to it, and keep its key secret: \(issued.folder)",
            ]
            for other in issued.others {
                lines.append(
                    "The one before is good until \(other.notAfter.date); to end it, once it is no longer used: "
                        + "pccl keys revoke \(authority.folder) \(other.serial)")
            }
            KeysCommand.say(lines)
        }
    }
}

struct KeysRevokeCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "revoke", abstract: "Ends all certificates of a name, or the one of a serial, before their time.")

    @Argument(help: "The authority's folder.")
    var directory: String

    @Argument(help: "The name, or the serial.")
    var nameOrSerial: String

    func run() throws {
        try KeysCommand.reporting { () throws(KeysProblem) in
            let authority = try Authority(in: directory, isLocked: true)
            let revocation = try authority.revoke(nameOrSerial)
            let done = revocation.isOld ? "had been revoked before" : "is revoked"
            var lines = revocation.revoked.map { "\($0.name), a \($0.role.rawValue), serial \($0.serial), \(done)." }
            let list = "\(authority.folder)/\(Authority.listName)"
            lines.append("The list of all that are revoked: \(list)")
            lines += revocation.folders.map { "  and \($0)/\(Authority.listName)" }
            lines.append(
                "Copy it to the master and to every peer, as \(Authority.listName) in their folder of keys: who has not "
                    + "got it still takes what is revoked.")
            KeysCommand.say(lines)
            guard revocation.failures.isEmpty else {
                throw KeysProblem("the list could not be written to \(revocation.failures.joined(separator: "; "))")
            }
        }
    }
}

struct KeysListCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "list", abstract: "Shows what an authority has issued, and what ends within two weeks.")

    @Argument(help: "The authority's folder.")
    var directory: String

    func run() throws {
        try KeysCommand.reporting { () throws(KeysProblem) in
            KeysCommand.say(KeysTable(try Authority(in: directory)).lines)
        }
    }
}

struct KeysShowCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "show",
        abstract: "Shows a certificate, and whether key, authority and list of revoked ones go with it.")

    @Argument(help: "A folder that was issued, or a certificate.")
    var path: String

    func run() throws {
        var isBad = false
        try KeysCommand.reporting { () throws(KeysProblem) in
            let report = try CertificateReport(of: path)
            KeysCommand.say(report.lines)
            isBad = report.isBad
        }
        if isBad { throw ExitCode(1) }
    }
}

struct KeysTokenCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "token", abstract: "Writes a new join token, 64 hexadecimal digits, to a new file.")

    @Argument(help: "The file.")
    var file: String

    func run() throws {
        try KeysCommand.reporting { () throws(KeysProblem) in
            let path = KeyFolder.path(file)
            try KeyFile.token(named: KeyFolder.name(of: path)).create(in: KeyFolder.parent(of: path))
            KeysCommand.say(["\(path) is a join token: copy it to the master and to every peer, and keep it secret."])
        }
    }
}

extension KeyFile {
    /// 256 bits at random, in hexadecimal digits and a newline.
    static func token(named name: String) throws(KeysProblem) -> KeyFile {
        var bytes = [UInt8](repeating: 0, count: 32)
        guard RAND_priv_bytes(&bytes, CInt(bytes.count)) == 1 else { throw KeysProblem(openSSL: "drawing a token") }
        let digits = Array("0123456789abcdef".utf8)
        return KeyFile(
            name: name, bytes: bytes.flatMap { [digits[Int($0 >> 4)], digits[Int($0 & 15)]] } + [UInt8(ascii: "\n")],
            isSecret: true)
    }
}
