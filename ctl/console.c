#include "ctl/console.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "ctl/libpq_error.h"
#include "ctl/libpq_result.h"
#include "ctl/proxy_address.h"

/* A proxy that is alive answers at once; but these wait for key providers, and for sessions to end. */
#define ANSWER_MS 10000
static const char *const waits[] = {"RELOAD", "WAIT_CLOSE"};

static const char *
first_of(char **list)
{
	return list != NULL ? list[0] : NULL;
}

PGconn *
console_open(const struct console_where *where, const struct settings *settings, struct err *err)
{
	struct proxy_address p = {.host = where->host, .port = where->port};
	const char *user = where->user;
	const char *const keys[] = {"host", "port", "user", "dbname", "connect_timeout", "fallback_application_name", NULL};
	const char *values[] = {NULL, NULL, NULL, "walcrypt", "10", "walcrypt-ctl", NULL};
	PGconn *conn;

	if (proxy_address_find(settings, &p, err) != 0)
		return NULL;
	if (user == NULL && settings != NULL && !where->admin)
		user = first_of(settings->stats_users);
	if (user == NULL && settings != NULL)
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

static int
limit_ms(const char *query)
{
	for (size_t i = 0; i < sizeof(waits) / sizeof(waits[0]); i++)
		if (strncmp(query, waits[i], strlen(waits[i])) == 0)
			return 0;
	return ANSWER_MS;
}

PGresult *
console_ask(PGconn *conn, const char *query, struct err *err)
{
	PGresult *r = NULL;
	char what[128];

	errno = 0;
	if (PQsendQuery(conn, query) == 1 && (r = libpq_result(conn, limit_ms(query))) == NULL && errno == ETIMEDOUT) {
		err_set(err, ERR_UNREACHABLE, "the proxy did not answer %.80s within %d s", query, ANSWER_MS / 1000);
		return NULL;
	}
	if (PQresultStatus(r) == PGRES_TUPLES_OK || PQresultStatus(r) == PGRES_COMMAND_OK)
		return r;
	snprintf(what, sizeof(what), "the proxy did not answer %.80s", query);
	libpq_error(err, PQstatus(conn) == CONNECTION_OK ? ERR_FAILED : ERR_UNREACHABLE, what, PQerrorMessage(conn));
	PQclear(r);
	return NULL;
}
