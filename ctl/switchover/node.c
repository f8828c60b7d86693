#include "ctl/switchover/node.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ctl/libpq_error.h"
#include "ctl/libpq_result.h"
#include "walcrypt/pgfile.h"

/* What is asked is answered at once, by a server that is alive: while it is waited for nobody can write. */
#define QUICK_MS 10000
#define ANSWER_MS 30000

#define POSITIONS                                                                                                      \
	"pg_is_in_recovery() AS recovery, "                                                                                \
	"CASE WHEN pg_is_in_recovery() THEN NULL ELSE pg_current_wal_flush_lsn() END AS written, "                         \
	"CASE WHEN pg_is_in_recovery() THEN greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()) END AS "         \
	"flushed, "                                                                                                        \
	"CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() END AS replayed"

static bool
conninfo_has(const char *conninfo, const char *keyword)
{
	PQconninfoOption *options = PQconninfoParse(conninfo, NULL);
	bool has = false;

	for (const PQconninfoOption *o = options; o != NULL && o->keyword != NULL; o++)
		has = has || (strcmp(o->keyword, keyword) == 0 && o->val != NULL && o->val[0] != '\0');
	PQconninfoFree(options);
	return has;
}

void
node_close(struct node *n)
{
	PQfinish(n->conn);
	n->conn = NULL;
}

int
node_open(struct node *n, struct err *err)
{
	const char *conninfo = n->set->control_conninfo != NULL ? n->set->control_conninfo : n->set->conninfo;
	char timeout[16], what[64 + SETTINGS_NAME_MAX];
	/* the first dbname is expanded: it holds the whole connection string */
	const char *keys[] = {
	    "dbname", "connect_timeout", "fallback_application_name", "client_encoding", "options", "dbname", NULL};
	/* a commit of ours must not wait for a standby that is just being stopped */
	const char *values[] = {conninfo, timeout, "walcrypt-ctl", "UTF8", "-c synchronous_commit=local", "postgres", NULL};

	if (n->conn != NULL && PQstatus(n->conn) == CONNECTION_OK)
		return 0;
	node_close(n);
	if (conninfo == NULL)
		return err_set(err, ERR_REFUSED, "node \"%s\" has no conninfo", n->set->name);
	snprintf(timeout, sizeof(timeout), "%d", n->connect_timeout_s > 2 ? n->connect_timeout_s : 2);
	if (conninfo_has(conninfo, "dbname"))
		keys[5] = NULL;
	n->conn = PQconnectdbParams(keys, values, 1);
	if (PQstatus(n->conn) == CONNECTION_OK)
		return 0;
	snprintf(what, sizeof(what), "could not reach node \"%s\"", n->set->name);
	libpq_error(err, ERR_UNREACHABLE, what, PQerrorMessage(n->conn));
	node_close(n);
	return -1;
}

/* timeout_ms 0: it takes as long as it takes. */
static PGresult *
ask(struct node *n, const char *sql, const char *const *parameters, int timeout_ms, struct err *err)
{
	char what[64 + SETTINGS_NAME_MAX];
	int nparameters = 0;
	PGresult *r = NULL;
	ExecStatusType status;

	while (parameters != NULL && parameters[nparameters] != NULL)
		nparameters++;
	if (node_open(n, err) != 0)
		return NULL;
	errno = 0;
	if (PQsendQueryParams(n->conn, sql, nparameters, NULL, parameters, NULL, NULL, 0) == 1 &&
	    (r = libpq_result(n->conn, timeout_ms)) == NULL && errno == ETIMEDOUT) {
		err_set(err, ERR_UNREACHABLE, "node \"%s\" did not answer within %d s", n->set->name, timeout_ms / 1000);
		node_close(n);
		return NULL;
	}
	status = PQresultStatus(r);
	if (status == PGRES_TUPLES_OK || status == PGRES_COMMAND_OK)
		return r;
	snprintf(what, sizeof(what), "node \"%s\"", n->set->name);
	libpq_error(err, PQstatus(n->conn) == CONNECTION_OK ? ERR_FAILED : ERR_UNREACHABLE, what, PQerrorMessage(n->conn));
	PQclear(r);
	if (PQstatus(n->conn) != CONNECTION_OK)
		node_close(n);
	return NULL;
}

PGresult *
node_ask(struct node *n, const char *sql, const char *const *parameters, struct err *err)
{
	return ask(n, sql, parameters, ANSWER_MS, err);
}

int
node_do(struct node *n, const char *sql, const char *const *parameters, struct err *err)
{
	PGresult *r = node_ask(n, sql, parameters, err);

	PQclear(r);
	return r != NULL ? 0 : -1;
}

int
node_do_long(struct node *n, const char *sql, struct err *err)
{
	PGresult *r = ask(n, sql, NULL, 0, err);

	PQclear(r);
	return r != NULL ? 0 : -1;
}

const char *
row_value(const PGresult *r, int row, const char *column)
{
	int c = PQfnumber(r, column);

	return c < 0 || row >= PQntuples(r) || PQgetisnull(r, row, c) ? NULL : PQgetvalue(r, row, c);
}

bool
row_is(const PGresult *r, int row, const char *column, const char *want)
{
	const char *text = row_value(r, row, column);

	return text != NULL && strcmp(text, want) == 0;
}

