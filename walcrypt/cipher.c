#include "walcrypt/cipher.h"

#include <openssl/evp.h>

#include "walcrypt/crypto.h"
#include "walcrypt/secmem.h"

/* struct cipher is libcrypto's context itself: there is nothing to add to it */
static EVP_CIPHER_CTX *
context(struct cipher *c)
{
	return (EVP_CIPHER_CTX *)(void *)c;
}

static const char *
algorithm(enum cipher_kind kind, size_t key_len)
{
	if (kind == CIPHER_CTR)
		return key_len == 16 ? "AES-128-CTR" : key_len == 24 ? "AES-192-CTR" : key_len == 32 ? "AES-256-CTR" : NULL;
	return key_len == 32 ? "AES-128-XTS" : key_len == 64 ? "AES-256-XTS" : NULL;
}

struct cipher *
cipher_new(enum cipher_kind kind, const uint8_t *key, size_t key_len, struct err *err)
{
	const char *name = algorithm(kind, key_len);
	EVP_CIPHER *cipher = NULL;
	EVP_CIPHER_CTX *ctx = NULL;
	int rc = 0;

	if (name == NULL) {
		err_set(err, ERR_FAILED, "there is no cipher for a key of %zu bytes", key_len);
		return NULL;
	}
	/* fetched outside the bracket: libcrypto keeps what it fetched, and that is no secret */
	cipher = EVP_CIPHER_fetch(NULL, name, NULL);
	if (cipher != NULL) {
		secmem_enter();
		ctx = EVP_CIPHER_CTX_new();
		rc = ctx != NULL ? EVP_CipherInit_ex2(ctx, cipher, key, NULL, kind != CIPHER_XTS_DECRYPT, NULL) : 0;
		secmem_leave();
	}
	EVP_CIPHER_free(cipher);
	if (rc == 1)
		return (struct cipher *)(void *)ctx;
	EVP_CIPHER_CTX_free(ctx);
	crypto_err(err, "could not set up a cipher");
	return NULL;
}

void
cipher_free(struct cipher *c)
{
	EVP_CIPHER_CTX_free(context(c));
}

int
cipher_run_from(struct cipher *c, const uint8_t iv[static CIPHER_IV_LEN], size_t skip, const uint8_t *in, uint8_t *out,
                size_t len, struct err *err)
{
	uint8_t unused[CIPHER_IV_LEN] = {0};
	int n = 0;

	if (EVP_CipherInit_ex2(context(c), NULL, NULL, iv, -1, NULL) == 1 &&
	    (skip == 0 || EVP_CipherUpdate(context(c), unused, &n, unused, (int)skip) == 1) &&
	    EVP_CipherUpdate(context(c), out, &n, in, (int)len) == 1 && (size_t)n == len)
		return 0;
	secmem_wipe(out, len);
	return crypto_err(err, "could not encrypt or decrypt");
}

int
cipher_run(struct cipher *c, const uint8_t iv[static CIPHER_IV_LEN], const uint8_t *in, uint8_t *out, size_t len,
           struct err *err)
{
	return cipher_run_from(c, iv, 0, in, out, len, err);
}
