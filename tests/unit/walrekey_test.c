/* WAL from one keyset to another: which pages pass, which are translated and to what, and what stays as it was. */
#include "walcrypt/walrekey.h"

#include <stdlib.h>

#include "tests/unit/failmalloc.h"
#include "tests/unit/sample.h"
#include "tests/unit/tap.h"
#include "walcrypt/secmem.h"

#define PAGE WAL_PAGE_LEN

static struct keyset *keys, *others;

/* A page of timeline tli as a server stores it: some granules raw zeros, some that only say zero. */
static void
make_page(uint32_t tli, int long_header, uint8_t text[static PAGE], uint8_t page[static PAGE], struct wal_header *h)
{
	struct err err;
	struct wal_cipher *c = wal_cipher_new(keys, &err);

	sample_wal_page(text, tli, UINT64_C(0x3000000), long_header, tli);
	memset(text + 4096, 0, 64);
	memset(text + 6000, 0, 16);
	memset(text + 8000, 0, 192);
	wal_page_encrypt(c, 99, false, text, page, &err);
	memset(page + 6000, 0, 16);
	wal_page_look(page, PAGE, h);
	wal_cipher_free(c);
}

static void
one(uint32_t tli, int long_header, const struct keyset *to, unsigned epoch, bool passes)
{
	uint8_t text[PAGE], page[PAGE], want[PAGE], got[PAGE], said[PAGE];
	struct wal_header h, k;
	struct err err = {0};
	struct walrekey *r = walrekey_new(keys, to, &err);
	bool zeros = true, pieces = true;
	const char *who = to == NULL ? "a clear reader" : to == keys ? "the same keys" : "others";

	make_page(tli, long_header, text, page, &h);
	is_int(walrekey_passes(r, &h), passes, "timeline %u for %s: %s", tli, who, passes ? "passes" : "is changed");
	memcpy(want, page, PAGE);
	is_int(walrekey_range(r, &h, 0, want, said, PAGE, &err), 0, "... a whole page");
	is_mem(said, text, PAGE, "... says what it said");
	if (to != NULL) {
		struct wal_cipher *c = wal_cipher_new(to, &err);

		wal_page_look(want, PAGE, &k);
		ok(k.encrypted && k.epoch7 == epoch && k.generation == 99 && k.info == h.info && k.len == h.len,
		   "... under epoch %u, its generation kept", epoch);
		ok(wal_page_decrypt(c, want, got, &err) == 0 && memcmp(got, text, PAGE) == 0, "... its reader opens it");
		wal_cipher_free(c);
		for (size_t g = h.len; g < PAGE; g += 8)
			zeros &= (memcmp(page + g, (uint8_t[8]){0}, 8) == 0) == (memcmp(want + g, (uint8_t[8]){0}, 8) == 0);
		ok(zeros, "... with the same granules raw zero (W3)");
	} else
		is_mem(want, text, PAGE, "... clear");
	is_int(memcmp(want, page, PAGE) == 0, passes, "... bytes %s", passes ? "untouched" : "changed");
	for (size_t step = 8; step <= 4096; step += step < 64 ? 8 : 1000) {
		memcpy(got, page, PAGE);
		for (size_t off = 0, n; off < PAGE; off += n) {
			n = PAGE - off < step ? PAGE - off : step;
			pieces &= walrekey_range(r, &h, off, got + off, off % 3 == 0 ? said : NULL, n, &err) == 0;
		}
		pieces &= memcmp(got, want, PAGE) == 0;
	}
	ok(pieces, "... the same in every split");
	walrekey_free(r);
}

static void
refusals(void)
{
	uint8_t text[PAGE], page[PAGE], copy[PAGE];
	struct wal_header h;
	struct err err;
	struct walrekey *r = walrekey_new(others, keys, &err);

	make_page(5, 0, text, page, &h);
	memcpy(copy, page, PAGE);
	is_int(walrekey_range(r, &h, 0, page, NULL, PAGE, &err), -1, "an epoch that the writer's keyset lacks");
	is_err(&err, ERR_WRONG_KEY, "no WAL key of epoch 3", "... by name");
	is_mem(page, copy, PAGE, "... and the page is untouched");
	h.encrypted = false;
	is_int(walrekey_range(r, &h, 0, page, NULL, PAGE, &err), -1, "a clear page");
	is_err(&err, ERR_REFUSED, "not encrypted", "... by name");
	h.encrypted = true;
	h.epoch7 = 2;
	is_int(walrekey_range(r, &h, 8, page, copy, PAGE, &err), -1, "more than a page");
	is_int(walrekey_range(r, &h, 4, page, copy, 8, &err), -1, "half a granule");
	walrekey_free(r);
	walrekey_free(NULL);
}

static int
starve(void *arg)
{
	uint8_t text[PAGE], page[PAGE];
	struct wal_header h;
	struct err err = {0};
	struct walrekey *r;
	int rc;

	memcpy(page, arg, PAGE);
	wal_page_look(page, PAGE, &h);
	if ((r = walrekey_new(keys, others, &err)) == NULL)
		return err.text[0] != '\0' ? -1 : 1;
	rc = walrekey_range(r, &h, 0, page, text, PAGE, &err);
	walrekey_free(r);
	return rc != 0 && err.text[0] == '\0' ? 1 : rc;
}

int
main(void)
{
	uint8_t text[PAGE], page[PAGE];
	struct wal_header h;
	size_t used;

	sample_secmem(1 << 18);
	keys = sample_keyset(KEY_AES256);
	others = sample_keyset_other(KEY_AES256);
	for (int long_header = 0; long_header < 2; long_header++) {
		one(1, long_header, keys, 1, true);
		one(5, long_header, keys, 3, true);
		one(1, long_header, others, 1, false); /* the same number, another key */
		one(5, long_header, others, 2, false); /* epoch 3 is not there: what it writes itself for the timeline */
		one(5, long_header, NULL, 0, false);
	}
	refusals();
	make_page(1, 0, text, page, &h);
	used = secmem_used();
	ok(failmalloc_each(starve, page) >= 3, "each allocation may fail");
	is_int(secmem_used(), used, "and no key is left behind");
	keyset_free(keys);
	keyset_free(others);
	return tap_done();
}
