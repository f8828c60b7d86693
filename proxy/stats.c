#include "proxy/stats.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proxy/locked.h"

struct stats {
	pthread_mutex_t mutex; /* of the list */
	struct node_stats none;
	_Atomic uint64_t failed_logins;
};

struct stats *
stats_new(struct err *err)
{
	return locked_new(sizeof(struct stats), err);
}

void
stats_free(struct stats *st)
{
	if (st == NULL)
		return;
	locked_free_list(st->none.next, free);
	locked_free(st);
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