uint64_t
row_number(const PGresult *r, int row, const char *column)
{
	const char *text = row_value(r, row, column);

	return text != NULL ? strtoull(text, NULL, 10) : 0;
}

uint64_t
row_lsn(const PGresult *r, int row, const char *column)
{
	const char *text = row_value(r, row, column);
	uint64_t lsn;

	return text != NULL && lsn_parse(text, &lsn) == 0 ? lsn : 0;
}

static bool
row_bool(const PGresult *r, const char *column)
{
	return row_is(r, 0, column, "t");
}

static void
positions_take(const PGresult *r, struct node_facts *f)
{
	f->recovery = row_bool(r, "recovery");
	f->written = row_lsn(r, 0, "written");
	f->flushed = row_lsn(r, 0, "flushed");
	f->replayed = row_lsn(r, 0, "replayed");
}

int
node_positions(struct node *n, struct node_facts *f, struct err *err)
{
	PGresult *r = ask(n, "SELECT " POSITIONS, NULL, QUICK_MS, err);

	if (r == NULL)
		return -1;
	positions_take(r, f);
	PQclear(r);
	return 0;
}

int
node_facts(struct node *n, struct node_facts *f, struct err *err)
{
	PGresult *r;
	const char *text;

	memset(f, 0, sizeof(*f));
	/* a primary's last checkpoint may be of the timeline before; its WAL file's name is not. What a standby streams is
	 * the receiver's, and what it has recovered to the control file's */
	r = ask(n,
	        "SELECT " POSITIONS ", current_setting('server_version_num') AS version, "
	        "(SELECT system_identifier FROM pg_control_system()) AS system_identifier, "
	        "current_setting('data_checksums') = 'on' AS checksums, "
	        "CASE WHEN pg_is_in_recovery() THEN coalesce((SELECT received_tli FROM pg_stat_wal_receiver), "
	        "(SELECT nullif(min_recovery_end_timeline, 0) FROM pg_control_recovery()), "
	        "(SELECT timeline_id FROM pg_control_checkpoint())) "
	        "ELSE ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int END AS tli, "
	        "pg_is_in_recovery() AND pg_is_wal_replay_paused() AS replay_paused, "
	        "(SELECT setting FROM pg_settings WHERE name = 'recovery_min_apply_delay') AS apply_delay, "
	        "has_function_privilege('pg_promote(boolean, integer)', 'execute') AS may_promote, "
	        "(SELECT rolsuper FROM pg_roles WHERE rolname = current_user) OR pg_has_role('pg_checkpoint', 'usage') "
	        "AS may_checkpoint, "
	        "pg_has_role('pg_read_all_stats', 'usage') AS may_monitor, "
	        "(SELECT rolsuper OR rolreplication FROM pg_roles WHERE rolname = current_user) AS may_create_slots, "
	        "current_setting('synchronous_standby_names') AS synchronous",
	        NULL, QUICK_MS, err);
	if (r == NULL)
		return -1;
	positions_take(r, f);
	f->version = (int)row_number(r, 0, "version");
	f->system_identifier = row_number(r, 0, "system_identifier");
	f->checksums = row_bool(r, "checksums");
	f->tli = (uint32_t)row_number(r, 0, "tli");
	f->replay_paused = row_bool(r, "replay_paused");
	f->apply_delay_ms = (int)row_number(r, 0, "apply_delay");
	f->may_promote = row_bool(r, "may_promote");
	f->may_checkpoint = row_bool(r, "may_checkpoint");
	f->may_monitor = row_bool(r, "may_monitor");
	f->may_create_slots = row_bool(r, "may_create_slots");
	text = row_value(r, 0, "synchronous");
	snprintf(f->synchronous, sizeof(f->synchronous), "%s", text != NULL ? text : "");
	PQclear(r);
	return 0;
}

void
node_fault_add(char detail[static 512], const struct err *why)
{
	size_t used = strlen(detail);

	snprintf(detail + used, 512 - used, "%s%s.", used > 0 ? " " : "", why->text);
}

void
node_timeline(struct node *n, struct node_facts *f)
{
	struct err ignored;
	PGresult *r = node_ask(n,
	                       "SELECT max(('x' || substr(name, 1, 8))::bit(32)::bigint) AS tli FROM pg_ls_waldir() WHERE "
	                       "name ~ '^[0-9A-F]{24}$'",
	                       NULL, &ignored);
	uint64_t tli = row_number(r, 0, "tli");

	if (tli > f->tli)
		f->tli = (uint32_t)tli;
	PQclear(r);
}

void
node_address(const struct settings_node *set, char host[static 256], char port[static 16])
{
	PQconninfoOption *options = set->conninfo != NULL ? PQconninfoParse(set->conninfo, NULL) : NULL;

	host[0] = port[0] = '\0';
	for (const PQconninfoOption *o = options; o != NULL && o->keyword != NULL; o++) {
		if (o->val == NULL)
			continue;
		if (strcmp(o->keyword, "host") == 0 || (strcmp(o->keyword, "hostaddr") == 0 && host[0] == '\0'))
			snprintf(host, 256, "%s", o->val);
		else if (strcmp(o->keyword, "port") == 0)
			snprintf(port, 16, "%s", o->val);
	}
	PQconninfoFree(options);
}
