/*
 * reencrypt_file: one file under the other key: written anew beside the old one, flushed, and read back. Stretches of
 * it can be worked on by several threads at once.
 *
 * Both go past the system's cache where the file system lets them (O_DIRECT): what is read back is what the disk has,
 * and a file that is about to be read once costs no memory.
 */
#ifndef CTL_REENCRYPT_FILE_H
#define CTL_REENCRYPT_FILE_H

#include <limits.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "ctl/reencrypt_list.h"
#include "ctl/reencrypt_pages.h"
#include "ctl/reencrypt_spare.h"

struct reencrypt_file {
	struct reencrypt *r;
	const struct reencrypt_entry *e;
	char old[PATH_MAX], tmp[PATH_MAX], new[PATH_MAX];
	int in, out;
	bool sparse;        /* holes of the old one are holes of the new one */
	atomic_bool direct; /* out is written and read past the cache */
	uint64_t len;       /* whole pages */
	uint32_t generation;
	struct reencrypt_damage damage;
};

/* A stretch of it, and what was written there. */
struct reencrypt_stretch {
	uint64_t from, to;
	uint32_t crc;
	struct reencrypt_damage damage;
};

/* Names only: for a file that is done already. */
int reencrypt_file_name(struct reencrypt_file *f, struct reencrypt *r, const struct reencrypt_entry *e,
                        struct err *err);
/* The old file, and X.walcrypt-tmp with room for all of it: a spare, if one fits. On failure, too, close it. */
int reencrypt_file_open(struct reencrypt_file *f, struct reencrypt *r, const struct reencrypt_entry *e,
                        struct reencrypt_spares *spares, struct err *err);
/* from to to of a stretch, written. ERR_MIDWAY when r->stop was set. */
int reencrypt_file_convert(struct reencrypt_file *f, struct reencrypt_pages *p, struct reencrypt_stretch *s,
                           struct err *err);
/* It is on the disk, and there as it was written. */
int reencrypt_file_settle(struct reencrypt_file *f, struct reencrypt_pages *p, const struct reencrypt_stretch *s,
                          struct err *err);
void reencrypt_file_close(struct reencrypt_file *f);

#endif
