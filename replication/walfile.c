#include "replication/walfile.h"

#include <string.h>

#include "replication/walstream.h"
#include "walcrypt/pgfile.h"

bool
walfile_size_valid(uint64_t size)
{
	return size >= 1 << 20 && size <= 1 << 30 && (size & (size - 1)) == 0;
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

/* last: no valid page follows the one held. */
static int
put_held(struct walfile *f, bool last, uint8_t *out, unsigned *npages, struct err *err)
{
	if (!f->holding)
		return 0;
	f->holding = false;
	if (wal_page_encrypt(f->cipher, f->generation, last, f->held, out, err) != 0)
		return -1;
	++*npages;
	return 0;
}

int
walfile_push(struct walfile *f, const uint8_t page[static WAL_PAGE_LEN], uint8_t out[static 2 * WAL_PAGE_LEN],
             unsigned *npages, struct err *err)
{
	enum wal_page_kind kind = walfile_look(f, page);
	char lsn[LSN_TEXT_LEN];

	*npages = 0;
	if (kind == WAL_PAGE_ENCRYPTED) {
		lsn_format(lsn, f->pageaddr);
		err_set(err, ERR_REFUSED, "WAL page at %s in the base backup is encrypted", lsn);
		return err_hint(
		    err, "This version of walcrypt-proxy takes plaintext upstreams: give a conninfo to such servers only.");
	}
	if (put_held(f, kind != WAL_PAGE_CLEAR, out, npages, err) != 0)
		return -1;
	f->pageaddr += WAL_PAGE_LEN;
	if (kind == WAL_PAGE_CLEAR) {
		memcpy(f->held, page, WAL_PAGE_LEN);
		f->holding = true;
	} else {
		memset(out + *npages * WAL_PAGE_LEN, 0, WAL_PAGE_LEN);
		++*npages;
	}
	return 0;
}

int
walfile_finish(struct walfile *f, uint8_t out[static WAL_PAGE_LEN], unsigned *npages, struct err *err)
{
	*npages = 0;
	return put_held(f, true, out, npages, err);
}
