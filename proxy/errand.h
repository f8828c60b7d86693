/*
 * errand: work that blocks, done for sessions by a thread of its own, one piece after the other, and answered in the
 * thread of the session's worker. Thread-safe.
 */
#ifndef PROXY_ERRAND_H
#define PROXY_ERRAND_H

#include <stdatomic.h>

#include "common/err.h"

struct worker;
struct errand;

struct errand_kind {
	void (*run)(struct errand *e);     /* in the thread; not when it was dropped before its turn */
	void (*deliver)(struct errand *e); /* in the worker's thread, when the owner still waits */
	void (*free)(struct errand *e);
};

/* The first member of what is to be done; the caller fills in kind, worker and owner. */
struct errand {
	const struct errand_kind *kind;
	struct worker *worker;
	void *owner; /* NULL: nobody waits any more; of the worker's thread */
	atomic_int refs;
	struct errand *next;
};

struct errands;

struct errands *errands_new(struct err *err);
/* No more answers come after this. Before the workers end. */
void errands_stop(struct errands *q);
void errands_free(struct errands *q); /* NULL allowed */

/* Have it done; -1 with err set, and freed, when it cannot be. The owner drops it in any case, before or in deliver. */
int errand_send(struct errands *q, struct errand *e, struct err *err);
void errand_drop(struct errand *e); /* in the worker's thread; NULL allowed */

#endif
