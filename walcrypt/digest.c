#include "walcrypt/digest.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif
#include <isa-l/crc.h>
#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/params.h>

#include "walcrypt/crypto.h"
#include "walcrypt/load.h"
#include "walcrypt/secmem.h"

/* One of md and mac is set, or none for NONE and CRC32C. */
struct digest {
	enum digest_kind kind;
	EVP_MD_CTX *md;
	EVP_MAC_CTX *mac;
	uint32_t crc;
};

static const char *const names[] = {
    [DIGEST_NONE] = "NONE",     [DIGEST_CRC32C] = "CRC32C", [DIGEST_SHA224] = "SHA224",
    [DIGEST_SHA256] = "SHA256", [DIGEST_SHA384] = "SHA384", [DIGEST_SHA512] = "SHA512",
};

#define NKINDS (sizeof(names) / sizeof(names[0]))

int
digest_parse(const char *name, enum digest_kind *kind)
{
	for (size_t i = 0; i < NKINDS; i++)
		if (strcasecmp(names[i], name) == 0) {
			*kind = (enum digest_kind)i;
			return 0;
		}
	return -1;
}

const char *
digest_name(enum digest_kind kind)
{
	return (size_t)kind < NKINDS ? names[kind] : "unknown";
}

struct digest *
digest_new(enum digest_kind kind, struct err *err)
{
	struct digest *d = NULL;
	EVP_MD *md = NULL;
	int ok;

	if ((size_t)kind >= NKINDS) {
		err_set(err, ERR_USAGE, "unknown checksum algorithm %d", (int)kind);
		return NULL;
	}
	if ((d = calloc(1, sizeof(*d))) == NULL) {
		err_nomem(err);
		return NULL;
	}
	d->kind = kind;
	if (kind == DIGEST_NONE || kind == DIGEST_CRC32C)
		return d;
	md = EVP_MD_fetch(NULL, names[kind], NULL);
	d->md = EVP_MD_CTX_new();
	ok = md != NULL && d->md != NULL && EVP_DigestInit_ex2(d->md, md, NULL) == 1;
	EVP_MD_free(md);
	if (ok)
		return d;
	crypto_err(err, "could not start a checksum");
	digest_free(d);
	return NULL;
}

/* A keyed one: its schedule and state lie in secure memory. */
static struct digest *
mac_new(const char *name, const OSSL_PARAM *params, const uint8_t *key, size_t key_len, struct err *err)
{
	struct digest *d = calloc(1, sizeof(*d));
	EVP_MAC *mac;
	int ok;

	if (d == NULL) {
		err_nomem(err);
		return NULL;
	}
	d->kind = DIGEST_NONE;
	mac = EVP_MAC_fetch(NULL, name, NULL);
	secmem_enter();
	ok = mac != NULL && (d->mac = EVP_MAC_CTX_new(mac)) != NULL && EVP_MAC_init(d->mac, key, key_len, params) == 1;
	secmem_leave();
	EVP_MAC_free(mac);
	if (ok)
		return d;
	crypto_err(err, "could not start a MAC");
	digest_free(d);
	return NULL;
}

struct digest *
digest_new_hmac(const uint8_t *key, size_t key_len, struct err *err)
{
	char sha256[] = "SHA256";
	OSSL_PARAM params[] = {
	    OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, sha256, 0),
	    OSSL_PARAM_construct_end(),
	};

	/* what is fetched stays in libcrypto's store for ever: not in secure memory, as it would inside mac_new */
	EVP_MD *md = EVP_MD_fetch(NULL, sha256, NULL);
	struct digest *d = mac_new("HMAC", params, key, key_len, err);

	EVP_MD_free(md);
	return d;
}

struct digest *
digest_new_gmac(const uint8_t key[static 32], struct err *err)
{
	char cipher[] = "AES-256-GCM";
	uint8_t nonce[12] = {0};
	OSSL_PARAM params[] = {
	    OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_CIPHER, cipher, 0),
	    OSSL_PARAM_construct_octet_string(OSSL_MAC_PARAM_IV, nonce, sizeof(nonce)),
	    OSSL_PARAM_construct_end(),
	};

	EVP_CIPHER *fetched = EVP_CIPHER_fetch(NULL, cipher, NULL); /* as with HMAC */
	struct digest *d = mac_new("GMAC", params, key, 32, err);

	EVP_CIPHER_free(fetched);
	return d;
}

