#include "walcrypt/sealed.h"

#include <openssl/evp.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "walcrypt/crypto.h"
#include "walcrypt/digest.h"
#include "walcrypt/random.h"
#include "walcrypt/secmem.h"

#define VERSION 1
#define SALT_LEN 32
#define NONCE_LEN 12
#define TAG_LEN 16
#define SUM_LEN 32
#define KEY_LEN 32
#define HEAD_LEN (SEALED_MAGIC_LEN + 4 * 4 + SALT_LEN + NONCE_LEN + 8)
#define MEMORY_MAX (UINT64_C(1) << 30)

_Static_assert(HEAD_LEN + TAG_LEN + SUM_LEN == SEALED_OVERHEAD, "the header says it");

static void
put(uint8_t *to, uint64_t v, int bytes)
{
	for (int i = 0; i < bytes; i++)
		to[i] = (uint8_t)(v >> 8 * i);
}

static uint64_t
get(const uint8_t *from, int bytes)
{
	uint64_t v = 0;

	for (int i = bytes; i-- > 0;)
		v = v << 8 | from[i];
	return v;
}

int
scrypt_derive(const char *passphrase, size_t passphrase_len, const uint8_t *salt, size_t salt_len, uint32_t log2_n,
              uint32_t r, uint32_t p, uint8_t *out, size_t out_len, struct err *err)
{
	memset(out, 0, out_len);
	if (log2_n < 1 || log2_n > 24 || r < 1 || r > 64 || p < 1 || p > 16 || (UINT64_C(128) * r << log2_n) > MEMORY_MAX)
		return err_set(err, ERR_DAMAGED, "scrypt's parameters 2^%u, %u, %u are out of bounds", log2_n, r, p);
	/* its large block is ordinary memory, wiped by libcrypto: it would not fit into the arena */
	if (EVP_PBE_scrypt(passphrase, passphrase_len, salt, salt_len, UINT64_C(1) << log2_n, r, p, 2 * MEMORY_MAX, out,
	                   out_len) == 1)
		return 0;
	secmem_wipe(out, out_len);
	return crypto_err(err, "could not derive a key from the passphrase");
}

static int
sum(const uint8_t *data, size_t len, uint8_t out[static DIGEST_MAX_LEN], struct err *err)
{
	struct digest *d = digest_new(DIGEST_SHA256, err);
	int rc = d != NULL && digest_update(d, data, len, err) == 0 && digest_final(d, out, err) == SUM_LEN ? 0 : -1;

	digest_free(d);
	return rc;
}

/* AES-256-GCM over data, in place of to; head is authenticated, the tag written or compared. 1: done, 0: the tag does
 * not fit, -1: failed. */
static int
gcm(int encrypt, const uint8_t *key, const uint8_t *head, const uint8_t *data, size_t len, uint8_t *to, uint8_t *tag,
    struct err *err)
{
	EVP_CIPHER *cipher = EVP_CIPHER_fetch(NULL, "AES-256-GCM", NULL);
	const uint8_t *nonce = head + HEAD_LEN - 8 - NONCE_LEN;
	EVP_CIPHER_CTX *ctx = NULL;
	int n, fits = -1;
	bool set_up = false;

	if (cipher != NULL) {
		secmem_enter();
		ctx = EVP_CIPHER_CTX_new();
		set_up = ctx != NULL && EVP_CipherInit_ex2(ctx, cipher, key, nonce, encrypt, NULL) == 1;
		secmem_leave();
	}
	if (set_up && EVP_CipherUpdate(ctx, NULL, &n, head, HEAD_LEN) == 1 &&
	    EVP_CipherUpdate(ctx, to, &n, data, (int)len) == 1) {
		if (encrypt)
			fits = EVP_CipherFinal_ex(ctx, to, &n) == 1 &&
			               EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_GET_TAG, TAG_LEN, tag) == 1
			           ? 1
			           : -1;
		else if (EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_SET_TAG, TAG_LEN, tag) == 1)
			fits = EVP_CipherFinal_ex(ctx, to, &n) == 1;
	}
	if (fits < 0)
		crypto_err(err, "could not run AES-256-GCM");
	EVP_CIPHER_CTX_free(ctx);
	EVP_CIPHER_free(cipher);
	return fits;
}

