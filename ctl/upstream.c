#include "ctl/upstream.h"

#include <inttypes.h>
#include <postgresql/libpq-fe.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ctl/libpq_error.h"

static void
set_error(struct err *err, const char *node, PGconn *conn)
{
	const char *message = PQerrorMessage(conn);
	char what[64 + SETTINGS_NAME_MAX];

	snprintf(what, sizeof(what), "could not ask node \"%s\"", node);
	libpq_error(err, ERR_UNREACHABLE, what, message);
	if (err->hint[0] != '\0')
		return;
	if (PQconnectionNeedsPassword(conn))
		err_hint(err, "Put its password into ~/.pgpass, or into a file that passfile=FILE in its conninfo names.");
	else if (strstr(message, "FATAL:") != NULL)
		err_hint(
		    err,
		    "It runs, but does not let walcrypt in: look at its log, its pg_hba.conf and the role in its conninfo.");
	else
		err_hint(err, "Start it, or give --system-identifier NUMBER, which pg_controldata shows.");
}

static int
identify(const struct settings_node *node, int timeout_ms, uint64_t *identifier, uint32_t *tli, struct err *err)
{
	char timeout[16];
	/* the second dbname: for .pgpass, as walreceiver and the proxy have it */
	const char *const keys[] = {"dbname",          "dbname", "replication", "fallback_application_name",
	                            "connect_timeout", NULL};
	const char *const values[] = {node->conninfo, "replication", "true", "walcrypt-ctl", timeout, NULL};
	PGresult *result = NULL;
	PGconn *conn;
	char *end;
	int done = -1;

	snprintf(timeout, sizeof(timeout), "%d", timeout_ms < 2000 ? 2 : timeout_ms / 1000);
	/* the first dbname is expanded: it holds the whole connection string */
	conn = PQconnectdbParams(keys, values, 1);
	if (PQstatus(conn) != CONNECTION_OK) {
		set_error(err, node->name, conn);
		goto done;
	}
	result = PQexec(conn, "IDENTIFY_SYSTEM");
	if (PQresultStatus(result) != PGRES_TUPLES_OK || PQntuples(result) != 1) {
		set_error(err, node->name, conn);
		goto done;
	}
	*identifier = strtoull(PQgetvalue(result, 0, 0), &end, 10);
	*tli = (uint32_t)strtoul(PQgetvalue(result, 0, 1), NULL, 10);
	if (*end != '\0' || *identifier == 0)
		err_set(err, ERR_FAILED, "node \"%s\" gave no system identifier", node->name);
	else
		done = 0;
done:
	PQclear(result);
	PQfinish(conn);
	return done;
}

int
upstream_system_identifier(const struct settings *settings, uint64_t *identifier, struct err *err)
{
	const char *first = NULL;
	uint64_t one;
	uint32_t tli;

	err_set(err, ERR_USAGE, "\"%s\" has no node with a conninfo to ask for the system identifier", settings->file);
	err_hint(err, "Add one, or give --system-identifier.");
	for (size_t i = 0; i < settings->nnodes; i++) {
		const struct settings_node *node = &settings->nodes[i];

		if (node->conninfo == NULL || identify(node, settings->connect_timeout_ms, &one, &tli, err) != 0)
			continue;
		if (first != NULL && one != *identifier)
			return err_set(err, ERR_REFUSED, "nodes \"%s\" and \"%s\" have different system identifiers", first,
			               node->name);
		first = node->name;
		*identifier = one;
	}
	return first != NULL ? 0 : -1;
}

int
upstream_timeline(const struct settings *settings, uint64_t identifier, uint32_t *tli, struct err *err)
{
	uint64_t one;
	uint32_t of_one;

	*tli = 0;
	err_set(err, ERR_USAGE, "\"%s\" has no node with a conninfo to ask for its timeline", settings->file);
	for (size_t i = 0; i < settings->nnodes; i++)
		if (settings->nodes[i].conninfo != NULL &&
		    identify(&settings->nodes[i], settings->connect_timeout_ms, &one, &of_one, err) == 0 && one == identifier &&
		    of_one > *tli)
			*tli = of_one;
	return *tli > 0 ? 0 : err_hint(err, "Start the primary, or give --timeline NUMBER, which pg_controldata shows.");
}
