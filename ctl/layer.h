/* layer: stock programs, found and run under the storage layer. */
#ifndef CTL_LAYER_H
#define CTL_LAYER_H

#include <limits.h>

#include "common/datadir.h"
#include "common/err.h"
#include "ctl/source.h"

/* The storage layer's file, installed with this program; checked to be there. */
int layer_library(char path[static PATH_MAX], struct err *err);
/* Set LD_PRELOAD (behind what it holds already) and the cluster key's source in our own environment, for a program to
 * come. */
int layer_environment(const struct source *s, struct err *err);
/*
 * Find a stock program: with a slash in the name as it stands; else in WALCRYPT_PG_BINDIR, PATH (pg_wrapper links
 * skipped), or /usr/lib/postgresql/<major version of datadir>/bin. datadir may be NULL.
 */
int program_find(const char *name, const char *datadir, char path[static PATH_MAX], struct err *err);
/*
 * Run a stock program to its end in the foreground: its stdin, stdout and stderr are ours, and the terminal's interrupt
 * goes to it alone, so that it cleans up and we say that it failed. argv holds n words and has room for
 * PROGRAM_ARGS_MAX; more is appended. An exit status other than 0 is ERR_FAILED naming the program.
 */
#define PROGRAM_ARGS_MAX 1024
int program_run(const char *argv[static PROGRAM_ARGS_MAX], size_t n, const char *const *more, const char *name,
                struct err *err);
/* -D, else PGDATA, made absolute. ERR_USAGE when there is neither. */
int datadir_option(const char *option, char out[static PATH_MAX], struct err *err);
/* ERR_MIDWAY when a re-encryption of it is not finished. */
int datadir_check_settled(const char *datadir, struct err *err);
/* The cluster's key directory: DATADIR/pg_cryptokeys; ERR_REFUSED when it has none, ERR_MIDWAY as above. */
int datadir_keydir(const char *datadir, char out[static PATH_MAX], struct err *err);

/* Blocks and segments of the sizes that walcrypt supports? ERR_REFUSED when not. */
int datadir_check_layout(const char *datadir, const struct datadir_control *control, struct err *err);
/* Do these keys belong to the cluster in datadir (by system identifier)? ERR_REFUSED when not. */
int keyset_check_cluster(const struct keyset *ks, const struct datadir_control *control, const char *datadir,
                         struct err *err);
int keyset_check_datadir(const struct keyset *ks, const char *datadir, struct err *err);

#endif
