/*
 * provider: where a cluster key (KEK) comes from, behind one small interface. A provider is named by a URI:
 *   file:/path            64 hex digits in a file of mode 0600 or stricter (0640 when owned by root), owned by us or
 * root command:COMMAND       CFE's contract: run by the shell, first line of stdout holds 64 hex digits (or
 * encryptionkey=<hex>), exit status 0; %d key directory, %p prompt, %R descriptor of the terminal, %% percent
 *   vault-kv://HOST:PORT/PATH        a secret of a KV engine, version 1 or 2, in HashiCorp Vault or OpenBao
 *   vault-transit://HOST:PORT/MOUNT/KEY   the cluster key lies in the key directory, wrapped by a key of a transit
 * engine Calls block until their deadline, so they are never made on an event loop, under a lock or on a data path.
 */
#ifndef KEYMGR_PROVIDER_H
#define KEYMGR_PROVIDER_H

#include <stdint.h>

#include "common/err.h"
#include "walcrypt/key.h"

struct kek {
	uint8_t key[KEK_LEN];
	char version[64]; /* of providers that have versions; else empty */
	char source[512]; /* kek_reference of where it was fetched from, for messages; empty when it was not fetched */
};

/* What a [kek NAME] section or a URI says. Strings are the caller's and outlive the provider. */
struct kek_conf {
	const char *uri;
	int timeout_ms;      /* 0: the default, 30 s */
	const char *key_dir; /* what %d becomes; the directory that holds the .wkey files */
	int terminal_fd;     /* what %R becomes; -1: opens /dev/tty when needed */
	/* of servers; NULL: not given. The URI may say them too, and then does. */
	const char *token_file, *ca_file, *cert_file, *key_file, *vault_namespace;
};

struct settings_kek;
/* What a [kek] section says; its strings are lent. */
void kek_conf_set(struct kek_conf *conf, const struct settings_kek *section);

/* struct kek in secmem; free with kek_free. ERR_UNREACHABLE (provider failed, timed out), ERR_USAGE (URI), ERR_REFUSED
 * (file mode, key in the command). */
struct kek *kek_fetch(const struct kek_conf *conf, struct err *err);
void kek_free(struct kek *kek); /* wipes */
/* Is the URI one that could be fetched from? Without a fetch: ERR_USAGE, or ERR_REFUSED when a key itself stands in it,
 * so that it gets no further, into an environment say. */
int kek_check(const struct kek_conf *conf, struct err *err);
/* Make a new cluster key where the provider can (file: creates the file, mode 0600, never overwrites). ERR_REFUSED
 * where it cannot. */
int kek_create(const struct kek_conf *conf, struct err *err);
/* Store this cluster key as kek_create does a new one. */
int kek_store(const struct kek_conf *conf, const struct kek *kek, struct err *err);
/* The URI fit to be shown and logged (no secret in it). */
void kek_reference(const struct kek_conf *conf, char *out, size_t out_len);

#endif
