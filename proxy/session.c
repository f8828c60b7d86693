#include "proxy/session_intern.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/log.h"
#include "proxy/encode.h"

#define BIT(state) (1u << (state))
#define OUT (BIT(SESSION_CLOSING) | BIT(SESSION_CLOSED))
/* client_login_timeout runs through these. */
#define LOGIN (BIT(SESSION_STARTUP) | BIT(SESSION_TLS) | BIT(SESSION_AUTH))

static const struct {
	const char *name;
	unsigned may_go;
	double limit_s;   /* 0: none, or limit_of has it */
	const char *late; /* what is said when the limit is over */
} states[] = {
    [SESSION_STARTUP] = {"startup", BIT(SESSION_TLS) | BIT(SESSION_AUTH) | OUT, 0, "no startup packet came in time"},
    [SESSION_TLS] = {"tls", BIT(SESSION_STARTUP) | OUT, 0, "the TLS handshake took too long"},
    [SESSION_AUTH] = {"auth", BIT(SESSION_HELD) | BIT(SESSION_CONNECTING) | BIT(SESSION_READY) | OUT, 0,
                      "the authentication took too long"},
    [SESSION_HELD] = {"held", BIT(SESSION_CONNECTING) | OUT, 0, NULL},
    [SESSION_CONNECTING] = {"connecting", BIT(SESSION_READY) | OUT, 0, NULL},
    [SESSION_READY] = {"ready", BIT(SESSION_COMMAND) | OUT, 0, "terminating connection due to client_idle_timeout"},
    [SESSION_COMMAND] = {"command",
                         BIT(SESSION_READY) | BIT(SESSION_BACKUP) | BIT(SESSION_UPLOAD) | BIT(SESSION_STREAM) | OUT, 0,
                         NULL},
    [SESSION_BACKUP] = {"backup", BIT(SESSION_READY) | OUT, 0, NULL},
    [SESSION_UPLOAD] = {"upload", BIT(SESSION_READY) | OUT, 0, NULL},
    [SESSION_STREAM] = {"stream", BIT(SESSION_READY) | BIT(SESSION_DRAIN) | OUT, 0, NULL},
    [SESSION_DRAIN] = {"drain", BIT(SESSION_READY) | OUT, 15, "the client did not end the stream in time"},
    [SESSION_CLOSING] = {"closing", BIT(SESSION_CLOSED), 5, NULL},
    [SESSION_CLOSED] = {"closed", 0, 0, NULL},
};

/* Seconds that a state may last; 0: any time. */
static double
limit_of(const struct session *s, enum session_state state)
{
	if (state == SESSION_HELD)
		return s->site->settings->pause_timeout_ms / 1000.;
	if (state == SESSION_READY)
		return (s->console ? s->site->settings->console_idle_timeout_ms : s->site->settings->client_idle_timeout_ms) /
		       1000.;
	return states[state].limit_s;
}

void
session_move(struct session *s, enum session_state to)
{
	if ((states[s->state].may_go & BIT(to)) == 0) {
		session_log(s, LOG_FATAL, "no way from %s to %s", states[s->state].name, states[to].name);
		abort();
	}
	session_log(s, LOG_DEBUG, "%s -> %s", states[s->state].name, states[to].name);
	s->state = to;
	s->card.state = states[to].name;
	if ((BIT(to) & LOGIN) == 0) {
		ev_timer_stop(s->loop, &s->limit);
		/* who is told why it may not come in has its descriptor until it goes, and counts */
		if (s->counted && to != SESSION_CLOSING)
			limits_leave(s->proxy->limits, &s->peer);
		s->counted = s->counted && to == SESSION_CLOSING;
	}
	session_is_heard(s);
	silence_watch(s);
	/* what came ahead may be for this state */
	worker_touch(s->worker, s);
}

void
session_is_heard(struct session *s)
{
	double limit_s = limit_of(s, s->state);

	if (limit_s <= 0)
		return;
	ev_timer_stop(s->loop, &s->limit);
	ev_timer_set(&s->limit, limit_s, 0.);
	ev_timer_start(s->loop, &s->limit);
}

void
session_put(struct session *s)
{
	struct err err = {0};

	if (buffer_check(&s->out, &err) != 0)
		session_drop(s, &err);
	worker_touch(s->worker, s);
}

int
session_pause(struct session *s)
{
	s->up_paused = s->up != NULL && buffer_len(&s->out) > (s->bulk ? SESSION_BULK_HIGH : SESSION_OUT_HIGH);
	return s->up_paused;
}

void
session_bulk(struct session *s, bool on)
{
	s->bulk = on;
	upstream_bulk(s->up, on);
}

