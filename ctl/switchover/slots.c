#include "ctl/switchover/slots.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SYNCHRONISES 170000 /* the first version that does */

static bool
column_has(const PGresult *r, const char *name)
{
	for (int i = 0; i < PQntuples(r); i++)
		if (strcmp(PQgetvalue(r, i, 0), name) == 0)
			return true;
	return false;
}

static struct slot *
slots_take(const PGresult *primary, const PGresult *target, const char *own, size_t *n)
{
	struct slot *list = calloc((size_t)PQntuples(primary) + 1, sizeof(*list));

	*n = list != NULL ? (size_t)PQntuples(primary) : 0;
	for (size_t i = 0; i < *n; i++) {
		snprintf(list[i].name, sizeof(list[i].name), "%s", PQgetvalue(primary, (int)i, 0));
		list[i].logical = strcmp(PQgetvalue(primary, (int)i, 1), "logical") == 0;
		list[i].there = column_has(target, list[i].name);
		list[i].own = !list[i].logical && strcmp(list[i].name, own) == 0;
	}
	return list;
}

struct slot *
slots_read(struct switchover *s, size_t *n, struct err *err)
{
	PGresult *primary, *target = NULL, *own = NULL;
	struct slot *list = NULL;

	primary = node_ask(
	    &s->from,
	    "SELECT slot_name, slot_type FROM pg_replication_slots WHERE NOT temporary ORDER BY slot_type DESC, slot_name",
	    NULL, err);
	if (primary != NULL)
		own = node_ask(&s->to, "SELECT coalesce((SELECT slot_name FROM pg_stat_wal_receiver), '')", NULL, err);
	if (own != NULL)
		target = node_ask(&s->to,
		                  PQserverVersion(s->to.conn) >= SYNCHRONISES
		                      ? "SELECT slot_name FROM pg_replication_slots WHERE slot_type = 'physical' OR (synced "
		                        "AND NOT temporary AND invalidation_reason IS NULL)"
		                      : "SELECT slot_name FROM pg_replication_slots WHERE slot_type = 'physical'",
		                  NULL, err);
	if (target != NULL && (list = slots_take(primary, target, PQgetvalue(own, 0, 0), n)) == NULL)
		err_nomem(err);
	PQclear(primary);
	PQclear(target);
	PQclear(own);
	return list;
}

static int
slot_make(struct switchover *s, const char *name, struct err *err)
{
	const char *const parameters[] = {name, NULL};

	return node_do(&s->to, "SELECT pg_create_physical_replication_slot($1, true)", parameters, err) != 0
	           ? -1
	           : logbook_add_slot(&s->log, name, err);
}

static int
slot_drop(struct switchover *s, const char *name, struct err *err)
{
	const char *const parameters[] = {name, NULL};

	return node_do(&s->from,
	               "SELECT pg_terminate_backend(active_pid, 10000) FROM pg_replication_slots WHERE slot_name = $1 AND "
	               "active_pid IS NOT NULL",
	               parameters, err) != 0 ||
	               node_do(&s->from, "SELECT pg_drop_replication_slot($1)", parameters, err) != 0
	           ? -1
	           : 0;
}

int
slots_settle(struct switchover *s, struct err *err)
{
	size_t n;
	struct slot *list = slots_read(s, &n, err);
	int result = list != NULL ? 0 : -1;

	for (size_t i = 0; result == 0 && i < n; i++) {
		if (list[i].there || list[i].own)
			continue;
		if (!list[i].logical)
			result = slot_make(s, list[i].name, err);
		else if (s->options->drop_logical_slots)
			result = slot_drop(s, list[i].name, err);
	}
	free(list);
	return result;
}
