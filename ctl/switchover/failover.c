/*
 * failover: the primary is gone, so there is nothing left that could prove anything. It is made sure that it stays
 * down, that no other standby has more than the target, and that the target has replayed all that it has; then it goes
 * as in a switchover.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ctl/switchover/switchover.h"
#include "walcrypt/pgfile.h"

/* A node but the target, and the lost one once it is known. All are asked once: one that is lost costs the whole of
 * connect_timeout each time. */
struct other {
	const struct settings_node *set;
	bool answers, told; /* told: all of f; else its positions alone */
	char why[256];      /* ... and why no more */
	struct node_facts f;
};

static void
other_ask(const struct switchover *s, struct other *o)
{
	struct node node = {.set = o->set, .connect_timeout_s = s->to.connect_timeout_s};
	struct err err;

	if (node_open(&node, &err) == 0) {
		o->told = node_facts(&node, &o->f, &err) == 0;
		if (!o->told)
			snprintf(o->why, sizeof(o->why), "%.255s", err.text);
		o->answers = o->told || node_positions(&node, &o->f, &err) == 0;
		if (o->told && o->f.recovery)
			node_timeline(&node, &o->f);
	}
	node_close(&node);
}

/* NULL: err is set. */
static struct other *
others_ask(const struct switchover *s, size_t *n, struct err *err)
{
	struct other *others = calloc(s->settings->nnodes, sizeof(*others));

	*n = 0;
	if (others == NULL) {
		err_nomem(err);
		return NULL;
	}
	for (size_t i = 0; i < s->settings->nnodes; i++) {
		const struct settings_node *set = &s->settings->nodes[i];

		if (set->conninfo == NULL || set == s->to_set || set == s->from_set)
			continue;
		others[*n].set = set;
		other_ask(s, &others[(*n)++]);
	}
	return others;
}

/* Is it of the target's cluster, and not of an earlier timeline? Such a one is what the last failover has left behind.
 */
static bool
is_of(const struct other *o, const struct node_facts *to)
{
	return o->told && o->f.system_identifier == to->system_identifier && o->f.tli >= to->tli;
}

/* The node at the upper end of what the target streamed from last, through standbys in between; NULL: not known. A
 * stream of an earlier timeline is of a node's life before. */
static int
upper_end(struct switchover *s, const struct settings_node **found, struct err *err)
{
	const struct settings_node *n = s->to_set;
	uint32_t tli = 0;

	for (size_t i = 0; n != NULL && i < s->settings->nnodes; i++) {
		struct stream_facts f;
		int there = switchover_stream(s, n->name, &f, err);

		if (there < 0)
			return -1;
		if (there == 0 || f.tli < tli)
			break;
		tli = f.tli;
		n = settings_node(s->settings, f.upstream);
	}
	*found = n != s->to_set ? n : NULL;
	return 0;
}

/* Does what is left of a node say that it was a standby? */
static bool
was_standby(const struct switchover *s, const struct settings_node *set)
{
	const struct control c = {s->settings, set, s->options->timeout_s};
	struct datadir_control data;
	struct err ignored;

	return control_check(&c, &ignored) == 0 && control_read(&c, &data, &ignored) == 0 &&
	       (data.state == DATADIR_IN_ARCHIVE_RECOVERY || data.state == DATADIR_SHUTDOWNED_IN_RECOVERY);
}

/* The one node that does not answer and was no standby. */
static int
silent_find(struct switchover *s, const struct other *others, size_t n, struct err *err)
{
	for (const struct other *o = others; o < others + n; o++) {
		if (o->answers || was_standby(s, o->set))
			continue;
		if (s->from_set != NULL) {
			err_set(err, ERR_REFUSED, "it is not known whether \"%s\" or \"%s\" was the primary", s->from_set->name,
			        o->set->name);
			return err_hint(err, "Start the one that was a standby, or take its conninfo out of the configuration.");
		}
		s->from_set = o->set;
	}
	if (s->from_set != NULL)
		return 0;
	err_set(err, ERR_REFUSED, "no node is lost");
	return err_hint(err, "All answer: walcrypt-ctl switchover --to %s", s->to_set->name);
}

/* One that can not tell what it is of may be the one that is said to be lost. */
static int
check_no_primary(const struct switchover *s, const struct other *others, size_t n, const struct node_facts *to,
                 struct err *err)
{
	for (const struct other *o = others; o < others + n; o++) {
		if (!o->answers || o->f.recovery || (o->told && !is_of(o, to)))
			continue;
		err_set(err, ERR_REFUSED, "node \"%s\" is there, and a primary", o->set->name);
		if (!o->told)
			err_detail(err, "Whether it is of this cluster is not known: %s.", o->why);
		return err_hint(err, "Nothing is lost by: walcrypt-ctl switchover --to %s", s->to_set->name);
	}
	return 0;
}

/* No standby that answers has more. */
static int
check_best(const struct switchover *s, const struct other *others, size_t n, const struct node_facts *to,
           struct err *err)
{
	char has[LSN_TEXT_LEN], more[LSN_TEXT_LEN];

	for (const struct other *o = others; o < others + n; o++) {
		if (!is_of(o, to) || (o->f.tli == to->tli && o->f.flushed <= to->flushed))
			continue;
		lsn_format(has, to->flushed);
		lsn_format(more, o->f.flushed);
		err_set(err, ERR_REFUSED, "node \"%s\" has more than \"%s\"", o->set->name, s->to_set->name);
		err_detail(err, "It has WAL up to %s, \"%s\" up to %s.", more, s->to_set->name, has);
		return err_hint(err, "Promote that one; --yes takes this one nevertheless, and loses what is between.");
	}
	return 0;
}

