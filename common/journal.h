/*
 * journal: one page that changes as a whole or not at all, whatever happens in between (DESIGN's W4).
 *
 *   journal_begin(page)   the new image is in the journal, durably
 *   ...                   the caller writes it in place and makes that durable
 *   journal_end()         the journal is gone, durably; only now may the page be written again
 * journal_replay(), before the file is used again, writes in place what a crash left in the journal.
 *
 * The journal is one file in the directory of the files it protects, of 8,264 bytes: "WCJL" | version u32 = 1 | CRC-32C
 * u32 of all that follows | zero u32 | system identifier u64 | offset u64 | key id (8) | file name, zero padded (32) |
 * page. Integers in host order: it never leaves the machine. One that is short or fails its CRC was being written when
 * the crash came: the page itself had not been touched.
 * All file access is by system calls made directly: the storage layer interposes libc's functions.
 */
#ifndef COMMON_JOURNAL_H
#define COMMON_JOURNAL_H

#include <stdbool.h>
#include <stdint.h>

#include "common/err.h"

/* Base backups and pg_rewind leave out what begins with pgsql_tmp. */
#define JOURNAL_NAME "pgsql_tmp_walcrypt.journal"
#define JOURNAL_PAGE_LEN 8192
#define JOURNAL_FILE_NAME_LEN 32

struct journal_page {
	uint64_t system_identifier;
	uint64_t offset; /* of the page in the file */
	uint8_t key_id[8];
	char file[JOURNAL_FILE_NAME_LEN]; /* name in the directory, NUL-terminated */
	uint8_t page[JOURNAL_PAGE_LEN];
};

/* durable false: no fsync (a server with fsync = off). */
int journal_begin(const char *dir, const struct journal_page *page, bool durable, struct err *err);
int journal_end(const char *dir, bool durable, struct err *err);
/*
 * known says whether page belongs to the cluster that is being started; one that does not is ERR_REFUSED, and stays.
 * *done: a page was written. A journal whose file is gone is removed: the file's contents are not needed any more.
 */
int journal_replay(const char *dir, bool (*known)(const struct journal_page *page, void *arg), void *arg, bool *done,
                   struct err *err);

#endif
