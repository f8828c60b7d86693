/*
 * status: what the proxy's console says. It speaks the simple query protocol of database "walcrypt"; whatever columns
 * come are shown, so that an older control tool shows what a newer proxy has to say.
 */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ctl/command.h"
#include "ctl/console.h"
#include "ctl/json_out.h"
#include "ctl/source.h"

struct status_options {
	struct common_options common;
	struct console_where where;
	int interval_s;
	bool json, watch;
};

static const struct option_def status_defs[] = {
    CONSOLE_OPTIONS(struct status_options, "stats_users or admin_users"),
    {"json", 0, OPTION_FLAG, offsetof(struct status_options, json), NULL, "print JSON", 0, 0},
    {"watch", 'w', OPTION_FLAG, offsetof(struct status_options, watch), NULL, "show it again and again", 0, 0},
    {"interval", 0, OPTION_NUMBER, offsetof(struct status_options, interval_s), "SECONDS",
     "how often with --watch (default: 2)", 1, 3600},
    COMMON_OPTIONS,
    OPTIONS_END};

/* columns: what a terminal has room for; NULL: all. JSON has all always. */
static const struct view {
	const char *name, *query;
	const char *columns[16];
} views[] = {{"status", "SHOW STATUS", {NULL}},
             {"nodes", "SHOW NODES", {NULL}},
             {"standbys",
              "SHOW STANDBYS",
              {"node", "application_name", "state", "upstream", "timeline", "lag_bytes", "replay_lag_s", "sent_lsn",
               "flush_lsn", "replay_lsn", "last_record_type", "since", "end", "end_reason"}},
             {"upstream",
              "SHOW UPSTREAM",
              {"node", "state", "version", "timeline", "wal_end_lsn", "sessions", "last_failed", "last_failure"}},
             {"sessions",
              "SHOW SESSIONS",
              {"id", "node", "application_name", "client", "state", "command", "upstream", "upstream_pid",
               "bytes_received", "bytes_sent", "backup_done", "backup_size", "since"}},
             {"keys", "SHOW KEYS", {"keyset", "key", "epoch", "key_id", "state", "age_s", "nodes"}},
             {"stats",
              "SHOW STATS",
              {"node", "connections", "streams", "bytes_received", "bytes_sent", "backups", "backups_failed",
               "errors_failed", "errors_damaged", "errors_unreachable", "errors_wrong_key", "errors_refused"}}};
#define NVIEWS (sizeof(views) / sizeof(views[0]))

static bool
is_shown(const struct view *view, const char *column)
{
	for (size_t i = 0; i < 16 && view->columns[i] != NULL; i++)
		if (strcmp(view->columns[i], column) == 0)
			return true;
	return view->columns[0] == NULL;
}

/* Columns as wide as their widest value; one row is shown as lines of name and value. */
static void
table_print(const struct view *view, const PGresult *r)
{
	int rows = PQntuples(r), columns = 0, widest = 0, at[64];

	for (int c = 0; c < PQnfields(r) && columns < 64; c++)
		if (is_shown(view, PQfname(r, c)))
			at[columns++] = c;
	printf("%s\n", view->name);
	if (rows == 0)
		printf("  none\n");
	for (int c = 0; c < columns; c++)
		if ((int)strlen(PQfname(r, at[c])) > widest)
			widest = (int)strlen(PQfname(r, at[c]));
	for (int c = 0; rows == 1 && c < columns; c++)
		printf("  %-*s  %s\n", widest, PQfname(r, at[c]), PQgetvalue(r, 0, at[c]));
	for (int row = -1; rows > 1 && row < rows; row++) {
		for (int c = 0; c < columns; c++) {
			int width = (int)strlen(PQfname(r, at[c]));

			for (int i = 0; i < rows; i++)
				if (PQgetlength(r, i, at[c]) > width)
					width = PQgetlength(r, i, at[c]);
			printf("  %-*s", c + 1 < columns ? width : 0, row < 0 ? PQfname(r, at[c]) : PQgetvalue(r, row, at[c]));
		}
		printf("\n");
	}
	printf("\n");
}

static json_t *
table_json(const PGresult *r)
{
	json_t *list = json_array();

	for (int row = 0; row < PQntuples(r); row++) {
		json_t *object = json_object();

		for (int c = 0; c < PQnfields(r); c++)
			json_object_set_new(object, PQfname(r, c),
			                    PQgetisnull(r, row, c) ? json_null() : json_string(PQgetvalue(r, row, c)));
		json_array_append_new(list, object);
	}
	return list;
}

/* All views over one connection. */
static int
show_once(const struct status_options *o, PGconn *conn, struct err *err)
{
	json_t *root = json_object();
	int result = -1;

	for (size_t i = 0; i < NVIEWS; i++) {
		PGresult *r = console_ask(conn, views[i].query, err);

		if (r == NULL)
			goto done;
		if (o->json)
			json_object_set_new(root, views[i].name, table_json(r));
		else
			table_print(&views[i], r);
		PQclear(r);
	}
	result = o->json ? json_out(root, err) : 0;
	fflush(stdout);
done:
	json_decref(root);
	return result;
}

static int
status_run(void *options, const char **args, size_t nargs, struct err *err)
{
	const struct status_options *o = options;
	struct settings *settings = NULL;
	PGconn *conn = NULL;
	int result = -1;

	(void)args;
	(void)nargs;
	if ((o->where.host == NULL || o->where.port == NULL || o->common.config != NULL) &&
	    settings_find(o->common.config, false, &settings, err) != 0)
		return -1;
	/* a proxy that was there once may come back: it is restarted, or has sent us away for asking too seldom */
	for (bool seen = false;; seen = true) {
		if (conn == NULL)
			conn = console_open(&o->where, settings, err);
		if (o->watch && !o->json && isatty(STDOUT_FILENO) == 1)
			printf("\033[H\033[J");
		result = conn == NULL ? -1 : show_once(o, conn, err);
		if (!o->watch || (result != 0 && (!seen || err->class != ERR_UNREACHABLE)))
			break;
		if (result != 0) {
			report("WARNING", err);
			PQfinish(conn);
			conn = NULL;
		}
		sleep(o->interval_s > 0 ? (unsigned)o->interval_s : 2);
	}
	PQfinish(conn);
	settings_free(settings);
	return result;
}

const struct command command_status = {
    .name = "status",
    .arguments = "[--host HOST --port PORT] [--json] [--watch]",
    .summary = "show the proxy's state: nodes, standbys, upstreams, sessions, keys, counts",
    .options = status_defs,
    .style = OPTIONS_ALL,
    .run = status_run,
};
_Static_assert(sizeof(struct status_options) <= COMMAND_OPTIONS_MAX, "options fit");
