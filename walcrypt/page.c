#include "walcrypt/page.h"

#include <stdlib.h>
#include <string.h>

#include "walcrypt/cipher.h"
#include "walcrypt/granule.h"
#include "walcrypt/load.h"
#include "walcrypt/secmem.h"

#define XTS_MAX_KEY_LEN 64
#define NSECTORS (PAGE_LEN / PAGE_SECTOR_LEN)

struct page_cipher {
	struct cipher *enc, *dec;
};

static void
put32(uint8_t *p, uint32_t v)
{
	for (int i = 0; i < 4; i++)
		p[i] = (uint8_t)(v >> 8 * i);
}

static void
tweak_make(uint8_t tweak[static CIPHER_IV_LEN], const struct page_at *at, uint32_t block)
{
	put32(tweak, at->db);
	put32(tweak + 4, at->rel);
	put32(tweak + 8, block);
	tweak[12] = at->fork;
	tweak[13] = at->temp ? 1 : 0;
	tweak[14] = 0;
	tweak[15] = 0;
}

struct page_cipher *
page_cipher_new(const struct data_key *relation_key, struct err *err)
{
	/* there is no XTS-AES-192: a key of 24 bytes derives one for XTS-AES-256 */
	size_t len = relation_key->len == 16 ? 32 : 64;
	struct page_cipher *c = calloc(1, sizeof(*c));
	uint8_t key[XTS_MAX_KEY_LEN] = {0};

	if (c == NULL) {
		err_nomem(err);
		return NULL;
	}
	if (key_derive(relation_key->bytes, (size_t)relation_key->len, "walcrypt page xts v1", key, len, err) != 0 ||
	    (c->enc = cipher_new(CIPHER_XTS_ENCRYPT, key, len, err)) == NULL ||
	    (c->dec = cipher_new(CIPHER_XTS_DECRYPT, key, len, err)) == NULL) {
		page_cipher_free(c);
		c = NULL;
	}
	secmem_wipe(key, sizeof(key));
	return c;
}

void
page_cipher_free(struct page_cipher *c)
{
	if (c == NULL)
		return;
	cipher_free(c->enc);
	cipher_free(c->dec);
	free(c);
}

static int
crypt_page(struct cipher *c, const struct page_at *at, uint32_t block, const uint8_t *in, uint8_t *out, struct err *err)
{
	uint8_t tweak[CIPHER_IV_LEN];

	tweak_make(tweak, at, block);
	return cipher_run(c, tweak, in, out, PAGE_LEN, err);
}

/* Bit i is set when sector i is all zero. */
static unsigned
zero_sectors(const uint8_t *page)
{
	unsigned set = 0;

	for (unsigned i = 0; i < NSECTORS; i++) {
		const uint8_t *sector = page + i * PAGE_SECTOR_LEN;
		uint64_t first;

		memcpy(&first, sector, sizeof(first)); /* enough for nearly all: sixteen calls would cost 3 % of the page */
		if (first == 0 && granule_all_zero(sector, PAGE_SECTOR_LEN))
			set |= 1u << i;
	}
	return set;
}

int
page_encrypt_many(struct page_cipher *c, const struct page_at *at, const uint8_t *in, uint8_t *out, uint32_t n,
                  struct err *err)
{
	for (uint32_t i = 0; i < n; i++) {
		const uint8_t *from = in + (size_t)i * PAGE_LEN;
		uint8_t *to = out + (size_t)i * PAGE_LEN;

		if (page_is_zero(from)) {
			if (to != from)
				memset(to, 0, PAGE_LEN);
		} else if (crypt_page(c->enc, at, at->block + i, from, to, err) != 0) {
			secmem_wipe(out, (size_t)n * PAGE_LEN);
			return -1;
		}
	}
	return 0;
}

int
page_decrypt_many(struct page_cipher *c, const struct page_at *at, const uint8_t *in, uint8_t *out, uint32_t n,
                  struct err *err)
{
	for (uint32_t i = 0; i < n; i++) {
		const uint8_t *from = in + (size_t)i * PAGE_LEN;
		uint8_t *to = out + (size_t)i * PAGE_LEN;
		unsigned zero = zero_sectors(from);

		if (zero == (1u << NSECTORS) - 1) {
			memset(to, 0, PAGE_LEN);
			continue;
		}
		if (crypt_page(c->dec, at, at->block + i, from, to, err) != 0) {
			secmem_wipe(out, (size_t)n * PAGE_LEN);
			return -1;
		}
		for (unsigned s = 0; zero != 0; s++, zero >>= 1)
			if ((zero & 1) != 0)
				memset(to + s * PAGE_SECTOR_LEN, 0, PAGE_SECTOR_LEN);
	}
	return 0;
}

int
page_encrypt(struct page_cipher *c, const struct page_at *at, const uint8_t *in, uint8_t *out, struct err *err)
{
	return page_encrypt_many(c, at, in, out, 1, err);
}

int
page_decrypt(struct page_cipher *c, const struct page_at *at, const uint8_t *in, uint8_t *out, struct err *err)
{
	return page_decrypt_many(c, at, in, out, 1, err);
}

bool
page_is_zero(const uint8_t *page)
{
	return granule_all_zero(page, PAGE_LEN);
}

bool
page_is_new(const uint8_t *page)
{
	return load16(page + 14) == 0; /* pd_upper */
}

bool
page_is_plausible(const uint8_t *page)
{
	uint16_t lower = load16(page + 12), upper = load16(page + 14), special = load16(page + 16);

	/* pd_pagesize_version: the size, and in the low byte the layout's version, 4 since PostgreSQL 8.3 */
	return load16(page + 18) == (PAGE_LEN | 4) && lower >= 24 && lower <= upper && upper <= special &&
	       special <= PAGE_LEN;
}

uint16_t
page_stored_checksum(const uint8_t *page)
{
	uint16_t sum;

	memcpy(&sum, page + 8, sizeof(sum)); /* pd_checksum */
	return sum;
}

uint64_t
page_lsn(const uint8_t *page)
{
	uint32_t hi, lo;

	memcpy(&hi, page, sizeof(hi)); /* pd_lsn: two words, the high one first */
	memcpy(&lo, page + 4, sizeof(lo));
	return (uint64_t)hi << 32 | lo;
}