struct digest *
digest_copy(const struct digest *d, struct err *err)
{
	struct digest *copy = calloc(1, sizeof(*copy));

	if (copy == NULL) {
		err_nomem(err);
		return NULL;
	}
	copy->kind = d->kind;
	copy->crc = d->crc;
	if (d->md != NULL && ((copy->md = EVP_MD_CTX_new()) == NULL || EVP_MD_CTX_copy_ex(copy->md, d->md) != 1))
		goto fail;
	if (d->mac != NULL) {
		secmem_enter();
		copy->mac = EVP_MAC_CTX_dup(d->mac);
		secmem_leave();
		if (copy->mac == NULL)
			goto fail;
	}
	return copy;
fail:
	crypto_err(err, "could not copy a checksum");
	digest_free(copy);
	return NULL;
}

int
digest_update(struct digest *d, const void *data, size_t len, struct err *err)
{
	if (d->mac != NULL && EVP_MAC_update(d->mac, data, len) != 1)
		return crypto_err(err, "could not continue a MAC");
	if (d->md != NULL && EVP_DigestUpdate(d->md, data, len) != 1)
		return crypto_err(err, "could not continue a checksum");
	if (d->kind == DIGEST_CRC32C)
		d->crc = crc32c(d->crc, data, len);
	return 0;
}

int
digest_final(struct digest *d, uint8_t out[static DIGEST_MAX_LEN], struct err *err)
{
	unsigned md_len = 0;
	size_t mac_len = 0;

	memset(out, 0, DIGEST_MAX_LEN);
	if (d->mac != NULL) {
		int rc;

		secmem_enter(); /* it copies its keyed inner state */
		rc = EVP_MAC_final(d->mac, out, &mac_len, DIGEST_MAX_LEN);
		secmem_leave();
		if (rc != 1)
			return crypto_err(err, "could not finish a MAC");
		return (int)mac_len;
	}
	if (d->md != NULL) {
		if (EVP_DigestFinal_ex(d->md, out, &md_len) != 1)
			return crypto_err(err, "could not finish a checksum");
		return (int)md_len;
	}
	if (d->kind != DIGEST_CRC32C)
		return 0;
	for (int i = 0; i < 4; i++)
		out[i] = (uint8_t)(d->crc >> 8 * i);
	return 4;
}

void
digest_free(struct digest *d)
{
	if (d == NULL)
		return;
	EVP_MD_CTX_free(d->md);
	EVP_MAC_CTX_free(d->mac);
	secmem_wipe(d, sizeof(*d));
	free(d);
}

int
hmac_sha256(const uint8_t *key, size_t key_len, const void *data, size_t len, uint8_t out[static 32], struct err *err)
{
	struct digest *d = digest_new_hmac(key, key_len, err);
	uint8_t mac[DIGEST_MAX_LEN];
	int rc = -1;

	memset(out, 0, 32);
	if (d != NULL && digest_update(d, data, len, err) == 0 && digest_final(d, mac, err) == 32) {
		memcpy(out, mac, 32);
		rc = 0;
	}
	digest_free(d);
	return rc;
}

#if defined(__x86_64__)
/* Below this the processor's own instruction is faster than ISA-L, whose folding has a beginning and an end: most WAL
 * records, and the header of each. */
#define SHORT 400
#define HAVE_CRC32() (__builtin_cpu_supports("sse4.2") != 0)

__attribute__((target("sse4.2"))) static uint32_t
crc32c_short(uint32_t crc, const uint8_t *p, size_t len)
{
	uint64_t sum = crc;

	for (; len >= 32; p += 32, len -= 32) {
		sum = _mm_crc32_u64(sum, load64(p));
		sum = _mm_crc32_u64(sum, load64(p + 8));
		sum = _mm_crc32_u64(sum, load64(p + 16));
		sum = _mm_crc32_u64(sum, load64(p + 24));
	}
	for (; len >= 8; p += 8, len -= 8)
		sum = _mm_crc32_u64(sum, load64(p));
	crc = (uint32_t)sum;
	if ((len & 4) != 0) {
		crc = _mm_crc32_u32(crc, load32(p));
		p += 4;
	}
	if ((len & 2) != 0) {
		crc = _mm_crc32_u16(crc, load16(p));
		p += 2;
	}
	return (len & 1) != 0 ? _mm_crc32_u8(crc, *p) : crc;
}
#endif

uint32_t
crc32c(uint32_t crc, const void *data, size_t len)
{
	const uint8_t *p = data;

	crc = ~crc;
#if defined(__x86_64__)
	if (len < SHORT && HAVE_CRC32())
		return ~crc32c_short(crc, p, len);
#endif
	while (len > 0) {
		int n = len < (1 << 30) ? (int)len : 1 << 30; /* ISA-L counts in int */

		crc = crc32_iscsi((unsigned char *)(uintptr_t)p, n, crc);
		p += n;
		len -= (size_t)n;
	}
	return ~crc;
}
