/* prove: the facts of the proof gathered, from the proxy, the old primary's pg_control and the target; and waited for.
 */
#include <stdio.h>
#include <string.h>

#include "common/progress.h"
#include "ctl/switchover/switchover.h"

/* Returns whether the stream's end is still on its way. */
static bool
gather(struct switchover *s, struct proof_facts *f)
{
	bool runs = false;
	struct stream_facts stream;
	struct node_facts target;
	struct err ignored;

	memset(f, 0, sizeof(*f));
	f->system_identifier = s->log.system_identifier;
	f->tli = s->log.tli;
	memcpy(f->old, s->log.from, sizeof(f->old));
	if (switchover_stream(s, s->log.to, &stream, &ignored) == 1) {
		runs = stream.runs;
		f->stream_known = true;
		memcpy(f->stream_upstream, stream.upstream, sizeof(f->stream_upstream));
		f->stream_system_identifier = stream.system_identifier;
		f->stream_tli = stream.tli;
		f->stream_record = stream.record;
		f->stream_record_end = stream.record_end;
		f->stream_received = stream.received;
		f->stream_sent = stream.sent;
		f->stream_shutdown_checkpoint = stream.shutdown_checkpoint;
		f->stream_complete = strcmp(stream.end, "complete") == 0;
		snprintf(f->stream_end, sizeof(f->stream_end), "%.30s%s%.90s", stream.end, stream.why[0] != '\0' ? ", " : "",
		         stream.why);
	}
	f->control_known = control_read(&s->from_control, &f->control, &ignored) == 0;
	if (node_facts(&s->to, &target, &ignored) == 0) {
		f->target_known = true;
		f->target_recovery = target.recovery;
		f->target_system_identifier = target.system_identifier;
		f->target_tli = target.tli;
		f->target_flushed = target.flushed;
		f->target_replayed = target.replayed;
	}
	return runs;
}

/* What is still missing, for who waits. */
static void
waits_tell(struct switchover *s, const struct proof_facts *f)
{
	char behind[32];

	if (!f->target_known)
		snprintf(s->waits, sizeof(s->waits), "it does not answer");
	else if (f->stream_record_end <= f->target_replayed)
		snprintf(s->waits, sizeof(s->waits), "the stream has not ended");
	else {
		bytes_format(behind, (double)(f->stream_record_end - f->target_replayed));
		snprintf(s->waits, sizeof(s->waits), "it has %s to replay", behind);
	}
}

/* 1: the proof holds; 0: the proxy has not seen the end yet, or the standby not replayed it; -1: it fails. */
static int
proof_try(struct switchover *s, struct err *err)
{
	struct proof_facts f;
	struct proof *p = &s->proof;
	bool runs = gather(s, &f);

	proof_judge(&f, p);
	waits_tell(s, &f);
	if (proof_holds(p))
		return 1;
	if (runs)
		return 0;
	if (p->held[PROOF_RECORD] && p->held[PROOF_COMPLETE] && p->held[PROOF_CONTROL] && f.target_known &&
	    f.target_recovery && f.target_tli <= f.tli && f.target_system_identifier == f.system_identifier)
		return 0;
	return err_set(err, ERR_FAILED, "the proof does not hold, so nothing is promoted");
}

static void
proof_print(const struct proof *p)
{
	for (int i = 0; i < PROOF_PARTS; i++)
		printf("  %-5s %s\n", p->held[i] ? "ok" : "FAIL", p->why[i]);
	fflush(stdout);
}

int
step_prove(struct switchover *s, struct err *err)
{
	int result = switchover_wait(s, "the standby's replay up to the end", proof_try, err);

	proof_print(&s->proof);
	if (result != 0) {
		for (int i = PROOF_PARTS - 1; i >= 0; i--)
			if (!s->proof.held[i])
				err_detail(err, "%s: %s.", proof_part_name((enum proof_part)i), s->proof.why[i]);
		return err_hint(err, "\"%s\" can be started again: walcrypt-ctl switchover --abort. Then switch over again.",
		                s->log.from);
	}
	s->log.checkpoint = s->proof.lsn;
	s->log.checkpoint_end = s->proof.end;
	return 0;
}

/* Down, or in recovery, where it writes nothing, and with nothing behind what was proven? */
static bool
as_proven(const struct switchover *s, const struct datadir_control *c)
{
	return c->system_identifier == s->log.system_identifier && c->tli == s->log.tli &&
	       c->checkpoint == s->log.checkpoint &&
	       ((c->state == DATADIR_SHUTDOWNED && control_running(&s->from_control) != 1) ||
	        c->state == DATADIR_SHUTDOWNED_IN_RECOVERY || c->state == DATADIR_IN_ARCHIVE_RECOVERY);
}

int
proof_still_holds(struct switchover *s, struct err *err)
{
	struct datadir_control data;
	struct node_facts target;
	struct err ignored;

	/* of a lost primary nothing was proven; and one that has promoted itself does so once */
	if (s->log.kind == SWITCH_FAILOVER || (node_positions(&s->to, &target, &ignored) == 0 && !target.recovery))
		return 0;
	if (control_read(&s->from_control, &data, err) != 0) {
		if (!s->options->yes)
			return err_hint(
			    err, "Make sure that \"%s\" is down and was not started since the proof, and give --resume --yes.",
			    s->log.from);
		printf("  note  \"%s\" could not be looked at: %s\n", s->log.from, err->text);
		return 0;
	}
	if (as_proven(s, &data))
		return 0;
	err_set(err, ERR_FAILED, "\"%s\" is not as it was when the proof was made, so nothing is promoted", s->log.from);
	err_detail(err, "It was started as a primary: its pg_control says \"%s\", and may have more than \"%s\".",
	           datadir_state_name(data.state), s->log.to);
	return s->log.state < SWITCH_PROMOTING
	           ? err_hint(err, "Put everything back: walcrypt-ctl switchover --abort. Then switch over again.")
	           : err_hint(err,
	                      "\"%s\" was asked to promote itself already: stop it, then put everything back with "
	                      "walcrypt-ctl switchover --abort.",
	                      s->log.to);
}
