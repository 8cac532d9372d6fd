/// What `pccl keys list` shows.
struct KeysTable {
    let lines: [String]

    /// Whoever looks once a week sees each end coming twice.
    static let warningDays = 14

    init(_ authority: Authority, now: Moment = .now) {
        let end = authority.certificate.notAfter
        let entries = authority.index.entries
        var lines = [
            "authority \(authority.certificate.name) in \(authority.folder): \(KeysTable.state(until: end, now: now))",
            "",
        ]
        if entries.isEmpty {
            lines.append("no certificates yet: `pccl keys issue \(authority.folder) NAME --role peer` makes one")
        } else {
            let width = max(4, entries.map(\.name.count).max() ?? 0)
            let pad = { (text: String, width: Int) in text + String(repeating: " ", count: max(0, width - text.count)) }
            lines.append("\(pad("name", width))  role    \(pad("serial", 32))  \(pad("not after", 20))  state")
            lines += entries.map { entry in
                "\(pad(entry.name, width))  \(pad(entry.role.rawValue, 6))  \(entry.serial)  "
                    + "\(entry.notAfter.minute)  \(KeysTable.state(entry, now: now))"
            }
        }
        let ending = KeysTable.ending(entries, now: now)
        if !ending.isEmpty {
            lines += [
                "", "within \(KeysTable.warningDays) days nothing good is left of: \(ending.joined(separator: ", "))",
            ]
            lines.append("  `pccl keys issue \(authority.folder) NAME --role ROLE --replace` makes the next one")
        }
        if KeysTable.endsSoon(end, now: now) {
            lines += ["", "the authority itself ends soon: `pccl keys init` makes another, in another folder"]
        }
        self.lines = lines
    }

    private static func endsSoon(_ end: Moment, now: Moment) -> Bool { end <= now.adding(days: warningDays) }

    private static func state(_ entry: CertificateIndex.Entry, now: Moment) -> String {
        if let revoked = entry.revoked { return "revoked \(revoked.date)" }
        return state(until: entry.notAfter, now: now)
    }

    private static func state(until end: Moment, now: Moment) -> String {
        if end <= now { return "expired \(end.date)" }
        let days = now.days(until: end)
        guard endsSoon(end, now: now) else { return "good, \(days) days left" }
        return days == 0 ? "expires within a day" : "expires in \(days) \(days == 1 ? "day" : "days")"
    }

    /// Names whose last certificate ends soon, or has ended. Who was revoked altogether is not to come back.
    private static func ending(_ entries: [CertificateIndex.Entry], now: Moment) -> [String] {
        let good = entries.filter { $0.revoked == nil }
        let lasting = Set(good.filter { !endsSoon($0.notAfter, now: now) }.map(\.name))
        return Set(good.map(\.name)).subtracting(lasting).sorted()
    }
}
