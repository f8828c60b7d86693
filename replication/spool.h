/*
 * spool: what a base backup's stage changed, kept in the order of the members for the manifest that comes last (finding
 * P5).
 *
 * The bytes lie wherever the owner keeps them (an unlinked temporary file): memory stays bounded. One writer, then one
 * reader.
 */
#ifndef REPLICATION_SPOOL_H
#define REPLICATION_SPOOL_H

#include <stddef.h>
#include <stdint.h>

#include "common/err.h"
#include "walcrypt/digest.h"

#define SPOOL_PATH_MAX 1280 /* "pg_tblspc/<oid>/" and a tar name */

enum spool_kind { SPOOL_CHANGED = 1, SPOOL_DROPPED = 2, SPOOL_INSERTED = 3 };

struct spool_entry {
	enum spool_kind kind;
	char path[SPOOL_PATH_MAX]; /* as the manifest names it */
	uint64_t size;
	uint64_t mtime;
	uint8_t checksum[DIGEST_MAX_LEN];
	size_t checksum_len; /* 0: no checksums wanted */
};

/* Where the bytes go. write appends; read gives the bytes from the beginning on, up to len: >0, 0 at the end, -1 with
 * err set. */
struct spool_io {
	void *arg;
	int (*write)(void *arg, const void *data, size_t len, struct err *err);
	int (*read)(void *arg, void *data, size_t len, struct err *err);
};

struct spool;
struct spool *spool_new(const struct spool_io *io, struct err *err);
void spool_free(struct spool *s); /* NULL allowed; io's arg is the caller's */
int spool_add(struct spool *s, const struct spool_entry *e, struct err *err);
/* 1 with the next entry, 0 when there are no more, -1. The first call ends the writing. */
int spool_next(struct spool *s, struct spool_entry *e, struct err *err);

/* In memory, at most max bytes, for tests and small backups; spool_memory_free frees it after spool_free. */
struct spool_memory;
struct spool_memory *spool_memory_new(size_t max, struct spool_io *io, struct err *err);
void spool_memory_free(struct spool_memory *m);

#endif
