/*
 * listener: the sockets that clients come to: one of TCP, one of the Unix domain, each if configured, and the ports of
 * [listen NAME] sections.
 */
#ifndef PROXY_LISTENER_H
#define PROXY_LISTENER_H

#include <ev.h>

#include "common/err.h"
#include "common/settings.h"
#include "proxy/limits.h"
#include "proxy/peer.h"

struct listener;

/* Bind and listen. give is called for each connection that limits let in; it is its own then. */
struct listener *listener_new(struct ev_loop *loop, const struct settings *settings, struct limits *limits,
                              void (*give)(void *arg, int fd, const struct peer *peer), void *arg, struct err *err);
void listener_free(struct listener *l); /* closes, and removes the Unix socket; NULL allowed */

#endif
