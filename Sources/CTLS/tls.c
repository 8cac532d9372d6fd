#include "CTLS.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <openssl/bio.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/hmac.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

struct pccl_tls_keys {
    SSL_CTX *context;
};

struct pccl_tls_session {
    SSL *ssl;
    int descriptor;
    // The next record follows at once.
    bool moreFollows;
    // What was read from the socket and not asked for yet: OpenSSL asks twice for each record, and its own reading ahead
    // moves what is left to the front of its buffer each time.
    unsigned char *ahead;
    size_t aheadStart, aheadEnd, aheadRoom;
    const char *role;
    // Of the other side, by its certificate, if it has shown one.
    char name[64];
    char problem[pccl_tls_problem_bytes];
};

/* ---- The socket ---- */

// OpenSSL's own would raise SIGPIPE in a process that is not ours.
static int writeToSocket(BIO *bio, const char *bytes, int count) {
    const pccl_tls_session *session = BIO_get_data(bio);
    BIO_clear_retry_flags(bio);
    // Told that more follows, the kernel makes fewer and larger packets of it.
    int flags = MSG_NOSIGNAL | (session->moreFollows ? MSG_MORE : 0);
    ssize_t written = send(session->descriptor, bytes, (size_t)count, flags);
    if (written < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR))
        BIO_set_retry_write(bio);
    return (int)written;
}

enum { LEAST_AHEAD = 8 << 10, MOST_AHEAD = 128 << 10 };

static int readFromSocket(BIO *bio, char *bytes, int count) {
    pccl_tls_session *session = BIO_get_data(bio);
    BIO_clear_retry_flags(bio);
    if (session->aheadStart == session->aheadEnd) {
        // A connection that carries much gets more room; most carry little.
        bool wasFull = session->aheadEnd == session->aheadRoom && session->aheadRoom < MOST_AHEAD;
        if (wasFull) {
            size_t room = session->aheadRoom == 0 ? LEAST_AHEAD : MOST_AHEAD;
            unsigned char *ahead = malloc(room);
            if (ahead == NULL && session->ahead == NULL)
                return -1;
            if (ahead != NULL) {
                free(session->ahead);
                session->ahead = ahead;
                session->aheadRoom = room;
            }
        }
        session->aheadStart = session->aheadEnd = 0;
        ssize_t got = recv(session->descriptor, session->ahead, session->aheadRoom, 0);
        if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR))
            BIO_set_retry_read(bio);
        if (got == 0)
            BIO_set_flags(bio, BIO_FLAGS_IN_EOF);
        if (got <= 0)
            return (int)got;
        session->aheadEnd = (size_t)got;
    }
    size_t given = session->aheadEnd - session->aheadStart;
    if (given > (size_t)count)
        given = (size_t)count;
    memcpy(bytes, session->ahead + session->aheadStart, given);
    session->aheadStart += given;
    return (int)given;
}

static long controlSocket(BIO *bio, int command, long number, void *pointer) {
    (void)number, (void)pointer;
    if (command == BIO_CTRL_EOF)
        return BIO_test_flags(bio, BIO_FLAGS_IN_EOF) != 0;
    return command == BIO_CTRL_FLUSH;
}

static BIO_METHOD *socketMethod;
static CRYPTO_ONCE socketMethodOnce = CRYPTO_ONCE_STATIC_INIT;

static void makeSocketMethod(void) {
    socketMethod = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "pccl socket");
    if (socketMethod == NULL)
        return;
    BIO_meth_set_write(socketMethod, writeToSocket);
    BIO_meth_set_read(socketMethod, readFromSocket);
    BIO_meth_set_ctrl(socketMethod, controlSocket);
}

/* ---- Words ---- */

static void takeName(pccl_tls_session *session, X509 *certificate) {
    X509_NAME *subject = X509_get_subject_name(certificate);
    if (X509_NAME_get_text_by_NID(subject, NID_commonName, session->name, sizeof session->name) < 0)
        snprintf(session->name, sizeof session->name, "without a name");
    for (char *at = session->name; *at != 0; at++)
        if (*at < ' ' || *at > '~')
            *at = '?';
}

