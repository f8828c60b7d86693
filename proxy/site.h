/*
 * site: a configuration with its keys unlocked. Immutable once loaded, but for keys that are made later (keyset =
 * auto), and counted: a session keeps the one that it began with, a reload makes another.
 */
#ifndef PROXY_SITE_H
#define PROXY_SITE_H

#include <stdatomic.h>
#include <stdbool.h>

#include "common/err.h"
#include "common/settings.h"
#include "keymgr/keydir.h"
#include "proxy/tls.h"
#include "replication/userlist.h"
#include "walcrypt/keyset.h"

/* What a keyset's folder in the keystore holds, unlocked. Counted: sites share it. */
struct site_keys {
	atomic_int refs;
	struct keyset *keyset;
	struct keydir_info info;
	struct keydir_files files; /* as a base backup carries them */
};

struct site_node {
	const struct settings_node *settings;
	/* NULL: the node is clear, or (keyset = auto) has none yet; once there they stay */
	struct site_keys *_Atomic keys;
};

struct site {
	atomic_int refs;
	struct settings *settings;
	struct site_node *nodes; /* settings->nnodes, in the file's order */
	struct tls *tls;         /* NULL: client_tls_sslmode is disable */
	struct userlist *users;  /* NULL: no auth_file */
	uint8_t mock[VERIFIER_SECRET_LEN];
};

/* Would a start take it? Looks at what a configuration names, but fetches no key. */
int site_check(const struct settings *settings, struct err *err);
/* Blocks: providers are asked for the cluster keys. Not on an event loop. */
struct site *site_load(const char *conf_file, struct err *err);
struct site *site_ref(struct site *site);
void site_unref(struct site *site); /* NULL allowed */

const struct site_node *site_node(const struct site *site, const char *name); /* NULL when there is none */
/* The node's keys; NULL: it is clear, or has none yet. */
const struct site_keys *site_keys(const struct site_node *node);
const struct keyset *site_keyset(const struct site_node *node);
/* Is it to be encrypted, but its keyset was not there when somebody looked last? */
bool site_lacks_keys(const struct site_node *node);
/* Blocks as site_load does: unlock the keyset that has been made for it. */
int site_open_keys(struct site *site, const struct site_node *node, struct err *err);
/* Nodes that lack keys take those that the other site has for them. */
void site_adopt(struct site *site, const struct site *other);
bool site_lists(char *const *users, const char *user);

#endif