uint8_t *
sealed_make(const char magic[static SEALED_MAGIC_LEN], const char *passphrase, size_t passphrase_len,
            const uint8_t *data, size_t len, size_t *sealed_len, struct err *err)
{
	uint8_t *key = secmem_alloc(KEY_LEN, err), *out = malloc(len + SEALED_OVERHEAD), digest[DIGEST_MAX_LEN], *p = out;
	bool made = false;

	if (key == NULL)
		goto done;
	if (out == NULL) {
		err_nomem(err);
		goto done;
	}
	memcpy(p, magic, SEALED_MAGIC_LEN);
	put(p + 4, VERSION, 4);
	put(p + 8, SCRYPT_LOG2_N, 4);
	put(p + 12, SCRYPT_R, 4);
	put(p + 16, SCRYPT_P, 4);
	if (random_bytes(p + 20, SALT_LEN, err) != 0 || random_nonce(p + 20 + SALT_LEN, NONCE_LEN, err) != 0)
		goto done;
	put(p + 20 + SALT_LEN + NONCE_LEN, len, 8);
	p += HEAD_LEN;
	if (scrypt_derive(passphrase, passphrase_len, out + 20, SALT_LEN, SCRYPT_LOG2_N, SCRYPT_R, SCRYPT_P, key, KEY_LEN,
	                  err) != 0 ||
	    gcm(1, key, out, data, len, p, p + len, err) != 1)
		goto done;
	p += len + TAG_LEN;
	if (sum(out, (size_t)(p - out), digest, err) != 0)
		goto done;
	memcpy(p, digest, SUM_LEN);
	*sealed_len = len + SEALED_OVERHEAD;
	made = true;
done:
	secmem_free(key);
	if (!made) {
		free(out);
		return NULL;
	}
	return out;
}

/* Is it one of ours, whole, and of a version that we know? Magic, version and checksum are where they are in any
 * version. */
static int
check_shape(const char *magic, const char *what, const uint8_t *sealed, size_t len, struct err *err)
{
	uint8_t digest[DIGEST_MAX_LEN];
	uint64_t version;

	if (len < SEALED_MAGIC_LEN + 4 || memcmp(sealed, magic, SEALED_MAGIC_LEN) != 0)
		return err_set(err, ERR_DAMAGED, "%s is not such a file", what);
	version = get(sealed + 4, 4);
	if (len < SEALED_OVERHEAD || len > INT32_MAX ||
	    (version == VERSION && get(sealed + HEAD_LEN - 8, 8) != len - SEALED_OVERHEAD))
		return err_set(err, ERR_DAMAGED, "%s is cut off, or has bytes behind its end", what);
	if (sum(sealed, len - SUM_LEN, digest, err) != 0)
		return -1;
	if (memcmp(digest, sealed + len - SUM_LEN, SUM_LEN) != 0)
		return err_set(err, ERR_DAMAGED, "%s is damaged: its checksum does not fit", what);
	if (version > VERSION)
		return err_later(err, (long long)version, VERSION, "%s", what);
	if (version != VERSION)
		return err_set(err, ERR_DAMAGED, "%s is damaged: it has format 0", what);
	return 0;
}

uint8_t *
sealed_open(const char magic[static SEALED_MAGIC_LEN], const char *what, const char *passphrase, size_t passphrase_len,
            const uint8_t *sealed, size_t sealed_len, size_t *len, struct err *err)
{
	uint8_t tag[TAG_LEN], *key = NULL, *out = NULL;
	size_t n;
	int fits = -1;

	if (check_shape(magic, what, sealed, sealed_len, err) != 0)
		return NULL;
	n = sealed_len - SEALED_OVERHEAD;
	memcpy(tag, sealed + HEAD_LEN + n, TAG_LEN);
	if ((key = secmem_alloc(KEY_LEN, err)) == NULL || (out = secmem_alloc(n > 0 ? n : 1, err)) == NULL ||
	    scrypt_derive(passphrase, passphrase_len, sealed + 20, SALT_LEN, (uint32_t)get(sealed + 8, 4),
	                  (uint32_t)get(sealed + 12, 4), (uint32_t)get(sealed + 16, 4), key, KEY_LEN, err) != 0)
		goto done;
	if ((fits = gcm(0, key, sealed, sealed + HEAD_LEN, n, out, tag, err)) == 0)
		err_set(err, ERR_WRONG_KEY, "the passphrase does not open %s", what);
	*len = n;
done:
	secmem_free(key);
	if (fits == 1)
		return out;
	secmem_free(out);
	return NULL;
}