// What the other side has said of our certificate, or NULL if it said something else.
static const char *refusal(int reason) {
    switch (reason) {
    case SSL_R_TLSV13_ALERT_CERTIFICATE_REQUIRED:
        return "it asks for a certificate, and none was shown";
    case SSL_R_SSLV3_ALERT_CERTIFICATE_EXPIRED:
        return "it refused our certificate: it has expired, or is not valid yet";
    case SSL_R_SSLV3_ALERT_CERTIFICATE_REVOKED:
        return "it refused our certificate: it was revoked";
    case SSL_R_TLSV1_ALERT_UNKNOWN_CA:
        return "it refused our certificate: it is of another authority";
    case SSL_R_SSLV3_ALERT_UNSUPPORTED_CERTIFICATE:
        return "it refused our certificate: it is for another role";
    case SSL_R_SSLV3_ALERT_BAD_CERTIFICATE:
    case SSL_R_SSLV3_ALERT_CERTIFICATE_UNKNOWN:
    case SSL_R_TLSV1_ALERT_DECRYPT_ERROR:
        return "it refused our certificate";
    default:
        return NULL;
    }
}

static void explain(pccl_tls_session *session) {
    unsigned long code = ERR_peek_error();
    int reason = ERR_GET_REASON(code);
    long verdict = SSL_get_verify_result(session->ssl);
    const char *said = ERR_GET_LIB(code) == ERR_LIB_SSL ? refusal(reason) : NULL;
    size_t room = sizeof(session->problem);
    if (said != NULL) {
        snprintf(session->problem, room, "%s", said);
    } else if (ERR_GET_LIB(code) == ERR_LIB_SSL && reason == SSL_R_CERTIFICATE_VERIFY_FAILED) {
        const char *why = verdict == X509_V_ERR_INVALID_PURPOSE ? "it is for another role"
                                                                : X509_verify_cert_error_string(verdict);
        snprintf(session->problem, room, "its certificate (%s) was refused: %s", session->name, why);
    } else if (ERR_GET_LIB(code) == ERR_LIB_SSL && reason == SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE) {
        snprintf(session->problem, room, "it showed no certificate");
    } else if (ERR_GET_LIB(code) == ERR_LIB_SSL && (reason == SSL_R_WRONG_VERSION_NUMBER || reason == SSL_R_HTTP_REQUEST)) {
        snprintf(session->problem, room, "it does not speak TLS");
    } else if (code != 0) {
        const char *text = ERR_reason_error_string(code);
        snprintf(session->problem, room, "TLS: %s", text != NULL ? text : "an unknown error");
    } else {
        snprintf(session->problem, room, "the connection broke: %s", strerror(errno));
    }
}

/* ---- Keys ---- */

// A certificate may say what it is for: a name "pccl:master" or "pccl:peer". One that names a role has that role only.
static bool hasRole(X509 *certificate, const char *role) {
    GENERAL_NAMES *names = X509_get_ext_d2i(certificate, NID_subject_alt_name, NULL, NULL);
    bool namesRoles = false, isIt = false;
    for (int i = 0; i < sk_GENERAL_NAME_num(names); i++) {
        const GENERAL_NAME *name = sk_GENERAL_NAME_value(names, i);
        if (name->type != GEN_URI)
            continue;
        const char *text = (const char *)ASN1_STRING_get0_data(name->d.uniformResourceIdentifier);
        size_t count = (size_t)ASN1_STRING_length(name->d.uniformResourceIdentifier);
        if (count < 5 || memcmp(text, "pccl:", 5) != 0)
            continue;
        namesRoles = true;
        if (count - 5 == strlen(role) && memcmp(text + 5, role, count - 5) == 0)
            isIt = true;
    }
    GENERAL_NAMES_free(names);
    return isIt || !namesRoles;
}

// Called for each certificate of a chain, the leaf last.
static int verify(int isGood, X509_STORE_CTX *store) {
    SSL *ssl = X509_STORE_CTX_get_ex_data(store, SSL_get_ex_data_X509_STORE_CTX_idx());
    pccl_tls_session *session = SSL_get_app_data(ssl);
    takeName(session, X509_STORE_CTX_get0_cert(store));
    if (!isGood || X509_STORE_CTX_get_error_depth(store) != 0)
        return isGood;
    if (hasRole(X509_STORE_CTX_get_current_cert(store), session->role))
        return 1;
    X509_STORE_CTX_set_error(store, X509_V_ERR_INVALID_PURPOSE);
    return 0;
}

