/*
 * session: one downstream connection and the upstream connection that belongs to it. Lives in one worker's thread.
 * How it is built is session_intern.h's.
 */
#ifndef PROXY_SESSION_H
#define PROXY_SESSION_H

#include <stdbool.h>

#include "proxy/worker.h"

struct session;
struct peer;

/* Begin to serve fd, which is the session's then; NULL (logged) when that fails. *list is the worker's list of its
 * sessions. */
struct session *session_new(struct worker *worker, struct session **list, int fd, const struct peer *peer);
struct session *session_next(const struct session *s);
/* If a pause held it and does no more, it goes on. */
void session_release(struct session *s);
/* The proxy stops: end. */
void session_stop(struct session *s, enum worker_stop how);

/* For the worker's list of sessions that have something to be settled: push (no-op when it is there already); the next.
 */
struct session *session_touch(struct session *s, struct session *head);
struct session *session_untouch(struct session *s);
/* Write what waits, free what has ended. false: the session is gone. */
bool session_settle(struct session *s);

#endif
