/*
 * limits: how many connections that have not authenticated yet there may be, in all and from one address, and how often
 * an address may fail. An IPv6 address stands for its /64. Unix sockets count in all only. Thread-safe; the memory does
 * not grow with the number of addresses.
 */
#ifndef PROXY_LIMITS_H
#define PROXY_LIMITS_H

#include "common/settings.h"
#include "proxy/peer.h"

struct limits;

struct limits *limits_new(struct err *err);
void limits_free(struct limits *l); /* NULL allowed */
/* From the settings, at start and after a reload. */
void limits_set(struct limits *l, const struct settings *settings);
/* A connection has come: NULL when it may stay, limits_leave is owed then; else why not. *first: it is the first time
 * since this address was last let in, so worth a line in the log. */
const char *limits_enter(struct limits *l, const struct peer *peer, bool *first);
/* It has authenticated, or is gone. */
void limits_leave(struct limits *l, const struct peer *peer);
/* Its authentication has failed. */
void limits_failed(struct limits *l, const struct peer *peer);

#endif
