/* server: a node's server, asked over the connection that its section names. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/datadir.h"
#include "ctl/doctor/checks.h"
#include "ctl/switchover/node.h"

#define CLOCK_SLACK_S 5

static void
check_version(struct findings *f, const struct node_facts *facts)
{
	int major = facts->version / 10000;

	if (major < DATADIR_OLDEST_MAJOR || major > DATADIR_NEWEST_MAJOR)
		finding(f, FINDING_PROBLEM, NULL, "it is PostgreSQL %d; walcrypt knows %d to %d", major, DATADIR_OLDEST_MAJOR,
		        DATADIR_NEWEST_MAJOR);
	else
		finding(f, FINDING_OK, NULL, "PostgreSQL %d.%d, a %s on timeline %" PRIu32, major, facts->version % 10000,
		        facts->recovery ? "standby" : "primary", facts->tli);
	if (facts->checksums)
		finding(f, FINDING_OK, NULL, "data checksums are on");
	else
		finding(f, FINDING_PROBLEM,
		        "Stop it and run \"pg_checksums --enable\"; allow_no_checksums = on does without them.",
		        "data checksums are off: no base backup of it is served");
}

static void
check_setting(struct findings *f, const PGresult *r, const char *name, const char *bad, const char *hint)
{
	const char *value = row_value(r, 0, name);

	if (value != NULL && strcmp(value, bad) == 0)
		finding(f, FINDING_WARNING, hint, "%s is %s", name, value);
}

/* Settings that a standby behind a proxy needs, and its clock against ours. */
static void
check_settings(struct findings *f, struct node *n)
{
	struct err err;
	const char *text;
	PGresult *r = node_ask(n,
	                       "SELECT current_setting('wal_level') AS wal_level, current_setting('full_page_writes') AS "
	                       "full_page_writes, current_setting('max_slot_wal_keep_size') AS max_slot_wal_keep_size, "
	                       "current_setting('hot_standby_feedback') AS hot_standby_feedback, "
	                       "extract(epoch FROM clock_timestamp())::bigint AS now",
	                       NULL, &err);
	long long apart;

	if (r == NULL) {
		finding_err(f, FINDING_WARNING, &err);
		return;
	}
	check_setting(f, r, "wal_level", "minimal", "Set it to replica: without it there is nothing to stream.");
	check_setting(f, r, "full_page_writes", "off", "Set it to on: a torn page of ciphertext is garbage as a whole.");
	check_setting(f, r, "max_slot_wal_keep_size", "-1",
	              "A slot that nobody reads fills the disk; a limit ends the slot instead.");
	text = row_value(r, 0, "now");
	apart = text != NULL ? llabs(strtoll(text, NULL, 10) - (long long)time(NULL)) : 0;
	if (apart > CLOCK_SLACK_S)
		finding(f, FINDING_WARNING, "Run chrony or systemd-timesyncd on both.", "its clock is %lld s away from ours",
		        apart);
	else
		finding(f, FINDING_OK, NULL, "its clock agrees with ours");
	PQclear(r);
}

static void
check_slots(struct findings *f, struct node *n)
{
	struct err err;
	unsigned used = 0;
	PGresult *r = node_ask(n,
	                       "SELECT slot_name, active, wal_status, pg_size_pretty(CASE WHEN pg_is_in_recovery() THEN "
	                       "pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END - restart_lsn) AS kept "
	                       "FROM pg_replication_slots WHERE NOT temporary ORDER BY 1",
	                       NULL, &err);

	if (r == NULL) {
		finding_err(f, FINDING_WARNING, &err);
		return;
	}
	for (int i = 0; i < PQntuples(r); i++) {
		const char *name = row_value(r, i, "slot_name"), *status = row_value(r, i, "wal_status");
		const char *kept = row_value(r, i, "kept");

		if (status != NULL && strcmp(status, "lost") == 0)
			finding(f, FINDING_PROBLEM, "Drop it, and build its standby again (walcrypt-ctl build).",
			        "slot \"%s\" has lost WAL that its standby needs", name);
		else if (row_value(r, i, "active")[0] != 't')
			finding(f, FINDING_WARNING, "Start what reads it, or drop it: pg_drop_replication_slot.",
			        "nobody reads slot \"%s\", which holds back %s of WAL", name, kept != NULL ? kept : "no bytes");
		else
			used++;
	}
	finding(f, FINDING_OK, NULL, "%u slots are read", used);
	PQclear(r);
}

void
doctor_node(struct findings *f, const struct settings *settings, const struct settings_node *set)
{
	struct node n = {.set = set, .connect_timeout_s = settings->connect_timeout_ms / 1000};
	struct node_facts facts;
	struct err err;

	findings_area(f, "node %s", set->name);
	if (node_facts(&n, &facts, &err) != 0) {
		if (err.hint[0] == '\0')
			err_hint(&err, "Its server must run, and the role of its conninfo (or control_conninfo) may connect to "
			               "database postgres.");
		finding_err(f, FINDING_PROBLEM, &err);
	} else {
		check_version(f, &facts);
		check_settings(f, &n);
		check_slots(f, &n);
	}
	node_close(&n);
}
