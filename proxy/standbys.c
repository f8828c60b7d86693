#include "proxy/standbys.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "proxy/locked.h"
#include "replication/lag.h"

struct standby {
	struct standby *next;
	struct standby_who who;
	struct standby_at at;
	struct lag lag;
	time_t since, ended;
	enum standby_end end;
	char why[256];
	bool released;
	/* A ring; of the latest stream of its name. NULL: nothing noted yet. */
	struct standby_sample *samples;
	size_t sampled; /* how many were ever noted */
};

struct standbys {
	pthread_mutex_t mutex;
	struct standby *first; /* the latest first */
	size_t n;
};

const char *
standby_end_name(enum standby_end end)
{
	static const char *const names[] = {
	    [STANDBY_STREAMS] = "streams", [STANDBY_COMPLETE] = "complete", [STANDBY_TIMELINE] = "timeline",
	    [STANDBY_CLIENT] = "client",   [STANDBY_LOST] = "lost",         [STANDBY_ERROR] = "error",
	    [STANDBY_STOPPED] = "stopped"};

	return names[end];
}

static void
forgotten(void *entry)
{
	struct standby *b = entry;

	free(b->samples);
	free(b);
}

struct standbys *
standbys_new(struct err *err)
{
	return locked_new(sizeof(struct standbys), err);
}

void
standbys_free(struct standbys *t)
{
	if (t == NULL)
		return;
	locked_free_list(t->first, forgotten);
	locked_free(t);
}

static bool
same_name(const struct standby *a, const struct standby *b)
{
	return strcmp(a->who.node, b->who.node) == 0 && strcmp(a->who.application, b->who.application) == 0;
}

/* A standby that connects again goes on where its line ended. */
static void
inherit(struct standby *now)
{
	for (struct standby *b = now->next; b != NULL; b = b->next)
		if (same_name(b, now) && b->samples != NULL) {
			now->samples = b->samples;
			now->sampled = b->sampled;
			b->samples = NULL;
			return;
		}
}

static void
drop(struct standbys *t, struct standby **p)
{
	struct standby *b = *p;

	*p = b->next;
	t->n--;
	forgotten(b);
}

/* Of the same name an earlier one that is over is not worth more than this one; of a node, the oldest go. */
static void
forget(struct standbys *t, const struct standby *now)
{
	size_t kept = 0;

	for (struct standby **p = &t->first; *p != NULL;) {
		struct standby *b = *p;

		if (b != now && b->released && strcmp(b->who.node, now->who.node) == 0 &&
		    (same_name(b, now) || ++kept > STANDBYS_REMEMBERED))
			drop(t, p);
		else
			p = &b->next;
	}
}

struct standby *
standby_begin(struct standbys *t, const struct standby_who *who, struct err *err)
{
	struct standby *b = calloc(1, sizeof(*b));

	if (b == NULL) {
		err_nomem(err);
		return NULL;
	}
	b->who = *who;
	b->since = time(NULL);
	pthread_mutex_lock(&t->mutex);
	b->next = t->first;
	t->first = b;
	t->n++;
	inherit(b);
	forget(t, b);
	pthread_mutex_unlock(&t->mutex);
	return b;
}

static uint64_t
position(const struct standby_at *at, enum standby_position which)
{
	return which == STANDBY_WRITE ? at->write : which == STANDBY_FLUSH ? at->flush : at->apply;
}

enum standby_position
standby_counts(const struct standby_at *at)
{
	return at->apply != 0 ? STANDBY_REPLAY : at->flush != 0 ? STANDBY_FLUSH : STANDBY_WRITE;
}

void
standby_publish(struct standbys *t, struct standby *b, const struct standby_at *at)
{
	double now = (double)clock_now_ms() / 1000;
	uint64_t least;

	pthread_mutex_lock(&t->mutex);
	b->at = *at;
	lag_note(&b->lag, at->upstream, now);
	least = position(at, standby_counts(at));
	lag_forget(&b->lag, least);
	pthread_mutex_unlock(&t->mutex);
}

void
standby_end(struct standbys *t, struct standby *b, enum standby_end end, const char *why)
{
	pthread_mutex_lock(&t->mutex);
	if (b->end == STANDBY_STREAMS) {
		b->end = end;
		b->ended = time(NULL);
		snprintf(b->why, sizeof(b->why), "%s", why);
	}
	pthread_mutex_unlock(&t->mutex);
}

