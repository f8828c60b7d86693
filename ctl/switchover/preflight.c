/* preflight: everything that must hold before a switchover, looked at without changing anything. */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/path.h"
#include "ctl/switchover/slots.h"
#include "ctl/switchover/switchover.h"
#include "ctl/switchover/syncnames.h"
#include "walcrypt/pgfile.h"

#define STANDBYS_MAX 64

struct preflight {
	struct switchover *s;
	struct node_facts from, to;
	int failures;
	size_t others;   /* standbys that stream from the primary, but the target */
	char first[256]; /* the first failure, for the error */
};

static bool __attribute__((format(printf, 3, 4))) check(struct preflight *p, bool holds, const char *fmt, ...)
{
	char text[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	printf("  %-5s %s\n", holds ? "ok" : "FAIL", text);
	if (!holds && p->failures++ == 0)
		snprintf(p->first, sizeof(p->first), "%.255s", text);
	return holds;
}

/* What to do about a check that does not hold. */
static void __attribute__((format(printf, 2, 3))) hint(bool holds, const char *fmt, ...)
{
	va_list ap;

	if (holds)
		return;
	printf("        HINT:  ");
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	printf("\n");
}

/* A check that failed for a reason of its own. */
static void
fault(struct preflight *p, const struct err *err)
{
	hint(check(p, false, "%s", err->text) || err->hint[0] == '\0', "%s", err->hint);
}

static void __attribute__((format(printf, 1, 2))) note(const char *fmt, ...)
{
	va_list ap;

	printf("  note  ");
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	printf("\n");
}

/* The node that TO names, and the one that is the primary now. */
static int
nodes_find(struct preflight *p, struct err *err)
{
	struct switchover *s = p->s;
	char faults[sizeof(err->detail)] = "";

	s->to_set = settings_node(s->settings, s->options->to);
	if (s->to_set == NULL || s->to_set->profile) {
		err_set(err, ERR_USAGE, "\"%s\" has no [node %s]", s->settings->file, s->options->to);
		return err_hint(err, s->to_set == NULL ? "Name one of its nodes." : "A profile never becomes a server.");
	}
	s->to = (struct node){.set = s->to_set, .connect_timeout_s = s->settings->connect_timeout_ms / 1000};
	for (size_t i = 0; i < s->settings->nnodes; i++) {
		struct node node = {.set = &s->settings->nodes[i], .connect_timeout_s = s->to.connect_timeout_s};
		struct node_facts facts;

		if (node.set->conninfo == NULL || (node.set == s->to_set && s->comes))
			continue;
		if (node_facts(&node, &facts, err) != 0) {
			node_close(&node);
			if (err->class != ERR_UNREACHABLE)
				return -1;
			if (node.set == s->to_set)
				return err_hint(err, "Its server must run, and the role of its conninfo (or control_conninfo) may "
				                     "connect to database postgres.");
			node_fault_add(faults, err);
			continue;
		}
		if (node.set == s->to_set) {
			p->to = facts;
			s->to = node;
		} else if (facts.recovery || (s->from_set != NULL && p->from.system_identifier == facts.system_identifier &&
		                              p->from.tli > facts.tli))
			node_close(&node);
		else if (s->from_set != NULL && p->from.tli == facts.tli) {
			node_close(&node);
			err_set(err, ERR_REFUSED, "nodes \"%s\" and \"%s\" are both primaries", s->from_set->name, node.set->name);
			return err_hint(err, "Stop one of them.");
		} else {
			node_close(&s->from);
			p->from = facts;
			s->from = node;
			s->from_set = node.set;
		}
	}
	if (s->to.conn == NULL && (!s->comes || s->to_set->conninfo == NULL)) {
		err_set(err, ERR_REFUSED, "node \"%s\" has no conninfo", s->to_set->name);
		return err_hint(err, "Give its section one: the proxy and this program must be able to reach it.");
	}
	if (!p->to.recovery && !s->comes)
		return err_set(err, ERR_REFUSED, "node \"%s\" is a primary already", s->to_set->name);
	if (s->from_set == NULL) {
		err_set(err, ERR_REFUSED, "none of the nodes is a primary");
		if (faults[0] != '\0')
			err_detail(err, "%s", faults);
		return err_hint(err, "If it is lost: walcrypt-ctl failover --to %s", s->to_set->name);
	}
	s->from_control = (struct control){s->settings, s->from_set, s->options->timeout_s};
	s->to_control = (struct control){s->settings, s->to_set, s->options->timeout_s};
	return 0;
}

static void
check_servers(struct preflight *p)
{
	const struct switchover *s = p->s;

	check(p, p->from.checksums || s->options->allow_no_checksums, "data checksums are on");
	hint(check(p, p->from.may_checkpoint, "the role of \"%s\" may order a checkpoint there", s->from_set->name),
	     "GRANT pg_checkpoint TO %s.", PQuser(s->from.conn));
	hint(check(p, p->from.may_monitor, "the role of \"%s\" sees who streams there", s->from_set->name),
	     "GRANT pg_monitor TO %s.", PQuser(s->from.conn));
	if (s->comes)
		return;
	check(p, p->from.system_identifier == p->to.system_identifier, "\"%s\" and \"%s\" are of one cluster, %" PRIu64,
	      s->from_set->name, s->to_set->name, p->from.system_identifier);
	check(p, p->from.version / 10000 == p->to.version / 10000, "both are PostgreSQL %d", p->from.version / 10000);
	check(p, p->to.tli == p->from.tli, "\"%s\" is on the primary's timeline, %" PRIu32, s->to_set->name, p->from.tli);
	check(p, !p->to.replay_paused && p->to.apply_delay_ms == 0, "\"%s\" replays without pause or delay",
	      s->to_set->name);
	hint(check(p, p->to.may_promote, "the role of \"%s\" may call pg_promote there", s->to_set->name),
	     "GRANT EXECUTE ON FUNCTION pg_promote TO %s, in database %s.", PQuser(s->to.conn), PQdb(s->to.conn));
}

static void
check_control(struct preflight *p)
{
	struct switchover *s = p->s;
	struct datadir_control data;
	struct err err = {0};

	if (control_check(&s->from_control, &err) != 0)
		fault(p, &err);
	else if (control_read(&s->from_control, &data, &err) != 0)
		check(p, false, "pg_control of \"%s\" can be read: %s", s->from_set->name, err.text);
	else
		check(p, data.system_identifier == p->from.system_identifier && data.state == DATADIR_IN_PRODUCTION,
		      "pg_control of \"%s\" is of this cluster and says \"%s\"", s->from_set->name,
		      datadir_state_name(data.state));
	if (!control_fences(&s->from_control))
		note("nothing keeps \"%s\" from being started as a primary again: its section has no fence", s->from_set->name);
}

/* The epoch that a keyset writes on a timeline. */
static void
keys_take(const struct keydir_info *info, uint32_t tli, struct switch_keys *k)
{
	snprintf(k->relation, sizeof(k->relation), "%s", info->relation_id);
	for (size_t i = 0; i < info->nepochs; i++)
		if (info->epochs[i].after_timeline < tli) {
			k->epoch = info->epochs[i].number;
			snprintf(k->wal, sizeof(k->wal), "%s", info->epochs[i].id);
		}
}

static int
keys_read(const struct switchover *s, const struct settings_node *node, uint32_t tli, struct switch_keys *k,
          struct err *err)
{
	char path[PATH_MAX];
	struct keydir_info info;

	memset(k, 0, sizeof(*k));
	if (node->keyset == NULL)
		return 0;
	if (path_format(path, err, "%s/%s", s->settings->keystore, node->keyset) != 0 ||
	    keydir_read_info(path, &info, err) != 0)
		return -1;
	keys_take(&info, tli, k);
	return 0;
}

int
keys_before_and_after(struct switchover *s, uint32_t tli, struct err *err)
{
	return keys_read(s, s->from_set, tli, &s->log.before, err) != 0 ||
	               keys_read(s, s->to_set, tli + 1, &s->log.after, err) != 0
	           ? -1
	           : 0;
}

/* Does a directory on this machine have the relation key of the keyset that the configuration gives its node? */
static void
check_directory_keys(struct preflight *p, const struct settings_node *node, const struct switch_keys *k)
{
	char path[PATH_MAX];
	struct keydir_info info;
	struct err err = {0};

	if (node->datadir == NULL || node->keyset == NULL)
		return;
	if (path_format(path, &err, "%s/pg_cryptokeys", node->datadir) != 0 || keydir_read_info(path, &info, &err) != 0)
		check(p, false, "the keys of \"%s\" can be read: %s", node->name, err.text);
	else if (strcmp(info.relation_id, k->relation) != 0)
		check(p, false, "the directory of \"%s\" has relation key %s, and keyset \"%s\" has %s", node->name,
		      info.relation_id, node->keyset, k->relation);
}

static void
check_keys(struct preflight *p)
{
	struct switchover *s = p->s;
	struct logbook *l = &s->log;
	struct err err = {0};

	if (keys_before_and_after(s, p->from.tli, &err) != 0) {
		check(p, false, "the keysets can be read: %s", err.text);
		return;
	}
	check_directory_keys(p, s->from_set, &l->before);
	if (!s->comes)
		check_directory_keys(p, s->to_set, &l->after);
	if (s->from_set->keyset == NULL && s->to_set->keyset == NULL)
		check(p, false, "\"%s\" is as clear as \"%s\": nothing would be encrypted", s->to_set->name, s->from_set->name);
	else if (s->to_set->keyset == NULL)
		note("\"%s\" is clear: its files and all WAL from then on will be", s->to_set->name);
	else if (strcmp(l->before.relation, l->after.relation) == 0)
		check(p, false, "\"%s\" has the relation key of \"%s\", %s: nothing would be rotated", s->to_set->name,
		      s->from_set->name, l->after.relation);
	else {
		check(p, true, "\"%s\" has another relation key, %s", s->to_set->name, l->after.relation);
		if (s->from_set->keyset != NULL && l->before.epoch == l->after.epoch && !s->stages)
			note("no new WAL epoch is staged: WAL stays under epoch %" PRIu32 " (walcrypt-ctl key new-epoch)",
			     l->after.epoch);
	}
}

static void
check_stream(struct preflight *p)
{
	struct switchover *s = p->s;
	struct stream_facts stream;
	struct err err = {0};
	uint64_t lag = p->from.written > p->to.replayed ? p->from.written - p->to.replayed : 0;
	int there = switchover_stream(s, s->to_set->name, &stream, &err);

	if (there < 0)
		fault(p, &err);
	else if (!check(p, there == 1 && stream.runs, "\"%s\" streams through the proxy", s->to_set->name))
		hint(false, "primary_conninfo of \"%s\" must name the proxy, and user=%s.", s->to_set->name, s->to_set->name);
	else
		check(p, strcmp(stream.upstream, s->from_set->name) == 0, "it streams from \"%s\"", stream.upstream);
	check(p, lag <= (uint64_t)s->options->max_lag_mb << 20, "it is %" PRIu64 " kB behind (allowed: %d MB)", lag >> 10,
	      s->options->max_lag_mb);
}

/* Who will stream from the target: all that stream from the primary now, but itself. Would its commits be answered? */
static void
check_synchronous(struct preflight *p)
{
	struct switchover *s = p->s;
	const char *names[STANDBYS_MAX];
	struct err err = {0};
	PGresult *r;
	size_t n = 0;

	r = node_ask(&s->from, "SELECT application_name FROM pg_stat_replication WHERE state = 'streaming'", NULL, &err);
	if (r == NULL) {
		fault(p, &err);
		return;
	}
	for (int i = 0; i < PQntuples(r) && n < STANDBYS_MAX; i++)
		if (strcmp(PQgetvalue(r, i, 0), s->to_set->name) != 0)
			names[n++] = PQgetvalue(r, i, 0);
	p->others = n;
	if (!s->comes)
		check(p, syncnames_satisfied(p->to.synchronous, names, n),
		      p->to.synchronous[0] == '\0' ? "\"%s\" waits for no synchronous standby%s"
		                                   : "the synchronous_standby_names of \"%s\", %s, will be there",
		      s->to_set->name, p->to.synchronous);
	PQclear(r);
}

/* Who streams by it would find a gap on the target, if that has less than the slot keeps for it. */
static void
check_physical_slot(struct preflight *p, const struct slot *slot, uint64_t kept)
{
	const char *target = p->s->to_set->name;
	char at[LSN_TEXT_LEN], from[LSN_TEXT_LEN];

	if (slot->from == 0 || slot->from >= kept) {
		note("physical slot \"%s\" will be made on \"%s\"", slot->name, target);
		return;
	}
	lsn_format(at, slot->from);
	lsn_format(from, kept);
	if (p->s->options->yes)
		note("physical slot \"%s\" is at %s, and \"%s\" keeps WAL from %s only: who streams by it will miss some",
		     slot->name, at, target, from);
	else
		hint(check(p, false, "physical slot \"%s\" is at %s, and \"%s\" keeps WAL from %s only", slot->name, at, target,
		           from),
		     "Let who streams by it catch up, or drop it if nobody does; --yes goes on without what is missing.");
}

/* Making and dropping of slots takes a right of its own, on the server where it is to be. */
static void
check_slot_role(struct preflight *p, const struct node *node, const struct node_facts *facts)
{
	hint(check(p, facts->may_create_slots, "the role of \"%s\" may make and drop slots there", node->set->name),
	     "ALTER ROLE %s REPLICATION.", PQuser(node->conn));
}

/* Logical slots that the target does not have would be lost. */
static void
check_slots(struct preflight *p)
{
	const char *target = p->s->to_set->name;
	struct err err = {0};
	size_t n = 0;
	struct slot *list = slots_read(p->s, &n, &err);
	uint64_t kept = 0;
	bool makes = false, drops = false;

	if (list == NULL || (!p->s->comes && slots_kept_from(p->s, &kept, &err) != 0))
		fault(p, &err);
	for (size_t i = 0; i < n; i++) {
		const char *name = list[i].name;

		if (list[i].there)
			check(p, true, "slot \"%s\" is there, too", name);
		else if (list[i].own)
			note("physical slot \"%s\" is the one by which \"%s\" streams: it will not need it", name, target);
		else if (!list[i].logical) {
			check_physical_slot(p, &list[i], kept);
			makes = true;
		} else if (p->s->options->drop_logical_slots) {
			note("logical slot \"%s\" will be dropped", name);
			drops = true;
		} else
			check(p, false, "logical slot \"%s\" is not synchronised to \"%s\" (--drop-logical-slots gives it up)",
			      name, target);
	}
	if (makes && !p->s->comes)
		check_slot_role(p, &p->s->to, &p->to);
	if (drops)
		check_slot_role(p, &p->s->from, &p->from);
	free(list);
}

/* What follows the new primary must know where the proxy is; a directory on this machine is told. */
static void
check_conninfo(struct preflight *p)
{
	const struct switchover *s = p->s;
	const char *value = NULL;
	struct err err = {0};
	PGresult *r;

	if (s->from_set->datadir != NULL)
		return;
	r = node_ask(&p->s->from, "SELECT setting FROM pg_settings WHERE name = 'primary_conninfo'", NULL, &err);
	value = r != NULL ? row_value(r, 0, "setting") : NULL;
	check(p, value != NULL && value[0] != '\0', "the primary_conninfo of \"%s\" is set, for when it is a standby",
	      s->from_set->name);
	PQclear(r);
}

/* Can --old be done? */
static void
check_old(struct preflight *p)
{
	const struct switchover *s = p->s;
	const struct settings_node *from = s->from_set;

	if (s->options->old_fate == SWITCH_OLD_CLEAR) {
		check(p, from->keyset == NULL && from->allow_clear,
		      "\"%s\" can follow as a clear standby (keyset = none and allow_clear = on)", from->name);
		check_conninfo(p);
	} else if (s->options->old_fate == SWITCH_OLD_REENCRYPT) {
		check(p, from->keyset != NULL, "\"%s\" has a keyset, which --old=reencrypt renews", from->name);
		check(p, from->datadir != NULL || from->keys != NULL,
		      "its data directory is on this machine, or its section has keys, a command that re-encrypts it");
		check_conninfo(p);
		check(p, p->others > 0 || s->options->yes,
		      "another standby streams while \"%s\" is re-encrypted (--yes does without)", from->name);
	}
}

int
preflight_run(struct switchover *s, struct err *err)
{
	struct preflight p = {.s = s};
	struct logbook *l = &s->log;

	if (nodes_find(&p, err) != 0)
		return -1;
	printf("%s from \"%s\" to \"%s\":\n", s->options->kind == SWITCH_ROTATE ? "Rotation" : "Switchover",
	       s->from_set->name, s->to_set->name);
	check_servers(&p);
	check_control(&p);
	check_keys(&p);
	if (!s->comes)
		check_stream(&p);
	check_synchronous(&p);
	check_slots(&p);
	check_old(&p);
	fflush(stdout);
	if (p.failures > 0) {
		err_set(err, ERR_REFUSED, "%d of the checks %s not hold", p.failures, p.failures == 1 ? "does" : "do");
		return err_detail(err, "The first: %s", p.first);
	}
	l->kind = s->options->kind;
	l->old_fate = s->options->old_fate;
	snprintf(l->from, sizeof(l->from), "%s", s->from_set->name);
	snprintf(l->to, sizeof(l->to), "%s", s->to_set->name);
	l->system_identifier = p.from.system_identifier;
	l->tli = p.from.tli;
	return 0;
}

void
preflight_plan(const struct switchover *s)
{
	const char *title;

	printf("The plan:\n");
	for (int state = SWITCH_SLOTS; state < SWITCH_DONE; state++)
		if (state != SWITCH_SETTLED && (title = step_title(s, s->options->kind, (enum switch_state)state)) != NULL)
			printf("  %s\n", title);
	if (s->options->kind != SWITCH_FAILOVER)
		printf("  the old primary: --old=%s\n", switch_old_name(s->options->old_fate));
}
