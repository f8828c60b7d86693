/* epoch_use: which WAL key epochs the WAL files below a folder are under, from their page headers; needs no key. */
#ifndef CTL_EPOCH_USE_H
#define CTL_EPOCH_USE_H

#include <limits.h>
#include <stdint.h>

#include "common/err.h"
#include "walcrypt/keyset.h"

struct epoch_use {
	uint64_t system_identifier; /* files of other clusters do not count */
	uint64_t files;             /* WAL files looked at */
	struct {
		uint64_t files;         /* with a page of this epoch */
		char first[PATH_MAX];   /* one of them */
	} epoch[KEYSET_MAX_EPOCHS]; /* by number modulo 128 */
	uint64_t closed;            /* files that may hold WAL and cannot be looked into: compressed, archives */
	char closed_first[PATH_MAX];
};

/*
 * Add what is in dir: a data directory (its pg_wal alone), an archive, or a folder of either. Every page counts, one
 * that a recycled file has left over from its earlier life, too: the layer reads those when it looks for the end of
 * WAL.
 */
int epoch_use_look(const char *dir, struct epoch_use *u, struct err *err);

#endif
