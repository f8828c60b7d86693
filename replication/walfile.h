/*
 * walfile: a WAL segment file of a base backup, page by page, as it must lie on the downstream's disk.
 *
 * A clear page whose header is the one expected at its place is encrypted under the given generation (or passes, when
 * the downstream is clear); its trailing zero granules are stored raw, and in the last such page of a run every zero
 * granule (W2: the server may have copied it while records were going in). So one page is held back. An encrypted page
 * in its place passes, is translated or opened, as walcrypt/walrekey.h says. Pages with another header, what a recycled
 * segment or an older timeline left, become zero pages.
 */
#ifndef REPLICATION_WALFILE_H
#define REPLICATION_WALFILE_H

#include <stdbool.h>
#include <stdint.h>

#include "common/err.h"
#include "walcrypt/pgfile.h"
#include "walcrypt/wal.h"
#include "walcrypt/walrekey.h"

/* Set cipher and rekey, which stay the owner's; the rest walfile_begin sets. */
struct walfile {
	struct wal_cipher *cipher; /* the downstream's; NULL: it is clear */
	struct walrekey *rekey;    /* from the upstream's keys; NULL: it is clear */
	uint32_t generation, tli;  /* tli: of the file's name */
	uint64_t pageaddr;         /* LSN of the next page */
	uint32_t segment_size;
	bool holding;
	uint8_t held[WAL_PAGE_LEN];
};

/* source: access/xlog_internal.h, IsValidWalSegSize */
bool walfile_size_valid(uint64_t size);
/* The next file, of a valid size; it gets a generation of its own: two files of one backup may hold different text for
 * one page, as a .partial and the segment after a switch, or an archive folder inside the data directory. */
int walfile_begin(struct walfile *f, const struct pgfile *file, uint64_t size, struct err *err);
/* What the page is, at the place where the file stands now. */
enum wal_page_kind walfile_look(const struct walfile *f, const uint8_t page[static WAL_PAGE_LEN]);
/* The next page in; out gets what is ready, *npages of 0 to 2 pages. An encrypted page in its place, and the
 * upstream is clear: ERR_REFUSED. */
int walfile_push(struct walfile *f, const uint8_t page[static WAL_PAGE_LEN], uint8_t out[static 2 * WAL_PAGE_LEN],
                 unsigned *npages, struct err *err);
/* The page held back, *npages 0 or 1; and nothing is held any more. */
int walfile_finish(struct walfile *f, uint8_t out[static WAL_PAGE_LEN], unsigned *npages, struct err *err);

#endif
