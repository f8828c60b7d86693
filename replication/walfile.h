/*
 * walfile: a clear WAL segment file, page by page, as it must lie on the encrypted standby's disk.
 *
 * A page whose header is the one expected at its place is encrypted under the given generation; its trailing zero
 * granules are stored raw, and in the last such page of a run every zero granule (W2: the server may have copied it
 * while records were going in). Pages with another header, what a recycled segment or an older timeline left, become
 * zero pages. So one page is held back.
 */
#ifndef REPLICATION_WALFILE_H
#define REPLICATION_WALFILE_H

#include <stdbool.h>
#include <stdint.h>

#include "common/err.h"
#include "walcrypt/wal.h"

struct walfile {
	struct wal_cipher *cipher;
	uint32_t generation, tli; /* tli: of the file's name */
	uint64_t pageaddr;        /* LSN of the next page */
	uint32_t segment_size;
	bool holding;
	uint8_t held[WAL_PAGE_LEN];
};

/* source: access/xlog_internal.h, IsValidWalSegSize */
bool walfile_size_valid(uint64_t size);
/* What the page is, at the place where the file stands now. */
enum wal_page_kind walfile_look(const struct walfile *f, const uint8_t page[static WAL_PAGE_LEN]);
/* The next page in; out gets what is ready, *npages of 0 to 2 pages. A page that is encrypted and in its place:
 * ERR_REFUSED. */
int walfile_push(struct walfile *f, const uint8_t page[static WAL_PAGE_LEN], uint8_t out[static 2 * WAL_PAGE_LEN],
                 unsigned *npages, struct err *err);
/* The page held back, *npages 0 or 1; and nothing is held any more. */
int walfile_finish(struct walfile *f, uint8_t out[static WAL_PAGE_LEN], unsigned *npages, struct err *err);

#endif
