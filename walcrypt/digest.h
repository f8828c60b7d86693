/* digest: checksums and MACs behind one shape: the manifest's algorithms (CRC32C by ISA-L, SHA-2), HMAC-SHA256 and
 * GMAC. */
#ifndef WALCRYPT_DIGEST_H
#define WALCRYPT_DIGEST_H

#include <stddef.h>
#include <stdint.h>

#include "common/err.h"

enum digest_kind { DIGEST_NONE, DIGEST_CRC32C, DIGEST_SHA224, DIGEST_SHA256, DIGEST_SHA384, DIGEST_SHA512 };
#define DIGEST_MAX_LEN 64

struct digest;

/* Name as backup manifests spell it ("NONE", "CRC32C", "SHA224" ...), case-insensitive; -1 when unknown. */
int digest_parse(const char *name, enum digest_kind *kind);
const char *digest_name(enum digest_kind kind);

/* NULL with err set on failure. DIGEST_NONE gives an object whose final length is 0. */
struct digest *digest_new(enum digest_kind kind, struct err *err);
/* HMAC-SHA256 under key. */
struct digest *digest_new_hmac(const uint8_t *key, size_t key_len, struct err *err);
/* AES-256-GMAC (NIST SP 800-38D) under a nonce of zeros, 16 bytes: a universal hash under a secret key. Two values
 * under one nonce give the key away, so nobody may ever see one: pass it through an HMAC. */
struct digest *digest_new_gmac(const uint8_t key[static 32], struct err *err);
/* An independent object in the same state: the value so far can be had without ending the running one. */
struct digest *digest_copy(const struct digest *d, struct err *err);
int digest_update(struct digest *d, const void *data, size_t len, struct err *err);
/* Writes the digest (CRC32C: 4 bytes as the manifest prints them, least significant first) and returns its length, or
 * -1. */
int digest_final(struct digest *d, uint8_t out[static DIGEST_MAX_LEN], struct err *err);
void digest_free(struct digest *d); /* wipes; NULL allowed */

/* One-shot HMAC-SHA256. */
int hmac_sha256(const uint8_t *key, size_t key_len, const void *data, size_t len, uint8_t out[static 32],
                struct err *err);
/* CRC32C of PostgreSQL's WAL records (initial value and final inversion included); crc is the value so far, 0 to begin.
 */
uint32_t crc32c(uint32_t crc, const void *data, size_t len);

#endif
