/* steps: what brings each state of a switchover about. Every one of them may be taken again after it was cut off. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/progress.h"
#include "ctl/switchover/shell.h"
#include "ctl/switchover/slots.h"
#include "ctl/switchover/switchover.h"
#include "walcrypt/pgfile.h"

#define HOOK_TIMEOUT_MS 300000
#define QUICK_CHECKPOINT_S 0.5
#define CHECKPOINTS_MAX 4

int
hook_run(const struct switchover *s, const char *action, const struct settings_node *node, struct err *err)
{
	char host[256], port[16];
	const char *const variables[] = {"WALCRYPT_ACTION",
	                                 action,
	                                 "WALCRYPT_NODE",
	                                 node->name,
	                                 "WALCRYPT_OLD",
	                                 s->log.from,
	                                 "WALCRYPT_NEW",
	                                 s->log.to,
	                                 "WALCRYPT_HOST",
	                                 host,
	                                 "WALCRYPT_PORT",
	                                 port,
	                                 NULL};

	if (s->settings->switchover_hook == NULL)
		return 0;
	node_address(node, host, port);
	if (shell_run(s->settings->switchover_hook, variables, HOOK_TIMEOUT_MS, NULL, 0, err) != 0)
		return err_context(err, "switchover_hook");
	return 0;
}

/* Until there is little left that the shutdown's own checkpoint would have to write. */
static int
checkpoint(struct switchover *s, struct err *err)
{
	for (int i = 0; i < CHECKPOINTS_MAX; i++) {
		double begun = switch_now();

		if (node_do_long(&s->from, "CHECKPOINT", err) != 0)
			return -1;
		if (switch_now() - begun < QUICK_CHECKPOINT_S)
			break;
	}
	return 0;
}

static int
hold(struct switchover *s, struct err *err)
{
	s->log.hold = true;
	if (logbook_write(&s->log, err) != 0)
		return -1;
	return (s->holder = holder_start(s->settings, s->log.to, err)) != NULL ? 0 : -1;
}

/* Nobody is held any more. */
static int
unhold(struct switchover *s, struct err *err)
{
	PGresult *r;

	holder_stop(s->holder);
	s->holder = NULL;
	if ((r = switchover_console(s, "RESUME", err)) == NULL)
		return -1;
	PQclear(r);
	s->log.hold = false;
	return 0;
}

static int
quiet(struct switchover *s, struct err *err)
{
	if (s->settings->switchover_hook == NULL)
		return 0;
	s->log.traffic = true;
	return logbook_write(&s->log, err) != 0 ? -1 : hook_run(s, "pause", s->from_set, err);
}

static int
fence(struct switchover *s, struct err *err)
{
	s->log.fence = true;
	return logbook_write(&s->log, err) != 0 ? -1 : control_fence(&s->from_control, true, err);
}

/* The target streams, and has replayed what the primary had written when the wait began. One that is away for a moment
 * may come back. */
static int
target_near(struct switchover *s, struct err *err)
{
	struct stream_facts stream;
	struct node_facts f;
	int there = switchover_stream(s, s->log.to, &stream, err);
	char behind[32];

	if (there < 0)
		return -1;
	if (there == 0 || !stream.runs || strcmp(stream.upstream, s->log.from) != 0) {
		snprintf(s->waits, sizeof(s->waits), "it does not stream");
		return 0;
	}
	if (node_positions(&s->to, &f, err) != 0) {
		snprintf(s->waits, sizeof(s->waits), "it does not answer");
		return err->class == ERR_UNREACHABLE ? 0 : -1;
	}
	if (f.replayed >= s->near)
		return 1;
	bytes_format(behind, (double)(s->near - f.replayed));
	snprintf(s->waits, sizeof(s->waits), "it has %s to replay", behind);
	return 0;
}

