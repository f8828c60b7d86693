/*
 * key: data keys and what is derived from them.
 *
 * Every derived key has one use; it is HKDF-SHA256(data key, no salt, info) (RFC 5869) with these infos:
 *   "walcrypt page xts v1"        the XTS key of relation pages: 32 bytes for AES128, 64 for AES192 and AES256
 *   "walcrypt lasting file v1"    of the storage layer's other files (storage/tempfile.h): 128 bytes
 *   "walcrypt wal ctr v1"         the CTR key of WAL: 16, 24 or 32 bytes
 *   "walcrypt wal generation v1"  HMAC key for generations of a proxy that encrypts plaintext upstreams: 32 bytes
 *   "walcrypt key id"             the public key id: 8 bytes
 *   "walcrypt keyset mac v1"      from the cluster key: HMAC key of keyset.json: 32 bytes
 */
#ifndef WALCRYPT_KEY_H
#define WALCRYPT_KEY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"

#define KEY_MAX_LEN 32
#define KEK_LEN 32
#define KEY_ID_LEN 8
#define KEY_ID_HEX_LEN (2 * KEY_ID_LEN + 1) /* with the NUL */
#define KEY_WRAPPED_LEN 48                  /* a .wkey file: AES-256-KWP of {int32 klen, key[32]} */

enum key_method { KEY_AES128 = 1, KEY_AES192 = 2, KEY_AES256 = 3 }; /* CFE's numbers */

/* Lives in secmem or on a stack that is wiped. bytes beyond len are zero. */
struct data_key {
	int len; /* bytes: 16, 24 or 32 */
	uint8_t bytes[KEY_MAX_LEN];
};

/* Name <-> method; parse is case-insensitive; -1 when unknown. */
const char *key_method_name(enum key_method method);
int key_method_parse(const char *name, enum key_method *method);
int key_method_len(enum key_method method); /* bytes of its data keys */

/* A fresh random key of the method's length. */
int key_generate(enum key_method method, struct data_key *key, struct err *err);
/* HKDF-SHA256 of ikm with the label as info, out_len bytes into out (at most 255*32); out zeroed on error. RFC 5869. */
int key_derive(const uint8_t *ikm, size_t ikm_len, const char *info, uint8_t *out, size_t out_len, struct err *err);
/* RFC 5869 itself, with a salt (salt_len 0: none). */
int key_hkdf(const uint8_t *salt, size_t salt_len, const uint8_t *ikm, size_t ikm_len, const void *info,
             size_t info_len, uint8_t *out, size_t out_len, struct err *err);
/* Public fingerprint, and as 16 hex digits. Also for a cluster key (len 32). */
int key_id(const uint8_t *key, size_t len, uint8_t id[static KEY_ID_LEN], struct err *err);
int key_id_hex(const uint8_t *key, size_t len, char hex[static KEY_ID_HEX_LEN], struct err *err);

/* Wrap/unwrap as CFE does: AES-256 Key Wrap with Padding (RFC 5649) of the 36-byte struct {int klen (host order),
 * key[32]}. Unwrap: ERR_WRONG_KEY when the integrity check fails (wrong cluster key or changed bytes: KWP cannot tell
 * them apart), ERR_DAMAGED when it opens but holds no valid key. key zeroed on error. */
int key_wrap(const uint8_t kek[static KEK_LEN], const struct data_key *key, uint8_t out[static KEY_WRAPPED_LEN],
             struct err *err);
int key_unwrap(const uint8_t kek[static KEK_LEN], const uint8_t in[static KEY_WRAPPED_LEN], struct data_key *key,
               struct err *err);

/* RFC 5649 itself, for any length (vectors); out holds ((len+7)/8)*8 + 8 bytes. Return bytes written, or -1. */
int kwp_wrap(const uint8_t *kek, size_t kek_len, const uint8_t *in, size_t len, uint8_t *out, struct err *err);
int kwp_unwrap(const uint8_t *kek, size_t kek_len, const uint8_t *in, size_t len, uint8_t *out, struct err *err);

#endif
