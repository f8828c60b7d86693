/*
 * keyfolder: a key directory opened with its own cluster key, to be looked at or changed: what the commands work with
 * that are about several at once.
 */
#ifndef CTL_KEYFOLDER_H
#define CTL_KEYFOLDER_H

#include <limits.h>

#include "ctl/source.h"
#include "keymgr/keydir.h"

struct keyfolder {
	char path[PATH_MAX];
	char what[PATH_MAX]; /* as messages call it: keyset "blue", data directory "/srv/blue" */
	struct keydir_info info;
	struct source source;
	struct kek *kek;
	struct keyset *keys;
	bool locked;
	struct keydir_rewrap lock;
};

/* A keyset's of the keystore, or (name NULL) a data directory's; kek as an option says it, or NULL. */
struct keyfolder_choice {
	const char *config, *keystore, *name, *datadir, *kek;
	bool makes_keys;      /* keys are going to be made for it: kek_stir */
	bool provider_random; /* an option says so, besides the configuration */
};

/*
 * Fetch its cluster key and open it; f is zeroed before. lock: keep others from changing it until keyfolder_close, for
 * keyfolder_write. keyfolder_close after -1, too.
 */
int keyfolder_open(struct keyfolder *f, const struct keyfolder_choice *c, bool lock, struct err *err);
/* These keys take the place of its own, durably, under the same cluster key. */
int keyfolder_write(struct keyfolder *f, const struct keyset *keys, struct err *err);
void keyfolder_close(struct keyfolder *f);

#endif
