/* pagecut: a file's bytes as they come, cut into whole pages: in place where the data allows it, else through a buffer
 * of one page. */
#ifndef REPLICATION_PAGECUT_H
#define REPLICATION_PAGECUT_H

#include <stddef.h>
#include <stdint.h>

#include "common/err.h"
#include "walcrypt/page.h"

struct pagecut {
	uint8_t page[PAGE_LEN]; /* what came of a page that is not whole yet */
	size_t n;
};

/* n pages in a row, lent and writable. 0, 1 (taken, but pause), -1. */
typedef int (*pagecut_take)(void *arg, uint8_t *pages, size_t n, struct err *err);

/* Zero the struct, or set n to 0, at a file's beginning. Returns what take returned, or'ed; -1 at the first -1. */
int pagecut_push(struct pagecut *c, uint8_t *data, size_t len, pagecut_take take, void *arg, struct err *err);

#endif
