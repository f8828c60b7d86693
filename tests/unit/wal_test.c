/* WAL pages: the decoder's vectors, headers, W1-W3 as far as a page goes, ranges in every split, generations. */
#include "walcrypt/wal.h"

#include <stdlib.h>

#include "tests/unit/failmalloc.h"
#include "tests/unit/sample.h"
#include "tests/unit/tap.h"
#include "tests/unit/vectors.h"
#include "walcrypt/secmem.h"

#define PAGE WAL_PAGE_LEN

static enum key_method
method_of(int len)
{
	return len == 16 ? KEY_AES128 : len == 24 ? KEY_AES192 : KEY_AES256;
}

static void
row(const struct vector *v)
{
	uint8_t page[PAGE], enc[PAGE], out[PAGE];
	struct keyset_epoch epoch = {.number = (uint32_t)vector_number(v, 1)};
	uint32_t tli = (uint32_t)vector_number(v, 2), generation = (uint32_t)vector_number(v, 3);
	uint16_t info = (uint16_t)vector_number(v, 5);
	bool last = vector_number(v, 6) != 0;
	struct wal_cipher *c = NULL;
	struct wal_header h;
	struct keyset *ks;
	struct err err = {0};
	char hex[65];

	epoch.key.len = (int)vector_bytes(v, 0, epoch.key.bytes, KEY_MAX_LEN);
	ks = keyset_new(method_of(epoch.key.len), 1, &epoch.key, &epoch, 1, &err);
	if (!ok(ks != NULL && (c = wal_cipher_new(ks, &err)) != NULL, "wal.txt:%d: a cipher", v->number))
		return;
	sample_noise(vector_number(v, 7), page, PAGE);
	sample_holes(page, v->word[8]);
	sample_wal_page(out, tli, vector_number(v, 4), 0, 1);
	memcpy(page, out, WAL_HEADER_LEN);
	memcpy(page + 2, &info, 2);
	sample_sha256(page, PAGE, hex);
	is_str(hex, v->word[9], "wal.txt:%d: the clear page", v->number);
	is_int(wal_page_encrypt(c, generation, last, page, enc, &err), 0, "wal.txt:%d: encrypts", v->number);
	sample_sha256(enc, PAGE, hex);
	is_str(hex, v->word[10], "wal.txt:%d: encrypted", v->number);
	is_int(wal_page_look(enc, PAGE, &h), WAL_PAGE_ENCRYPTED, "wal.txt:%d: says that it is encrypted", v->number);
	ok(h.generation == generation && h.epoch7 == epoch.number % 128 && h.info == info && h.tli == tli,
	   "wal.txt:%d: and how", v->number);
	ok(wal_page_decrypt(c, enc, out, &err) == 0 && memcmp(out, page, PAGE) == 0, "wal.txt:%d: decrypted", v->number);
	memcpy(out, page, PAGE);
	ok(wal_page_encrypt(c, generation, last, out, out, &err) == 0 && memcmp(out, enc, PAGE) == 0,
	   "wal.txt:%d: encrypted in place", v->number);
	ok(wal_page_decrypt(c, out, out, &err) == 0 && memcmp(out, page, PAGE) == 0, "wal.txt:%d: decrypted in place",
	   v->number);
	enc[21] ^= 1;
	ok(wal_page_decrypt(c, enc, out, &err) == 0 &&
	       (memcmp(out + 40, page + 40, PAGE - 40) != 0 || memcmp(enc + 40, page + 40, PAGE - 40) == 0),
	   "wal.txt:%d: a changed generation gives other bytes", v->number);
	wal_cipher_free(c);
	keyset_free(ks);
}

