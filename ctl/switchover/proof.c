#include "ctl/switchover/proof.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "walcrypt/pgfile.h"

struct lsn_text {
	char text[LSN_TEXT_LEN];
};

static struct lsn_text
lsn(uint64_t at)
{
	struct lsn_text t;

	lsn_format(t.text, at);
	return t;
}

static void __attribute__((format(printf, 4, 5)))
say(struct proof *p, enum proof_part part, bool held, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(p->why[part], sizeof(p->why[part]), fmt, ap);
	va_end(ap);
	p->held[part] = held;
}

/* Is the stream the one that counts: of this cluster and timeline, from the old primary? */
static bool
stream_fits(const struct proof_facts *f, struct proof *p, enum proof_part part)
{
	if (!f->stream_known)
		say(p, part, false, "the proxy knows of no stream to the standby");
	else if (f->stream_system_identifier != f->system_identifier)
		say(p, part, false, "the standby's last stream was of another cluster, %" PRIu64, f->stream_system_identifier);
	else if (strcmp(f->stream_upstream, f->old) != 0)
		say(p, part, false, "the standby's last stream came from node \"%s\", not from \"%s\"", f->stream_upstream,
		    f->old);
	else if (f->stream_tli != f->tli)
		say(p, part, false, "the standby's last stream was of timeline %" PRIu32 ", not of %" PRIu32, f->stream_tli,
		    f->tli);
	else
		return true;
	return false;
}

static void
judge_record(const struct proof_facts *f, struct proof *p)
{
	if (!stream_fits(f, p, PROOF_RECORD))
		return;
	if (f->stream_record == 0)
		say(p, PROOF_RECORD, false, "no whole record went through the standby's last stream");
	else if (!f->stream_shutdown_checkpoint)
		say(p, PROOF_RECORD, false, "the stream's last whole record, at %s, is no shutdown checkpoint",
		    lsn(f->stream_record).text);
	else if (f->stream_sent != f->stream_record_end || f->stream_received != f->stream_record_end)
		say(p, PROOF_RECORD, false, "the shutdown checkpoint ends at %s, but the stream at %s",
		    lsn(f->stream_record_end).text,
		    lsn(f->stream_sent != f->stream_record_end ? f->stream_sent : f->stream_received).text);
	else {
		p->lsn = f->stream_record;
		p->end = f->stream_record_end;
		say(p, PROOF_RECORD, true, "the stream's last record is a shutdown checkpoint, at %s, and ends with it, at %s",
		    lsn(p->lsn).text, lsn(p->end).text);
	}
}

static void
judge_complete(const struct proof_facts *f, struct proof *p)
{
	if (!stream_fits(f, p, PROOF_COMPLETE))
		return;
	if (f->stream_complete)
		say(p, PROOF_COMPLETE, true, "the stream ended with the walsender's CommandComplete");
	else
		say(p, PROOF_COMPLETE, false, "the stream did not end with the walsender's CommandComplete: %s", f->stream_end);
}

static void
judge_control(const struct proof_facts *f, struct proof *p)
{
	const struct datadir_control *c = &f->control;

	if (!f->control_known)
		say(p, PROOF_CONTROL, false, "the old primary's pg_control could not be read");
	else if (c->system_identifier != f->system_identifier)
		say(p, PROOF_CONTROL, false, "the old primary's pg_control is of another cluster, %" PRIu64,
		    c->system_identifier);
	else if (c->state != DATADIR_SHUTDOWNED)
		say(p, PROOF_CONTROL, false, "the old primary's pg_control says \"%s\", not \"shut down\"",
		    datadir_state_name(c->state));
	else if (c->tli != f->tli)
		say(p, PROOF_CONTROL, false, "the old primary's last checkpoint is on timeline %" PRIu32 ", not on %" PRIu32,
		    c->tli, f->tli);
	else if (p->lsn == 0 || c->checkpoint != p->lsn)
		say(p, PROOF_CONTROL, false, "the old primary was shut down at %s, which is not where the stream ended: %s",
		    lsn(c->checkpoint).text, lsn(p->lsn != 0 ? p->lsn : f->stream_sent).text);
	else
		say(p, PROOF_CONTROL, true, "the old primary's pg_control says \"shut down\", with that checkpoint");
}

static void
judge_replayed(const struct proof_facts *f, struct proof *p)
{
	if (!f->target_known)
		say(p, PROOF_REPLAYED, false, "the standby could not be asked");
	else if (f->target_system_identifier != f->system_identifier)
		say(p, PROOF_REPLAYED, false, "the standby is of another cluster, %" PRIu64, f->target_system_identifier);
	else if (!f->target_recovery)
		say(p, PROOF_REPLAYED, false, "the standby is in recovery no more");
	else if (f->target_tli > f->tli) /* behind is what a standby's pg_control may be; what it streamed counts */
		say(p, PROOF_REPLAYED, false, "the standby is on timeline %" PRIu32 ", not on %" PRIu32, f->target_tli, f->tli);
	else if (p->end == 0)
		say(p, PROOF_REPLAYED, false, "there is no shutdown checkpoint that the standby could have replayed");
	else if (f->target_flushed < p->end || f->target_replayed < p->end)
		say(p, PROOF_REPLAYED, false, "the standby has flushed to %s and replayed to %s, not to %s",
		    lsn(f->target_flushed).text, lsn(f->target_replayed).text, lsn(p->end).text);
	else
		say(p, PROOF_REPLAYED, true, "the standby has flushed and replayed to %s", lsn(f->target_replayed).text);
}

void
proof_judge(const struct proof_facts *facts, struct proof *proof)
{
	memset(proof, 0, sizeof(*proof));
	judge_record(facts, proof);
	judge_complete(facts, proof);
	judge_control(facts, proof);
	judge_replayed(facts, proof);
}

bool
proof_holds(const struct proof *proof)
{
	for (int i = 0; i < PROOF_PARTS; i++)
		if (!proof->held[i])
			return false;
	return true;
}

const char *
proof_part_name(enum proof_part part)
{
	static const char *const names[] = {"record", "complete", "control", "replayed"};

	return names[part];
}
