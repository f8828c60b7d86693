/*
 * upstreams: what the last connections to each upstream have shown: the server as it said it is, or why it could not be
 * used. Thread-safe; one entry for each name that the configuration has had.
 */
#ifndef PROXY_UPSTREAMS_H
#define PROXY_UPSTREAMS_H

#include <time.h>

#include "proxy/upstream.h"

struct upstream_view {
	char node[64];
	struct upstream_facts facts; /* version 0: never reached */
	time_t seen;                 /* when it was reached last; 0: never */
	time_t failed;               /* when it was of no use last; 0: never */
	char why[800];               /* for what reason */
	bool useless;                /* the last one to connect could not use it */
};

struct upstreams;

struct upstreams *upstreams_new(struct err *err);
void upstreams_free(struct upstreams *t); /* NULL allowed */
void upstreams_reached(struct upstreams *t, const char *node, const struct upstream_facts *facts);
void upstreams_failed(struct upstreams *t, const char *node, const struct err *why);
/* A node's entry; zeros but for the name when nobody has tried it. */
void upstreams_look(struct upstreams *t, const char *node, struct upstream_view *v);

#endif
