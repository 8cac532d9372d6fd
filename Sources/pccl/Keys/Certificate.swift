import COpenSSL
import Glibc

/// What a certificate is for. It stands in it as a URI, `pccl:master` or `pccl:peer`.
enum KeyRole: String, CaseIterable {
    case master, peer

    fileprivate static let prefix = "pccl:"
    var uri: String { KeyRole.prefix + rawValue }
}

/// A certificate of X.509, version 3.
final class Certificate {
    fileprivate let handle: OpaquePointer

    fileprivate init(owning handle: OpaquePointer) { self.handle = handle }
    deinit { X509_free(handle) }

    /// The first one in the text.
    init(pem: [UInt8], path: String) throws(KeysProblem) {
        guard let handle = reading(pem, { PEM_read_bio_X509($0, nil, nil, nil) }) else {
            throw KeysProblem(openSSL: "\(path) holds no certificate in PEM")
        }
        self.handle = handle
    }

    var pem: [UInt8] { get throws(KeysProblem) { try written { PEM_write_bio_X509($0, handle) } } }

    /// In hexadecimal digits.
    var serial: String { digits(of: X509_get0_serialNumber(handle)) }

    /// Control characters are blanks in it: it is shown on terminals.
    var name: String { Certificate.commonName(of: X509_get_subject_name(handle)) }
    var issuerName: String { Certificate.commonName(of: X509_get_issuer_name(handle)) }

    private static func commonName(of name: OpaquePointer?) -> String {
        var text = [CChar](repeating: 0, count: 256)
        guard X509_NAME_get_text_by_NID(name, NID_commonName, &text, CInt(text.count)) >= 0 else { return "" }
        let scalars = String(decoding: text.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
            .unicodeScalars
        return String(String.UnicodeScalarView(scalars.map { $0.properties.generalCategory == .control ? " " : $0 }))
    }

    var notBefore: Moment { Moment(asn1: X509_get0_notBefore(handle)) }
    var notAfter: Moment { Moment(asn1: X509_get0_notAfter(handle)) }

    /// What it names; of none there, it is good for all. Nil if it names only what this release does not know.
    var roles: [KeyRole]? {
        if pccl_uris(handle, KeyRole.prefix, false) == 0 { return KeyRole.allCases }
        let roles = KeyRole.allCases.filter { pccl_uris(handle, $0.uri, true) > 0 }
        return roles.isEmpty ? nil : roles
    }

    var isAuthority: Bool { X509_check_ca(handle) == 1 }

    func isOf(_ key: PrivateKey) -> Bool {
        defer { ERR_clear_error() }
        return X509_check_private_key(handle, key.handle) == 1
    }
}

/// A private key, ECDSA on P-256 if it was made here.
final class PrivateKey {
    fileprivate let handle: OpaquePointer

    init() throws(KeysProblem) {
        guard let handle = pccl_new_p256_key() else { throw KeysProblem(openSSL: "making a key") }
        self.handle = handle
    }

    deinit { EVP_PKEY_free(handle) }

    init(pem: [UInt8], path: String) throws(KeysProblem) {
        // A passphrase, though an empty one, so that OpenSSL does not ask the terminal for one.
        var passphrase: [CChar] = [0]
        guard let handle = reading(pem, { PEM_read_bio_PrivateKey($0, nil, nil, &passphrase) }) else {
            throw KeysProblem(openSSL: "\(path) holds no private key in PEM, or one with a passphrase")
        }
        self.handle = handle
    }

    /// PKCS #8, without a passphrase.
    var pem: [UInt8] {
        get throws(KeysProblem) { try written { PEM_write_bio_PrivateKey($0, handle, nil, nil, 0, nil, nil) } }
    }
}

/// The certificates that an authority has revoked, signed by it.
final class RevocationList {
    fileprivate let handle: OpaquePointer

    fileprivate init(owning handle: OpaquePointer) { self.handle = handle }
    deinit { X509_CRL_free(handle) }

    init(pem: [UInt8], path: String) throws(KeysProblem) {
        guard let handle = reading(pem, { PEM_read_bio_X509_CRL($0, nil, nil, nil) }) else {
            throw KeysProblem(openSSL: "\(path) holds no list of revoked certificates in PEM")
        }
        self.handle = handle
    }

    var pem: [UInt8] { get throws(KeysProblem) { try written { PEM_write_bio_X509_CRL($0, handle) } } }

    /// Grows with each list that an authority makes. Nil where there is none.
    var number: Int? {
        let number = pccl_list_number(handle)
        return number < 0 ? nil : number
    }
    var count: Int { max(0, Int(pccl_list_length(handle))) }
    var made: Moment { Moment(asn1: X509_CRL_get0_lastUpdate(handle)) }
}

// MARK: - what an authority signs

extension Certificate {
    /// Clocks of machines differ: what is made now holds from an hour ago on.
    static let clockSkewSeconds = 3600

