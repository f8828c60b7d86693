/* session_end: the ways out of a session, and the proxy's end for it. */
#include <inttypes.h>
#include <string.h>

#include "proxy/errand.h"
#include "proxy/session_intern.h"

/* Let the upstream go now: its server must not wait for our client's farewell. */
static void
let_go(struct session *s)
{
	choice_free(s->choice);
	s->choice = NULL;
	errand_drop(s->keys_wanted);
	s->keys_wanted = NULL;
	if (s->up != NULL) {
		upstream_close(s->up);
		s->buried = s->up;
		s->up = NULL;
	}
	registry_lock(&s->proxy->registry);
	cancel_handle_unref(s->card.cancel);
	s->card.cancel = NULL;
	registry_unlock(&s->proxy->registry);
	worker_touch(s->worker, s);
}

void
session_close(struct session *s, const char *why)
{
	if (s->state == SESSION_CLOSED)
		return;
	if (s->state != SESSION_CLOSING)
		stream_ended(s, STANDBY_CLIENT, why != NULL ? why : "");
	if (s->state != SESSION_CLOSING && why != NULL)
		session_log(s, LOG_INFO, "closed: %s; %" PRIu64 " bytes sent", why, (uint64_t)s->card.to_downstream);
	session_move(s, SESSION_CLOSED);
	let_go(s);
	session_io_rearm(s);
}

void
session_drop(struct session *s, const struct err *why)
{
	struct err full = {0};
	/* somebody shuts down, or has nothing to ask: no error */
	bool fine = strcmp(why->sqlstate, "57P01") == 0 || strcmp(why->sqlstate, "57P05") == 0;

	if (s->state == SESSION_CLOSING || s->state == SESSION_CLOSED)
		return;
	stream_ended(s, STANDBY_ERROR, why->text);
	if (!fine)
		s->stats->errors[why->class]++;
	session_log_err(s, fine ? LOG_INFO : LOG_WARNING, why);
	/* before TLS stands nothing can be told */
	if (s->channel.ssl != NULL && !s->channel.encrypted) {
		session_close(s, NULL);
		return;
	}
	/* a message that was being built is taken back by its builder; what is whole goes out before the reason */
	(void)buffer_check(&s->out, &full);
	session_move(s, SESSION_CLOSING);
	let_go(s);
	if (message_error(&s->out, "FATAL", why, &full) != 0)
		session_close(s, NULL);
}

void
session_leave(struct session *s, const char *why)
{
	if (s->state == SESSION_CLOSING || s->state == SESSION_CLOSED)
		return;
	stream_ended(s, STANDBY_ERROR, why);
	session_log(s, LOG_INFO, "closed: %s", why);
	session_move(s, SESSION_CLOSING);
	let_go(s);
}

static void
tell(struct session *s)
{
	struct err err = {0};

	err_set(&err, ERR_FAILED, "terminating connection because the proxy is stopped");
	err_sqlstate(&err, "57P01");
	err_hint(&err, "A standby connects again by itself.");
	stream_ended(s, STANDBY_STOPPED, "the proxy stopped");
	session_drop(s, &err);
}

/* Where the client is, without the port that each of its connections has of its own. */
static bool
same_host(const char *a, const char *b)
{
	const char *end_a = strrchr(a, ':'), *end_b = strrchr(b, ':');
	size_t len_a = end_a != NULL ? (size_t)(end_a - a) : strlen(a);
	size_t len_b = end_b != NULL ? (size_t)(end_b - b) : strlen(b);

	return len_a == len_b && memcmp(a, b, len_a) == 0;
}

bool
session_beside_backup(const struct session *s)
{
	struct registry *r = &s->proxy->registry;
	bool found = false;

	registry_lock(r);
	for (const struct card *c = r->first; c != NULL && !found; c = c->next)
		found = strcmp(c->command, "BASE_BACKUP") == 0 && strcmp(c->node, s->card.node) == 0 &&
		        strcmp(c->application, s->card.application) == 0 && same_host(c->peer, s->card.peer);
	registry_unlock(r);
	return found;
}

static bool
has_to_finish(const struct session *s)
{
	switch (s->state) {
	case SESSION_COMMAND:
		return !s->console;
	case SESSION_BACKUP:
	case SESSION_UPLOAD:
	case SESSION_DRAIN:
		return true;
	case SESSION_STREAM:
		return session_beside_backup(s);
	default:
		return false;
	}
}

void
session_stop(struct session *s, enum worker_stop how)
{
	if (how == WORKER_FAST) {
		stream_ended(s, STANDBY_STOPPED, "the proxy stopped");
		session_close(s, "the proxy stops");
	} else if (how == WORKER_TELL || !has_to_finish(s))
		tell(s);
	else
		session_log(s, LOG_INFO, "finishes its %s before the proxy stops", s->card.command);
}
