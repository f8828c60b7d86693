/*
 * verifier: what a server keeps of a password for SCRAM-SHA-256, and what it does with it. It lets nobody log in (that
 * takes the password), but tells a server's claim to know the password from a true one, and can be searched for weak
 * passwords.
 *
 *   text        SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>, all but the number in base64: PostgreSQL's
 *   source      RFC 5802 section 3; pg_authid.rolpassword, src/common/scram-common.c
 */
#ifndef WALCRYPT_VERIFIER_H
#define WALCRYPT_VERIFIER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"

#define VERIFIER_KEY_LEN 32
#define VERIFIER_SALT_MAX 128 /* PostgreSQL's has 16 */
#define VERIFIER_SALT_LEN 16
#define VERIFIER_ITERATIONS 4096 /* PostgreSQL's default */
#define VERIFIER_SECRET_LEN 32

struct verifier {
	unsigned iterations;
	uint8_t salt[VERIFIER_SALT_MAX];
	size_t salt_len;
	uint8_t stored_key[VERIFIER_KEY_LEN], server_key[VERIFIER_KEY_LEN];
};

/* The text's verifier. -1 (ERR_USAGE), v zeroed, when it is none; no part of the text is in err. */
int verifier_parse(const char *text, struct verifier *v, struct err *err);
/*
 * verifier_mock(user, secret, like, v, err): a verifier for a user who has none, so that the answer does not tell.
 *   shape   the salt is always the same for one user and secret; iterations and salt's length are those of like, or
 *           PostgreSQL's defaults when like is NULL
 *   note    no proof fits it, but for an accident of 2^-256: the caller refuses in any case
 */
int verifier_mock(const char *user, const uint8_t secret[static VERIFIER_SECRET_LEN], const struct verifier *like,
                  struct verifier *v, struct err *err);
/*
 * verifier_check(v, text, len, proof, err): is it the proof for this AuthMessage?
 *   returns 1 yes, 0 no, -1 with err set; compares in constant time
 */
int verifier_check(const struct verifier *v, const void *text, size_t len, const uint8_t proof[static VERIFIER_KEY_LEN],
                   struct err *err);
/* ServerSignature of this AuthMessage. */
int verifier_sign(const struct verifier *v, const void *text, size_t len, uint8_t out[static VERIFIER_KEY_LEN],
                  struct err *err);

#endif