    /// An authority's own: it signs certificates and lists of revoked ones, and no further authorities.
    static func authority(
        _ name: String, _ key: PrivateKey, now: Moment, notAfter: Moment
    ) throws(KeysProblem) -> Certificate {
        let draft = try Certificate(draft: name, of: key, now: now, notAfter: notAfter)
        try draft.issue(
            by: draft, key,
            [
                (NID_basic_constraints, "critical,CA:TRUE,pathlen:0"), (NID_key_usage, "critical,keyCertSign,cRLSign"),
                (NID_subject_key_identifier, "hash"), (NID_authority_key_identifier, "keyid:always"),
            ])
        return draft
    }

    /// Of a machine of the run: for both ends of a connection, since of two peers either dials.
    static func member(
        _ name: String, _ role: KeyRole, _ key: PrivateKey, by issuer: Certificate, _ issuerKey: PrivateKey,
        now: Moment, notAfter: Moment
    ) throws(KeysProblem) -> Certificate {
        let draft = try Certificate(draft: name, of: key, now: now, notAfter: notAfter)
        try draft.issue(
            by: issuer, issuerKey,
            [
                (NID_basic_constraints, "critical,CA:FALSE"), (NID_key_usage, "critical,digitalSignature"),
                (NID_ext_key_usage, "serverAuth,clientAuth"), (NID_subject_key_identifier, "hash"),
                (NID_authority_key_identifier, "keyid:always"), (NID_subject_alt_name, "URI:\(role.uri)"),
            ])
        return draft
    }

    /// With all but an issuer, extensions and a signature.
    private convenience init(
        draft name: String, of key: PrivateKey, now: Moment, notAfter: Moment
    ) throws(KeysProblem) {
        guard let handle = X509_new() else { throw KeysProblem(openSSL: "making a certificate") }
        self.init(owning: handle)
        let subject = X509_get_subject_name(handle)
        let notBefore = Moment(seconds: now.seconds - Certificate.clockSkewSeconds)
        guard X509_set_version(handle, 2) == 1,  // Counted from 0: this is version 3.
            Certificate.setSerial(of: handle),
            X509_NAME_add_entry_by_NID(subject, NID_commonName, MBSTRING_UTF8, name, -1, -1, 0) == 1,
            notBefore.withASN1({ X509_set1_notBefore(handle, $0) }) == 1,
            notAfter.withASN1({ X509_set1_notAfter(handle, $0) }) == 1,
            X509_set_pubkey(handle, key.handle) == 1
        else { throw KeysProblem(openSSL: "making a certificate of \(name)") }
    }

    private func issue(
        by issuer: Certificate, _ key: PrivateKey, _ extensions: [(CInt, String)]
    ) throws(KeysProblem) {
        guard X509_set_issuer_name(handle, X509_get_subject_name(issuer.handle)) == 1,
            extensions.allSatisfy({ pccl_add_extension(handle, issuer.handle, $0.0, $0.1) == 1 }),
            X509_sign(handle, key.handle, EVP_sha256()) > 0
        else { throw KeysProblem(openSSL: "signing the certificate of \(name)") }
    }

    /// 128 bits at random. The first of them are not all 0, so that a serial always has 32 digits.
    private static func setSerial(of certificate: OpaquePointer) -> Bool {
        var bytes = [UInt8](repeating: 0, count: 16)
        repeat {
            guard RAND_bytes(&bytes, CInt(bytes.count)) == 1 else { return false }
        } while bytes[0] == 0
        guard let number = BN_bin2bn(bytes, CInt(bytes.count), nil) else { return false }
        defer { BN_free(number) }
        guard let serial = BN_to_ASN1_INTEGER(number, nil) else { return false }
        defer { ASN1_INTEGER_free(serial) }
        return X509_set_serialNumber(certificate, serial) == 1
    }
}

extension RevocationList {
    /// It holds as long as its authority does: members must not stop because nobody makes a new one.
    static func signed(
        by issuer: Certificate, _ key: PrivateKey, number: Int, _ revoked: [(serial: String, at: Moment)], now: Moment
    ) throws(KeysProblem) -> RevocationList {
        guard let handle = X509_CRL_new() else { throw KeysProblem(openSSL: "making a list of revoked certificates") }
        let list = RevocationList(owning: handle)
        guard X509_CRL_set_version(handle, 1) == 1,  // Counted from 0, too.
            X509_CRL_set_issuer_name(handle, X509_get_subject_name(issuer.handle)) == 1,
            now.withASN1({ X509_CRL_set1_lastUpdate(handle, $0) }) == 1,
            X509_CRL_set1_nextUpdate(handle, X509_get0_notAfter(issuer.handle)) == 1,
            revoked.allSatisfy({ RevocationList.add($0.serial, at: $0.at, to: handle) }),
            X509_CRL_sort(handle) == 1, pccl_add_authority_key(handle, issuer.handle) == 1,
            pccl_add_list_number(handle, number) == 1, X509_CRL_sign(handle, key.handle, EVP_sha256()) > 0
        else { throw KeysProblem(openSSL: "signing the list of revoked certificates") }
        return list
    }

