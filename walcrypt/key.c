#include "walcrypt/key.h"

#include <string.h>
#include <strings.h>

#include <openssl/evp.h>

#include "walcrypt/crypto.h"
#include "walcrypt/digest.h"
#include "walcrypt/random.h"
#include "walcrypt/secmem.h"

#define HASH_LEN 32

/* What a .wkey file wraps. CFE writes its C struct as it lies in memory, so klen is in host order. */
struct wkey {
	int32_t klen;
	uint8_t key[KEY_MAX_LEN];
};

_Static_assert(sizeof(struct wkey) == 36, "CFE's struct has no padding");
_Static_assert((sizeof(struct wkey) + 7) / 8 * 8 + 8 == KEY_WRAPPED_LEN, "a .wkey file's length");

static const struct {
	enum key_method method;
	const char *name;
	int len;
} methods[] = {
    {KEY_AES128, "AES128", 16},
    {KEY_AES192, "AES192", 24},
    {KEY_AES256, "AES256", 32},
};

#define NMETHODS (sizeof(methods) / sizeof(methods[0]))

const char *
key_method_name(enum key_method method)
{
	for (size_t i = 0; i < NMETHODS; i++)
		if (methods[i].method == method)
			return methods[i].name;
	return "unknown";
}

int
key_method_parse(const char *name, enum key_method *method)
{
	for (size_t i = 0; i < NMETHODS; i++)
		if (strcasecmp(methods[i].name, name) == 0) {
			*method = methods[i].method;
			return 0;
		}
	return -1;
}

int
key_method_len(enum key_method method)
{
	for (size_t i = 0; i < NMETHODS; i++)
		if (methods[i].method == method)
			return methods[i].len;
	return -1;
}

int
key_generate(enum key_method method, struct data_key *key, struct err *err)
{
	int len = key_method_len(method);

	memset(key, 0, sizeof(*key));
	if (len < 0)
		return err_set(err, ERR_USAGE, "unknown encryption method %d", (int)method);
	if (random_bytes(key->bytes, (size_t)len, err) != 0)
		return -1;
	key->len = len;
	return 0;
}

/*
 * HKDF-SHA256, RFC 5869. By hand on HMAC: libcrypto's HKDF fetches algorithms while it holds the key, and
 * would leave its bookkeeping in the keys' memory.
 */
int
key_hkdf(const uint8_t *salt, size_t salt_len, const uint8_t *ikm, size_t ikm_len, const void *info, size_t info_len,
         uint8_t *out, size_t out_len, struct err *err)
{
	static const uint8_t no_salt[HASH_LEN];
	uint8_t prk[HASH_LEN], t[DIGEST_MAX_LEN];
	struct digest *d = NULL;
	size_t done = 0;
	int rc = -1;

	memset(out, 0, out_len);
	if (out_len > 255 * HASH_LEN)
		return err_set(err, ERR_FAILED, "cannot derive a key of %zu bytes", out_len);
	if (hmac_sha256(salt_len > 0 ? salt : no_salt, salt_len > 0 ? salt_len : sizeof(no_salt), ikm, ikm_len, prk, err) !=
	    0)
		goto done;
	for (uint8_t i = 1; done < out_len; i++) {
		size_t n = out_len - done < HASH_LEN ? out_len - done : HASH_LEN;

		if ((d = digest_new_hmac(prk, sizeof(prk), err)) == NULL ||
		    (i > 1 && digest_update(d, t, HASH_LEN, err) != 0) || digest_update(d, info, info_len, err) != 0 ||
		    digest_update(d, &i, 1, err) != 0 || digest_final(d, t, err) != HASH_LEN)
			goto done;
		digest_free(d);
		d = NULL;
		memcpy(out + done, t, n);
		done += n;
	}
	rc = 0;
done:
	digest_free(d);
	if (rc != 0)
		secmem_wipe(out, out_len);
	secmem_wipe(prk, sizeof(prk));
	secmem_wipe(t, sizeof(t));
	return rc;
}

int
key_derive(const uint8_t *ikm, size_t ikm_len, const char *info, uint8_t *out, size_t out_len, struct err *err)
{
	return key_hkdf(NULL, 0, ikm, ikm_len, info, strlen(info), out, out_len, err);
}

int
key_id(const uint8_t *key, size_t len, uint8_t id[static KEY_ID_LEN], struct err *err)
{
	return key_derive(key, len, "walcrypt key id", id, KEY_ID_LEN, err);
}

int
key_id_hex(const uint8_t *key, size_t len, char hex[static KEY_ID_HEX_LEN], struct err *err)
{
	static const char digits[] = "0123456789abcdef";
	uint8_t id[KEY_ID_LEN];

	memset(hex, 0, KEY_ID_HEX_LEN);
	if (key_id(key, len, id, err) != 0)
		return -1;
	for (size_t i = 0; i < KEY_ID_LEN; i++) {
		hex[2 * i] = digits[id[i] >> 4];
		hex[2 * i + 1] = digits[id[i] & 15];
	}
	return 0;
}

