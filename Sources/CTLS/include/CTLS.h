// TLS 1.3 over sockets that do not block, and a keyed hash: OpenSSL, as far as this library needs it.
#ifndef CTLS_H
#define CTLS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#pragma clang assume_nonnull begin

enum { pccl_tls_key_bytes = 32, pccl_tls_problem_bytes = 256 };

/// Certificates and a private key, read from files; counted, for sessions keep theirs.
typedef struct pccl_tls_keys pccl_tls_keys;

/// Reads ca.pem, certificate.pem, key.pem and, if it is there, revoked.pem of a folder. NULL if that cannot be, and then
/// `problem` says why.
pccl_tls_keys *_Nullable pccl_tls_read_keys(const char *folder, char *problem);
void pccl_tls_free_keys(pccl_tls_keys *keys);

/// One connection. It does not own the descriptor.
typedef struct pccl_tls_session pccl_tls_session;

/// `role`: what the certificate of the other side has to be for, "master" or "peer", if it says so; outlives the session.
pccl_tls_session *_Nullable pccl_tls_begin(const pccl_tls_keys *keys, int descriptor, bool accepts, const char *role);
void pccl_tls_end(pccl_tls_session *session);

enum pccl_tls_status {
    pccl_tls_done,
    pccl_tls_wants_read,
    pccl_tls_wants_write,
    /// The other side has closed the connection.
    pccl_tls_ended,
    /// See pccl_tls_problem.
    pccl_tls_failed,
};

enum pccl_tls_status pccl_tls_handshake(pccl_tls_session *session);
/// `count` is the room, then how much came; at most a record.
enum pccl_tls_status pccl_tls_read(pccl_tls_session *session, void *target, size_t *count);
/// `count` is how much there is, then how much was taken; at most a record. What was not taken because of wants_write is
/// offered again, the same bytes first, though maybe from elsewhere.
/// With `moreFollows` the kernel may hold it back until more is written, or for 0.2 s.
enum pccl_tls_status pccl_tls_write(pccl_tls_session *session, const void *source, size_t *count, bool moreFollows);
/// Bytes have come from the socket that were not read here: the socket may have nothing more to say.
bool pccl_tls_has_buffered(const pccl_tls_session *session);
/// The next write begins with a new key.
bool pccl_tls_renew_key(pccl_tls_session *session);
/// Tells the other side that nothing more comes.
void pccl_tls_say_goodbye(pccl_tls_session *session);
/// 32 bytes that only the two ends of this connection know (RFC 8446, 7.5).
bool pccl_tls_export(pccl_tls_session *session, const char *label, uint8_t *key);
const char *pccl_tls_problem(const pccl_tls_session *session);

/// HMAC-SHA-256 (RFC 2104): 32 bytes.
bool pccl_tls_mac(const uint8_t *key, size_t key_count, const uint8_t *bytes, size_t count, uint8_t *mac);
/// In the same time wherever they differ.
bool pccl_tls_are_equal(const uint8_t *a, const uint8_t *b, size_t count);

#pragma clang assume_nonnull end

#ifdef __cplusplus
}
#endif

#endif
