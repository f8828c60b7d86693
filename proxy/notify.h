/*
 * notify: what a service manager is told (systemd's protocol, sd_notify(3)): ready, reloading, stopping, a line of
 * status, and as long as all workers' loops go round, that the watchdog need not bark. The main thread's. Without
 * NOTIFY_SOCKET in the environment it does nothing.
 */
#ifndef PROXY_NOTIFY_H
#define PROXY_NOTIFY_H

#include <ev.h>

#include "proxy/proxy.h"

struct notify;

struct notify *notify_new(struct ev_loop *loop, struct proxy *proxy, struct err *err);
void notify_free(struct notify *n); /* NULL allowed */
/* It listens; or a reload is over. trouble: what that came to, for the status; NULL: all is well. */
void notify_ready(struct notify *n, const char *trouble);
void notify_reloading(struct notify *n);
/* It stops, which may take so long. */
void notify_stopping(struct notify *n, double seconds);

#endif
