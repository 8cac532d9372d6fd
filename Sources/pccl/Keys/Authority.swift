import Glibc

/// A run's certificate authority: a folder with its certificate, its key, and what it has issued and revoked.
///
/// The index is the truth, and it is on disk before a certificate or a list leaves: what an interrupted command leaves
/// behind is an entry without a folder, or a list that is older than the index, and the next command writes it anew.
final class Authority {
    static let certificateName = "ca.pem"
    static let keyName = "ca-key.pem"
    static let listName = "revoked.pem"
    static let memberCertificateName = "certificate.pem"
    static let memberKeyName = "key.pem"

    let folder: String
    let certificate: Certificate
    private(set) var index: CertificateIndex
    private let certificatePEM: [UInt8]
    private let lock: CInt

    /// To be read, or with `isLocked` to be changed by nobody else meanwhile.
    init(in path: String, isLocked: Bool = false) throws(KeysProblem) {
        folder = KeyFolder.path(path)
        lock = isLocked ? try Authority.lock(folder) : -1
        do throws(KeysProblem) {
            let path = "\(folder)/\(Authority.certificateName)"
            guard let pem = try KeyFile.read(path), KeyFolder.exists(folder) else { throw Authority.isNone(folder) }
            certificatePEM = pem
            certificate = try Certificate(pem: pem, path: path)
            index = try Authority.index(in: folder)
        } catch {
            if lock >= 0 { close(lock) }
            throw error
        }
    }

    deinit { if lock >= 0 { close(lock) } }

    private static func lock(_ folder: String) throws(KeysProblem) -> CInt {
        let descriptor = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard descriptor >= 0 else {
            throw errno == ENOENT || errno == ENOTDIR
                ? isNone(folder) : KeysProblem(doing: "opening the folder \(folder)")
        }
        while flock(descriptor, LOCK_EX) != 0 {
            guard errno == EINTR else {
                let problem = KeysProblem(doing: "locking the folder \(folder)")
                close(descriptor)
                throw problem
            }
        }
        return descriptor
    }

    private static func isNone(_ folder: String) -> KeysProblem {
        KeysProblem("\(folder) is no authority: `pccl keys init \(folder)` makes one")
    }

    private static func index(in folder: String) throws(KeysProblem) -> CertificateIndex {
        let path = "\(folder)/\(CertificateIndex.fileName)"
        guard let bytes = try KeyFile.read(path) else {
            throw KeysProblem(
                "\(path) is gone: without it the authority does not know what it has issued; put it back from a copy")
        }
        return try CertificateIndex(parsing: String(decoding: bytes, as: UTF8.self), path: path)
    }

    // MARK: - to make one

    static let longestDays = 36_500

    static func make(
        in path: String, name: String, days: Int, now: Moment = .now
    ) throws(KeysProblem) -> Authority {
        let folder = KeyFolder.path(path)
        guard KeyFolder.isFree(folder) else {
            if KeyFolder.names(in: folder).contains(keyName) {
                throw KeysProblem("\(folder) is an authority already, and is left as it is: name another folder")
            }
            throw KeyFolder.isTaken(folder)
        }
        let key = try PrivateKey()
        let certificate = try Certificate.authority(name, key, now: now, notAfter: now.adding(days: days))
        let index = CertificateIndex()
        let list = try RevocationList.signed(by: certificate, key, number: index.listNumber, [], now: now)
        let files = [
            KeyFile(name: keyName, bytes: try key.pem, isSecret: true),
            KeyFile(name: certificateName, bytes: try certificate.pem),
            KeyFile(name: CertificateIndex.fileName, bytes: Array(index.text.utf8)),
            KeyFile(name: listName, bytes: try list.pem),
        ]
        try KeyFolder(for: folder, files).appear()
        return try Authority(in: folder)
    }

    // MARK: - to issue

    struct Issued {
        var entry: CertificateIndex.Entry
        var folder: String
        /// Of the same name, and good as well.
        var others: [CertificateIndex.Entry]
    }

    /// `folder` is made; with `replacing` it is there, with an older certificate of this name.
    func issue(
        _ name: String, _ role: KeyRole, days: Int, to folder: String? = nil, replacing: Bool = false,
        now: Moment = .now
    ) throws(KeysProblem) -> Issued {
        let target = folder.map(KeyFolder.path) ?? defaultFolder(of: name)
        try checkLifetime(days: days, now: now)
        let others = index.entries.filter { $0.name == name && $0.revoked == nil && $0.notAfter > now }
        if let other = others.first(where: { $0.role != role }) {
            throw KeysProblem(
                "\(name) is a \(other.role.rawValue) until \(other.notAfter.date): take another name, or "
                    + "`pccl keys revoke \(self.folder) \(name)` first")
        }
        try checkTarget(target, of: name, replacing: replacing)
        let issuerKey = try signingKey()
        let list = try currentList(issuerKey, now: now)
        let key = try PrivateKey()
        let member = try Certificate.member(
            name, role, key, by: certificate, issuerKey, now: now, notAfter: now.adding(days: days))
        let entry = CertificateIndex.Entry(
            serial: member.serial, name: name, role: role, notAfter: member.notAfter, revoked: nil)
        let files = [
            KeyFile(name: Authority.memberKeyName, bytes: try key.pem, isSecret: true),
            KeyFile(name: Authority.memberCertificateName, bytes: try member.pem),
            KeyFile(name: Authority.certificateName, bytes: certificatePEM),
            KeyFile(name: Authority.listName, bytes: list),
        ]
        if replacing {
            try append(entry)
            for file in files { try file.replace(in: target) }
        } else {
            let draft = try KeyFolder(for: target, files)
            do throws(KeysProblem) {
                try append(entry)
            } catch {
                draft.remove()
                throw error
            }
            try draft.appear()
        }
        return Issued(entry: entry, folder: target, others: others)
    }

