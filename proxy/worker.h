/* worker: a thread with an event loop and the sessions that live in it. */
#ifndef PROXY_WORKER_H
#define PROXY_WORKER_H

#include <ev.h>

#include "common/err.h"
#include "proxy/peer.h"
#include "proxy/proxy.h"

struct session;

struct worker;

/* Start the thread. NULL with err set on failure. */
struct worker *worker_new(struct proxy *proxy, unsigned number, struct err *err);
/* Hand a connection over (any thread), that limits_enter has let in. The descriptor is the worker's from now on,
 * success or not. */
void worker_give(struct worker *w, int fd, const struct peer *peer);
/* How many sessions it has, for choosing the least busy. */
size_t worker_load(const struct worker *w);
/* Tell it to end its sessions and then itself (any thread). fast: without waiting for the clients to be told. */
void worker_stop(struct worker *w, int fast);
/* Wait for its end and free it. */
void worker_join(struct worker *w);

/* Have fn(arg) called in its thread (any thread), at its end at the latest. */
void worker_post(struct worker *w, void (*fn)(void *arg), void *arg);

/* For its sessions. */
struct ev_loop *worker_loop(const struct worker *w);
struct proxy *worker_proxy(const struct worker *w);
/* session_settle is called before the loop sleeps. */
void worker_touch(struct worker *w, struct session *s);

#endif
