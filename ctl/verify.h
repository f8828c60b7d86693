/* verify: what the parts of `walcrypt-ctl verify` share. verify.c runs them, verify_relation.c and verify_wal.c look at
 * files. */
#ifndef CTL_VERIFY_H
#define CTL_VERIFY_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "common/datadir.h"
#include "common/progress.h"
#include "ctl/files.h"
#include "walcrypt/keyset.h"

struct verify_counts {
	_Atomic uint64_t relation_files, relation_bytes, pages, empty_pages;
	_Atomic uint64_t wal_files, wal_pages, unused_wal_pages, records;
	_Atomic uint64_t findings, bad_pages, unknown_files;
};

struct verify {
	const char *datadir;
	const struct keyset *keys;
	struct datadir_control control;
	bool in_use; /* a server runs in it: files change and vanish under our eyes */
	bool json;
	struct data_files files;
	struct progress progress;
	struct verify_counts counts;
	pthread_mutex_t lock; /* findings are printed one at a time */
	void *json_findings;  /* json_t array */
	void *json_unknown;   /* json_t array */
	atomic_size_t next;   /* relation file to be taken by the next free thread */
};

/* Something is not as it must be in path (relative to the data directory); said at once, counted. */
void verify_finding(struct verify *v, const char *path, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

struct page_cipher;
/* All pages of one relation file. -1: could not be looked at (that is no finding). buffer: VERIFY_BUFFER_LEN bytes. */
#define VERIFY_BUFFER_LEN (128 * 8192)
int verify_relation(struct verify *v, const struct data_file *f, struct page_cipher *cipher, uint8_t *buffer,
                    struct err *err);
/* All WAL files: every page decrypted, the records of each run of segments walked. */
int verify_wal(struct verify *v, struct err *err);
/* Files that must be there, by the names and lengths of others and by pg_control. */
int verify_missing(struct verify *v, struct err *err);
/* List the files that walcrypt knows nothing of: no findings, but nobody has looked at them. */
int verify_unknown(struct verify *v, struct err *err);

#endif
