/*
 * keymaker: the keysets of nodes with keyset = auto. A thread of its own makes one when a base backup first needs it,
 * or opens it when somebody else has made it since the configuration was read; what it has is there for all sessions.
 */
#ifndef PROXY_KEYMAKER_H
#define PROXY_KEYMAKER_H

#include "proxy/proxy.h"

struct keymaker;
struct worker;
struct errand;

struct keymaker *keymaker_new(struct proxy *proxy, struct err *err);
/* No more answers come after this. Before the workers end. */
void keymaker_stop(struct keymaker *k); /* NULL allowed */
void keymaker_free(struct keymaker *k); /* NULL allowed */

struct keymaker_order {
	struct site *site;
	const struct site_node *node; /* of the site; it has no keys yet */
	const struct site_node *from; /* the upstream's */
	uint64_t system_identifier;   /* of the upstream */
	bool make;                    /* else only open what is there */
};
/*
 * answered is called in the worker's thread, unless errand_drop came before: why NULL: the node has keys now. The
 * errand is dropped by the caller in any case. NULL with err set on failure.
 */
struct errand *keymaker_ask(struct keymaker *k, struct worker *worker, const struct keymaker_order *order,
                            void (*answered)(void *owner, const struct err *why), void *owner, struct err *err);

#endif
