/*
 * incrfile: INCREMENTAL.<relation file> of a base backup of 17 and later: some blocks of the file, each from the
 * upstream's relation key to the downstream's. source: src/backend/backup/basebackup_incremental.c and basebackup.c.
 *
 *   magic (4) | number of blocks (4) | truncation block length (4) | block numbers in the segment (4 each), host order,
 *   and, when there are blocks, zeros up to a multiple of 8192; then the blocks
 */
#ifndef REPLICATION_INCRFILE_H
#define REPLICATION_INCRFILE_H

#include "replication/relrekey.h"
#include "walcrypt/pgfile.h"

#define INCRFILE_PREFIX "INCREMENTAL."
#define INCRFILE_HEADER_LEN 12
/* The largest: all blocks of a segment. */
#define INCRFILE_MAX_LEN ((uint64_t)PAGE_BLOCKS_PER_SEGMENT * (PAGE_LEN + 4) + INCRFILE_HEADER_LEN + PAGE_LEN)

struct incrfile { /* zero it; incrfile_free */
	struct page_at at;
	uint64_t size;
	uint32_t npages;  /* taken so far, the header's included */
	uint32_t nblocks; /* known after the first page */
	uint32_t nheader; /* pages of the header */
	uint32_t *blocks; /* numbers as far as they have come */
};

/* What the file is of, by its path: false when it is no relation's. file gets the relation file's own description. */
bool incrfile_parse(const char *path, bool in_tablespace, struct pgfile *file);
/* The next file, of size bytes. */
void incrfile_begin(struct incrfile *f, const struct pgfile *file, uint64_t size);
void incrfile_free(struct incrfile *f);
/* The next n whole pages of it, in place. -1 (ERR_DAMAGED) when they are not what the header says. */
int incrfile_pages(struct incrfile *f, struct relrekey *r, uint8_t *pages, size_t n, struct err *err);
/* The file's end: rest, of len bytes below a page, is all of a file without blocks. */
int incrfile_end(struct incrfile *f, const uint8_t *rest, size_t len, struct err *err);

#endif