    private func defaultFolder(of name: String) -> String { "\(folder)/\(name)" }

    private func checkLifetime(days: Int, now: Moment) throws(KeysProblem) {
        guard certificate.notBefore <= now else {
            throw KeysProblem(
                "the authority in \(folder) begins at \(certificate.notBefore.minute), and here it is \(now.minute): "
                    + "set this machine's clock")
        }
        let left = now.days(until: certificate.notAfter)
        guard certificate.notAfter > now, left > 0 else {
            throw KeysProblem(
                "the authority in \(folder) ends at \(certificate.notAfter.minute), too soon for a certificate: "
                    + "`pccl keys init` makes a new one in another folder")
        }
        guard days <= left else {
            throw KeysProblem(
                "a certificate of \(days) days would outlive its authority, which ends on \(certificate.notAfter.date): "
                    + "--days \(left) is the most")
        }
    }

    private func checkTarget(_ target: String, of name: String, replacing: Bool) throws(KeysProblem) {
        guard replacing else {
            if KeyFolder.names(in: target).contains(Authority.memberCertificateName) {
                throw KeysProblem(
                    "\(target) has a certificate already, and is left as it is: --replace puts a new one in its place, "
                        + "--out names another folder")
            }
            guard KeyFolder.isFree(target) else { throw KeyFolder.isTaken(target) }
            return
        }
        let path = "\(target)/\(Authority.memberCertificateName)"
        guard let pem = try KeyFile.read(path) else {
            throw KeysProblem("there is no \(path) to be replaced: leave out --replace")
        }
        let old = try Certificate(pem: pem, path: path)
        guard old.name == name else {
            throw KeysProblem("\(path) is of \(old.name), not of \(name), and is left as it is: name another folder")
        }
    }

    private func append(_ entry: CertificateIndex.Entry) throws(KeysProblem) {
        var next = index
        next.entries.append(entry)
        try write(next)
    }

    private func write(_ next: CertificateIndex) throws(KeysProblem) {
        try KeyFile(name: CertificateIndex.fileName, bytes: Array(next.text.utf8)).replace(in: folder)
        index = next
    }

    // MARK: - to revoke

    struct Revocation {
        var revoked: [CertificateIndex.Entry]
        /// All that were meant had been before.
        var isOld: Bool
        /// Where the new list lies now, besides the authority's own folder.
        var folders: [String]
        /// Where it should lie and could not be written, with the reason.
        var failures: [String]
    }

    /// All certificates of this name, or the one of this serial.
    func revoke(_ nameOrSerial: String, now: Moment = .now) throws(KeysProblem) -> Revocation {
        let serial = CertificateIndex.serial(nameOrSerial)
        let meant = index.entries.indices.filter {
            index.entries[$0].serial == serial || index.entries[$0].name == nameOrSerial
        }
        guard !meant.isEmpty else {
            throw KeysProblem(
                "\(nameOrSerial) is neither a name nor a serial of \(folder): `pccl keys list \(folder)` shows them")
        }
        let issuerKey = try signingKey()
        let fresh = meant.filter { index.entries[$0].revoked == nil }
        if !fresh.isEmpty {
            var next = index
            for i in fresh { next.entries[i].revoked = now }
            try write(next)
        }
        let list = try currentList(issuerKey, now: now)
        var (folders, failures): ([String], [String]) = ([], [])
        for target in knownFolders() {
            do throws(KeysProblem) {
                try KeyFile(name: Authority.listName, bytes: list).replace(in: target)
                folders.append(target)
            } catch {
                failures.append("\(target): \(error)")
            }
        }
        return Revocation(
            revoked: (fresh.isEmpty ? meant : fresh).map { index.entries[$0] }, isOld: fresh.isEmpty, folders: folders,
            failures: failures)
    }

    /// In their default places, and of this authority.
    private func knownFolders() -> [String] {
        Set(index.entries.map(\.name)).sorted().map(defaultFolder).filter { folder in
            (try? KeyFile.read("\(folder)/\(Authority.certificateName)")) == certificatePEM
        }
    }

    /// The list that says what the index says; it is made anew where it does not.
    private func currentList(_ key: PrivateKey, now: Moment) throws(KeysProblem) -> [UInt8] {
        let path = "\(folder)/\(Authority.listName)"
        if let pem = try KeyFile.read(path), let list = try? RevocationList(pem: pem, path: path),
            list.number == index.listNumber, list.count == index.revoked.count
        {
            return pem
        }
        let list = try RevocationList.signed(
            by: certificate, key, number: index.listNumber, index.revoked, now: now)
        let pem = try list.pem
        try KeyFile(name: Authority.listName, bytes: pem).replace(in: folder)
        return pem
    }

    private func signingKey() throws(KeysProblem) -> PrivateKey {
        let path = "\(folder)/\(Authority.keyName)"
        guard let pem = try KeyFile.read(path) else {
            throw KeysProblem("\(path) is gone: without it nothing can be issued or revoked; put it back from a copy")
        }
        guard KeyFile.modeForOthers(path) == 0 else {
            throw KeysProblem(
                "others than its owner can get at \(path): see who may have read it, then `chmod 600 \(path)`")
        }
        let key = try PrivateKey(pem: pem, path: path)
        guard certificate.isOf(key) else {
            throw KeysProblem("\(path) is not the key of \(folder)/\(Authority.certificateName): put back the pair")
        }
        return key
    }
}
