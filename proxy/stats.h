/*
 * stats: what has been counted since the start, for each node and for what is none. Thread-safe: numbers are atomic, an
 * entry once made stays until the end (there are as many as names that the configuration has had).
 */
#ifndef PROXY_STATS_H
#define PROXY_STATS_H

#include <stdatomic.h>
#include <stdint.h>

#include "common/err.h"

#define STATS_CLASSES (ERR_MIDWAY + 1)

struct node_stats {
	struct node_stats *next;
	char node[64]; /* "": connections that are no node's, as the console's and those that did not get in */
	_Atomic uint64_t connections, streams;
	_Atomic uint64_t received, sent; /* bytes of payload from upstreams, bytes to clients */
	_Atomic uint64_t backups, backups_failed;
	_Atomic int64_t last_backup; /* when the last one came to its good end, as time(); 0: none */
	_Atomic uint64_t errors[STATS_CLASSES];
};

struct stats;

struct stats *stats_new(struct err *err);
void stats_free(struct stats *st); /* NULL allowed */
/* The node's entry, made when there is none; that of "" when there is no memory. */
struct node_stats *stats_node(struct stats *st, const char *node);
/* One after the other; NULL: the first, and behind the last. */
struct node_stats *stats_next(struct stats *st, const struct node_stats *n);
_Atomic uint64_t *stats_failed_logins(struct stats *st);
/* "refused" for ERR_REFUSED and so on; NULL for ERR_NONE. */
const char *stats_class_name(enum err_class class);

#endif
