#include "ctl/reencrypt_pages.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "ctl/page_look.h"
#include "ctl/reencrypt.h"
#include "walcrypt/secmem.h"

/* A request of direct I/O is one piece of memory for the device then, instead of as many as there are small pages. */
#define HUGE_LEN ((size_t)2 << 20)
#define BUFFERS_LEN (2 * HUGE_LEN)
_Static_assert(3 * REENCRYPT_BUFFER_LEN <= BUFFERS_LEN, "in, clear and out");
_Static_assert(PAGE_LEN == WAL_PAGE_LEN, "one buffer for both");

static int
ciphers_make(const struct keyset *ks, bool wal, struct page_cipher **page, struct wal_cipher **wal_cipher,
             struct err *err)
{
	if (ks == NULL)
		return 0;
	if ((*page = page_cipher_new(keyset_relation(ks), err)) == NULL)
		return -1;
	return !wal || (*wal_cipher = wal_cipher_new(ks, err)) != NULL ? 0 : -1;
}

int
reencrypt_pages_init(struct reencrypt_pages *p, const struct reencrypt *r, struct err *err)
{
	memset(p, 0, sizeof(*p));
	if (posix_memalign((void **)&p->in, HUGE_LEN, BUFFERS_LEN) != 0) {
		err_nomem(err);
		goto fail;
	}
	madvise(p->in, BUFFERS_LEN, MADV_HUGEPAGE);
	p->clear = p->in + REENCRYPT_BUFFER_LEN;
	p->out = p->clear + REENCRYPT_BUFFER_LEN;
	if (ciphers_make(r->from, r->record.wal, &p->page_from, &p->wal_from, err) != 0 ||
	    ciphers_make(r->to, r->record.wal, &p->page_to, &p->wal_to, err) != 0)
		goto fail;
	return 0;
fail:
	reencrypt_pages_free(p);
	return -1;
}

void
reencrypt_pages_free(struct reencrypt_pages *p)
{
	page_cipher_free(p->page_from);
	page_cipher_free(p->page_to);
	wal_cipher_free(p->wal_from);
	wal_cipher_free(p->wal_to);
	if (p->in != NULL)
		secmem_wipe(p->in, BUFFERS_LEN);
	free(p->in);
	memset(p, 0, sizeof(*p));
}

static int
differs(const struct reencrypt_entry *e, struct err *err)
{
	return err_set(err, ERR_FAILED, "pages of \"%s\" do not decrypt to what was encrypted", e->path);
}

static int
relation_pages(struct reencrypt_pages *p, const struct reencrypt *r, const struct reencrypt_entry *e, uint32_t n,
               uint64_t offset, struct reencrypt_damage *damage, struct err *err)
{
	bool checksums = r->control.checksum_version != 0;
	struct page_at at = e->is.at;

	at.block += (uint32_t)(offset / PAGE_LEN);
	if (p->page_from == NULL)
		memcpy(p->clear, p->in, (size_t)n * PAGE_LEN);
	else if (page_decrypt_many(p->page_from, &at, p->in, p->clear, n, err) != 0)
		return -1;
	for (uint32_t i = 0; i < n; i++) {
		const uint8_t *page = p->clear + (size_t)i * PAGE_LEN;

		if (!page_is_zero(page) && page_look(page, at.block + i, checksums) != PAGE_LOOKS_GOOD && damage->n++ == 0)
			damage->first = at.block + i;
	}
	if (p->page_to == NULL) {
		memcpy(p->out, p->clear, (size_t)n * PAGE_LEN);
		return 0;
	}
	if (page_encrypt_many(p->page_to, &at, p->clear, p->out, n, err) != 0)
		return -1;
	/* what was read is not needed any more: its buffer takes what the new key makes of the new pages */
	if (page_decrypt_many(p->page_to, &at, p->out, p->in, n, err) != 0)
		return -1;
	return memcmp(p->in, p->clear, (size_t)n * PAGE_LEN) == 0 ? 0 : differs(e, err);
}

/*
 * One WAL page. Each file has a generation of its own, because a page may be in two files with different contents (a
 * timeline that was left in the middle of a page). What a recycled file still holds from its earlier life is made zero:
 * no server reads it, and elsewhere it may be there with other contents. Zeros that were read from ciphertext stay raw
 * (W3).
 */
static int
wal_page(struct reencrypt_pages *p, const struct reencrypt_entry *e, uint32_t generation, size_t at, uint64_t expected,
         struct err *err)
{
	uint8_t again[WAL_PAGE_LEN], *in = p->in + at, *clear = p->clear + at, *out = p->out + at;
	enum wal_page_kind kind;
	struct wal_header h;

	kind = wal_page_look(in, WAL_PAGE_LEN, &h);
	if ((kind != WAL_PAGE_CLEAR && kind != WAL_PAGE_ENCRYPTED) || h.pageaddr != expected || h.tli > e->is.tli) {
		memset(out, 0, WAL_PAGE_LEN);
		return 0;
	}
	if (kind == WAL_PAGE_CLEAR)
		memcpy(clear, in, WAL_PAGE_LEN);
	else if (p->wal_from == NULL)
		return err_set(err, ERR_REFUSED, "\"%s\" holds encrypted WAL, but the data directory has no keys", e->path);
	else if (wal_page_decrypt(p->wal_from, in, clear, err) != 0)
		return err_context(err, "\"%s\"", e->path);
	if (p->wal_to == NULL) {
		memcpy(out, clear, WAL_PAGE_LEN);
		return 0;
	}
	if (wal_page_encrypt(p->wal_to, generation, p->wal_from != NULL, clear, out, err) != 0 ||
	    wal_page_decrypt(p->wal_to, out, again, err) != 0)
		return err_context(err, "\"%s\"", e->path);
	return memcmp(again, clear, WAL_PAGE_LEN) == 0 ? 0 : differs(e, err);
}

int
reencrypt_pages_turn(struct reencrypt_pages *p, const struct reencrypt *r, const struct reencrypt_entry *e,
                     uint32_t generation, uint32_t n, uint64_t offset, struct reencrypt_damage *damage, struct err *err)
{
	uint32_t size = r->control.wal_segment_size;
	uint64_t start;

	if (e->is.kind != PGFILE_WAL)
		return relation_pages(p, r, e, n, offset, damage, err);
	start = pgfile_wal_segno(&e->is, size) * size + offset;
	for (size_t at = 0; at < (size_t)n * WAL_PAGE_LEN; at += WAL_PAGE_LEN)
		if (wal_page(p, e, generation, at, start + at, err) != 0)
			return -1;
	return 0;
}
