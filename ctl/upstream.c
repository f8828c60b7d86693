#include "ctl/upstream.h"

#include <inttypes.h>
#include <postgresql/libpq-fe.h>
#include <stdio.h>
#include <stdlib.h>

#include "ctl/libpq_error.h"

static void
set_error(struct err *err, const char *node, const char *message)
{
	char what[64 + SETTINGS_NAME_MAX];

	snprintf(what, sizeof(what), "could not ask node \"%s\"", node);
	libpq_error(err, ERR_UNREACHABLE, what, message);
	if (err->hint[0] == '\0')
		err_hint(err, "Start it, or give --system-identifier NUMBER, which pg_controldata shows.");
}

static int
identify(const struct settings_node *node, int timeout_ms, uint64_t *identifier, struct err *err)
{
	char timeout[16];
	const char *const keys[] = {"dbname", "replication", "fallback_application_name", "connect_timeout", NULL};
	const char *const values[] = {node->conninfo, "true", "walcrypt-ctl", timeout, NULL};
	PGresult *result = NULL;
	PGconn *conn;
	char *end;
	int done = -1;

	snprintf(timeout, sizeof(timeout), "%d", timeout_ms < 2000 ? 2 : timeout_ms / 1000);
	/* dbname is expanded: it holds the whole connection string */
	conn = PQconnectdbParams(keys, values, 1);
	if (PQstatus(conn) != CONNECTION_OK) {
		set_error(err, node->name, PQerrorMessage(conn));
		goto done;
	}
	result = PQexec(conn, "IDENTIFY_SYSTEM");
	if (PQresultStatus(result) != PGRES_TUPLES_OK || PQntuples(result) != 1) {
		set_error(err, node->name, PQerrorMessage(conn));
		goto done;
	}
	*identifier = strtoull(PQgetvalue(result, 0, 0), &end, 10);
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

	err_set(err, ERR_USAGE, "\"%s\" has no node with a conninfo to ask for the system identifier", settings->file);
	err_hint(err, "Add one, or give --system-identifier.");
	for (size_t i = 0; i < settings->nnodes; i++) {
		const struct settings_node *node = &settings->nodes[i];

		if (node->conninfo == NULL || identify(node, settings->connect_timeout_ms, &one, err) != 0)
			continue;
		if (first != NULL && one != *identifier)
			return err_set(err, ERR_REFUSED, "nodes \"%s\" and \"%s\" have different system identifiers", first,
			               node->name);
		first = node->name;
		*identifier = one;
	}
	return first != NULL ? 0 : -1;
}
