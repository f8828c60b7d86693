/*
 * pkcs11: encryption by a key that stays in a token (PKCS #11 2.40): AES-GCM with a key of the token that can't be read
 * out (CKA_SENSITIVE, not CKA_EXTRACTABLE), found by its label.
 *
 * A module's calls can hang, and nothing can interrupt them: each call here runs in a thread of its own, which is left
 * behind when the deadline passes.
 */
#ifndef KEYMGR_PKCS11_H
#define KEYMGR_PKCS11_H

#include <stddef.h>
#include <stdint.h>

#include "common/err.h"

#define PKCS11_IV_LEN 12
#define PKCS11_TAG_LEN 16
#define PKCS11_DATA_MAX 64
#define PKCS11_PIN_MAX 256

enum pkcs11_what { PKCS11_ENCRYPT, PKCS11_DECRYPT, PKCS11_GENERATE, PKCS11_RANDOM, PKCS11_DESTROY, PKCS11_LIST };

/* Strings are the caller's; module, token and label not NULL. */
struct pkcs11_key {
	const char *module; /* shared library */
	const char *token, *label;
	const char *pin; /* secure memory */
};

/*
 * Encrypt or decrypt in[0..len) (at most PKCS11_DATA_MAX bytes; out has room for the tag, too); generate the key, an
 * AES-256 one; destroy it; or have the token fill out with len random bytes of its own (in NULL). *out_len is set.
 * ERR_UNREACHABLE: module, token or login fails, or the deadline passes; ERR_FAILED with ENOENT: no such key;
 * ERR_REFUSED: several, or one that could leave the token, or that is there already; ERR_DAMAGED: it does not open what
 * it is given.
 */
int pkcs11_run(enum pkcs11_what what, const struct pkcs11_key *key, const uint8_t iv[static PKCS11_IV_LEN],
               const uint8_t *in, size_t len, uint8_t *out, size_t *out_len, int timeout_ms, struct err *err);
/* Tell of each AES key of the token; state: "" or what is wrong with it. key->label is not looked at. */
typedef void pkcs11_listed(void *arg, const char *label, const char *state);
int pkcs11_list(const struct pkcs11_key *key, pkcs11_listed *each, void *arg, int timeout_ms, struct err *err);

#endif
