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
		list[i].from = row_lsn(primary, (int)i, "restart_lsn");
		list[i].own = !list[i].logical && strcmp(list[i].name, own) == 0;
	}
	return list;
}

struct slot *
slots_read(struct switchover *s, size_t *n, struct err *err)
{
	PGresult *primary, *target = NULL, *own = NULL;
	struct slot *list = NULL;

	primary = node_ask(&s->from,
	                   "SELECT slot_name, slot_type, CASE WHEN NOT active THEN restart_lsn END AS restart_lsn FROM "
	                   "pg_replication_slots "
	                   "WHERE NOT temporary ORDER BY slot_type DESC, slot_name",
	                   NULL, err);
	if (primary != NULL && !s->comes)
		own = node_ask(&s->to, "SELECT coalesce((SELECT slot_name FROM pg_stat_wal_receiver), '')", NULL, err);
	if (own != NULL)
		target = node_ask(&s->to,
		                  PQserverVersion(s->to.conn) >= SYNCHRONISES
		                      ? "SELECT slot_name FROM pg_replication_slots WHERE slot_type = 'physical' OR (synced "
		                        "AND NOT temporary AND invalidation_reason IS NULL)"
		                      : "SELECT slot_name FROM pg_replication_slots WHERE slot_type = 'physical'",
		                  NULL, err);
	if (primary != NULL && (target != NULL || s->comes) &&
	    (list = slots_take(primary, target, own != NULL ? PQgetvalue(own, 0, 0) : "", n)) == NULL)
		err_nomem(err);
	PQclear(primary);
	PQclear(target);
	PQclear(own);
	return list;
}

/* The first byte of the oldest WAL file of the target; 0: its role may not look. */
static uint64_t
oldest_wal(struct switchover *s)
{
	struct err ignored;
	PGresult *r =
	    node_ask(&s->to,
	             "SELECT '0/0'::pg_lsn + min(('x' || substr(name, 9, 8))::bit(32)::bigint * 4294967296 + "
	             "('x' || substr(name, 17, 8))::bit(32)::bigint * (SELECT setting::bigint FROM "
	             "pg_settings WHERE pg_settings.name = 'wal_segment_size')) AS oldest FROM pg_ls_waldir() WHERE "
	             "name ~ '^[0-9A-F]{24}$'",
	             NULL, &ignored);
	uint64_t oldest = row_lsn(r, 0, "oldest");

	PQclear(r);
	return oldest;
}

int
slots_kept_from(struct switchover *s, uint64_t *from, struct err *err)
{
	/* where its recovery would begin, and what is before that in the same file; wal_keep_size may keep more */
	PGresult *r = node_ask(
	    &s->to,
	    "SELECT '0/0'::pg_lsn + redo - mod(redo, segment) AS redo, '0/0'::pg_lsn + greatest(replayed - mod(replayed, "
	    "segment) - keep * 1048576::numeric, 0) AS keep FROM (SELECT redo_lsn - '0/0' AS redo, "
	    "pg_last_wal_replay_lsn() - '0/0' AS replayed, (SELECT setting::numeric FROM pg_settings WHERE name = "
	    "'wal_segment_size') AS segment, (SELECT setting::int FROM pg_settings WHERE name = 'wal_keep_size') AS keep "
	    "FROM "
	    "pg_control_checkpoint()) AS t",
	    NULL, err);
	uint64_t oldest, keep;

	if (r == NULL)
		return -1;
	*from = row_lsn(r, 0, "redo");
	keep = row_lsn(r, 0, "keep");
	PQclear(r);
	if (keep < *from && (oldest = oldest_wal(s)) != 0)
		*from = oldest > *from ? *from : (oldest > keep ? oldest : keep);
	return 0;
}

static int
slot_make(struct switchover *s, const char *name, struct err *err)
{
	const char *const parameters[] = {name, NULL};

	/* written down first: one that nobody knows of would keep WAL for ever */
	return logbook_add_slot(&s->log, name, err) != 0 || logbook_write(&s->log, err) != 0
	           ? -1
	           : node_do(&s->to, "SELECT pg_create_physical_replication_slot($1, true)", parameters, err);
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

/* A node that streams from the old primary whoever the primary is may come back for its slot. */
static bool
has_followers(const struct switchover *s)
{
	for (size_t i = 0; i < s->settings->nnodes; i++)
		if (s->settings->nodes[i].upstream != NULL && strcmp(s->settings->nodes[i].upstream, s->log.from) == 0)
			return true;
	return false;
}

/* Physical ones, that by which the target streamed too; and logical ones that were synchronised to it, which would keep
 * the old primary from having them synchronised the other way round. */
void
slots_leave(struct switchover *s)
{
	struct err err = {0};
	PGresult *theirs;

	if (has_followers(s))
		return;
	theirs = node_ask(&s->to,
	                  "SELECT slot_name FROM pg_replication_slots WHERE NOT temporary UNION "
	                  "SELECT setting FROM pg_settings WHERE name = 'primary_slot_name' ORDER BY 1",
	                  NULL, &err);
	if (theirs == NULL)
		printf("  note  slots that are the new primary's now may be left on \"%s\", where they keep WAL: %s\n",
		       s->log.from, err.text);
	for (int i = 0; i < PQntuples(theirs); i++) {
		const char *const name[] = {PQgetvalue(theirs, i, 0), NULL};
		const char *drop =
		    PQserverVersion(s->to.conn) >= SYNCHRONISES
		        ? "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = $1 AND "
		          "NOT active AND NOT temporary AND (slot_type = 'physical' OR (failover AND NOT synced))"
		        : "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = $1 AND "
		          "NOT active AND NOT temporary AND slot_type = 'physical'";
		PGresult *r = node_ask(&s->from, drop, name, &err);

		if (r == NULL)
			printf("  note  slot \"%s\" is left on \"%s\", where it keeps WAL: %s\n", name[0], s->log.from, err.text);
		else if (PQntuples(r) > 0)
			printf("  note  slot \"%s\" is dropped on \"%s\": it is the new primary's now\n", name[0], s->log.from);
		PQclear(r);
	}
	PQclear(theirs);
}
