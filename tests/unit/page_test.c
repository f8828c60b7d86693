/* Relation pages: the decoder's vectors, tweaks, zero pages and sectors, PostgreSQL's checksum. */
#include "walcrypt/page.h"

#include <stdlib.h>

#include "tests/unit/failmalloc.h"
#include "tests/unit/sample.h"
#include "tests/unit/tap.h"
#include "tests/unit/vectors.h"
#include "walcrypt/secmem.h"

static void
row(const struct vector *v)
{
	uint8_t page[PAGE_LEN], enc[PAGE_LEN], out[PAGE_LEN];
	struct data_key key = {0};
	struct page_at at = {
	    .db = (uint32_t)vector_number(v, 1),
	    .rel = (uint32_t)vector_number(v, 2),
	    .block = (uint32_t)vector_number(v, 3),
	    .fork = (uint8_t)vector_number(v, 4),
	    .temp = vector_number(v, 5) != 0,
	};
	struct page_cipher *c;
	struct err err = {0};
	char hex[65];
	size_t same = 0;

	key.len = (int)vector_bytes(v, 0, key.bytes, sizeof(key.bytes));
	if (!ok((c = page_cipher_new(&key, &err)) != NULL, "page.txt:%d: a cipher", v->number))
		return;
	sample_noise(vector_number(v, 6), page, PAGE_LEN);
	sample_holes(page, v->word[7]);
	sample_sha256(page, PAGE_LEN, hex);
	is_str(hex, v->word[8], "page.txt:%d: the clear page", v->number);
	is_int(page_checksum(page, at.block), vector_number(v, 10), "page.txt:%d: its checksum", v->number);
	page_encrypt(c, &at, page, enc, &err);
	sample_sha256(enc, PAGE_LEN, hex);
	is_str(hex, v->word[9], "page.txt:%d: encrypted", v->number);
	ok(page_decrypt(c, &at, enc, out, &err) == 0 && memcmp(out, page, PAGE_LEN) == 0, "page.txt:%d: decrypted",
	   v->number);
	memcpy(out, page, PAGE_LEN);
	ok(page_encrypt(c, &at, out, out, &err) == 0 && memcmp(out, enc, PAGE_LEN) == 0, "page.txt:%d: encrypted in place",
	   v->number);
	ok(page_decrypt(c, &at, out, out, &err) == 0 && memcmp(out, page, PAGE_LEN) == 0, "page.txt:%d: decrypted in place",
	   v->number);
	if (!page_is_zero(page)) {
		/* tampered: the 16 bytes around the change are lost, the rest stands */
		enc[100] ^= 4;
		page_decrypt(c, &at, enc, out, &err);
		for (int i = 0; i < PAGE_LEN; i++)
			same += out[i] == page[i];
		ok(memcmp(out + 96, page + 96, 16) != 0 && same >= PAGE_LEN - 16, "page.txt:%d: a changed bit spoils 16 bytes",
		   v->number);
	}
	page_cipher_free(c);
}

/* every field of the place counts */
static void
places(struct page_cipher *c)
{
	struct page_at at[] = {
	    {.db = 1, .rel = 2, .block = 3},
	    {.db = 0, .rel = 2, .block = 3},
	    {.db = 1, .rel = 3, .block = 3},
	    {.db = 1, .rel = 2, .block = 4},
	    {.db = 1, .rel = 2, .block = 3 + PAGE_BLOCKS_PER_SEGMENT},
	    {.db = 1, .rel = 2, .block = 3, .fork = PAGE_FORK_FSM},
	    {.db = 1, .rel = 2, .block = 3, .fork = PAGE_FORK_VM},
	    {.db = 1, .rel = 2, .block = 3, .fork = PAGE_FORK_INIT},
	    {.db = 1, .rel = 2, .block = 3, .temp = true},
	};
	enum { N = sizeof(at) / sizeof(at[0]) };
	static uint8_t enc[N][PAGE_LEN];
	uint8_t page[PAGE_LEN];
	struct err err = {0};
	bool differ = true;

	sample_noise(9, page, PAGE_LEN);
	for (int i = 0; i < N; i++)
		page_encrypt(c, &at[i], page, enc[i], &err);
	for (int i = 0; i < N; i++)
		for (int j = 0; j < i; j++)
			for (int b = 0; b < PAGE_LEN; b += 16)
				differ &= memcmp(enc[i] + b, enc[j] + b, 16) != 0;
	ok(differ, "at another place no block of a page is the same");
}