/* each field of the header that can make it none */
static void
headers(void)
{
	uint8_t page[PAGE], changed[PAGE];
	struct wal_header h;
	static const struct {
		int at;
		uint8_t value;
		const char *what;
	} bad[] = {
	    {1, 0xD0, "another magic"},
	    {3, 0x01, "an epoch without the flag"},
	    {2, 0x10, "an unknown info bit"},
	    {4, 0, "timeline 0"},
	    {8, 1, "an odd address"},
	    {9, 0x10, "an address inside a page"},
	    {15, 0x20, "an address of 2^61"},
	    {20, 1, "a clear page with a generation"},
	    {23, 0x80, "a clear page with a generation"},
	};

	sample_wal_page(page, 1, 0x3000000, 1, 5);
	is_int(wal_page_look(page, PAGE, &h), WAL_PAGE_CLEAR, "a clear page");
	ok(h.len == 40 && h.system_identifier == UINT64_C(7300000000000000007) && h.segment_size == 16 << 20 &&
	       h.page_size == PAGE && h.tli == 1 && h.pageaddr == 0x3000000 && h.rem_len == 17 && h.magic == 0xD110,
	   "its long header");
	is_int(wal_page_look(page, 24, &h), WAL_PAGE_CLEAR, "24 bytes are enough");
	ok(h.len == 40 && h.system_identifier == 0, "... without what lies behind");
	is_int(wal_page_look(page, 23, &h), WAL_PAGE_INVALID, "23 are not");
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		memcpy(changed, page, PAGE);
		changed[bad[i].at] = bad[i].value;
		is_int(wal_page_look(changed, PAGE, &h), WAL_PAGE_INVALID, "%s is no header", bad[i].what);
		ok(h.tli == 0 && h.len == 0, "... and nothing is told of it");
	}
	memset(changed, 0, PAGE);
	is_int(wal_page_look(changed, 24, &h), WAL_PAGE_ZERO, "zeros");
	memcpy(changed, page, PAGE);
	wal_header_seal(changed, 300, 0x80000005);
	is_int(wal_page_look(changed, PAGE, &h), WAL_PAGE_ENCRYPTED, "sealed");
	ok(h.epoch7 == 300 % 128 && h.generation == 0x80000005 && h.info == WAL_INFO_LONG, "... with epoch and generation");
	wal_header_seal(changed, 1, 5);
	wal_page_look(changed, PAGE, &h);
	ok(h.epoch7 == 1 && h.generation == 5, "sealed again, the old epoch is gone");
	wal_header_open(changed);
	is_mem(changed, page, PAGE, "opened, it is what it was");
}

/* W2 and W3: where zeros are in the ciphertext, and what they become */
static void
granules(struct wal_cipher *c)
{
	uint8_t page[PAGE], enc[PAGE], out[PAGE];
	struct err err = {0};
	int zeros[2] = {0};
	bool held = true;

	sample_wal_page(page, 1, 0x3002000, 0, 5);
	memset(page + 1024, 0, 512);
	memset(page + 4099, 0, 16); /* one aligned granule and parts of two */
	memset(page + 6000, 0, PAGE - 6000);
	for (int last = 0; last < 2; last++) {
		wal_page_encrypt(c, 5, last, page, enc, &err);
		for (int i = 24; i < PAGE; i += 8)
			zeros[last] += memcmp(enc + i, (uint8_t[8]){0}, 8) == 0;
		ok(wal_page_decrypt(c, enc, out, &err) == 0 && memcmp(out, page, PAGE) == 0, "there and back, last %d", last);
	}
	is_int(zeros[0], (PAGE - 6000) / 8, "the trailing zero granules are raw");
	is_int(zeros[1], (PAGE - 6000) / 8 + 64 + 1, "in the last page all of them");

	/* R1: an older, shorter image of the page shows through at any sector, and its zeros are zeros */
	{
		uint8_t young[PAGE], old[PAGE], young_enc[PAGE], old_enc[PAGE];

		sample_wal_page(young, 1, 0x3002000, 0, 5);
		memcpy(old, young, PAGE);
		memset(old + 700, 0, PAGE - 700);
		wal_page_encrypt(c, 5, true, young, young_enc, &err);
		wal_page_encrypt(c, 5, true, old, old_enc, &err);
		for (unsigned pattern = 0; pattern < 1 << 16; pattern += 255) {
			uint8_t disk[PAGE], want[PAGE];

			for (unsigned s = 0; s < 16; s++) {
				bool new = (pattern >> s & 1) != 0;

				memcpy(disk + 512 * s, (new ? young_enc : old_enc) + 512 * s, 512);
				memcpy(want + 512 * s, (new ? young : old) + 512 * s, 512);
			}
			held &= wal_page_decrypt(c, disk, out, &err) == 0 && memcmp(out, want, PAGE) == 0;
		}
		ok(held, "torn writes of a growing page read as without encryption");
	}

	/* W3: a page of zeros behind a sealed header is no oracle */
	memset(page + 24, 0, PAGE - 24);
	memcpy(enc, page, PAGE);
	wal_header_seal(enc, 1, 5);
	wal_page_decrypt(c, enc, out, &err);
	is_mem(out, page, PAGE, "zeros under a header decrypt to zeros, not to keystream");
	wal_page_encrypt(c, 5, false, page, out, &err);
	is_mem(out, enc, PAGE, "... and encrypt to zeros");
}

