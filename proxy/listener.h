/* listener: the sockets that clients come to: one of TCP, one of the Unix domain, each if configured. */
#ifndef PROXY_LISTENER_H
#define PROXY_LISTENER_H

#include <ev.h>

#include "common/err.h"
#include "common/settings.h"

struct listener;

/* Bind and listen. give is called for each connection, which is its own then; peer is fit for logs. */
struct listener *listener_new(struct ev_loop *loop, const struct settings *settings,
                              void (*give)(void *arg, int fd, const char *peer), void *arg, struct err *err);
void listener_free(struct listener *l); /* closes, and removes the Unix socket; NULL allowed */

#endif