/* Returns the length of the result, -1 when libcrypto refuses. */
static int
kwp(bool wrap, const uint8_t *kek, size_t kek_len, const uint8_t *in, size_t len, uint8_t *out)
{
	const char *name = kek_len == 16 ? "AES-128-WRAP-PAD" : kek_len == 24 ? "AES-192-WRAP-PAD" : "AES-256-WRAP-PAD";
	EVP_CIPHER *cipher = EVP_CIPHER_fetch(NULL, name, NULL);
	EVP_CIPHER_CTX *ctx = NULL;
	int n = 0, rc = -1;

	secmem_enter();
	if (cipher != NULL && (ctx = EVP_CIPHER_CTX_new()) != NULL) {
		EVP_CIPHER_CTX_set_flags(ctx, EVP_CIPHER_CTX_FLAG_WRAP_ALLOW);
		if (EVP_CipherInit_ex2(ctx, cipher, kek, NULL, wrap, NULL) == 1 &&
		    EVP_CipherUpdate(ctx, out, &n, in, (int)len) == 1 && n > 0)
			rc = n;
	}
	EVP_CIPHER_CTX_free(ctx);
	secmem_leave();
	EVP_CIPHER_free(cipher);
	return rc;
}

static bool
kwp_lengths_ok(size_t kek_len, size_t len)
{
	return (kek_len == 16 || kek_len == 24 || kek_len == 32) && len > 0 && len <= 65536;
}

int
kwp_wrap(const uint8_t *kek, size_t kek_len, const uint8_t *in, size_t len, uint8_t *out, struct err *err)
{
	int n;

	if (!kwp_lengths_ok(kek_len, len))
		return err_set(err, ERR_FAILED, "cannot wrap %zu bytes under a key of %zu bytes", len, kek_len);
	n = kwp(true, kek, kek_len, in, len, out);
	if (n < 0) {
		secmem_wipe(out, (len + 7) / 8 * 8 + 8);
		return crypto_err(err, "could not wrap a key");
	}
	return n;
}

int
kwp_unwrap(const uint8_t *kek, size_t kek_len, const uint8_t *in, size_t len, uint8_t *out, struct err *err)
{
	int n;

	if (!kwp_lengths_ok(kek_len, len) || len % 8 != 0 || len < 16)
		return err_set(err, ERR_DAMAGED, "a wrapped key cannot be %zu bytes long", len);
	n = kwp(false, kek, kek_len, in, len, out);
	if (n < 0) {
		secmem_wipe(out, len);
		crypto_err(err, "could not unwrap");
		return err_set(err, ERR_WRONG_KEY, "the cluster key does not open the wrapped key");
	}
	return n;
}

int
key_wrap(const uint8_t kek[static KEK_LEN], const struct data_key *key, uint8_t out[static KEY_WRAPPED_LEN],
         struct err *err)
{
	struct wkey w = {.klen = key->len};
	int n;

	memcpy(w.key, key->bytes, sizeof(w.key));
	n = kwp_wrap(kek, KEK_LEN, (const uint8_t *)&w, sizeof(w), out, err);
	secmem_wipe(&w, sizeof(w));
	return n < 0 ? -1 : 0;
}

int
key_unwrap(const uint8_t kek[static KEK_LEN], const uint8_t in[static KEY_WRAPPED_LEN], struct data_key *key,
           struct err *err)
{
	uint8_t buf[KEY_WRAPPED_LEN];
	struct wkey w;
	int n, rc = -1;

	memset(key, 0, sizeof(*key));
	n = kwp_unwrap(kek, KEK_LEN, in, KEY_WRAPPED_LEN, buf, err);
	if (n < 0)
		goto done;
	memcpy(&w, buf, sizeof(w));
	if (n != sizeof(w) || (w.klen != 16 && w.klen != 24 && w.klen != 32)) {
		err_set(err, ERR_DAMAGED, "the wrapped key opens, but holds no key of 16, 24 or 32 bytes");
		goto done;
	}
	for (size_t i = (size_t)w.klen; i < sizeof(w.key); i++)
		if (w.key[i] != 0) {
			err_set(err, ERR_DAMAGED, "the wrapped key opens, but has bytes behind its key");
			goto done;
		}
	key->len = w.klen;
	memcpy(key->bytes, w.key, sizeof(w.key));
	rc = 0;
done:
	secmem_wipe(buf, sizeof(buf));
	secmem_wipe(&w, sizeof(w));
	return rc;
}
