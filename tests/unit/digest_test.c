/* Checksums of backup manifests, HMAC-SHA256, GMAC, CRC32C. */
#include "walcrypt/digest.h"

#include <stdlib.h>

#include "tests/unit/failmalloc.h"
#include "tests/unit/sample.h"
#include "tests/unit/tap.h"
#include "walcrypt/secmem.h"

static const struct {
	enum digest_kind kind;
	const char *name, *of_abc; /* FIPS 180-4's examples; RFC 3720's polynomial for CRC32C */
} kinds[] = {
    {DIGEST_NONE, "NONE", ""},
    {DIGEST_CRC32C, "CRC32C", "b73f4b36"},
    {DIGEST_SHA224, "SHA224", "23097d223405d8228642a477bda255b32aadbce4bda0b3f7e36c9da7"},
    {DIGEST_SHA256, "SHA256", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
    {DIGEST_SHA384, "SHA384",
     "cb00753f45a35e8bb5a03d699ac65007272c32ab0eded1631a8b605a43ff5bed8086072ba1e7cc2358baeca134c825a7"},
    {DIGEST_SHA512, "SHA512",
     "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e"
     "2a9ac94fa54ca49f"},
};

static void
finish(struct digest *d, char hex[static 2 * DIGEST_MAX_LEN + 1])
{
	uint8_t out[DIGEST_MAX_LEN];
	struct err err = {0};
	int n = digest_final(d, out, &err);

	hex[0] = '\0';
	for (int i = 0; i < n; i++)
		snprintf(hex + 2 * i, 3, "%02x", out[i]);
	digest_free(d);
}

/* Of no bytes: test case 13 of McGrew and Viega's GCM specification; of bytes: made with python3-cryptography's AESGCM.
 */
static void
gmac(void)
{
	uint8_t key[32] = {0}, data[1000];
	struct err err = {0};
	struct digest *d = digest_new_gmac(key, &err), *copy;
	char hex[2 * DIGEST_MAX_LEN + 1];

	finish(d, hex);
	is_str(hex, "530f8afbc74536b9a963b4f1c4cb738b", "GMAC of nothing");
	for (int i = 0; i < 32; i++)
		key[i] = (uint8_t)i;
	for (int i = 0; i < 1000; i++)
		data[i] = (uint8_t)i;
	d = digest_new_gmac(key, &err);
	digest_update(d, data, 7, &err);
	digest_update(d, data + 7, 500, &err);
	copy = digest_copy(d, &err);
	digest_update(d, data + 507, 493, &err);
	finish(d, hex);
	is_str(hex, "311e504fff9c646ee75aa8090787bc5d", "GMAC in pieces");
	digest_update(copy, data, 1, &err);
	finish(copy, hex);
	ok(strcmp(hex, "311e504fff9c646ee75aa8090787bc5d") != 0, "a copy goes its own way");
}

static void
hmac_rfc4231(void)
{
	uint8_t key[131], mac[32];
	struct err err = {0};
	struct digest *d, *copy;
	char hex[2 * DIGEST_MAX_LEN + 1];
	const char *want = "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7";

	memset(key, 0x0b, 20);
	is_int(hmac_sha256(key, 20, "Hi There", 8, mac, &err), 0, "RFC 4231 case 1");
	for (int i = 0; i < 32; i++)
		snprintf(hex + 2 * i, 3, "%02x", mac[i]);
	is_str(hex, want, "... its value");
	d = digest_new_hmac(key, 20, &err);
	digest_update(d, "Hi ", 3, &err);
	copy = digest_copy(d, &err);
	digest_update(d, "There", 5, &err);
	digest_update(copy, "Others", 6, &err);
	finish(d, hex);
	is_str(hex, want, "... in pieces");
	finish(copy, hex);
	ok(strcmp(hex, want) != 0, "... the copy went its own way");
	memset(key, 0xaa, 131);
	hmac_sha256(key, 131, "Test Using Larger Than Block-Size Key - Hash Key First", 54, mac, &err);
	for (int i = 0; i < 32; i++)
		snprintf(hex + 2 * i, 3, "%02x", mac[i]);
	is_str(hex, "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54", "RFC 4231 case 6, a long key");
}

static int
all_once(void *arg)
{
	struct err err = {0};
	struct digest *d = arg != NULL ? digest_new_hmac((const uint8_t *)"k", 1, &err) : digest_new(DIGEST_SHA256, &err);
	struct digest *copy = NULL;
	uint8_t out[DIGEST_MAX_LEN];
	int rc = d != NULL && (copy = digest_copy(d, &err)) != NULL && digest_final(copy, out, &err) == 32 ? 0 : -1;

	digest_free(d);
	digest_free(copy);
	return rc != 0 && err.class == ERR_NONE ? 1 : rc;
}

/* Every length up to where another way of calculating begins, and some behind it, against the definition bit by bit. */
static void
crc32c_lengths(const uint8_t *data)
{
	uint32_t crc = 0xFFFFFFFF;
	size_t wrong = 0;

	for (size_t len = 1; len <= 500; len++) {
		crc ^= data[len];
		for (int bit = 0; bit < 8; bit++)
			crc = crc >> 1 ^ (0x82F63B78 & (0 - (crc & 1)));
		wrong += crc32c(0, data + 1, len) != ~crc;
	}
	is_int(wrong, 0, "CRC32C of 1 to 500 bytes, not aligned");
}

int
main(void)
{
	char hex[2 * DIGEST_MAX_LEN + 1], hex2[2 * DIGEST_MAX_LEN + 1];
	uint8_t zeros[32] = {0}, noise[1000];
	struct err err = {0};
	enum digest_kind kind;

	sample_secmem(65536);
	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
		struct digest *d = digest_new(kinds[i].kind, &err), *copy;

		ok(digest_parse(kinds[i].name, &kind) == 0 && kind == kinds[i].kind, "parsing %s", kinds[i].name);
		is_str(digest_name(kinds[i].kind), kinds[i].name, "name of %s", kinds[i].name);
		digest_update(d, "a", 1, &err);
		copy = digest_copy(d, &err);
		digest_update(d, "", 0, &err);
		digest_update(d, "bc", 2, &err);
		finish(d, hex);
		is_str(hex, kinds[i].of_abc, "%s of abc", kinds[i].name);
		digest_update(copy, "bc", 2, &err);
		finish(copy, hex2);
		is_str(hex2, hex, "%s of a copy", kinds[i].name);
	}
	ok(digest_parse("sha256", &kind) == 0 && kind == DIGEST_SHA256, "in any case");
	ok(digest_parse("MD5", &kind) == -1, "MD5 is unknown");
	ok(digest_new((enum digest_kind)99, &err) == NULL, "no digest of an unknown kind");
	gmac();
	hmac_rfc4231();

	/* RFC 3720, B.4 */
	is_int(crc32c(0, zeros, 32), 0x8A9136AA, "CRC32C of 32 zeros");
	memset(zeros, 0xFF, 32);
	is_int(crc32c(0, zeros, 32), 0x62A8AB43, "CRC32C of 32 ones");
	is_int(crc32c(0, "123456789", 9), 0xE3069283, "CRC32C's check value");
	sample_noise(1, noise, sizeof(noise));
	is_int(crc32c(crc32c(0, noise, 333), noise + 333, 667), crc32c(0, noise, 1000), "CRC32C in pieces");
	crc32c_lengths(noise);
	digest_free(NULL);
	ok(failmalloc_each(all_once, NULL) > 0, "a digest with each allocation failing");
	ok(failmalloc_each(all_once, hex) > 0, "an HMAC with each allocation failing");
	is_int(secmem_used(), 0, "nothing is left in secure memory");
	return tap_done();
}