static void
ranges(struct wal_cipher *c, int long_header)
{
	static const size_t steps[] = {8, 16, 24, 40, 512, 4096, 8192};
	uint8_t page[PAGE], enc[PAGE], every[PAGE], part[PAGE], skip[PAGE];
	struct wal_header clear, sealed;
	struct err err = {0};
	size_t len = long_header ? 40 : 24;

	sample_wal_page(page, 2, 0x4000000, long_header, 11);
	memset(page + 800, 0, 333);
	memset(page + 7000, 0, PAGE - 7000);
	wal_page_look(page, PAGE, &clear);
	wal_page_encrypt(c, 77, true, page, enc, &err);
	wal_page_look(enc, PAGE, &sealed);
	memcpy(every, page, PAGE);
	wal_cipher_xor(c, 1, 2, 77, 0x4000000, len, page + len, every + len, PAGE - len, &err);
	wal_header_seal(every, 1, 77);
	for (size_t s = 0; s < sizeof(steps) / sizeof(steps[0]); s++) {
		size_t n = steps[s];
		int rc = 0;

		memcpy(part, page, PAGE);
		for (size_t at = 0; at < PAGE; at += n)
			rc |= wal_range_encrypt(c, &clear, 77, true, at, part + at, part + at, PAGE - at < n ? PAGE - at : n, &err);
		ok(rc == 0 && memcmp(part, enc, PAGE) == 0, "in steps of %zu, zeros raw: as the whole page", n);
		rc = 0;
		for (size_t at = 0; at < PAGE; at += n)
			rc |= wal_range_decrypt(c, &sealed, at, part + at, PAGE - at < n ? PAGE - at : n, &err);
		ok(rc == 0 && memcmp(part, page, PAGE) == 0, "... and back");
		for (size_t at = 0; at < PAGE; at += n)
			rc |=
			    wal_range_encrypt(c, &clear, 77, false, at, part + at, part + at, PAGE - at < n ? PAGE - at : n, &err);
		ok(rc == 0 && memcmp(part, every, PAGE) == 0, "in steps of %zu, every byte", n);
		memset(part, 0xAA, PAGE);
		for (size_t at = 0; at < PAGE; at += n)
			rc |= wal_range_encrypt(c, &clear, 77, true, at, page + at, part + at, PAGE - at < n ? PAGE - at : n, &err);
		ok(rc == 0 && memcmp(part, enc, PAGE) == 0, "... and to another place");
	}
	for (size_t from = 0; from < 64; from += 8) {
		memcpy(skip, page, PAGE);
		if (wal_range_encrypt(c, &clear, 77, false, from, skip + from, skip + from, 128, &err) != 0 ||
		    memcmp(skip, page, from) != 0 || memcmp(skip + from, every + from, 128) != 0 ||
		    memcmp(skip + from + 128, page + from + 128, PAGE - from - 128) != 0)
			ok(false, "a range from %zu on", from);
	}
	ok(true, "ranges that begin inside a header");
	is_int(wal_range_encrypt(c, &clear, 77, false, 4, part, part, 8, &err), -1, "half a granule is refused");
	is_int(wal_range_encrypt(c, &clear, 77, false, 8, part, part, PAGE, &err), -1, "more than a page is refused");
	is_int(wal_range_encrypt(c, &sealed, 77, false, 8, part, part, 8, &err), -1, "twice is refused");
	memcpy(part, page, PAGE);
	ok(wal_range_decrypt(c, &clear, 0, part, PAGE, &err) == 0 && memcmp(part, page, PAGE) == 0, "clear stays clear");
}