static bool
takes_messages(const struct session *s)
{
	switch (s->state) {
	case SESSION_STARTUP:
		return true;
	case SESSION_READY:
		/* who asks on without taking the answers waits */
		return buffer_len(&s->out) < SESSION_OUT_HIGH;
	case SESSION_AUTH:
		return auth_waits(s);
	case SESSION_UPLOAD:
	case SESSION_STREAM:
	case SESSION_DRAIN:
		return s->up == NULL || !upstream_blocked(s->up);
	default:
		return false;
	}
}

void
session_process(struct session *s)
{
	struct message m;
	struct err err = {0};
	int rc = 0;

	while (takes_messages(s) && (rc = message_reader_next(&s->in, &m, &err)) > 0) {
		if (s->state == SESSION_STARTUP)
			greeting_message(s, &m);
		else if (m.type == 'X')
			session_close(s, "the client ended it");
		else if (s->state == SESSION_AUTH)
			auth_message(s, &m);
		else if (s->state == SESSION_READY)
			dispatch_message(s, &m);
		else if (s->state == SESSION_UPLOAD)
			upload_message(s, &m);
		else
			stream_message(s, &m);
	}
	if (rc < 0)
		session_drop(s, &err);
	session_io_rearm(s);
}

static void
on_limit(struct ev_loop *loop, ev_timer *w, int revents)
{
	struct session *s = w->data;
	struct err err = {0};

	(void)loop;
	(void)revents;
	if (s->state == SESSION_CLOSING) {
		session_close(s, NULL);
		return;
	}
	if (s->state == SESSION_HELD)
		greeting_held_too_long(s);
	else {
		err_set(&err, ERR_FAILED, "%s",
		        s->state == SESSION_READY && s->console ? "terminating connection due to console_idle_timeout"
		                                                : states[s->state].late);
		err_sqlstate(&err, s->state == SESSION_READY ? "57P05" : "08P01");
		session_drop(s, &err);
	}
}

struct session *
session_new(struct worker *worker, struct session **list, int fd, const struct peer *peer)
{
	struct session *s = calloc(1, sizeof(*s));

	if (s == NULL) {
		log_error("out of memory: a connection from %s is dropped", peer->text);
		return NULL;
	}
	s->worker = worker;
	s->proxy = worker_proxy(worker);
	s->loop = worker_loop(worker);
	s->site = proxy_site(s->proxy);
	s->stats = stats_node(s->proxy->stats, "");
	s->peer = *peer;
	s->counted = true;
	s->state = SESSION_STARTUP;
	session_io_init(s, fd);
	ev_timer_init(&s->limit, on_limit, s->site->settings->login_timeout_ms / 1000., 0.);
	s->limit.data = s;
	silence_init(s);
	s->card.since = time(NULL);
	s->card.state = states[SESSION_STARTUP].name;
	snprintf(s->card.peer, sizeof(s->card.peer), "%s", peer->text);
	registry_add(&s->proxy->registry, &s->card);
	s->next = *list;
	s->prev = list;
	if (s->next != NULL)
		s->next->prev = &s->next;
	*list = s;
	ev_timer_start(s->loop, &s->limit);
	session_io_rearm(s);
	session_log(s, LOG_DEBUG, "connection from %s", peer->text);
	return s;
}

struct session *
session_next(const struct session *s)
{
	return s->next;
}

struct session *
session_touch(struct session *s, struct session *head)
{
	if (s->touched)
		return head;
	s->touched = true;
	s->next_touched = head;
	return s;
}

struct session *
session_untouch(struct session *s)
{
	return s->next_touched;
}

static void
session_free(struct session *s)
{
	*s->prev = s->next;
	if (s->next != NULL)
		s->next->prev = s->prev;
	registry_remove(&s->proxy->registry, &s->card);
	ev_timer_stop(s->loop, &s->limit);
	silence_stop(s);
	console_wait_free(s);
	upstream_free(s->buried);
	stream_free(s->stream);
	backup_free(s->backup);
	upload_free(s->upload);
	command_free(&s->command);
	free(s->options);
	free(s->temporary_slot);
	PQclear(s->kept);
	session_io_free(s);
	startup_free(&s->startup);
	auth_free(s->auth);
	site_unref(s->site);
	free(s);
}

bool
session_settle(struct session *s)
{
	/* touched stays set meanwhile: what is touched in here is seen to below, or by the watchers */
	upstream_free(s->buried);
	s->buried = NULL;
	session_io_settle(s);
	if (s->up_paused && buffer_len(&s->out) < (s->bulk ? SESSION_BULK_LOW : SESSION_OUT_LOW)) {
		s->up_paused = false;
		if (s->up != NULL)
			upstream_resume(s->up);
	}
	session_process(s);
	if (s->state == SESSION_CLOSED) {
		session_free(s);
		return false;
	}
	s->touched = false;
	/* a record of TLS may hold more than one read takes, and the socket says nothing of the rest */
	if (s->buried != NULL || (channel_pending(&s->channel) && ev_is_active(&s->readable)))
		worker_touch(s->worker, s);
	return true;
}
