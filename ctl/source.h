/*
 * source: where the cluster key for a key directory comes from: --kek or WALCRYPT_KEK (a provider's URI, or the name of
 * a [kek] section), else the configuration file: the node with this keyset or data directory, else its only [kek]
 * section. Never from the key directory itself: it must not be able to make us run a command.
 */
#ifndef CTL_SOURCE_H
#define CTL_SOURCE_H

#include "common/settings.h"
#include "keymgr/provider.h"
#include "walcrypt/keyset.h"

struct source {
	struct settings *settings; /* NULL: no configuration file */
	const char *section;       /* the [kek] section; NULL: a URI was given */
	struct kek_conf conf;      /* without key_dir */
	char *uri;                 /* conf.uri made absolute, when it had to be */
	char reference[512];       /* fit to be shown */
};

/* The configuration file: config, else WALCRYPT_CONFIG, else the one in /etc if it is there. *settings NULL when there
 * is none; with required that is ERR_USAGE. */
int settings_find(const char *config, bool required, struct settings **settings, struct err *err);

/* config, kek: what the options say, or NULL. datadir, keyset: what it is for, or NULL. */
int source_find(struct source *s, const char *config, const char *kek, const char *datadir, const char *keyset,
                struct err *err);
void source_free(struct source *s);

/* Make this process fit to hold keys (locked memory of len bytes, no core dump); again is a no-op. KEYS_ROOM is for a
 * cluster key and a keyset or two. */
#define KEYS_ROOM (256 * 1024)
int keys_protect(size_t len, struct err *err);
/* The cluster key of a key directory that is there. */
struct kek *source_fetch(struct source *s, const char *key_dir, struct err *err);
/* The cluster key for keys about to be wrapped: kek_prepare. live: the folder of the key directory that %d becomes. */
struct kek *source_prepare(struct source *s, const char *live, bool create, const struct kek *same, bool *made,
                           struct err *err);
/* Fetch the cluster key, open the key directory. */
struct keyset *source_open(struct source *s, const char *key_dir, struct err *err);
/* The same with a cluster key that was fetched already; an envelope's is another one for each key directory. */
struct keyset *source_open_with(struct source *s, const char *key_dir, const struct kek *kek, struct err *err);
/* Before keys are made that no source_prepare comes before: kek_stir. */
int source_stir(const struct source *s, struct err *err);
/* Tell the storage layer by environment variables. */
int source_export(const struct source *s, struct err *err);

#endif
