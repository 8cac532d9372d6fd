// What of OpenSSL's certificates Swift cannot import, or could only write at length: macros, and stacks.

#ifndef PCCL_CERTIFICATES_H
#define PCCL_CERTIFICATES_H

#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>
#include <stdbool.h>
#include <string.h>

static inline EVP_PKEY *pccl_new_p256_key(void) { return EVP_EC_gen("P-256"); }

// What was written to a BIO of memory. It stays the BIO's.
static inline long pccl_memory_of(BIO *bio, char **bytes) { return BIO_get_mem_data(bio, bytes); }

// An extension in the words of x509v3_config(5). Of a certificate that signs itself, `issuer` is it.
static inline int pccl_add_extension(X509 *certificate, X509 *issuer, int identifier, const char *value) {
    X509V3_CTX context;
    X509V3_set_ctx(&context, issuer, certificate, NULL, NULL, 0);
    X509V3_set_ctx_nodb(&context);
    X509_EXTENSION *extension = X509V3_EXT_conf_nid(NULL, &context, identifier, value);
    int is_added = extension != NULL && X509_add_ext(certificate, extension, -1);
    X509_EXTENSION_free(extension);
    return is_added;
}

// The key of the authority, by its identifier.
static inline int pccl_add_authority_key(X509_CRL *list, X509 *issuer) {
    X509V3_CTX context;
    X509V3_set_ctx(&context, issuer, NULL, NULL, list, 0);
    X509V3_set_ctx_nodb(&context);
    X509_EXTENSION *extension = X509V3_EXT_conf_nid(NULL, &context, NID_authority_key_identifier, "keyid:always");
    int is_added = extension != NULL && X509_CRL_add_ext(list, extension, -1);
    X509_EXTENSION_free(extension);
    return is_added;
}

static inline int pccl_add_list_number(X509_CRL *list, long number) {
    ASN1_INTEGER *value = ASN1_INTEGER_new();
    int is_added = value != NULL && ASN1_INTEGER_set(value, number) &&
                   X509_CRL_add1_ext_i2d(list, NID_crl_number, value, 0, X509V3_ADD_REPLACE);
    ASN1_INTEGER_free(value);
    return is_added;
}

// -1 where the list has no number, or one that is too large.
static inline long pccl_list_number(const X509_CRL *list) {
    ASN1_INTEGER *value = (ASN1_INTEGER *)X509_CRL_get_ext_d2i(list, NID_crl_number, NULL, NULL);
    int64_t number = -1;
    if (value == NULL || !ASN1_INTEGER_get_int64(&number, value) || number < 0) {
        number = -1;
    }
    ASN1_INTEGER_free(value);
    return (long)number;
}

static inline int pccl_list_length(X509_CRL *list) { return sk_X509_REVOKED_num(X509_CRL_get_REVOKED(list)); }

// How many URIs that begin with this text the certificate names as alternatives of its subject; with `is_whole`, how many
// that are it.
static inline int pccl_uris(const X509 *certificate, const char *text, bool is_whole) {
    GENERAL_NAMES *names = (GENERAL_NAMES *)X509_get_ext_d2i(certificate, NID_subject_alt_name, NULL, NULL);
    size_t length = strlen(text);
    int count = 0;
    for (int i = 0; i < sk_GENERAL_NAME_num(names); i++) {
        const GENERAL_NAME *name = sk_GENERAL_NAME_value(names, i);
        if (name->type != GEN_URI) {
            continue;
        }
        const ASN1_STRING *uri = name->d.uniformResourceIdentifier;
        size_t room = (size_t)ASN1_STRING_length(uri);
        if (room >= length && (!is_whole || room == length) && memcmp(ASN1_STRING_get0_data(uri), text, length) == 0) {
            count++;
        }
    }
    GENERAL_NAMES_free(names);
    return count;
}

#endif
