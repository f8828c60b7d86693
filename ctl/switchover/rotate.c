/*
 * rotate: what comes before the switchover of a rotation: the next WAL epoch staged in the target's keyset, the target
 * built, if it is not there yet, and running with the keys that its directory holds. Every part may be done again.
 */
#include <inttypes.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/path.h"
#include "ctl/epoch.h"
#include "ctl/switchover/self.h"
#include "ctl/switchover/switchover.h"

/* The node that is the primary now; NULL with err set. */
static const struct settings_node *
primary_find(const struct switchover *s, uint32_t *tli, struct err *err)
{
	const struct settings_node *found = NULL;
	char faults[sizeof(err->detail)] = "";

	for (size_t i = 0; i < s->settings->nnodes; i++) {
		struct node node = {.set = &s->settings->nodes[i], .connect_timeout_s = s->settings->connect_timeout_ms / 1000};
		struct node_facts facts;
		struct err why;

		if (node.set->conninfo == NULL)
			continue;
		if (node_facts(&node, &facts, &why) != 0)
			node_fault_add(faults, &why);
		else if (!facts.recovery && (found == NULL || facts.tli > *tli)) {
			found = node.set;
			*tli = facts.tli;
		}
		node_close(&node);
	}
	if (found == NULL) {
		err_set(err, ERR_REFUSED, "none of the nodes is a primary");
		if (faults[0] != '\0')
			err_detail(err, "%s", faults);
	}
	return found;
}

bool
node_is_built(const struct settings_node *n)
{
	char path[PATH_MAX];
	struct err ignored;

	return path_format(path, &ignored, "%s/PG_VERSION", n->datadir) == 0 && access(path, F_OK) == 0;
}

int
node_build(const struct switchover *s, const struct settings_node *n, struct err *err)
{
	const char *const build[] = {"build", n->name, "-D", n->datadir, "--checkpoint=fast", NULL};

	return self_run(s->settings, build, NULL, err);
}

/* Has the proxy the keyset's newest epoch? */
static int
proxy_knows(struct switchover *s, struct err *err)
{
	struct keydir_info info;
	char path[PATH_MAX];
	PGresult *r;
	int knows = 0;

	if (path_format(path, err, "%s/%s", s->settings->keystore, s->to_set->keyset) != 0 ||
	    keydir_read_info(path, &info, err) != 0 || (r = switchover_console(s, "SHOW NODES", err)) == NULL)
		return -1;
	for (int i = 0; i < PQntuples(r); i++)
		knows = knows || (row_is(r, i, "name", s->to_set->name) &&
		                  row_number(r, i, "wal_epoch") == info.epochs[info.nepochs - 1].number);
	PQclear(r);
	return knows;
}

static int
epoch(struct switchover *s, uint32_t tli, struct err *err)
{
	const char *const names[] = {s->to_set->keyset};
	const struct epoch_stage stage = {.config = s->settings->file, .names = names, .nnames = 1, .timeline = tli};
	PGresult *r;

	if (epoch_stage(&stage, err) != 0 || (r = switchover_console(s, "RELOAD", err)) == NULL)
		return -1;
	PQclear(r);
	return switchover_wait(s, "the proxy's reading of the staged epoch", proxy_knows, err);
}

/* Were the directory's keys changed since its server read them? */
static int
keys_are_newer(struct switchover *s, struct err *err)
{
	char path[PATH_MAX], seconds[32];
	const char *const parameters[] = {seconds, NULL};
	struct stat st;
	PGresult *r;
	int newer;

	if (path_format(path, err, "%s/pg_cryptokeys/live", s->to_set->datadir) != 0)
		return -1;
	if (stat(path, &st) != 0)
		return 0;
	snprintf(seconds, sizeof(seconds), "%lld.%09ld", (long long)st.st_mtim.tv_sec, st.st_mtim.tv_nsec);
	if ((r = node_ask(&s->to, "SELECT to_timestamp($1::float8) >= pg_postmaster_start_time() AS newer", parameters,
	                  err)) == NULL)
		return -1;
	newer = row_is(r, 0, "newer", "t");
	PQclear(r);
	return newer;
}

static int
target_streams(struct switchover *s, struct err *err)
{
	struct stream_facts f;
	int there = switchover_stream(s, s->to_set->name, &f, err);

	return there < 0 ? -1 : there == 1 && f.runs;
}

