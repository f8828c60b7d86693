#include "ctl/console.h"

#include <stdio.h>

#include "ctl/libpq_error.h"
#include "ctl/proxy_address.h"

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

PGresult *
console_ask(PGconn *conn, const char *query, struct err *err)
{
	PGresult *r = PQexec(conn, query);
	char what[128];

	if (PQresultStatus(r) == PGRES_TUPLES_OK || PQresultStatus(r) == PGRES_COMMAND_OK)
		return r;
	snprintf(what, sizeof(what), "the proxy did not answer %.80s", query);
	libpq_error(err, PQstatus(conn) == CONNECTION_OK ? ERR_FAILED : ERR_UNREACHABLE, what, PQerrorMessage(conn));
	PQclear(r);
	return NULL;
}
