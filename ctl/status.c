/*
 * status: what the proxy's console says. It speaks the simple query protocol of database "walcrypt"; whatever columns
 * come are shown, so that an older control tool shows what a newer proxy has to say.
 */
#include <jansson.h>
#include <postgresql/libpq-fe.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ctl/command.h"
#include "ctl/libpq_error.h"
#include "ctl/proxy_address.h"
#include "ctl/source.h"

struct status_options {
	struct common_options common;
	const char *host, *port, *user;
	int interval_s;
	bool json, watch;
};

static const struct option_def status_defs[] = {
    {"host", 'h', OPTION_TEXT, offsetof(struct status_options, host), "HOST",
     "the proxy's address or socket folder (default: the configuration's)", 0, 0},
    {"port", 'p', OPTION_TEXT, offsetof(struct status_options, port), "PORT", "its port (default: the configuration's)",
     0, 0},
    {"user", 'U', OPTION_TEXT, offsetof(struct status_options, user), "NAME",
     "role (default: the first of the configuration's stats_users or admin_users)", 0, 0},
    {"json", 0, OPTION_FLAG, offsetof(struct status_options, json), NULL, "print JSON", 0, 0},
    {"watch", 'w', OPTION_FLAG, offsetof(struct status_options, watch), NULL, "show it again and again", 0, 0},
    {"interval", 0, OPTION_NUMBER, offsetof(struct status_options, interval_s), "SECONDS",
     "how often with --watch (default: 2)", 1, 3600},
    COMMON_OPTIONS,
    OPTIONS_END};

static const struct {
	const char *name, *query;
} views[] = {{"status", "SHOW STATUS"}, {"nodes", "SHOW NODES"}, {"sessions", "SHOW SESSIONS"}};
#define NVIEWS (sizeof(views) / sizeof(views[0]))

static const char *
first_of(char **list)
{
	return list != NULL ? list[0] : NULL;
}

static PGconn *
console_open(const struct status_options *o, const struct settings *settings, struct err *err)
{
	struct proxy_address p = {.host = o->host, .port = o->port};
	const char *user = o->user;
	const char *const keys[] = {"host", "port", "user", "dbname", "connect_timeout", "fallback_application_name", NULL};
	const char *values[] = {NULL, NULL, NULL, "walcrypt", "10", "walcrypt-ctl", NULL};
	PGconn *conn;

	if (proxy_address_find(settings, &p, err) != 0)
		return NULL;
	if (user == NULL && settings != NULL && (user = first_of(settings->stats_users)) == NULL)
		user = first_of(settings->admin_users);
	values[0] = p.host;
	values[1] = p.port;
	values[2] = user;
	conn = PQconnectdbParams(keys, values, 0);
	if (PQstatus(conn) == CONNECTION_OK)
		return conn;
	libpq_error(err, ERR_UNREACHABLE, "could not reach the proxy", PQerrorMessage(conn));
	PQfinish(conn);
	return NULL;
}

/* Columns as wide as their widest value; one row is shown as lines of name and value. */
static void
table_print(const char *name, const PGresult *r)
{
	int rows = PQntuples(r), columns = PQnfields(r), widest = 0;

	printf("%s\n", name);
	if (rows == 0)
		printf("  none\n");
	for (int c = 0; c < columns; c++)
		if ((int)strlen(PQfname(r, c)) > widest)
			widest = (int)strlen(PQfname(r, c));
	for (int c = 0; rows == 1 && c < columns; c++)
		printf("  %-*s  %s\n", widest, PQfname(r, c), PQgetvalue(r, 0, c));
	for (int row = -1; rows > 1 && row < rows; row++) {
		for (int c = 0; c < columns; c++) {
			int width = (int)strlen(PQfname(r, c));

			for (int i = 0; i < rows; i++)
				if (PQgetlength(r, i, c) > width)
					width = PQgetlength(r, i, c);
			printf("  %-*s", c + 1 < columns ? width : 0, row < 0 ? PQfname(r, c) : PQgetvalue(r, row, c));
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
	char *text;

	for (size_t i = 0; i < NVIEWS; i++) {
		PGresult *r = PQexec(conn, views[i].query);

		if (PQresultStatus(r) != PGRES_TUPLES_OK) {
			char what[64];

			snprintf(what, sizeof(what), "the proxy did not answer %s", views[i].query);
			libpq_error(err, PQstatus(conn) == CONNECTION_OK ? ERR_FAILED : ERR_UNREACHABLE, what,
			            PQerrorMessage(conn));
			PQclear(r);
			goto done;
		}
		if (o->json)
			json_object_set_new(root, views[i].name, table_json(r));
		else
			table_print(views[i].name, r);
		PQclear(r);
	}
	if (o->json) {
		if ((text = json_dumps(root, JSON_INDENT(2))) == NULL) {
			err_nomem(err);
			goto done;
		}
		printf("%s\n", text);
		free(text);
	}
	fflush(stdout);
	result = 0;
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
	if ((o->host == NULL || o->port == NULL || o->common.config != NULL) &&
	    settings_find(o->common.config, false, &settings, err) != 0)
		return -1;
	if ((conn = console_open(o, settings, err)) == NULL)
		goto done;
	for (;;) {
		if (o->watch && !o->json && isatty(STDOUT_FILENO) == 1)
			printf("\033[H\033[J");
		if ((result = show_once(o, conn, err)) != 0 || !o->watch)
			break;
		sleep(o->interval_s > 0 ? (unsigned)o->interval_s : 2);
	}
done:
	PQfinish(conn);
	settings_free(settings);
	return result;
}

const struct command command_status = {
    .name = "status",
    .arguments = "[--host HOST --port PORT] [--json] [--watch]",
    .summary = "show the proxy's state, its nodes and its sessions",
    .options = status_defs,
    .style = OPTIONS_ALL,
    .run = status_run,
};
_Static_assert(sizeof(struct status_options) <= COMMAND_OPTIONS_MAX, "options fit");