void
standby_release(struct standbys *t, struct standby *b)
{
	struct standby **p = &t->first;

	pthread_mutex_lock(&t->mutex);
	b->released = true;
	if (b->who.for_backup && b->end != STANDBY_COMPLETE && b->end != STANDBY_TIMELINE) {
		while (*p != b)
			p = &(*p)->next;
		drop(t, p);
	}
	pthread_mutex_unlock(&t->mutex);
}

static void
look(const struct standby *b, double now, struct standby_view *v)
{
	v->who = b->who;
	v->at = b->at;
	v->since = b->since;
	v->ended = b->ended;
	v->end = b->end;
	memcpy(v->why, b->why, sizeof(v->why));
	for (int i = 0; i < STANDBY_POSITIONS; i++) {
		uint64_t at = position(&b->at, i);
		bool known = b->end == STANDBY_STREAMS && at != 0 && b->at.upstream != 0;

		v->lag_bytes[i] = !known ? -1 : at < b->at.upstream ? (int64_t)(b->at.upstream - at) : 0;
		v->lag_s[i] = known ? lag_age(&b->lag, at, now) : -1;
	}
}

static int
by_name(const void *a, const void *b)
{
	const struct standby_view *x = a, *y = b;
	int c = strcmp(x->who.node, y->who.node);

	if (c == 0)
		c = strcmp(x->who.application, y->who.application);
	return c != 0 ? c : (x->who.session < y->who.session) - (x->who.session > y->who.session);
}

struct standby_view *
standbys_list(struct standbys *t, size_t *n, struct err *err)
{
	struct standby_view *list;
	double now = (double)clock_now_ms() / 1000;

	*n = 0;
	pthread_mutex_lock(&t->mutex);
	if ((list = calloc(t->n + 1, sizeof(*list))) == NULL)
		err_nomem(err);
	else
		for (const struct standby *b = t->first; b != NULL; b = b->next)
			look(b, now, &list[(*n)++]);
	pthread_mutex_unlock(&t->mutex);
	if (list != NULL)
		qsort(list, *n, sizeof(*list), by_name);
	return list;
}

/* The latest stream of a name has the line. */
static bool
is_latest(const struct standbys *t, const struct standby *b)
{
	for (const struct standby *c = t->first; c != b; c = c->next)
		if (same_name(b, c))
			return false;
	return true;
}

static void
sample(struct standby *b, time_t at, double now)
{
	struct standby_sample *s;
	struct standby_view v;
	enum standby_position which = standby_counts(&b->at);

	if (b->samples == NULL && (b->samples = calloc(STANDBYS_KEPT, sizeof(*b->samples))) == NULL)
		return; /* the line has a gap then */
	look(b, now, &v);
	s = &b->samples[b->sampled++ % STANDBYS_KEPT];
	s->at = at;
	s->bytes = v.lag_bytes[which];
	s->seconds = (float)v.lag_s[which];
}

void
standbys_sample(struct standbys *t)
{
	double now = (double)clock_now_ms() / 1000;
	time_t at = time(NULL);

	pthread_mutex_lock(&t->mutex);
	for (struct standby *b = t->first; b != NULL; b = b->next)
		if (is_latest(t, b))
			sample(b, at, now);
	pthread_mutex_unlock(&t->mutex);
}

struct standby_history *
standbys_history(struct standbys *t, size_t *n, struct err *err)
{
	struct standby_history *list;

	*n = 0;
	pthread_mutex_lock(&t->mutex);
	if ((list = calloc(t->n + 1, sizeof(*list))) == NULL)
		err_nomem(err);
	for (const struct standby *b = t->first; list != NULL && b != NULL; b = b->next) {
		struct standby_history *h = &list[*n];

		if (b->samples == NULL || !is_latest(t, b))
			continue;
		(*n)++;
		h->who = b->who;
		h->n = b->sampled < STANDBYS_KEPT ? b->sampled : STANDBYS_KEPT;
		for (size_t i = 0; i < h->n; i++)
			h->samples[i] = b->samples[(b->sampled - h->n + i) % STANDBYS_KEPT];
	}
	pthread_mutex_unlock(&t->mutex);
	return list;
}
