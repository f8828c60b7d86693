/*
 * registry: the sessions of all workers, for the console and for cancel requests. Thread-safe; a session's card is
 * changed by its own thread, under the registry's lock where others read more than a number.
 */
#ifndef PROXY_REGISTRY_H
#define PROXY_REGISTRY_H

#include <postgresql/libpq-fe.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include "common/err.h"

#define REGISTRY_KEY_MAX 32

/* A cancel handle lives on in the thread that uses it. */
struct cancel_handle {
	atomic_int refs;
	PGcancel *cancel;
};

struct card {
	struct card *next, **prev;
	unsigned id;
	time_t since;
	char node[64], application[64], peer[80], upstream[64], command[32];
	_Atomic(const char *) state;
	atomic_bool admitted; /* it has authenticated, and is for the node: not on the console */
	int upstream_pid;
	uint8_t key[REGISTRY_KEY_MAX]; /* its cancel key */
	size_t key_len;
	struct cancel_handle *cancel;
	_Atomic uint64_t from_upstream, to_downstream; /* bytes of payload received, bytes sent */
	/* The base backup under way: 0: none, not known */
	_Atomic int64_t backup_since; /* as time() */
	_Atomic uint64_t backup_done, backup_size;
};

struct registry {
	pthread_mutex_t mutex;
	struct card *first;
	unsigned last_id;
	size_t n, admitted;
};

void registry_init(struct registry *r);
void registry_destroy(struct registry *r);
/* Gives the card its id. */
void registry_add(struct registry *r, struct card *c);
/* A session has authenticated: it counts, unless there are so many already (0: any number), in all or of its node: then
 * why not. */
const char *registry_admit(struct registry *r, struct card *c, int most, int most_of_node);
void registry_remove(struct registry *r, struct card *c); /* twice is allowed */
/* Text fields: change them between these. */
void registry_lock(struct registry *r);
void registry_unlock(struct registry *r);

/* Make the handle for an upstream connection; NULL when libpq has none. */
struct cancel_handle *cancel_handle_new(PGconn *conn);
void cancel_handle_unref(struct cancel_handle *h); /* NULL allowed */
/* The handle of the session with this pid and key, one reference more; NULL when there is none. */
struct cancel_handle *registry_find_cancel(struct registry *r, uint32_t pid, const uint8_t *key, size_t len);
/* Send the request from a thread of its own, which takes the reference. */
int cancel_send(struct cancel_handle *h, struct err *err);

#endif
