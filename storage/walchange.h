/*
 * walchange: pages that stand on disk under one generation and are to stand there under another (W4).
 *
 * A run's first write of WAL: the page that it continues goes through the journal; pages behind it with the right
 * address, left over from a crash, are made zero, so that nothing the run writes later meets an old image of itself
 * (they lie beyond the end of WAL that recovery found, so nobody needs them).
 */
#ifndef STORAGE_WALCHANGE_H
#define STORAGE_WALCHANGE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/err.h"
#include "storage/fdtable.h"
#include "walcrypt/wal.h"

/* Write image at off through the journal. Caller holds run_lock. */
int walchange_page(int fd, const struct file *f, off_t off, const uint8_t image[static WAL_PAGE_LEN], struct err *err);
/* Is the page at off the one that image is to replace (same magic, timeline, address), under another generation or
 * epoch, or clear? -1 on error. */
int walchange_needed(int fd, off_t off, const uint8_t image[static WAL_PAGE_LEN], struct err *err);
/* The run is about to write len bytes of encrypted pages at off: see to what stands there and behind. No-op after the
 * run's first write. */
int walchange_first_write(int fd, const struct file *f, off_t off, const uint8_t *pages, size_t len, struct err *err);
/* Move the page in which WAL ends to this run's generation, before walsenders can send its beginning (R7). -1: the
 * journal may be left, and the run must not go on. */
int walchange_move_tail(struct err *err);
/* Replay the journal. In tools a no-op. */
int walchange_replay(struct err *err);

#endif
