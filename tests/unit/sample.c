#include "tests/unit/sample.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "walcrypt/digest.h"
#include "walcrypt/secmem.h"
#include "walcrypt/wal.h"

void
sample_noise(uint64_t seed, uint8_t *out, size_t len)
{
	for (size_t i = 0; i < len; i++) {
		seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
		out[i] = (uint8_t)(seed >> 56);
	}
}

void
sample_holes(uint8_t *page, const char *spec)
{
	while (*spec != '\0' && *spec != '-') {
		char *end;
		size_t at = strtoul(spec, &end, 10), len = strtoul(end + 1, &end, 10);

		memset(page + at, 0, len);
		spec = *end == ',' ? end + 1 : end;
	}
}

void
sample_wal_page(uint8_t *page, uint32_t tli, uint64_t pageaddr, int long_header, uint64_t seed)
{
	uint16_t magic = 0xD110, info = long_header ? WAL_INFO_LONG : 0;
	uint32_t rem_len = 17, sizes[2] = {16 << 20, WAL_PAGE_LEN};
	uint64_t system_identifier = UINT64_C(7300000000000000007);

	sample_noise(seed, page, WAL_PAGE_LEN);
	memcpy(page, &magic, 2);
	memcpy(page + 2, &info, 2);
	memcpy(page + 4, &tli, 4);
	memcpy(page + 8, &pageaddr, 8);
	memcpy(page + 16, &rem_len, 4);
	memset(page + 20, 0, 4);
	if (long_header) {
		memcpy(page + 24, &system_identifier, 8);
		memcpy(page + 32, sizes, 8);
	}
}

static void
bail(const char *why)
{
	printf("Bail out! %s\n", why);
	exit(1);
}

void
sample_key(struct data_key *key, enum key_method method, uint64_t seed)
{
	memset(key, 0, sizeof(*key));
	key->len = key_method_len(method);
	sample_noise(seed, key->bytes, (size_t)key->len);
}

/* The first n epochs; seed: of the relation key, and of the first epoch's the next. */
static struct keyset *
make_keyset(enum key_method method, uint64_t seed, size_t n)
{
	struct keyset_epoch epochs[3] = {
	    {.number = 1}, {.number = 2, .after_timeline = 3}, {.number = 3, .after_timeline = 3}};
	struct data_key relation;
	struct keyset *ks;
	struct err err = {0};

	sample_key(&relation, method, seed);
	for (size_t i = 0; i < n; i++)
		sample_key(&epochs[i].key, method, i == 0 ? seed + 1 : 2 + (uint64_t)i);
	ks = keyset_new(method, UINT64_C(7300000000000000007), &relation, epochs, n, &err);
	if (ks == NULL)
		bail(err.text);
	return ks;
}

struct keyset *
sample_keyset(enum key_method method)
{
	return make_keyset(method, 1, 3);
}

struct keyset *
sample_keyset_other(enum key_method method)
{
	return make_keyset(method, 101, 2);
}

void
sample_sha256(const uint8_t *data, size_t len, char hex[static 65])
{
	uint8_t sum[DIGEST_MAX_LEN];
	struct err err = {0};
	struct digest *d = digest_new(DIGEST_SHA256, &err);

	if (d == NULL || digest_update(d, data, len, &err) != 0 || digest_final(d, sum, &err) != 32)
		bail(err.text);
	digest_free(d);
	for (int i = 0; i < 32; i++)
		snprintf(hex + 2 * i, 3, "%02x", sum[i]);
}

void
sample_secmem(size_t len)
{
	struct err err = {0};

	if (secmem_init(len, &err) != 0)
		bail(err.text);
}
