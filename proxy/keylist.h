/* keylist: the keys that a configuration has, by their ids, for the console and the metrics. */
#ifndef PROXY_KEYLIST_H
#define PROXY_KEYLIST_H

#include <time.h>

#include "proxy/site.h"
#include "proxy/timelines.h"

struct keylist_key {
	const char *keyset, *kek; /* names */
	const char *kind;         /* "cluster", "relation", "wal" */
	const char *id;
	enum key_method method;
	uint32_t epoch, after_timeline; /* of a WAL key; else 0 */
	const char *state;              /* "current"; of a WAL key also "old" and "next" */
	time_t created;                 /* -1: not known */
	size_t node;                    /* the first of the site's that has this keyset */
};

/* All keys of all keysets, each keyset once; to be freed. What they point to is the site's. NULL: out of memory. */
struct keylist_key *keylist_make(const struct site *site, struct timelines *timelines, size_t *n, struct err *err);

#endif