static void
zeros(struct page_cipher *c)
{
	struct page_at at = {.db = 5, .rel = 16384, .block = 9};
	uint8_t page[PAGE_LEN] = {0}, enc[PAGE_LEN], out[PAGE_LEN];
	struct err err = {0};
	bool torn = true;

	memset(enc, 1, PAGE_LEN);
	ok(page_encrypt(c, &at, page, enc, &err) == 0 && page_is_zero(enc), "a zero page stays zero");
	memset(out, 1, PAGE_LEN);
	ok(page_decrypt(c, &at, enc, out, &err) == 0 && page_is_zero(out), "... and back");
	for (int i = 0; i < PAGE_LEN; i += 511) {
		page[i] = 1;
		torn &= !page_is_zero(page) && page_encrypt(c, &at, page, enc, &err) == 0 && !page_is_zero(enc);
		page[i] = 0;
	}
	page[PAGE_LEN - 1] = 1;
	ok(torn && !page_is_zero(page), "one byte anywhere makes it another");

	/* R3: a first write over a zero page, torn at any sector, reads as the same write torn without encryption */
	sample_noise(3, page, PAGE_LEN);
	page_encrypt(c, &at, page, enc, &err);
	torn = true;
	for (unsigned pattern = 0; pattern < 1 << 16; pattern += 257) {
		uint8_t disk[PAGE_LEN], want[PAGE_LEN];

		for (unsigned s = 0; s < 16; s++) {
			bool new = (pattern >> s & 1) != 0;

			memcpy(disk + 512 * s, new ? enc + 512 * s : (const uint8_t[512]){0}, 512);
			memcpy(want + 512 * s, new ? page + 512 * s : (const uint8_t[512]){0}, 512);
		}
		torn &= page_decrypt(c, &at, disk, out, &err) == 0 && memcmp(out, want, PAGE_LEN) == 0;
		torn &= page_decrypt(c, &at, disk, disk, &err) == 0 && memcmp(disk, want, PAGE_LEN) == 0;
	}
	ok(torn, "zero sectors of a torn first write read as zeros");

	/* a torn write over an older image under the same key: each sector is the old or the new one */
	{
		uint8_t old[PAGE_LEN], old_enc[PAGE_LEN];

		sample_noise(4, old, PAGE_LEN);
		page_encrypt(c, &at, old, old_enc, &err);
		memcpy(old_enc, enc, 1536);
		memcpy(old, page, 1536);
		ok(page_decrypt(c, &at, old_enc, out, &err) == 0 && memcmp(out, old, PAGE_LEN) == 0, "a torn later write too");
	}
}

static void
many(struct page_cipher *c)
{
	enum { N = 5 };
	static uint8_t pages[N * PAGE_LEN], enc[N * PAGE_LEN], one[PAGE_LEN], out[N * PAGE_LEN];
	struct page_at at = {.db = 5, .rel = 16384, .block = 100};
	struct err err = {0};
	bool same = true;

	sample_noise(1, pages, sizeof(pages));
	memset(pages + 2 * PAGE_LEN, 0, PAGE_LEN);
	page_encrypt_many(c, &at, pages, enc, N, &err);
	for (uint32_t i = 0; i < N; i++) {
		struct page_at each = at;

		each.block += i;
		page_encrypt(c, &each, pages + i * PAGE_LEN, one, &err);
		same &= memcmp(one, enc + i * PAGE_LEN, PAGE_LEN) == 0;
	}
	ok(same, "pages in a row are each page at its own block");
	ok(page_decrypt_many(c, &at, enc, out, N, &err) == 0 && memcmp(out, pages, sizeof(out)) == 0, "... and back");
	ok(page_encrypt_many(c, &at, pages, out, 0, &err) == 0, "none is none");
}

static int
make(void *arg)
{
	struct err err = {0};
	struct page_cipher *c = page_cipher_new(arg, &err);

	page_cipher_free(c);
	return c != NULL ? 0 : err.class == ERR_NONE ? 1 : -1;
}

int
main(void)
{
	struct data_key key;
	struct page_cipher *c;
	struct err err = {0};
	struct vector v;
	uint8_t page[PAGE_LEN + 1];
	int n = 0;

	sample_secmem(65536);
	for (vector_open(&v, "page.txt"); vector_next(&v); n++)
		row(&v);
	ok(n == 33, "rows: %d", n);

	sample_key(&key, KEY_AES256, 7);
	c = page_cipher_new(&key, &err);
	places(c);
	zeros(c);
	many(c);
	page_cipher_free(c);
	page_cipher_free(NULL);
	key.len = 0;
	ok(failmalloc_each(make, (sample_key(&key, KEY_AES192, 7), &key)) > 0, "a cipher with each allocation failing");

	/* pd_lsn and pd_checksum as PostgreSQL lays them out on this machine */
	sample_noise(5, page, sizeof(page));
	memcpy(page, (const uint32_t[]){0x12, 0x3456789A}, 8);
	memcpy(page + 8, (const uint16_t[]){0xBEEF}, 2);
	ok(page_lsn(page) == UINT64_C(0x123456789A), "pd_lsn");
	is_int(page_stored_checksum(page), 0xBEEF, "pd_checksum");
	n = page_checksum(page, 7);
	page[8] ^= 1;
	is_int(page_checksum(page, 7), n, "the checksum does not count itself");
	ok(page_checksum(page, 8) != n, "but the block");
	memmove(page + 1, page, PAGE_LEN);
	is_int(page_checksum(page + 1, 7), n, "at any address");
	is_int(secmem_used(), 0, "nothing is left in secure memory");
	return tap_done();
}
