/* random: the one door to randomness (OpenSSL's DRBG, seeded by the kernel; fork-safe). */
#ifndef WALCRYPT_RANDOM_H
#define WALCRYPT_RANDOM_H

#include <stddef.h>
#include <stdint.h>

#include "common/err.h"

/* Fill out with len random bytes; -1 with err set and out zeroed when the generator fails. */
int random_bytes(uint8_t *out, size_t len, struct err *err);
/* The same for what peers may see, as nonces: from a generator of its own, so that it tells nothing of keys. */
int random_nonce(uint8_t *out, size_t len, struct err *err);
/* Mix bytes from elsewhere into the generator that both take from, in all threads: whoever knows them, or chose them,
 * knows no more of what comes out than before. The generator is seeded anew by the kernel, too. */
int random_stir(const uint8_t *extra, size_t len, struct err *err);

#endif
