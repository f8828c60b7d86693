#include "proxy/silence.h"

#include <stdio.h>

#include "proxy/session_intern.h"

/* How often it is looked at: a tenth of the shortest time. */
#define TICK_LEAST_S 0.05
#define TICK_MOST_S 1.0

/* Seconds of silence that are too many; 0: any are fine. */

static double
upstream_limit(const struct session *s)
{
	/* these wait for a checkpoint, or for another session */
	if (s->state == SESSION_COMMAND && (s->command.kind == COMMAND_BASE_BACKUP ||
	                                    s->command.kind == COMMAND_DROP_SLOT || s->command.kind == COMMAND_ALTER_SLOT))
		return 0;
	if (s->state == SESSION_UPLOAD)
		return 0;
	return s->up == NULL ? 0 : s->site->settings->wal_receiver_timeout_ms / 1000.0;
}

static double
client_limit(const struct session *s)
{
	if (s->state == SESSION_UPLOAD)
		return upload_waits(s) ? s->site->settings->client_stall_timeout_ms / 1000.0 : 0;
	return s->up == NULL || s->state != SESSION_STREAM ? 0 : upstream_facts(s->up)->wal_sender_timeout_ms / 1000.0;
}

static void
drop(struct session *s, enum standby_end end, const char *who, double limit, const char *setting)
{
	struct err err = {0};

	err_set(&err, ERR_UNREACHABLE, "%s has been silent for %g s", who, limit);
	err_sqlstate(&err, "08006");
	err_hint(&err, "The link to it may be down. The time is set by %s.", setting);
	stream_ended(s, end, err.text);
	session_drop(s, &err);
}

static void
on_tick(struct ev_loop *loop, ev_timer *w, int revents)
{
	struct session *s = w->data;
	ev_tstamp now = ev_now(loop);
	double limit;

	(void)revents;
	/* what a client sent ahead, and we have not taken, is no silence */
	if (message_reader_pending(&s->in) >= SESSION_IN_HIGH || (s->state == SESSION_UPLOAD && upstream_blocked(s->up)))
		s->silence.client = now;
	if ((limit = client_limit(s)) > 0 && now - s->silence.client >= limit) {
		drop(s, STANDBY_CLIENT, "the client", limit,
		     s->state == SESSION_UPLOAD ? "client_stall_timeout" : "wal_sender_timeout of the upstream");
		return;
	}
	if ((limit = upstream_limit(s)) <= 0 || s->up_paused)
		return;
	if (now - upstream_heard(s->up) >= limit) {
		char who[96];

		snprintf(who, sizeof(who), "upstream \"%s\"", upstream_name(s->up));
		drop(s, STANDBY_LOST, who, limit, "wal_receiver_timeout");
	} else if (now - upstream_heard(s->up) < limit / 2)
		s->silence.asked = false;
	else if (!s->silence.asked && s->state == SESSION_STREAM) {
		s->silence.asked = true;
		stream_ask_keepalive(s);
	}
}

void
silence_init(struct session *s)
{
	ev_init(&s->silence.timer, on_tick);
	s->silence.timer.data = s;
}

void
silence_watch(struct session *s)
{
	double up, client, tick;

	silence_stop(s);
	if (s->state != SESSION_COMMAND && s->state != SESSION_UPLOAD && s->state != SESSION_STREAM)
		return;
	up = upstream_limit(s);
	client = client_limit(s);
	if (up <= 0 && client <= 0)
		return;
	tick = (up <= 0 || (client > 0 && client < up) ? client : up) / 10;
	s->silence.client = ev_now(s->loop);
	s->silence.asked = false;
	s->silence.timer.repeat = tick < TICK_LEAST_S ? TICK_LEAST_S : tick > TICK_MOST_S ? TICK_MOST_S : tick;
	ev_timer_again(s->loop, &s->silence.timer);
}

void
silence_stop(struct session *s)
{
	ev_timer_stop(s->loop, &s->silence.timer);
}
