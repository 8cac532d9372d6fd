/// Which certificates an authority has issued: a text of one line each, for people to read as well.
struct CertificateIndex: Equatable {
    struct Entry: Equatable {
        /// 32 hexadecimal digits.
        var serial: String
        var name: String
        var role: KeyRole
        var notAfter: Moment
        var revoked: Moment?
    }

    /// In the order of their issue.
    var entries: [Entry] = []

    static let fileName = "issued.txt"

    init() {}

    var revoked: [(serial: String, at: Moment)] {
        entries.compactMap { entry in entry.revoked.map { (entry.serial, $0) } }
    }

    /// Of the list that holds all of these as revoked. Nothing is ever taken back, so each new list has a larger one.
    var listNumber: Int { 1 + revoked.count }

    // MARK: - as text

    private static let introduction = """
        # Certificates of this authority, in the order of their issue. `pccl keys` reads and writes this file.
        # serial, role, not after, revoked, name

        """

    var text: String {
        CertificateIndex.introduction
            + entries.map { entry in
                let role = entry.role.rawValue + String(repeating: " ", count: 6 - entry.role.rawValue.count)
                let revoked = entry.revoked?.timestamp ?? "-                   "
                return "\(entry.serial) \(role) \(entry.notAfter.timestamp) \(revoked) \(entry.name)\n"
            }.joined()
    }

    init(parsing text: String, path: String) throws(KeysProblem) {
        var lineNumber = 0
        for line in text.split(separator: "\n", omittingEmptySubsequences: false) {
            lineNumber += 1
            if line.isEmpty || line.hasPrefix("#") { continue }
            guard let entry = CertificateIndex.entry(line), !entries.contains(where: { $0.serial == entry.serial })
            else {
                throw KeysProblem(
                    "\(path), line \(lineNumber), is no certificate as `pccl keys` writes it, or one that was there "
                        + "before; the file is left as it is: put back what was changed")
            }
            entries.append(entry)
        }
    }

    private static func entry(_ line: Substring) -> Entry? {
        let words = line.split(separator: " ").map(String.init)
        guard words.count == 5, isSerial(words[0]), words[0] == words[0].lowercased(),
            let role = KeyRole(rawValue: words[1]), let notAfter = Moment(timestamp: words[2]),
            CertificateIndex.objection(toName: words[4]) == nil
        else { return nil }
        let revoked = Moment(timestamp: words[3])
        guard revoked != nil || words[3] == "-" else { return nil }
        return Entry(serial: words[0], name: words[4], role: role, notAfter: notAfter, revoked: revoked)
    }

    // MARK: - names and serials

    /// Why this cannot be the name of a machine; nil if it can. It becomes a folder's name, too.
    static func objection(toName name: String) -> String? {
        let isLegal = name.utf8.allSatisfy { byte in
            switch byte {
            case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
                UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "."), UInt8(ascii: "_"), UInt8(ascii: "-"):
                true
            default: false
            }
        }
        guard isLegal, (1...64).contains(name.utf8.count), !name.hasPrefix("."), !name.hasPrefix("-") else {
            return
                "a name has 1 to 64 letters, digits, dots, underscores and hyphens, and begins with none of `.` and `-`"
        }
        return isSerial(name) ? "32 hexadecimal digits would be taken for a serial" : nil
    }

    private static func isSerial(_ text: String) -> Bool {
        text.utf8.count == 32 && text.utf8.allSatisfy { Character(UnicodeScalar($0)).isHexDigit }
    }

    /// As `openssl x509 -text` shows it, too: with colons, in capitals.
    static func serial(_ text: String) -> String? {
        let digits = text.filter { $0 != ":" }.lowercased()
        return isSerial(digits) ? digits : nil
    }
}
