/*
 * site: a configuration with its keys unlocked. Immutable once loaded and counted: a session keeps the one that it
 * began with, a reload makes another.
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

struct site_node {
	const struct settings_node *settings;
	struct keyset *keyset; /* NULL: the node is clear */
	struct keydir_info info;
	struct keydir_files files; /* of its key directory, as a base backup carries them */
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
bool site_lists(char *const *users, const char *user);

#endif
