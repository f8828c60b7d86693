/* show_counts: upstreams, and what has been counted. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proxy/shows_intern.h"

static const char *const upstream_columns[] = {"node",         "state",       "version",      "system_identifier",
                                               "timeline",     "wal_end_lsn", "checksums",    "sessions",
                                               "last_reached", "last_failed", "last_failure", NULL};

static size_t
sessions_from(struct registry *r, const char *upstream)
{
	size_t n = 0;

	registry_lock(r);
	for (const struct card *c = r->first; c != NULL; c = c->next)
		n += strcmp(c->upstream, upstream) == 0;
	registry_unlock(r);
	return n;
}

/* As far as a stream of it has said, or the last connection. */
static uint64_t
wal_end(const struct upstream_view *v, const struct standby_view *list, size_t n)
{
	uint64_t end = v->facts.flush_lsn;

	for (size_t i = 0; i < n; i++)
		if (strcmp(list[i].who.upstream, v->node) == 0 && list[i].who.tli == v->facts.tli && list[i].at.upstream > end)
			end = list[i].at.upstream;
	return end;
}

static int
fill_upstream(struct table *t, struct proxy *p, const struct site *site, struct err *err)
{
	struct standby_view *list;
	size_t n;

	if ((list = standbys_list(p->standbys, &n, err)) == NULL)
		return -1;
	for (size_t i = 0; i < site->settings->nnodes; i++) {
		const struct settings_node *set = &site->settings->nodes[i];
		struct upstream_view v;
		bool seen;

		if (set->conninfo == NULL)
			continue;
		upstreams_look(p->upstreams, set->name, &v);
		seen = v.seen != 0;
		table_text(t, set->name);
		table_text(t, v.useless ? "failed" : !seen ? "unknown" : v.facts.standby ? "standby" : "primary");
		if (seen)
			table_print(t, "%d.%d", v.facts.version / 10000, v.facts.version % 10000);
		else
			table_text(t, NULL);
		table_number_or_null(t, seen, v.facts.system_identifier);
		table_number_or_null(t, seen, v.facts.tli);
		table_lsn(t, wal_end(&v, list, n));
		table_text(t, !seen ? NULL : v.facts.checksums ? "on" : "off");
		table_number(t, sessions_from(&p->registry, set->name));
		table_time(t, v.seen);
		table_time(t, v.failed);
		table_text(t, v.failed != 0 ? v.why : NULL);
	}
	free(list);
	return 0;
}

const struct show show_upstream = {"UPSTREAM", "servers to stream from, as the last connection has found them",
                                   upstream_columns, fill_upstream};

static const char *const stats_columns[] = {"node",
                                            "connections",
                                            "streams",
                                            "bytes_received",
                                            "bytes_sent",
                                            "backups",
                                            "backups_failed",
                                            "last_backup",
                                            "errors_failed",
                                            "errors_usage",
                                            "errors_damaged",
                                            "errors_unreachable",
                                            "errors_wrong_key",
                                            "errors_refused",
                                            "failed_logins",
                                            NULL};

static int
fill_stats(struct table *t, struct proxy *p, const struct site *site, struct err *err)
{
	static const enum err_class classes[] = {ERR_FAILED,      ERR_USAGE,     ERR_DAMAGED,
	                                         ERR_UNREACHABLE, ERR_WRONG_KEY, ERR_REFUSED};

	(void)site;
	(void)err;
	for (struct node_stats *n = stats_next(p->stats, NULL); n != NULL; n = stats_next(p->stats, n)) {
		bool none = n->node[0] == '\0';

		table_text(t, none ? NULL : n->node);
		table_number(t, n->connections);
		table_number(t, n->streams);
		table_number(t, n->received);
		table_number(t, n->sent);
		table_number(t, n->backups);
		table_number(t, n->backups_failed);
		table_time(t, n->last_backup);
		for (size_t i = 0; i < sizeof(classes) / sizeof(classes[0]); i++)
			table_number(t, n->errors[classes[i]]);
		table_number_or_null(t, none, *stats_failed_logins(p->stats));
	}
	return 0;
}

const struct show show_stats = {"STATS", "what was counted since the start", stats_columns, fill_stats};