static bool readFile(SSL_CTX *context, const char *folder, const char *name, int (*read)(SSL_CTX *, const char *), char *problem) {
    char path[4096];
    if (snprintf(path, sizeof path, "%s/%s", folder, name) >= (int)sizeof path) {
        snprintf(problem, pccl_tls_problem_bytes, "the path is too long");
        return false;
    }
    ERR_clear_error();
    errno = 0;
    if (read(context, path) == 1)
        return true;
    unsigned long code = ERR_peek_last_error();
    const char *text = ERR_reason_error_string(code);
    struct stat status;
    if (stat(path, &status) != 0)
        text = strerror(errno);
    snprintf(problem, pccl_tls_problem_bytes, "%.180s: %s", path, text != NULL ? text : "it cannot be read");
    return false;
}

static int readAuthority(SSL_CTX *context, const char *path) { return SSL_CTX_load_verify_file(context, path); }
static int readCertificate(SSL_CTX *context, const char *path) { return SSL_CTX_use_certificate_chain_file(context, path); }
static int readKey(SSL_CTX *context, const char *path) {
    if (SSL_CTX_use_PrivateKey_file(context, path, SSL_FILETYPE_PEM) != 1)
        return 0;
    return SSL_CTX_check_private_key(context);
}
static int readRevoked(SSL_CTX *context, const char *path) {
    struct stat status;
    if (stat(path, &status) != 0 && errno == ENOENT)
        return 1;
    X509_STORE *store = SSL_CTX_get_cert_store(context);
    X509_LOOKUP *lookup = X509_STORE_add_lookup(store, X509_LOOKUP_file());
    if (lookup == NULL || X509_load_crl_file(lookup, path, X509_FILETYPE_PEM) < 1)
        return 0;
    return X509_STORE_set_flags(store, X509_V_FLAG_CRL_CHECK);
}

// Nobody types a passphrase into a library.
static int noPassphrase(char *text, int room, int isWriting, void *data) {
    (void)text, (void)room, (void)isWriting, (void)data;
    return 0;
}

pccl_tls_keys *pccl_tls_read_keys(const char *folder, char *problem) {
    CRYPTO_THREAD_run_once(&socketMethodOnce, makeSocketMethod);
    SSL_CTX *context = SSL_CTX_new(TLS_method());
    pccl_tls_keys *keys = calloc(1, sizeof *keys);
    if (context == NULL || keys == NULL || socketMethod == NULL) {
        snprintf(problem, pccl_tls_problem_bytes, "no memory is left for TLS");
        SSL_CTX_free(context);
        free(keys);
        return NULL;
    }
    keys->context = context;
    SSL_CTX_set_default_passwd_cb(context, noPassphrase);
    SSL_CTX_set_verify(context, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, verify);
    SSL_CTX_set_options(context, SSL_OP_IGNORE_UNEXPECTED_EOF | SSL_OP_NO_RENEGOTIATION);
    SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    // A session that is taken up again would not look at what was revoked meanwhile.
    SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_num_tickets(context, 0);
    bool isMade = SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION) == 1 &&
                  SSL_CTX_set_max_proto_version(context, TLS1_3_VERSION) == 1 &&
                  SSL_CTX_set_ciphersuites(context, "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:"
                                                    "TLS_CHACHA20_POLY1305_SHA256") == 1;
    if (!isMade)
        snprintf(problem, pccl_tls_problem_bytes, "this OpenSSL has no TLS 1.3");
    if (!isMade || !readFile(context, folder, "ca.pem", readAuthority, problem) ||
        !readFile(context, folder, "certificate.pem", readCertificate, problem) ||
        !readFile(context, folder, "key.pem", readKey, problem) ||
        !readFile(context, folder, "revoked.pem", readRevoked, problem)) {
        pccl_tls_free_keys(keys);
        return NULL;
    }
    return keys;
}

