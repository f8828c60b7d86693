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
/* How it ends its sessions. */
enum worker_stop {
	WORKER_RUNS,
	WORKER_DRAIN, /* those in the middle of a command finish it, the others are told why and closed */
	WORKER_TELL,  /* all are told and closed */
	WORKER_FAST   /* all are closed at once */
};
/* Tell it to end its sessions and then itself (any thread). A later call can only make it faster. */
void worker_stop(struct worker *w, enum worker_stop how);
/* Ask for a sign of life; has it given one since (any thread)? One that has ended has. */
void worker_ping(struct worker *w);
bool worker_answered(const struct worker *w);
/* In its thread: does it stop? */
bool worker_stops(const struct worker *w);
/* Wait for its end and free it. */
void worker_join(struct worker *w);

/* Sessions that a pause holds look whether it still does (any thread). */
void worker_release(struct worker *w);
/* Have fn(arg) called in its thread (any thread), at its end at the latest. */
void worker_post(struct worker *w, void (*fn)(void *arg), void *arg);

/* For its sessions. */
struct ev_loop *worker_loop(const struct worker *w);
struct proxy *worker_proxy(const struct worker *w);
/* session_settle is called before the loop sleeps. */
void worker_touch(struct worker *w, struct session *s);

#endif
