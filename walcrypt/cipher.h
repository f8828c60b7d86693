/*
 * cipher: AES-XTS and AES-CTR as pages and WAL use them: keyed once, positioned for each unit. Private to walcrypt/.
 *
 * Setting a key costs as much as a page; setting a position costs 1 % of one. An object belongs to one thread at a
 * time. Its context and key schedule lie in secmem (when libcrypto's allocator is hooked).
 */
#ifndef WALCRYPT_CIPHER_H
#define WALCRYPT_CIPHER_H

#include <stddef.h>
#include <stdint.h>

#include "common/err.h"

#define CIPHER_IV_LEN 16

enum cipher_kind { CIPHER_XTS_ENCRYPT, CIPHER_XTS_DECRYPT, CIPHER_CTR };

struct cipher;

/* XTS: key_len 32 or 64; CTR: 16, 24 or 32. */
struct cipher *cipher_new(enum cipher_kind kind, const uint8_t *key, size_t key_len, struct err *err);
void cipher_free(struct cipher *c); /* wipes; NULL allowed */

/* One XTS data unit (16 bytes to 16 MiB) under tweak iv, or CTR from counter block iv on. in == out allowed, other
 * overlap not. -1 with err set and out zeroed. */
int cipher_run(struct cipher *c, const uint8_t iv[static CIPHER_IV_LEN], const uint8_t *in, uint8_t *out, size_t len,
               struct err *err);
/* CTR: from byte skip (0-15) of counter block iv on. */
int cipher_run_from(struct cipher *c, const uint8_t iv[static CIPHER_IV_LEN], size_t skip, const uint8_t *in,
                    uint8_t *out, size_t len, struct err *err);

#endif
