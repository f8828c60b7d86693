/*
 * reencrypt: a stopped data directory from one keyset to another, from clear to encrypted, or back; what its parts
 * share.
 *
 * Crash safety. No file is changed in place while anything needs it. Relation and WAL file X becomes, in small groups,
 *     X  ->  X and X.walcrypt-tmp (being written)  ->  X and X.walcrypt-new (whole, fsynced, read back)  ->
 * X.walcrypt-new and each arrow is one rename or unlink, made durable before the next one is begun; the last X may
 * become another file's Y.walcrypt-tmp instead of being unlinked (ctl/reencrypt_spare.h). So at any moment at least one
 * whole copy of each file is there, and its name alone says under which key it is: X is under the old one as long as
 * the record says "converting". Nobody has to remember which files are done, and a copy of the directory is as good as
 * itself. global/pg_control lies in pg_reencrypt/global/ meanwhile: without it neither a stock server nor one under the
 * layer starts. Only when every file is an X.walcrypt-new does the record say "committing"; then these renames follow,
 * each of which can be done again: old key directory away, new one in, X.walcrypt-new -> X for all, the guard,
 * pg_control back. The new keys lie in pg_reencrypt/keys before the first file is written, the old ones are removed
 * when pg_control is back. docs/formats/reencrypt.md has the states.
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
	size_t together;  /* files that one thread takes at most at once: each is open, and the old one */
	int jobs;         /* large files that are worked on at most at once */
	atomic_bool stop; /* asked to, or a thread has failed */
	_Atomic uint64_t files, bytes, damaged;
	pthread_mutex_t lock;          /* what follows; and findings are printed one at a time */
	pthread_cond_t changed;        /* large, owners, or a file of large */
	size_t next;                   /* file to be taken by the next free thread */
	struct reencrypt_large *large; /* those that are worked on */
	int owners;                    /* threads that began them */
};

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
