#include "proxy/registry.h"

#include <openssl/crypto.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"

/* A cancel request is a whole connection to the server: no more at a time than this. */
#define CANCELS_MAX 16

static atomic_int cancels;

void
registry_init(struct registry *r)
{
	pthread_mutex_init(&r->mutex, NULL);
}

void
registry_destroy(struct registry *r)
{
	pthread_mutex_destroy(&r->mutex);
}

void
registry_lock(struct registry *r)
{
	pthread_mutex_lock(&r->mutex);
}

void
registry_unlock(struct registry *r)
{
	pthread_mutex_unlock(&r->mutex);
}

void
registry_add(struct registry *r, struct card *c)
{
	registry_lock(r);
	c->id = ++r->last_id;
	c->next = r->first;
	c->prev = &r->first;
	if (c->next != NULL)
		c->next->prev = &c->next;
	r->first = c;
	r->n++;
	registry_unlock(r);
}

const char *
registry_admit(struct registry *r, struct card *c, int most, int most_of_node)
{
	const char *why = NULL;
	size_t same = 0;

	registry_lock(r);
	for (const struct card *o = r->first; o != NULL && most_of_node > 0; o = o->next)
		same += o->admitted && strcmp(o->node, c->node) == 0;
	if (most > 0 && r->admitted >= (size_t)most)
		why = "There are max_sessions of them already.";
	else if (most_of_node > 0 && same >= (size_t)most_of_node)
		why = "There are max_sessions of its section's already.";
	else {
		c->admitted = true;
		r->admitted++;
	}
	registry_unlock(r);
	return why;
}

void
registry_remove(struct registry *r, struct card *c)
{
	registry_lock(r);
	if (c->prev != NULL) {
		*c->prev = c->next;
		if (c->next != NULL)
			c->next->prev = c->prev;
		c->prev = NULL;
		r->n--;
		r->admitted -= c->admitted;
	}
	registry_unlock(r);
}

struct cancel_handle *
cancel_handle_new(PGconn *conn)
{
	struct cancel_handle *h = calloc(1, sizeof(*h));

	if (h == NULL)
		return NULL;
	h->refs = 1;
	if ((h->cancel = PQgetCancel(conn)) == NULL) {
		free(h);
		return NULL;
	}
	return h;
}

void
cancel_handle_unref(struct cancel_handle *h)
{
	if (h == NULL || --h->refs > 0)
		return;
	PQfreeCancel(h->cancel);
	free(h);
}

struct cancel_handle *
registry_find_cancel(struct registry *r, uint32_t pid, const uint8_t *key, size_t len)
{
	struct cancel_handle *h = NULL;

	registry_lock(r);
	for (struct card *c = r->first; c != NULL && h == NULL; c = c->next)
		if (c->cancel != NULL && (uint32_t)c->upstream_pid == pid && c->key_len == len && len > 0 &&
		    CRYPTO_memcmp(c->key, key, len) == 0) {
			h = c->cancel;
			h->refs++;
		}
	registry_unlock(r);
	return h;
}

static void *
cancel_run(void *arg)
{
	struct cancel_handle *h = arg;
	char why[256];

	if (!PQcancel(h->cancel, why, sizeof(why)))
		log_warning("could not forward a cancel request: %s", why);
	cancel_handle_unref(h);
	cancels--;
	return NULL;
}

int
cancel_send(struct cancel_handle *h, struct err *err)
{
	pthread_attr_t attr;
	pthread_t thread;
	sigset_t all, before;
	int rc;

	if (++cancels > CANCELS_MAX) {
		cancels--;
		cancel_handle_unref(h);
		return err_set(err, ERR_REFUSED, "%d cancel requests are on their way already", CANCELS_MAX);
	}
	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	/* signals are the main thread's */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	rc = pthread_create(&thread, &attr, cancel_run, h);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	pthread_attr_destroy(&attr);
	if (rc != 0) {
		cancels--;
		cancel_handle_unref(h);
		return err_os(err, rc, "could not start a thread");
	}
	return 0;
}
