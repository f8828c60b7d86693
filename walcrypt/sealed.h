/*
 * sealed: bytes under a passphrase: scrypt (RFC 7914) makes the key, AES-256-GCM encrypts and authenticates.
 * docs/formats/backup.md, section 1.
 *
 *   magic [4] | version u32 = 1 | log2 N u32 | r u32 | p u32 | salt [32] | nonce [12] | length u64 | ciphertext
 *   | tag [16] | SHA-256 of all before [32]            integers little-endian; all before the ciphertext is the AAD
 */
#ifndef WALCRYPT_SEALED_H
#define WALCRYPT_SEALED_H

#include <stddef.h>
#include <stdint.h>

#include "common/err.h"

#define SEALED_MAGIC_LEN 4
#define SEALED_OVERHEAD (4 + 4 * 4 + 32 + 12 + 8 + 16 + 32) /* bytes a file is longer than what it holds */
#define SCRYPT_LOG2_N 17                                    /* 128 MiB, half a second */
#define SCRYPT_R 8
#define SCRYPT_P 1

/* out_len bytes from a passphrase, RFC 7914. ERR_DAMAGED for parameters that ask for more than 1 GiB or make no sense.
 * out zeroed on error. */
int scrypt_derive(const char *passphrase, size_t passphrase_len, const uint8_t *salt, size_t salt_len, uint32_t log2_n,
                  uint32_t r, uint32_t p, uint8_t *out, size_t out_len, struct err *err);

/* Seal data; malloc'ed, len + SEALED_OVERHEAD bytes. NULL on error. */
uint8_t *sealed_make(const char magic[static SEALED_MAGIC_LEN], const char *passphrase, size_t passphrase_len,
                     const uint8_t *data, size_t len, size_t *sealed_len, struct err *err);
/*
 * Open; what was sealed, in secmem. NULL on error: ERR_DAMAGED (not such a file, a later version, cut off, changed),
 * ERR_WRONG_KEY (another passphrase). what names the file in messages.
 */
uint8_t *sealed_open(const char magic[static SEALED_MAGIC_LEN], const char *what, const char *passphrase,
                     size_t passphrase_len, const uint8_t *sealed, size_t sealed_len, size_t *len, struct err *err);

#endif
