/*
 * choice: which node a session's upstream is: of those with a conninfo, other than the session's own, the one that is a
 * primary, on the highest timeline of its cluster ever seen; or the one that the session's node names, a standby too.
 * All are asked at once; when one fits, the others have one second more.
 */
#ifndef PROXY_CHOICE_H
#define PROXY_CHOICE_H

#include "proxy/site.h"
#include "proxy/timelines.h"
#include "proxy/upstreams.h"

struct choice;

struct choice_conf {
	struct ev_loop *loop;
	const struct site *site;
	const struct site_node *node; /* the session's */
	struct timelines *timelines;
	struct upstreams *upstreams;            /* is told what came of each */
	const char *application_name, *options; /* of the downstream */
	const char *database;                   /* NULL: replication alone */
};

/*
 * done is called once, from the loop: with the upstream, then the caller's (upstream_give), or NULL and the reason.
 * Free the choice then, or earlier to give up; inside done it is allowed. NULL with err set when there is nothing to
 * choose from.
 */
struct choice *choice_new(const struct choice_conf *conf,
                          void (*done)(void *owner, struct upstream *u, const struct err *err), void *owner,
                          struct err *err);
void choice_free(struct choice *c); /* NULL allowed */

/* Is the upstream of the cluster that the node's keyset, if it has one, is for? */
int choice_check_cluster(const struct upstream *up, const struct site_node *node, struct err *err);

#endif