/* As long as the primary runs nothing is lost by waiting; so it is stopped when the target is near. */
static int
stop(struct switchover *s, struct err *err)
{
	struct node_facts f;

	/* cut off after the stop: that is known when it is not there any more */
	if (control_running(&s->from_control) != 0 && node_positions(&s->from, &f, err) == 0 && !f.recovery) {
		s->near = f.written;
		if (switchover_wait(s, "the standby's catching up", target_near, err) != 0)
			return -1;
	}
	node_close(&s->from);
	if (control_stop(&s->from_control, false, err) != 0) {
		err_hint(
		    err,
		    "Whatever \"%s\" waits for may be in its log. Go on with --resume when it has stopped; --abort stops it "
		    "immediately and starts it again.",
		    s->log.from);
		return -1;
	}
	return 0;
}

static int
target_promoted(struct switchover *s, struct err *err)
{
	struct node_facts f;

	return node_positions(&s->to, &f, err) != 0 ? -1 : !f.recovery;
}

static int
promote(struct switchover *s, struct err *err)
{
	struct node_facts f;

	if (node_facts(&s->to, &f, err) != 0)
		return -1;
	if (f.recovery && (node_do(&s->to, "SELECT pg_promote(wait => false)", NULL, err) != 0 ||
	                   switchover_wait(s, "the promotion", target_promoted, err) != 0))
		return -1;
	if (node_facts(&s->to, &f, err) != 0)
		return -1;
	if (f.tli <= s->log.tli)
		return err_set(err, ERR_FAILED, "\"%s\" is a primary, but still on timeline %" PRIu32, s->log.to, f.tli);
	s->log.new_tli = f.tli;
	s->log.switch_lsn = s->log.checkpoint_end;
	return 0;
}

static int
move_traffic(struct switchover *s, struct err *err)
{
	if (hook_run(s, "switch", s->to_set, err) != 0)
		return -1;
	s->log.traffic = false;
	return 0;
}

/* Every other node and profile that streamed when the old primary stopped, from the new one now? */
static int
others_follow(struct switchover *s, struct err *err)
{
	for (size_t i = 0; i < s->settings->nnodes; i++) {
		const struct settings_node *n = &s->settings->nodes[i];
		struct stream_facts f;
		int there;

		if (n == s->from_set || n == s->to_set || (n->upstream != NULL && strcmp(n->upstream, s->log.from) == 0))
			continue;
		if ((there = switchover_stream(s, n->name, &f, err)) < 0)
			return -1;
		if (there == 1 && strcmp(f.upstream, s->log.from) == 0 && f.tli == s->log.tli)
			return 0;
	}
	return 1;
}

static int
follow(struct switchover *s, struct err *err)
{
	struct err why = *err;

	if (switchover_wait(s, "", others_follow, &why) == 0)
		return 0;
	/* they may be down for reasons of their own; that must not keep the switchover open */
	for (size_t i = 0; i < s->settings->nnodes; i++) {
		const struct settings_node *n = &s->settings->nodes[i];
		struct stream_facts f;

		if (n != s->from_set && n != s->to_set && switchover_stream(s, n->name, &f, &why) == 1 &&
		    strcmp(f.upstream, s->log.from) == 0)
			printf("  note  \"%s\" has not come to the new primary yet\n", n->name);
	}
	return 0;
}

static int
nothing(struct switchover *s, struct err *err)
{
	(void)s;
	(void)err;
	return 0;
}

struct step {
	int (*run)(struct switchover *s, struct err *err);
	const char *title;
};

static const struct step steps[SWITCH_STATES] = {
    [SWITCH_SLOTS] = {slots_settle, "slots of the other standbys are made on the target"},
    [SWITCH_CHECKPOINTED] = {checkpoint, "the primary has made a checkpoint"},
    [SWITCH_HELD] = {hold, "the proxy holds new sessions, but the target's"},
    [SWITCH_QUIET] = {quiet, "the hook holds the application's traffic"},
    [SWITCH_FENCED] = {fence, "the old primary is fenced: it cannot come back as one by itself"},
    [SWITCH_STOPPED] = {stop, "the old primary is stopped"},
    [SWITCH_PROVEN] = {step_prove, "it is proven that the target has everything"},
    [SWITCH_PROMOTING] = {nothing, "the target is asked to promote itself"},
    [SWITCH_PROMOTED] = {promote, "the target is promoted"},
    [SWITCH_RELEASED] = {unhold, "the proxy lets the sessions go on, to the new primary"},
    [SWITCH_MOVED] = {move_traffic, "the hook moves the application's traffic"},
    [SWITCH_FOLLOWED] = {follow, "the other standbys follow the new primary"},
    [SWITCH_SETTLED] = {old_settle, "the old primary is settled"},
    [SWITCH_DONE] = {nothing, "done"},
};

