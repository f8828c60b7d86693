/* reencrypt_list: the files that a re-encryption is about, and how far each has come, from their names alone. */
#ifndef CTL_REENCRYPT_LIST_H
#define CTL_REENCRYPT_LIST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/err.h"
#include "walcrypt/pgfile.h"

#define REENCRYPT_NEW ".walcrypt-new" /* whole, under the new key */
#define REENCRYPT_TMP ".walcrypt-tmp" /* being written */
#define REENCRYPT_TOGETHER_BYTES                                                                                       \
	(UINT64_C(64) << 20) /* small files that one thread works on at once have so much at most */

struct reencrypt_entry {
	char *path; /* relative to the data directory, without suffix */
	struct pgfile is;
	bool has_old, has_new;
	uint64_t len; /* of the old file; 0 when it is gone */
	dev_t device;
};

struct reencrypt_list {
	struct reencrypt_entry *entry; /* larger than REENCRYPT_TOGETHER_BYTES: largest first; others by folder and size */
	size_t n, room;
	uint64_t bytes; /* of old files that have no new one yet */
};

/*
 * Relation files, and with wal WAL files, too; empty ones without a new file are left out (they are the same under any
 * key). A hard link or something that is no plain file under such a name is ERR_REFUSED.
 */
int reencrypt_list_make(const char *datadir, bool wal, struct reencrypt_list *list, struct err *err);
void reencrypt_list_free(struct reencrypt_list *list);
/* Is there room for `jobs` new files at once beside the old ones, and small ones of as many threads, on every file
 * system? ERR_REFUSED when not. */
int reencrypt_list_room(const struct reencrypt_list *list, const char *datadir, int jobs, int threads, struct err *err);
/* fsync every folder that holds one of the files. */
int reencrypt_list_sync(const struct reencrypt_list *list, const char *datadir, struct err *err);
/* Remove what no server needs after a clean stop and what must not outlive a change of keys: temporary files, spilled
 * transactions, notifications, caches of the catalogs (pg_internal.init), pg_stat_statements' texts, and unfinished
 * files of a re-encryption. Durable only by reencrypt_list_sync's fsyncs: what comes back is removed by the server. */
int reencrypt_clean(const char *datadir, struct err *err);

#endif
