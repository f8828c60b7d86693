/*
 * provider_scheme: what a provider must fill in; read by those who write one. Users read keymgr/provider.h.
 *
 * A scheme has no state between calls, but for the processes of external:, the connections of kmip: and the logins of
 * vault-...: .
 */
#ifndef KEYMGR_PROVIDER_SCHEME_H
#define KEYMGR_PROVIDER_SCHEME_H

#include <stdbool.h>
#include <stddef.h>

#include "keymgr/provider.h"

struct provider_scheme {
	const char *name; /* what stands before the colon */
	/* Is rest, the URI after the colon, well-formed? NULL: whatever it is. */
	int (*check)(const char *rest, const struct kek_conf *conf, struct err *err);
	/* A store. Fill kek (in secure memory, zeroed) by the deadline. os_errno ENOENT: it has none. */
	int (*fetch)(const char *rest, const struct kek_conf *conf, struct kek *kek, struct err *err);
	/* A store. Store this new key; NULL: it cannot. */
	int (*create)(const char *rest, const struct kek_conf *conf, const struct kek *kek, struct err *err);
	/* An envelope (fetch and create are NULL). Wrap kek->key: fill wrapped, wrapped_len and version. os_errno ENOENT:
	 * the provider lacks its own key. */
	int (*wrap)(const char *rest, const struct kek_conf *conf, struct kek *kek, struct err *err);
	/* An envelope. wrapped is given: fill key and version. ERR_DAMAGED when the provider's key does not open it. */
	int (*unwrap)(const char *rest, const struct kek_conf *conf, struct kek *kek, struct err *err);
	/* An envelope. Make the provider's own key, which is not there; NULL: it cannot. */
	int (*make_wrapping_key)(const char *rest, const struct kek_conf *conf, struct err *err);
	/* As kek_keep says; NULL: there is nothing to keep. */
	int (*keep)(const char *rest, const struct kek_conf *conf, int *again_s, struct err *err);
	/* As kek_list and kek_destroy say; NULL: it cannot. */
	int (*list)(const char *rest, const struct kek_conf *conf, kek_listed *each, void *arg, struct err *err);
	int (*destroy)(const char *rest, const struct kek_conf *conf, const char *version, struct err *err);
	/* As kek_take and kek_lend say; NULL: it needs nothing from the environment. */
	int (*take)(const char *rest, struct err *err);
	int (*lend)(const char *rest, struct err *err);
	/* Fill out (secure memory) with random bytes of the provider's own, at most 64; NULL: it gives none. */
	int (*random)(const char *rest, const struct kek_conf *conf, uint8_t *out, size_t len, struct err *err);
};

extern const struct provider_scheme provider_file, provider_command, provider_external, provider_kmip,
    provider_passphrase, provider_pkcs11, provider_vault_kv, provider_vault_transit;
/* What passphrase: remembers of the environment. */
void provider_passphrase_forget(void);

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