    private static func add(_ serial: String, at moment: Moment, to list: OpaquePointer) -> Bool {
        var number: OpaquePointer?
        guard BN_hex2bn(&number, serial) > 0 else { return false }
        defer { BN_free(number) }
        guard let entry = X509_REVOKED_new() else { return false }
        let value = BN_to_ASN1_INTEGER(number, nil)
        defer { ASN1_INTEGER_free(value) }
        guard value != nil, X509_REVOKED_set_serialNumber(entry, value) == 1,
            moment.withASN1({ X509_REVOKED_set_revocationDate(entry, $0) }) == 1,
            X509_CRL_add0_revoked(list, entry) == 1
        else {
            X509_REVOKED_free(entry)
            return false
        }
        return true
    }
}

// MARK: - whether a certificate is good

extension Certificate {
    /// As both ends of a connection would judge it at this moment. Nil if it is good, else OpenSSL's words.
    func objection(authority: Certificate, revoked: RevocationList?, now: Moment) throws(KeysProblem) -> String? {
        for purpose in [X509_PURPOSE_SSL_SERVER, X509_PURPOSE_SSL_CLIENT] {
            if let text = try objection(authority: authority, revoked: revoked, now: now, purpose) { return text }
        }
        return nil
    }

    private func objection(
        authority: Certificate, revoked: RevocationList?, now: Moment, _ purpose: CInt
    ) throws(KeysProblem) -> String? {
        guard let store = X509_STORE_new(), let context = X509_STORE_CTX_new() else {
            throw KeysProblem(openSSL: "verifying a certificate")
        }
        defer {
            X509_STORE_CTX_free(context)
            X509_STORE_free(store)
            ERR_clear_error()
        }
        guard X509_STORE_add_cert(store, authority.handle) == 1,
            revoked == nil || X509_STORE_add_crl(store, revoked?.handle) == 1,
            X509_STORE_CTX_init(context, store, handle, nil) == 1
        else { throw KeysProblem(openSSL: "verifying a certificate") }
        let parameters = X509_STORE_CTX_get0_param(context)
        let flags = X509_V_FLAG_X509_STRICT | (revoked == nil ? 0 : X509_V_FLAG_CRL_CHECK)
        X509_VERIFY_PARAM_set_time(parameters, time_t(now.seconds))
        X509_VERIFY_PARAM_set_flags(parameters, UInt(flags))
        X509_VERIFY_PARAM_set_purpose(parameters, purpose)
        if X509_verify_cert(context) == 1 { return nil }
        return String(cString: X509_verify_cert_error_string(Int(X509_STORE_CTX_get_error(context))))
    }
}

// MARK: - bytes, digits, times

/// What OpenSSL reads from these bytes; nil if it cannot.
private func reading(_ bytes: [UInt8], _ body: (OpaquePointer) -> OpaquePointer?) -> OpaquePointer? {
    bytes.withUnsafeBytes { bytes in
        guard let source = BIO_new_mem_buf(bytes.baseAddress, CInt(clamping: bytes.count)) else { return nil }
        defer { BIO_free(source) }
        return body(source)
    }
}

/// What OpenSSL writes.
private func written(_ body: (OpaquePointer) -> CInt) throws(KeysProblem) -> [UInt8] {
    guard let sink = BIO_new(BIO_s_mem()) else { throw KeysProblem(openSSL: "writing PEM") }
    defer { BIO_free(sink) }
    var start: UnsafeMutablePointer<CChar>?
    guard body(sink) == 1 else { throw KeysProblem(openSSL: "writing PEM") }
    let count = pccl_memory_of(sink, &start)
    guard count > 0, let start else { throw KeysProblem(openSSL: "writing PEM") }
    defer { OPENSSL_cleanse(start, count) }
    return Array(UnsafeRawBufferPointer(start: start, count: count))
}

private func digits(of number: UnsafePointer<ASN1_INTEGER>?) -> String {
    let value = ASN1_INTEGER_to_BN(number, nil)
    defer { BN_free(value) }
    guard let text = BN_bn2hex(value) else { return "" }
    defer { CRYPTO_free(text, #file, #line) }
    return String(cString: text).lowercased()
}

extension Moment {
    fileprivate init(asn1 time: UnsafePointer<ASN1_TIME>?) {
        var parts = tm()
        ASN1_TIME_to_tm(time, &parts)
        self.init(parts)
    }

    fileprivate func withASN1(_ body: (UnsafeMutablePointer<ASN1_TIME>?) -> CInt) -> CInt {
        let time = ASN1_TIME_set(nil, time_t(seconds))
        defer { ASN1_TIME_free(time) }
        return time == nil ? 0 : body(time)
    }
}
