#include "proxy/stats.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct stats {
	pthread_mutex_t mutex; /* of the list */
	struct node_stats none;
	_Atomic uint64_t failed_logins;
};

struct stats *
stats_new(struct err *err)
{
	struct stats *st = calloc(1, sizeof(*st));

	if (st == NULL) {
		err_nomem(err);
		return NULL;
	}
	pthread_mutex_init(&st->mutex, NULL);
	return st;
}

void
stats_free(struct stats *st)
{
	if (st == NULL)
		return;
	while (st->none.next != NULL) {
		struct node_stats *next = st->none.next->next;

		free(st->none.next);
		st->none.next = next;
	}
	pthread_mutex_destroy(&st->mutex);
	free(st);
}

struct node_stats *
stats_node(struct stats *st, const char *node)
{
	struct node_stats **p, *n;

	pthread_mutex_lock(&st->mutex);
	for (n = &st->none; n != NULL && strcmp(n->node, node) != 0; n = n->next)
		;
	if (n == NULL && (n = calloc(1, sizeof(*n))) != NULL) {
		snprintf(n->node, sizeof(n->node), "%s", node);
		for (p = &st->none.next; *p != NULL && strcmp((*p)->node, node) < 0; p = &(*p)->next)
			;
		n->next = *p;
		*p = n;
	}
	pthread_mutex_unlock(&st->mutex);
	return n != NULL ? n : &st->none;
}

struct node_stats *
stats_next(struct stats *st, const struct node_stats *n)
{
	struct node_stats *next;

	pthread_mutex_lock(&st->mutex);
	next = n == NULL ? &st->none : n->next;
	pthread_mutex_unlock(&st->mutex);
	return next;
}

_Atomic uint64_t *
stats_failed_logins(struct stats *st)
{
	return &st->failed_logins;
}

const char *stats_class_name(enum err_class class)
{
	static const char *const names[STATS_CLASSES] = {[ERR_FAILED] = "failed",       [ERR_USAGE] = "usage",
	                                                 [ERR_DAMAGED] = "damaged",     [ERR_UNREACHABLE] = "unreachable",
	                                                 [ERR_WRONG_KEY] = "wrong_key", [ERR_REFUSED] = "refused",
	                                                 [ERR_MIDWAY] = "midway"};

	return names[class];
}