/* The primary that is lost; refused when none is, or when another standby is the better target. */
static int
lost_find(struct switchover *s, const struct node_facts *to, struct err *err)
{
	size_t n;
	struct other *others = others_ask(s, &n, err);
	int rc = -1;

	if (others != NULL && check_no_primary(s, others, n, to, err) == 0 &&
	    (s->options->yes || check_best(s, others, n, to, err) == 0) && upper_end(s, &s->from_set, err) == 0 &&
	    (s->from_set != NULL || silent_find(s, others, n, err) == 0))
		rc = 0;
	free(others);
	return rc;
}

bool
failover_takes_over(struct logbook *l)
{
	if (l->kind == SWITCH_FAILOVER || (l->state >= SWITCH_PROMOTING && l->state != SWITCH_ABORTING))
		return false;
	printf("The %s from \"%s\" to \"%s\" that was stopped midway, in state \"%s\", is given up.\n",
	       l->kind == SWITCH_ROTATE ? "rotation" : "switchover", l->from, l->to, switch_state_name(l->state));
	memset(l->at, 0, sizeof(l->at));
	l->checkpoint = l->checkpoint_end = 0;
	l->pause_begin = l->pause_end = 0;
	return true;
}

int
failover_plan(struct switchover *s, struct err *err)
{
	struct logbook *l = &s->log;
	struct node_facts to;

	s->to_set = settings_node(s->settings, s->options->to);
	if (s->to_set == NULL || s->to_set->profile || s->to_set->conninfo == NULL)
		return err_set(err, ERR_USAGE, "\"%s\" has no [node %s] with a conninfo", s->settings->file, s->options->to);
	s->to = (struct node){.set = s->to_set, .connect_timeout_s = s->settings->connect_timeout_ms / 1000};
	if (node_facts(&s->to, &to, err) != 0)
		return -1;
	if (!to.recovery)
		return err_set(err, ERR_REFUSED, "node \"%s\" is a primary already", s->to_set->name);
	node_timeline(&s->to, &to);
	if (lost_find(s, &to, err) != 0)
		return -1;
	s->from = (struct node){.set = s->from_set, .connect_timeout_s = s->to.connect_timeout_s};
	s->from_control = (struct control){s->settings, s->from_set, s->options->timeout_s};
	s->to_control = (struct control){s->settings, s->to_set, s->options->timeout_s};
	if (strcmp(l->to, s->to_set->name) != 0)
		l->nslots = 0; /* of one that is given up, on another target */
	l->kind = SWITCH_FAILOVER;
	l->old_fate = SWITCH_OLD_STOP;
	snprintf(l->from, sizeof(l->from), "%s", s->from_set->name);
	snprintf(l->to, sizeof(l->to), "%s", s->to_set->name);
	l->system_identifier = to.system_identifier;
	l->tli = to.tli;
	printf("Failover from \"%s\", which is lost, to \"%s\":\n", l->from, l->to);
	return keys_before_and_after(s, to.tli, err);
}

/* Should it come back: not as a primary. Its machine may be as lost as itself. */
int
failover_fence(struct switchover *s, struct err *err)
{
	s->log.fence = true;
	if (logbook_write(&s->log, err) != 0)
		return -1;
	if (!control_fences(&s->from_control))
		printf("  note  nothing keeps \"%s\" from coming back as a primary: its section has no fence\n", s->log.from);
	if (control_fence(&s->from_control, true, err) == 0)
		return 0;
	if (!s->options->yes)
		return err_hint(err, "Make sure that \"%s\" does not come back as a primary, and give --resume --yes.",
		                s->log.from);
	printf("  note  \"%s\" could not be fenced: %s\n", s->log.from, err->text);
	return 0;
}

/* It must stay down. What cannot be reached by its commands either is the operator's word. */
int
failover_stop(struct switchover *s, struct err *err)
{
	node_close(&s->from);
	if (control_check(&s->from_control, err) == 0 && control_stop(&s->from_control, true, err) == 0)
		return 0;
	if (s->options->yes) {
		printf("  note  \"%s\" could not be stopped: %s\n", s->log.from, err->text);
		return 0;
	}
	return err_hint(
	    err,
	    "Make sure that \"%s\" is down and stays down, and give --resume --yes: two primaries would lose what "
	    "one of them acknowledges.",
	    s->log.from);
}

/* Until it was stopped the lost one may have lived on, and had its commits acknowledged by another standby. */
static int
check_still_best(struct switchover *s, const struct node_facts *to, struct err *err)
{
	size_t n;
	struct other *others = others_ask(s, &n, err);
	int result = others != NULL ? check_best(s, others, n, to, err) : -1;

	if (others != NULL && result != 0)
		err_hint(err,
		         "Give this one up with --abort, and promote that one; --resume --yes takes this one nevertheless, and "
		         "loses what is between.");
	free(others);
	return result;
}

/* Its promotion will replay all that it has; how far that is now is for the report. */
int
failover_position(struct switchover *s, struct err *err)
{
	struct node_facts f;

	if (node_facts(&s->to, &f, err) != 0)
		return -1;
	node_timeline(&s->to, &f);
	if (!s->options->yes && check_still_best(s, &f, err) != 0)
		return -1;
	s->log.checkpoint_end = f.flushed;
	return 0;
}
