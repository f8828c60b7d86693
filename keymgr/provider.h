/*
 * provider: where a cluster key (KEK) comes from, behind one small interface. A provider is named by a URI, whose
 * scheme is file:, command:, external:, kmip:, passphrase:, pkcs11:, vault-kv: or vault-transit:; docs/providers.md has
 * the forms of all.
 *
 * There are two kinds. A store keeps the cluster key itself and hands it out. An envelope keeps a key of its own that
 * never leaves it: the cluster key is random, is made for one key directory and lies there as the provider wrapped it
 * (kek.wrapped); to fetch it is to have that unwrapped. Calls block until their deadline, so they are never made on an
 * event loop, under a lock or on a data path.
 */
#ifndef KEYMGR_PROVIDER_H
#define KEYMGR_PROVIDER_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"
#include "walcrypt/key.h"

#define KEK_WRAPPED_MAX 4096

struct kek {
	uint8_t key[KEK_LEN];
	char version[64]; /* of providers that have versions (an envelope: of its own key); else empty */
	char source[512]; /* kek_reference of where it was fetched from, for messages; empty when it was not fetched */
	uint8_t wrapped[KEK_WRAPPED_MAX]; /* as an envelope wrapped it */
	size_t wrapped_len;               /* 0: a store's */
};

/* What a [kek NAME] section or a URI says. Strings are the caller's and outlive the provider. */
struct kek_conf {
	const char *uri;
	int timeout_ms;      /* 0: the default, 30 s */
	const char *key_dir; /* what %d becomes; the directory that holds the .wkey files */
	int terminal_fd;     /* what %R becomes; -1: opens /dev/tty when needed */
	/* of servers; NULL: not given. The URI may say them too, and then does. */
	const char *token_file, *ca_file, *cert_file, *key_file, *vault_namespace;
	const char *login, *login_mount, *login_role, *login_file;
	bool provider_random; /* keys that are made have random bytes of the provider in them, too: kek_stir */
	bool keep;            /* the process lives long: a login to a server may be kept for the next call, see kek_keep */
	const atomic_bool *stop; /* may be NULL; a call ends early, without success, once it is true */
	/* of an envelope: what kek.wrapped holds (keydir_kek fills it in); NULL: nothing */
	const uint8_t *wrapped;
	size_t wrapped_len;
};

struct settings_kek;
/* What a [kek] section says; its strings are lent. */
void kek_conf_set(struct kek_conf *conf, const struct settings_kek *section);

/*
 * The cluster key of a key directory that is there: keydir_kek calls this. struct kek in secmem; free with kek_free.
 * ERR_UNREACHABLE (provider failed, timed out), ERR_USAGE (URI), ERR_REFUSED (file mode, key in the command),
 * ERR_DAMAGED (an envelope cannot unwrap it); os_errno ENOENT: a store has none.
 */
struct kek *kek_fetch(const struct kek_conf *conf, struct err *err);
void kek_free(struct kek *kek); /* wipes */
/* Is the URI one that could be fetched from? Without a fetch: ERR_USAGE, or ERR_REFUSED when a key itself stands in it,
 * so that it gets no further, into an environment say. */
int kek_check(const struct kek_conf *conf, struct err *err);
/*
 * The cluster key for keys that are about to be wrapped, in a new key directory or anew in one that is there; also what
 * walcrypt-ctl key alter and move go through.
 * A store: the key that it has. With create, when it has none: a fresh one, or the one given in same, is stored and
 * fetched again (ERR_REFUSED where a provider cannot; an existing one is never overwritten).
 * An envelope: a fresh key, or the one given in same, wrapped under the newest version of the provider's own key, and
 * unwrapped again to see that it can be. With create the provider's key is made when it is not there.
 * os_errno ENOENT: there is none and create was not given. *made (may be NULL): something was made at the provider.
 */
struct kek *kek_prepare(const struct kek_conf *conf, bool create, const struct kek *same, bool *made, struct err *err);
/*
 * Before keys are made: with conf->provider_random, 32 random bytes of the provider are mixed into this process's
 * generator (walcrypt/random.h), never put in its place; else it does nothing. kek_prepare does it by itself, unless
 * the key is given. ERR_REFUSED where a provider has none.
 */
int kek_stir(const struct kek_conf *conf, struct err *err);
/* Does the cluster key lie in the key directory, so that it is fetched for each? */
bool kek_is_envelope(const struct kek_conf *conf);
/* The URI fit to be shown and logged (no secret in it). */
void kek_reference(const struct kek_conf *conf, char *out, size_t out_len);

/* Tell of each key that the provider keeps where the URI points; not every provider can (ERR_REFUSED). All is lent for
 * the call; version is empty where keys have none, state where there is nothing to say; neither holds more than words.
 */
typedef void kek_listed(void *arg, const char *name, const char *version, const char *state);
int kek_list(const struct kek_conf *conf, kek_listed *each, void *arg, struct err *err);
/* Can the provider destroy keys? ERR_REFUSED. */
int kek_destroy_check(const struct kek_conf *conf, struct err *err);
/* Destroy the key that the URI names, or this version of it (NULL: all), for good: of an envelope its own key. The
 * caller has made sure that nobody needs it. ERR_FAILED with ENOENT when it is not there, ERR_REFUSED where the
 * provider cannot. */
int kek_destroy(const struct kek_conf *conf, const char *version, struct err *err);
/*
 * Before a program is started: what the provider needs from the environment (PGENCRYPTIONKEY) is taken out of it now,
 * for later calls, and does not reach the program; ERR_UNREACHABLE when it is not there. kek_lend puts it back for a
 * program that fetches the key itself; kek_take after it.
 */
int kek_take(const struct kek_conf *conf, struct err *err);
int kek_lend(const struct kek_conf *conf, struct err *err);
/*
 * In a process that lives long (conf->keep): see to it that the provider will answer the next fetch, too: a token is
 * renewed, a login made anew before it ends. *again_s: when to call again, in seconds; 0: there is nothing to keep. -1:
 * something will be missing, err says what; *again_s then is not set.
 */
int kek_keep(const struct kek_conf *conf, int *again_s, struct err *err);
/* Stop the processes and close the connections that providers keep; at exit it happens by itself. */
void kek_finish(void);

#endif