/* Running, with the keys that are in its directory. */
static int
start(struct switchover *s, struct err *err)
{
	int newer = 0;

	if (control_running(&s->to_control) == 1) {
		if ((newer = keys_are_newer(s, err)) < 0)
			return -1;
		if (newer == 0)
			return 0;
		printf("\"%s\" is started again, to read its keys\n", s->to_set->name);
		node_close(&s->to);
		if (control_stop(&s->to_control, false, err) != 0)
			return -1;
	}
	return control_start(&s->to_control, err);
}

/* The same where its directory is not here: it takes the keyset's new epoch by its command, if it has one. One that is
 * not built yet may be, when it is started. */
static int
start_elsewhere(struct switchover *s, bool epoch_staged, struct err *err)
{
	const struct settings_node *n = s->to_set;
	struct node_facts f;
	struct err ignored;
	char keyset[PATH_MAX];

	if (n->control == NULL)
		return 0;
	if (node_positions(&s->to, &f, &ignored) == 0) {
		if (!epoch_staged || n->keys == NULL)
			return 0;
		if (path_format(keyset, err, "%s/%s", s->settings->keystore, n->keyset) != 0 ||
		    control_keys(&s->to_control, "sync", keyset, err) != 0)
			return -1;
		printf("\"%s\" is started again, to read its keys\n", n->name);
		fflush(stdout);
		node_close(&s->to);
		if (control_stop(&s->to_control, false, err) != 0)
			return -1;
	}
	return control_start(&s->to_control, err);
}

/* The target by its name, and the primary. */
static int
nodes_find(struct switchover *s, const struct settings_node **from, uint32_t *tli, struct err *err)
{
	s->to_set = settings_node(s->settings, s->options->to);
	if (s->to_set == NULL || s->to_set->profile || s->to_set->keyset == NULL) {
		err_set(err, ERR_USAGE, "\"%s\" has no [node %s] with a keyset", s->settings->file, s->options->to);
		return err_hint(err, "A rotation goes to a node with keys of its own.");
	}
	s->to = (struct node){.set = s->to_set, .connect_timeout_s = s->settings->connect_timeout_ms / 1000};
	s->to_control = (struct control){s->settings, s->to_set, s->options->timeout_s};
	if ((*from = primary_find(s, tli, err)) == NULL)
		return -1;
	return *from != s->to_set ? 0 : err_set(err, ERR_REFUSED, "node \"%s\" is the primary already", s->to_set->name);
}

int
rotate_plan(struct switchover *s, struct err *err)
{
	const struct settings_node *from;
	struct keydir_info info;
	struct node_facts f;
	struct err ignored;
	char path[PATH_MAX];
	uint32_t tli = 0;

	if (nodes_find(s, &from, &tli, err) != 0 ||
	    path_format(path, err, "%s/%s", s->settings->keystore, s->to_set->keyset) != 0 ||
	    keydir_read_info(path, &info, err) != 0)
		return -1;
	s->stages = from->keyset != NULL && info.epochs[info.nepochs - 1].after_timeline < tli;
	/* what runs and does not answer has a fault, which the checks will name */
	s->comes = control_running(&s->to_control) != 1 && node_positions(&s->to, &f, &ignored) != 0;
	node_close(&s->to);
	printf("Before the rotation:\n");
	if (s->stages)
		printf("  the next WAL epoch is staged in keyset \"%s\", for timelines after %" PRIu32 "\n", s->to_set->keyset,
		       tli);
	if (s->to_set->datadir != NULL && !node_is_built(s->to_set))
		printf("  \"%s\" is built, into %s\n", s->to_set->name, s->to_set->datadir);
	if (s->comes)
		printf("  \"%s\" is started; what can be asked of it is looked at then\n", s->to_set->name);
	else if (s->stages && (s->to_set->datadir != NULL || s->to_set->keys != NULL))
		printf("  \"%s\" is started again, to read its keys\n", s->to_set->name);
	return 0;
}

int
rotate_prepare(struct switchover *s, struct err *err)
{
	const struct settings_node *from;
	uint32_t tli = 0;

	if (nodes_find(s, &from, &tli, err) != 0)
		return -1;
	/* a clear primary's WAL is under no epoch yet: the first one will do */
	if (from->keyset != NULL && epoch(s, tli, err) != 0)
		return -1;
	if (s->to_set->datadir != NULL && !node_is_built(s->to_set) && node_build(s, s->to_set, err) != 0)
		return -1;
	if ((s->to_set->datadir != NULL ? start(s, err) : start_elsewhere(s, from->keyset != NULL, err)) != 0)
		return -1;
	return switchover_wait(s, "streaming of the target", target_streams, err);
}
