/* keydir_choice: the one key directory that a command is about, as its options name it. */
#ifndef CTL_KEYDIR_CHOICE_H
#define CTL_KEYDIR_CHOICE_H

#include <limits.h>

#include "common/err.h"

/* A keyset NAME of the configuration's keystore, a data directory's, or by its own path: exactly one of the three. */
struct keydir_choice {
	const char *name, *datadir, *keydir, *config;
};

/* Its path. ERR_USAGE when not exactly one is named, or no keyset has the name (the hint lists those there are). */
int keydir_named(const struct keydir_choice *c, char path[static PATH_MAX], struct err *err);

/* The configuration's keystore. ERR_USAGE when there is none. */
int keystore_find(const char *config, char path[static PATH_MAX], struct err *err);

#endif