void pccl_tls_free_keys(pccl_tls_keys *keys) {
    SSL_CTX_free(keys->context);
    free(keys);
}

/* ---- Sessions ---- */

pccl_tls_session *pccl_tls_begin(const pccl_tls_keys *keys, int descriptor, bool accepts, const char *role) {
    pccl_tls_session *session = calloc(1, sizeof *session);
    SSL *ssl = SSL_new(keys->context);
    BIO *bio = BIO_new(socketMethod);
    if (session == NULL || ssl == NULL || bio == NULL) {
        free(session);
        SSL_free(ssl);
        BIO_free(bio);
        return NULL;
    }
    BIO_set_data(bio, session);
    BIO_set_init(bio, 1);
    SSL_set_bio(ssl, bio, bio);
    if (accepts)
        SSL_set_accept_state(ssl);
    else
        SSL_set_connect_state(ssl);
    SSL_set_app_data(ssl, session);
    session->ssl = ssl;
    session->descriptor = descriptor;
    session->role = role;
    return session;
}

void pccl_tls_end(pccl_tls_session *session) {
    SSL_free(session->ssl);
    free(session->ahead);
    free(session);
}

static enum pccl_tls_status statusOf(pccl_tls_session *session, int result) {
    switch (SSL_get_error(session->ssl, result)) {
    case SSL_ERROR_WANT_READ:
        return pccl_tls_wants_read;
    case SSL_ERROR_WANT_WRITE:
        return pccl_tls_wants_write;
    case SSL_ERROR_ZERO_RETURN:
        return pccl_tls_ended;
    default:
        explain(session);
        return pccl_tls_failed;
    }
}

enum pccl_tls_status pccl_tls_handshake(pccl_tls_session *session) {
    ERR_clear_error();
    errno = 0;
    int result = SSL_do_handshake(session->ssl);
    return result == 1 ? pccl_tls_done : statusOf(session, result);
}

enum pccl_tls_status pccl_tls_read(pccl_tls_session *session, void *target, size_t *count) {
    ERR_clear_error();
    errno = 0;
    size_t got = 0;
    int result = SSL_read_ex(session->ssl, target, *count, &got);
    *count = got;
    return result == 1 ? pccl_tls_done : statusOf(session, result);
}

enum pccl_tls_status pccl_tls_write(pccl_tls_session *session, const void *source, size_t *count, bool moreFollows) {
    session->moreFollows = moreFollows;
    ERR_clear_error();
    errno = 0;
    size_t taken = 0;
    int result = SSL_write_ex(session->ssl, source, *count, &taken);
    *count = taken;
    return result == 1 ? pccl_tls_done : statusOf(session, result);
}

bool pccl_tls_has_buffered(const pccl_tls_session *session) { 
    return session->aheadStart < session->aheadEnd || SSL_has_pending(session->ssl) == 1;
}

bool pccl_tls_renew_key(pccl_tls_session *session) {
    ERR_clear_error();
    return SSL_key_update(session->ssl, SSL_KEY_UPDATE_NOT_REQUESTED) == 1;
}

void pccl_tls_say_goodbye(pccl_tls_session *session) {
    ERR_clear_error();
    if (SSL_is_init_finished(session->ssl))
        SSL_shutdown(session->ssl);
}

bool pccl_tls_export(pccl_tls_session *session, const char *label, uint8_t *key) {
    ERR_clear_error();
    return SSL_export_keying_material(session->ssl, key, pccl_tls_key_bytes, label, strlen(label), NULL, 0, 0) == 1;
}

const char *pccl_tls_problem(const pccl_tls_session *session) { return session->problem; }

/* ---- A keyed hash ---- */

bool pccl_tls_mac(const uint8_t *key, size_t key_count, const uint8_t *bytes, size_t count, uint8_t *mac) {
    unsigned length = 0;
    return HMAC(EVP_sha256(), key, (int)key_count, bytes, count, mac, &length) != NULL && length == pccl_tls_key_bytes;
}

bool pccl_tls_are_equal(const uint8_t *a, const uint8_t *b, size_t count) { return CRYPTO_memcmp(a, b, count) == 0; }
