/// What `pccl keys show` finds in a folder that was issued, or in one certificate and what lies beside it.
struct CertificateReport {
    private(set) var lines: [String] = []
    /// There is something that a connection would fail for, or a secret that is none.
    private(set) var isBad = false

    init(of path: String, now: Moment = .now) throws(KeysProblem) {
        let path = KeyFolder.path(path)
        let isFolder = KeyFolder.exists(path)
        let folder = isFolder ? path : KeyFolder.parent(of: path)
        let file = isFolder ? "\(path)/\(Authority.memberCertificateName)" : path
        guard let pem = try KeyFile.read(file) else {
            if isFolder, KeyFolder.names(in: path).contains(Authority.keyName) {
                throw KeysProblem(
                    "\(path) is an authority: `pccl keys list \(path)` shows what it has issued, and "
                        + "`pccl keys show \(path)/\(Authority.certificateName)` itself")
            }
            throw KeysProblem("there is no \(file): name a folder that `pccl keys issue` made, or a certificate")
        }
        let certificate = try Certificate(pem: pem, path: file)
        describe(certificate, now: now)
        try compareKey(of: certificate, in: folder)
        try verify(certificate, in: folder, now: now)
    }

    private mutating func say(_ what: String, _ text: String, isBad: Bool = false) {
        lines.append(what + String(repeating: " ", count: max(1, 12 - what.count)) + text)
        if isBad { self.isBad = true }
    }

    private mutating func describe(_ certificate: Certificate, now: Moment) {
        let (start, end) = (certificate.notBefore, certificate.notAfter)
        say("name", certificate.name)
        if certificate.isAuthority {
            say("role", "authority")
        } else if let roles = certificate.roles {
            say("role", roles.map(\.rawValue).joined(separator: " and "))
        } else {
            say("role", "none that this release knows: nobody takes it", isBad: true)
        }
        say("serial", certificate.serial)
        say("issued by", certificate.issuerName)
        say("not before", start.minute)
        let left = now.days(until: end)
        say("not after", end.minute + (end > now ? " (\(left) \(left == 1 ? "day" : "days") left)" : " (expired)"))
    }

    private mutating func compareKey(of certificate: Certificate, in folder: String) throws(KeysProblem) {
        let path = "\(folder)/\(certificate.isAuthority ? Authority.keyName : Authority.memberKeyName)"
        guard let pem = try KeyFile.read(path) else {
            say("key", "there is no \(path)")
            return
        }
        let isMatching = certificate.isOf(try PrivateKey(pem: pem, path: path))
        let mode = KeyFile.modeForOthers(path)
        if !isMatching {
            say("key", "\(path) is of another certificate", isBad: true)
        } else if mode != 0 {
            say("key", "matches, but others than its owner can get at it: `chmod 600 \(path)`", isBad: true)
        } else {
            say("key", "matches")
        }
    }

    private mutating func verify(_ certificate: Certificate, in folder: String, now: Moment) throws(KeysProblem) {
        let path = "\(folder)/\(Authority.certificateName)"
        let listPath = "\(folder)/\(Authority.listName)"
        guard !certificate.isAuthority else { return }
        guard let pem = try KeyFile.read(path) else {
            say("verifies", "unknown: there is no \(path)", isBad: true)
            return
        }
        let authority = try Certificate(pem: pem, path: path)
        var list: RevocationList?
        if let pem = try KeyFile.read(listPath) { list = try RevocationList(pem: pem, path: listPath) }
        if let objection = try certificate.objection(authority: authority, revoked: list, now: now) {
            say("verifies", "no: \(objection)", isBad: true)
        } else if let list {
            let length = "\(list.count) revoked, made \(list.made.date)"
            say("verifies", "yes, with \(path) and \(listPath) (number \(list.number ?? 0): \(length))")
        } else {
            say(
                "verifies", "with \(path), but there is no \(listPath): nothing is known of what was revoked",
                isBad: true)
        }
    }
}
