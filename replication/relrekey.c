#include "replication/relrekey.h"

#include <stdlib.h>
#include <string.h>

#include "walcrypt/secmem.h"

/* So many pages that look like none, and not one that does: the key is another. */
#define GARBAGE_MAX 8

struct relrekey {
	struct relrekey_conf conf;
	struct page_cipher *from, *to; /* NULL: clear on that side; to NULL also when both keys are one */
	bool same;                     /* pages pass as they came */
	uint64_t start;
	bool opened; /* one page at least looked like one */
	unsigned garbage;
	uint8_t page[PAGE_LEN];
};

struct relrekey *
relrekey_new(const struct relrekey_conf *conf, struct err *err)
{
	const struct data_key *up = conf->upstream, *down = conf->downstream;
	struct relrekey *r = calloc(1, sizeof(*r));

	if (r == NULL) {
		err_nomem(err);
		return NULL;
	}
	r->conf = *conf;
	r->conf.upstream = r->conf.downstream = NULL; /* theirs only until now */
	r->same = up == NULL
	              ? down == NULL
	              : down != NULL && up->len == down->len && secmem_equal(up->bytes, down->bytes, (size_t)up->len);
	if ((up != NULL && (r->from = page_cipher_new(up, err)) == NULL) ||
	    (down != NULL && !r->same && (r->to = page_cipher_new(down, err)) == NULL)) {
		relrekey_free(r);
		return NULL;
	}
	return r;
}

void
relrekey_free(struct relrekey *r)
{
	if (r == NULL)
		return;
	page_cipher_free(r->from);
	page_cipher_free(r->to);
	free(r);
}

void
relrekey_start(struct relrekey *r, uint64_t lsn)
{
	r->start = lsn;
}

/* A page that came encrypted, opened. */
static int
look(struct relrekey *r, const uint8_t *page, uint32_t block, struct err *err)
{
	struct relrekey_fault fault = {.block = block};
	bool plausible = page_is_plausible(page);

	if (page_is_new(page))
		return 0;
	r->opened = r->opened || plausible;
	if (!r->opened && ++r->garbage == GARBAGE_MAX) {
		err_set(err, ERR_WRONG_KEY, "the upstream's relation files do not open with its keyset's relation key");
		return err_sqlstate(err, "XX001");
	}
	if (!r->conf.verify || r->conf.on_fault == NULL || (plausible && page_lsn(page) >= r->start))
		return 0;
	fault.stored = page_stored_checksum(page);
	fault.calculated = page_checksum(page, block);
	if (fault.stored != fault.calculated)
		r->conf.on_fault(r->conf.arg, &fault);
	return 0;
}

int
relrekey_pages(struct relrekey *r, const struct page_at *at, uint8_t *pages, uint8_t *to, uint32_t n, struct err *err)
{
	for (uint32_t i = 0; i < n && r->from != NULL; i++) {
		uint8_t *page = pages + (size_t)i * PAGE_LEN, *text = r->same ? r->page : page;
		struct page_at one = *at;

		one.block += i;
		if (page_decrypt(r->from, &one, page, text, err) != 0 || look(r, text, one.block, err) != 0)
			return -1;
	}
	if (r->to != NULL)
		return page_encrypt_many(r->to, at, pages, to, n, err);
	if (to != pages)
		memcpy(to, pages, (size_t)n * PAGE_LEN);
	return 0;
}
