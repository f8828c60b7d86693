/*
 * provider_scheme: what a provider must fill in; read by those who write one. Users read keymgr/provider.h.
 *
 * A scheme has no state between calls: a key is fetched once in a process's life.
 */
#ifndef KEYMGR_PROVIDER_SCHEME_H
#define KEYMGR_PROVIDER_SCHEME_H

#include <stdbool.h>
#include <stddef.h>

#include "keymgr/provider.h"

struct provider_scheme {
	const char *name; /* what stands before the colon */
	/* Is rest, the URI after the colon, well-formed? NULL: whatever it is. */
	int (*check)(const char *rest, struct err *err);
	/* Fill kek (in secure memory, zeroed) by the deadline. */
	int (*fetch)(const char *rest, const struct kek_conf *conf, struct kek *kek, struct err *err);
	/* Store this new key; NULL: it cannot. */
	int (*create)(const char *rest, const struct kek_conf *conf, const struct kek *kek, struct err *err);
};

extern const struct provider_scheme provider_file, provider_command, provider_vault_kv;

/*
 * The cluster key in text[0..len): its first line must be 64 hex digits (blanks between them tolerated, as CFE does),
 * or with allow_named also "encryptionkey=" and them. More lines are refused. what names the source in errors, which
 * never quote it.
 */
int provider_parse_key(const char *text, size_t len, bool allow_named, const char *what, struct kek *kek,
                       struct err *err);
/* Does text hold 64 hex digits in a row? A key has no place where everybody can read it. */
bool provider_holds_key(const char *text);

#endif
