#include "walcrypt/cipher.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/core_dispatch.h>
#include <openssl/evp.h>
#include <openssl/provider.h>

#include "walcrypt/crypto.h"
#include "walcrypt/secmem.h"

/*
 * The functions of libcrypto's provider itself, as EVP calls them (provider-cipher(7)). EVP_CipherInit_ex2 asks the
 * provider for the IV's length through a list of parameters each time, which is 5 % of a page, and twice as much or
 * more when other code has run since the last one.
 */
struct cipher {
	EVP_CIPHER *algorithm; /* keeps the provider */
	OSSL_FUNC_cipher_newctx_fn *new;
	OSSL_FUNC_cipher_freectx_fn *free;
	OSSL_FUNC_cipher_encrypt_init_fn *init;
	OSSL_FUNC_cipher_update_fn *update;
	void *ctx; /* with the key schedule, in secmem */
};

static const char *
algorithm(enum cipher_kind kind, size_t key_len)
{
	if (kind == CIPHER_CTR)
		return key_len == 16 ? "AES-128-CTR" : key_len == 24 ? "AES-192-CTR" : key_len == 32 ? "AES-256-CTR" : NULL;
	return key_len == 32 ? "AES-128-XTS" : key_len == 64 ? "AES-256-XTS" : NULL;
}

/* Is name one of a provider's names of an algorithm, "NAME:NAME:..."? */
static bool
is_named(const char *names, const char *name)
{
	size_t len = strlen(name);

	while (names != NULL && *names != '\0') {
		if (strncasecmp(names, name, len) == 0 && (names[len] == '\0' || names[len] == ':'))
			return true;
		names = strchr(names, ':');
		names = names != NULL ? names + 1 : NULL;
	}
	return false;
}

static void
take(struct cipher *c, const OSSL_DISPATCH *d, bool encrypt)
{
	for (; d->function_id != 0; d++)
		switch (d->function_id) {
		case OSSL_FUNC_CIPHER_NEWCTX:
			c->new = OSSL_FUNC_cipher_newctx(d);
			break;
		case OSSL_FUNC_CIPHER_FREECTX:
			c->free = OSSL_FUNC_cipher_freectx(d);
			break;
		case OSSL_FUNC_CIPHER_ENCRYPT_INIT:
			if (encrypt)
				c->init = OSSL_FUNC_cipher_encrypt_init(d);
			break;
		case OSSL_FUNC_CIPHER_DECRYPT_INIT:
			if (!encrypt)
				c->init = OSSL_FUNC_cipher_decrypt_init(d);
			break;
		case OSSL_FUNC_CIPHER_UPDATE:
			c->update = OSSL_FUNC_cipher_update(d);
			break;
		default:
			break;
		}
}

/* Fill c with the functions of c->algorithm; false when one is missing. */
static bool
look_up(struct cipher *c, const char *name, bool encrypt)
{
	const OSSL_PROVIDER *provider = EVP_CIPHER_get0_provider(c->algorithm);
	const OSSL_ALGORITHM *all, *a;
	int no_cache = 0;

	if (provider == NULL || (all = OSSL_PROVIDER_query_operation(provider, OSSL_OP_CIPHER, &no_cache)) == NULL)
		return false;
	for (a = all; a->algorithm_names != NULL && !is_named(a->algorithm_names, name); a++)
		;
	if (a->algorithm_names != NULL)
		take(c, a->implementation, encrypt);
	OSSL_PROVIDER_unquery_operation(provider, OSSL_OP_CIPHER, all);
	return c->new != NULL && c->free != NULL && c->init != NULL && c->update != NULL;
}

struct cipher *
cipher_new(enum cipher_kind kind, const uint8_t *key, size_t key_len, struct err *err)
{
	static const uint8_t no_iv[CIPHER_IV_LEN];
	const char *name = algorithm(kind, key_len);
	struct cipher *c;
	int rc = 0;

	if (name == NULL) {
		err_set(err, ERR_FAILED, "there is no cipher for a key of %zu bytes", key_len);
		return NULL;
	}
	if ((c = calloc(1, sizeof(*c))) == NULL) {
		err_nomem(err);
		return NULL;
	}
	/* fetched outside the bracket: libcrypto keeps what it fetched, and that is no secret */
	c->algorithm = EVP_CIPHER_fetch(NULL, name, NULL);
	if (c->algorithm != NULL && look_up(c, name, kind != CIPHER_XTS_DECRYPT)) {
		secmem_enter();
		c->ctx = c->new (OSSL_PROVIDER_get0_provider_ctx(EVP_CIPHER_get0_provider(c->algorithm)));
		rc = c->ctx != NULL ? c->init(c->ctx, key, key_len, no_iv, sizeof(no_iv), NULL) : 0;
		secmem_leave();
	}
	if (rc == 1)
		return c;
	cipher_free(c);
	crypto_err(err, "could not set up a cipher");
	return NULL;
}

void
cipher_free(struct cipher *c)
{
	if (c == NULL)
		return;
	if (c->ctx != NULL)
		c->free(c->ctx);
	EVP_CIPHER_free(c->algorithm);
	free(c);
}

int
cipher_run_from(struct cipher *c, const uint8_t iv[static CIPHER_IV_LEN], size_t skip, const uint8_t *in, uint8_t *out,
                size_t len, struct err *err)
{
	uint8_t unused[CIPHER_IV_LEN] = {0};
	size_t n = 0;

	if (c->init(c->ctx, NULL, 0, iv, CIPHER_IV_LEN, NULL) == 1 &&
	    (skip == 0 || c->update(c->ctx, unused, &n, sizeof(unused), unused, skip) == 1) &&
	    c->update(c->ctx, out, &n, len, in, len) == 1 && n == len)
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
