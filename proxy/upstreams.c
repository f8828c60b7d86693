#include "proxy/upstreams.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proxy/locked.h"

struct entry {
	struct entry *next;
	struct upstream_view view;
};

struct upstreams {
	pthread_mutex_t mutex;
	struct entry *first;
};

struct upstreams *
upstreams_new(struct err *err)
{
	return locked_new(sizeof(struct upstreams), err);
}

void
upstreams_free(struct upstreams *t)
{
	if (t == NULL)
		return;
	locked_free_list(t->first, free);
	locked_free(t);
}

static struct entry *
find(struct upstreams *t, const char *node)
{
	struct entry *e = t->first;

	while (e != NULL && strcmp(e->view.node, node) != 0)
		e = e->next;
	return e;
}

/* NULL: no memory, so nothing is known of it. */
static struct entry *
make(struct upstreams *t, const char *node)
{
	struct entry *e = find(t, node);

	if (e != NULL || (e = calloc(1, sizeof(*e))) == NULL)
		return e;
	snprintf(e->view.node, sizeof(e->view.node), "%s", node);
	e->next = t->first;
	t->first = e;
	return e;
}

void
upstreams_reached(struct upstreams *t, const char *node, const struct upstream_facts *facts)
{
	struct entry *e;

	pthread_mutex_lock(&t->mutex);
	if ((e = make(t, node)) != NULL) {
		e->view.facts = *facts;
		e->view.seen = time(NULL);
		e->view.useless = false;
	}
	pthread_mutex_unlock(&t->mutex);
}

void
upstreams_failed(struct upstreams *t, const char *node, const struct err *why)
{
	struct entry *e;

	pthread_mutex_lock(&t->mutex);
	if ((e = make(t, node)) != NULL) {
		e->view.failed = time(NULL);
		e->view.useless = true;
		snprintf(e->view.why, sizeof(e->view.why), "%s%s%s", why->text, why->detail[0] != '\0' ? ": " : "",
		         why->detail);
	}
	pthread_mutex_unlock(&t->mutex);
}

void
upstreams_look(struct upstreams *t, const char *node, struct upstream_view *v)
{
	const struct entry *e;

	pthread_mutex_lock(&t->mutex);
	if ((e = find(t, node)) != NULL)
		*v = e->view;
	else {
		memset(v, 0, sizeof(*v));
		snprintf(v->node, sizeof(v->node), "%s", node);
	}
	pthread_mutex_unlock(&t->mutex);
}