/* what cannot be done is refused, and nothing is let out */
static void
refusals(struct wal_cipher *c)
{
	uint8_t page[PAGE], enc[PAGE], out[PAGE], same[PAGE];
	struct err err = {0};

	sample_wal_page(page, 1, 0x3002000, 0, 5);
	wal_page_encrypt(c, 5, false, page, enc, &err);
	memset(out, 7, PAGE);
	memcpy(same, out, PAGE);
	is_int(wal_page_encrypt(c, 6, false, enc, out, &err), -1, "an encrypted page is not encrypted again");
	is_err(&err, ERR_REFUSED, "encrypted already", "... and that is said");
	is_mem(out, same, PAGE, "... nothing written");
	is_int(wal_page_encrypt(c, 6, false, (const uint8_t *)memset(enc, 'a', PAGE), out, &err), -1,
	       "text is refused (R2)");
	is_err(&err, ERR_REFUSED, "no valid page header", "... and said");
	is_mem(out, same, PAGE, "... nothing written");
	memset(enc, 0, PAGE);
	enc[PAGE - 1] = 1;
	is_int(wal_page_encrypt(c, 6, false, enc, out, &err), -1, "zeros with something behind are refused");
	enc[PAGE - 1] = 0;
	ok(wal_page_encrypt(c, 6, false, enc, out, &err) == 0 && memcmp(out, enc, PAGE) == 0, "a zero page stays zero");
	ok(wal_page_decrypt(c, enc, out, &err) == 0 && memcmp(out, enc, PAGE) == 0, "... and back");
	ok(wal_page_decrypt(c, page, out, &err) == 0 && memcmp(out, page, PAGE) == 0, "a clear page is copied");
	memset(enc, 'a', PAGE);
	ok(wal_page_decrypt(c, enc, out, &err) == 0 && memcmp(out, enc, PAGE) == 0, "garbage is copied");
	memcpy(enc, page, PAGE);
	wal_header_seal(enc, 9, 5);
	memset(out, 7, PAGE);
	is_int(wal_page_decrypt(c, enc, out, &err), -1, "an epoch that is not there");
	is_err(&err, ERR_WRONG_KEY, "epoch 9", "... is named");
	is_mem(out, same, PAGE, "... nothing written");
	is_int(wal_cipher_xor(c, 200, 1, 1, 0, 24, page, out, 8, &err), -1, "an epoch above 127");
	is_int(wal_cipher_xor(c, 1, 1, 1, 0, 24, page, out, PAGE, &err), -1, "beyond the page");
	is_int(wal_cipher_xor(c, 1, 1, 1, WAL_MAX_PAGEADDR, 24, page, out, 8, &err), -1, "beyond 2^61");
}

