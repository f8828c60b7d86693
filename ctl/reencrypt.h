/*
 * reencrypt: a stopped data directory from one keyset to another, from clear to encrypted, or back; what its parts
 * share.
 *
 * Crash safety. No file is changed in place. Relation and WAL file X becomes, in small groups,
 *     X  ->  X and X.walcrypt-tmp (being written)  ->  X and X.walcrypt-new (whole, fsynced, read back)  ->
 * X.walcrypt-new and each arrow is one rename or unlink, made durable before the next one is begun. So at any moment at
 * least one whole copy of each file is there, and its name alone says under which key it is: X is under the old one as
 * long as the record says "converting". Nobody has to remember which files are done, and a copy of the directory is as
 * good as itself. global/pg_control lies in pg_reencrypt/global/ meanwhile: without it neither a stock server nor one
 * under the layer starts. Only when every file is an X.walcrypt-new does the record say "committing"; then these
 * renames follow, each of which can be done again: old key directory away, new one in, X.walcrypt-new -> X for all, the
 * guard, pg_control back. The new keys lie in pg_reencrypt/keys before the first file is written, the old ones are
 * removed when pg_control is back. docs/formats/reencrypt.md has the states.
 */
#ifndef CTL_REENCRYPT_H
#define CTL_REENCRYPT_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/datadir.h"
#include "common/progress.h"
#include "ctl/reencrypt_list.h"
#include "ctl/reencrypt_record.h"
#include "walcrypt/keyset.h"

struct reencrypt {
	const char *datadir;
	struct datadir_control control;
	struct reencrypt_record record;
	const struct keyset *from, *to; /* NULL: clear */
	struct reencrypt_list list;
	struct progress progress;
	size_t next;      /* file to be taken by the next free thread, under the lock */
	size_t together;  /* files that one thread takes at most at once: each is open */
	atomic_bool stop; /* asked to, or a thread has failed */
	_Atomic uint64_t files, bytes, damaged;
	pthread_mutex_t lock; /* next; and findings are printed one at a time */
};

/* Do two keysets have the same WAL key, so that WAL stays as it is? NULL is clear. */
bool reencrypt_same_wal(const struct keyset *from, const struct keyset *to);

/* What one thread needs: ciphers and buffers. */
struct reencrypt_worker;
struct reencrypt_worker *reencrypt_worker_new(const struct reencrypt *r, struct err *err);
void reencrypt_worker_free(struct reencrypt_worker *w);
/* X -> X.walcrypt-new for n entries, from whatever state each is in; a step is taken for all of them before the next,
 * so that they share the waits for the disk. Pages that are no pages under the old key are told on stdout, counted, and
 * carried over as the server sees them. -1 with class ERR_MIDWAY when r->stop was set. */
int reencrypt_files(struct reencrypt *r, struct reencrypt_worker *w, const struct reencrypt_entry *e, size_t n,
                    struct err *err);

/* May this directory be re-encrypted: stopped cleanly, nothing of it damaged at first sight, its WAL readable? r's
 * control, from, to and list are filled in. ERR_REFUSED or ERR_WRONG_KEY with what to do. */
int reencrypt_check_stopped(const char *datadir, const struct datadir_control *control, struct err *err);
int reencrypt_check_files(const struct reencrypt *r, struct err *err);

/* global/pg_control out of every server's reach; refused, and put back, when one was just started. */
int reencrypt_lock_out(const char *datadir, struct err *err);
/* From "every file is done" to the end; every step may have been taken already. r's list is fresh; from and to are not
 * used. */
int reencrypt_commit(struct reencrypt *r, struct err *err);
/* Remove pg_reencrypt and what is in it: nothing of the directory depends on it any more, or not yet. */
int reencrypt_abandon(const char *datadir, struct err *err);

#endif
