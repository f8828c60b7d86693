/* reencrypt_target: the keys that a directory is to be re-encrypted under, as --to names them. */
#ifndef CTL_REENCRYPT_TARGET_H
#define CTL_REENCRYPT_TARGET_H

#include "common/datadir.h"
#include "ctl/source.h"
#include "keymgr/keydir.h"

struct reencrypt_target {
	/* in */
	const char *name;     /* --to: a keyset's name, a key directory's path, "new" or "none" */
	const char *config;   /* --config */
	const char *kek;      /* --to-kek */
	const char *from_kek; /* --kek */
	const char *method;   /* --method */
	/* out */
	struct source source;
	struct keyset *keys; /* NULL: clear */
	struct keydir_files *files;
};

/* Open or make the keys, for the cluster of control. from: the present keys, whose WAL key a new keyset shares. */
int reencrypt_target_open(struct reencrypt_target *t, const char *datadir, const struct keyset *from,
                          const struct datadir_control *control, struct err *err);
/* Write them, wrapped, into a key directory of their own; nothing when clear. Durable. */
int reencrypt_target_store(struct reencrypt_target *t, const char *keydir, struct err *err);
/* Open what reencrypt_target_store wrote. */
int reencrypt_target_reopen(struct reencrypt_target *t, const char *datadir, const char *keydir, struct err *err);
void reencrypt_target_close(struct reencrypt_target *t);

#endif
