/*
 * failover: the primary is gone, so there is nothing left that could prove anything. It is made sure that it stays
 * down, that no other standby has more than the target, and that the target has replayed all that it has; then it goes
 * as in a switchover.
 */
#include <stdio.h>
#include <string.h>

#include "ctl/switchover/switchover.h"
#include "walcrypt/pgfile.h"

/* The node that the target streamed from last; else the one that is not there. */
static int
lost_find(struct switchover *s, struct err *err)
{
	struct stream_facts f;
	int there = switchover_stream(s, s->to_set->name, &f, err);

	if (there < 0)
		return -1;
	s->from_set = there == 1 ? settings_node(s->settings, f.upstream) : NULL;
	for (size_t i = 0; s->from_set == NULL && i < s->settings->nnodes; i++) {
		struct node node = {.set = &s->settings->nodes[i], .connect_timeout_s = s->settings->connect_timeout_ms / 1000};
		struct node_facts facts;
		struct err ignored;

		if (node.set->conninfo != NULL && node.set != s->to_set && node_positions(&node, &facts, &ignored) != 0)
			s->from_set = node.set;
		node_close(&node);
	}
	if (s->from_set != NULL)
		return 0;
	err_set(err, ERR_REFUSED, "no node is lost");
	return err_hint(err, "All answer: walcrypt-ctl switchover --to %s", s->to_set->name);
}

/* No standby that answers has more. */
static int
check_best(const struct switchover *s, const struct node_facts *to, struct err *err)
{
	for (size_t i = 0; i < s->settings->nnodes; i++) {
		struct node node = {.set = &s->settings->nodes[i], .connect_timeout_s = s->settings->connect_timeout_ms / 1000};
		struct node_facts facts;
		struct err ignored;
		char has[LSN_TEXT_LEN], more[LSN_TEXT_LEN];
		bool better;

		if (node.set->conninfo == NULL || node.set == s->to_set || node.set == s->from_set)
			continue;
		better = node_facts(&node, &facts, &ignored) == 0 && facts.recovery &&
		         facts.system_identifier == to->system_identifier &&
		         (facts.tli > to->tli || (facts.tli == to->tli && facts.flushed > to->flushed));
		node_close(&node);
		if (!better)
			continue;
		lsn_format(has, to->flushed);
		lsn_format(more, facts.flushed);
		err_set(err, ERR_REFUSED, "node \"%s\" has more than \"%s\"", node.set->name, s->to_set->name);
		err_detail(err, "It has WAL up to %s, \"%s\" up to %s.", more, s->to_set->name, has);
		return err_hint(err, "Promote that one; --yes takes this one nevertheless, and loses what is between.");
	}
	return 0;
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
	struct node_facts to, from;
	struct err ignored;

	s->to_set = settings_node(s->settings, s->options->to);
	if (s->to_set == NULL || s->to_set->profile || s->to_set->conninfo == NULL)
		return err_set(err, ERR_USAGE, "\"%s\" has no [node %s] with a conninfo", s->settings->file, s->options->to);
	s->to = (struct node){.set = s->to_set, .connect_timeout_s = s->settings->connect_timeout_ms / 1000};
	if (node_facts(&s->to, &to, err) != 0)
		return -1;
	if (!to.recovery)
		return err_set(err, ERR_REFUSED, "node \"%s\" is a primary already", s->to_set->name);
	if (lost_find(s, err) != 0)
		return -1;
	s->from = (struct node){.set = s->from_set, .connect_timeout_s = s->to.connect_timeout_s};
	if (node_positions(&s->from, &from, &ignored) == 0 && !from.recovery) {
		err_set(err, ERR_REFUSED, "node \"%s\" is there, and a primary", s->from_set->name);
		return err_hint(err, "Nothing is lost by: walcrypt-ctl switchover --to %s", s->to_set->name);
	}
	s->from_control = (struct control){s->settings, s->from_set, s->options->timeout_s};
	s->to_control = (struct control){s->settings, s->to_set, s->options->timeout_s};
	if (!s->options->yes && check_best(s, &to, err) != 0)
		return -1;
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
	if (control_check(&s->from_control, err) == 0 &&
	    (control_running(&s->from_control) == 0 || control_stop(&s->from_control, true, err) == 0))
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

/* Its promotion will replay all that it has; how far that is now is for the report. */
int
failover_position(struct switchover *s, struct err *err)
{
	struct node_facts f;

	if (node_positions(&s->to, &f, err) != 0)
		return -1;
	s->log.checkpoint_end = f.flushed;
	return 0;
}