/* Where a failover differs: of the lost primary nothing can be asked. */
static const struct step failover_steps[SWITCH_STATES] = {
    [SWITCH_SLOTS] = {nothing, NULL},
    [SWITCH_CHECKPOINTED] = {nothing, NULL},
    [SWITCH_FENCED] = {failover_fence, "the lost primary is fenced: it cannot come back as one by itself"},
    [SWITCH_STOPPED] = {failover_stop, "the lost primary is down"},
    [SWITCH_PROVEN] = {failover_position, NULL},
};

static const struct step *
step_of(enum switch_kind kind, enum switch_state state)
{
	return kind == SWITCH_FAILOVER && failover_steps[state].run != NULL ? &failover_steps[state] : &steps[state];
}

int
step_run(struct switchover *s, enum switch_state state, struct err *err)
{
	return step_of(s->log.kind, state)->run(s, err);
}

const char *
step_title(const struct switchover *s, enum switch_kind kind, enum switch_state state)
{
	bool hooks = state == SWITCH_QUIET || state == SWITCH_MOVED;

	return state == SWITCH_PROMOTING || state == SWITCH_DONE || (hooks && s->settings->switchover_hook == NULL) ||
	               (state == SWITCH_FENCED && !control_fences(&s->from_control))
	           ? NULL
	           : step_of(kind, state)->title;
}

static int
old_is_primary(struct switchover *s, struct err *err)
{
	struct node_facts f;

	if (node_positions(&s->from, &f, err) != 0)
		return err->class == ERR_UNREACHABLE ? 0 : -1;
	return !f.recovery;
}

int
step_undo(struct switchover *s, struct err *err)
{
	struct node_facts f;
	struct err ignored;
	bool runs = node_positions(&s->from, &f, &ignored) == 0;

	if (s->log.fence && s->log.kind == SWITCH_FAILOVER) {
		if (control_fence(&s->from_control, false, err) != 0) {
			if (!s->options->yes)
				return err_hint(err, "Where its machine is gone give --abort --yes, which leaves \"%s\" as it is.",
				                s->log.from);
			printf("  note  the fence of \"%s\" could not be taken away: %s\n", s->log.from, err->text);
		}
	} else if (s->log.fence) {
		/* one that does not let anybody in is on its way down, or hangs there; one that was started meanwhile is a
		 * standby */
		if ((!runs || f.recovery) && control_stop(&s->from_control, false, err) != 0 &&
		    control_stop(&s->from_control, s->from_set->datadir != NULL, err) != 0)
			return -1;
		if (control_fence(&s->from_control, false, err) != 0 ||
		    ((!runs || f.recovery) && control_start(&s->from_control, err) != 0))
			return -1;
	}
	if (s->log.kind != SWITCH_FAILOVER && switchover_wait(s, "the old primary's start", old_is_primary, err) != 0)
		return -1;
	s->log.fence = false;
	if (s->log.traffic && hook_run(s, "resume", s->from_set, err) != 0)
		return -1;
	s->log.traffic = false;
	if (s->log.hold && unhold(s, err) != 0)
		return -1;
	for (size_t i = 0; i < s->log.nslots; i++) {
		const char *const name[] = {s->log.slots[i], NULL};

		/* it may be down, which is why we are here: then the slot is of no harm but that it is there */
		if (node_do(&s->to,
		            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = $1 AND "
		            "NOT active",
		            name, &ignored) != 0)
			printf("  note  slot \"%s\" is left on \"%s\": %s\n", name[0], s->log.to, ignored.text);
	}
	return 0;
}