/* any start and length of raw keystream is a piece of the whole */
static void
pieces(struct wal_cipher *c)
{
	uint8_t zeros[PAGE] = {0}, whole[PAGE], out[PAGE];
	struct err err = {0};
	bool same = true;

	wal_cipher_xor(c, 2, 4, 77, 0x4000000, 0, zeros, whole, PAGE, &err);
	for (size_t at = 0; at < 100; at++)
		for (size_t len = 0; len < 40; len += 3) {
			memset(out, 1, len + 1);
			same &= wal_cipher_xor(c, 2, 4, 77, 0x4000000, at, zeros, out, len, &err) == 0;
			same &= memcmp(out, whole + at, len) == 0 && out[len] == 1;
		}
	ok(same, "keystream from any byte on");
	wal_cipher_xor(c, 1, 4, 77, 0x4000000, 0, zeros, out, PAGE, &err);
	ok(memcmp(out, whole, 16) != 0, "another epoch, another stream");
}

static void
generations(const struct keyset *ks)
{
	struct vector v;
	uint32_t g, g2;
	uint8_t history[32];
	struct err err = {0};
	int n = 0;

	for (vector_open(&v, "generation.txt"); vector_next(&v); n++) {
		struct keyset_epoch epoch = {.number = 1};
		struct keyset *one;

		epoch.key.len = (int)vector_bytes(&v, 0, epoch.key.bytes, KEY_MAX_LEN);
		vector_bytes(&v, 3, history, sizeof(history));
		one = keyset_new(method_of(epoch.key.len), 1, &epoch.key, &epoch, 1, &err);
		ok(wal_proxy_generation(one, vector_number(&v, 1), (uint32_t)vector_number(&v, 2), history,
		                        vector_number(&v, 4), &g, &err) == 0,
		   "generation.txt:%d", v.number);
		is_int(g, vector_number(&v, 5), "... its value");
		keyset_free(one);
	}
	ok(n == 3, "rows: %d", n);
	wal_proxy_generation(ks, 1, 1, history, 1, &g, &err);
	wal_proxy_generation(ks, 1, 1, history, 2, &g2, &err);
	ok(g != g2 && (g & g2 & WAL_GENERATION_PROXY) != 0, "another incarnation, another generation");
	n = 0;
	for (int i = 0; i < 100; i++) {
		n += wal_random_generation(&g, &err) == 0 && (g & WAL_GENERATION_PROXY) == 0 && g != g2;
		g2 = g;
	}
	is_int(n, 100, "random ones have the top bit clear");
}

static int
make(void *arg)
{
	struct err err = {0};
	struct wal_cipher *c = wal_cipher_new(arg, &err);

	wal_cipher_free(c);
	return c != NULL ? 0 : err.class == ERR_NONE ? 1 : -1;
}

int
main(void)
{
	struct keyset *ks;
	struct wal_cipher *c;
	struct vector v;
	uint8_t page[PAGE], enc[PAGE];
	struct wal_header h;
	struct err err = {0};
	int n = 0;

	sample_secmem(1 << 20);
	for (vector_open(&v, "wal.txt"); vector_next(&v); n++)
		row(&v);
	ok(n == 30, "rows: %d", n);
	headers();
	ks = sample_keyset(KEY_AES256);
	c = wal_cipher_new(ks, &err);
	granules(c);
	ranges(c, 0);
	ranges(c, 1);
	refusals(c);
	pieces(c);
	generations(ks);

	/* the epoch follows the header's timeline */
	for (uint32_t tli = 1; tli < 6; tli++) {
		sample_wal_page(page, tli, 0x3002000, 0, 5);
		wal_page_encrypt(c, 5, false, page, enc, &err);
		wal_page_look(enc, PAGE, &h);
		is_int(h.epoch7, tli <= 3 ? 1 : 3, "timeline %u's epoch", tli);
		ok(wal_page_decrypt(c, enc, enc, &err) == 0 && memcmp(enc, page, PAGE) == 0, "... decrypts");
	}
	wal_cipher_free(c);
	wal_cipher_free(NULL);
	ok(failmalloc_each(make, ks) > 0, "a cipher with each allocation failing");
	keyset_free(ks);
	is_int(secmem_used(), 0, "nothing is left in secure memory");
	return tap_done();
}
