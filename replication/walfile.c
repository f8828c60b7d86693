#include "replication/walfile.h"

#include <string.h>

#include "replication/walstream.h"

bool
walfile_size_valid(uint64_t size)
{
	return size >= 1 << 20 && size <= 1 << 30 && (size & (size - 1)) == 0;
}

int
walfile_begin(struct walfile *f, const struct pgfile *file, uint64_t size, struct err *err)
{
	if (wal_random_generation(&f->generation, err) != 0)
		return -1;
	f->generation |= WAL_GENERATION_PROXY;
	f->segment_size = (uint32_t)size;
	f->tli = file->tli;
	f->pageaddr = pgfile_wal_segno(file, f->segment_size) * size;
	f->holding = false;
	return 0;
}

enum wal_page_kind
walfile_look(const struct walfile *f, const uint8_t page[static WAL_PAGE_LEN])
{
	struct wal_header h;
	enum wal_page_kind kind = wal_page_look(page, WAL_PAGE_LEN, &h);

	if (kind != WAL_PAGE_CLEAR && kind != WAL_PAGE_ENCRYPTED)
		return kind;
	if (h.pageaddr != f->pageaddr || h.tli > f->tli || walstream_major(h.magic) == 0 ||
	    (h.len == WAL_LONG_HEADER_LEN) != (h.pageaddr % f->segment_size == 0))
		return WAL_PAGE_INVALID;
	return kind;
}

/* last: no valid clear page follows the one held. */
static int
put_held(struct walfile *f, bool last, uint8_t *out, unsigned *npages, struct err *err)
{
	if (!f->holding)
		return 0;
	f->holding = false;
	if (f->cipher == NULL)
		memcpy(out, f->held, WAL_PAGE_LEN);
	else if (wal_page_encrypt(f->cipher, f->generation, last, f->held, out, err) != 0)
		return -1;
	++*npages;
	return 0;
}

static int
put_sealed(struct walfile *f, const uint8_t *page, uint8_t *out, struct err *err)
{
	struct wal_header h;
	char lsn[LSN_TEXT_LEN];

	if (f->rekey == NULL) {
		lsn_format(lsn, f->pageaddr);
		err_set(err, ERR_REFUSED, "WAL page at %s in the base backup is encrypted", lsn);
		err_hint(err, "Give the upstream's node its keyset, so that what it sends can be read.");
		return err_sqlstate(err, "55000");
	}
	wal_page_look(page, WAL_PAGE_LEN, &h);
	memcpy(out, page, WAL_PAGE_LEN);
	return walrekey_range(f->rekey, &h, 0, out, NULL, WAL_PAGE_LEN, err);
}

int
walfile_push(struct walfile *f, const uint8_t page[static WAL_PAGE_LEN], uint8_t out[static 2 * WAL_PAGE_LEN],
             unsigned *npages, struct err *err)
{
	enum wal_page_kind kind = walfile_look(f, page);

	*npages = 0;
	if (put_held(f, kind != WAL_PAGE_CLEAR, out, npages, err) != 0)
		return -1;
	if (kind == WAL_PAGE_CLEAR) {
		memcpy(f->held, page, WAL_PAGE_LEN);
		f->holding = true;
	} else {
		out += *npages * WAL_PAGE_LEN;
		if (kind != WAL_PAGE_ENCRYPTED)
			memset(out, 0, WAL_PAGE_LEN);
		else if (put_sealed(f, page, out, err) != 0)
			return -1;
		++*npages;
	}
	f->pageaddr += WAL_PAGE_LEN;
	return 0;
}

int
walfile_finish(struct walfile *f, uint8_t out[static WAL_PAGE_LEN], unsigned *npages, struct err *err)
{
	*npages = 0;
	return put_held(f, true, out, npages, err);
}
