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
	double limit_s;   /* 0: none; but for client_login_timeout */
	const char *late; /* what is said when the limit is over */
} states[] = {
    [SESSION_STARTUP] = {"startup", BIT(SESSION_TLS) | BIT(SESSION_AUTH) | OUT, 0, "no startup packet came in time"},
    [SESSION_TLS] = {"tls", BIT(SESSION_STARTUP) | OUT, 0, "the TLS handshake took too long"},
    [SESSION_AUTH] = {"auth", BIT(SESSION_CONNECTING) | BIT(SESSION_READY) | OUT, 0,
                      "the authentication took too long"},
    [SESSION_CONNECTING] = {"connecting", BIT(SESSION_READY) | OUT, 0, NULL},
    [SESSION_READY] = {"ready", BIT(SESSION_COMMAND) | OUT, 0, NULL},
    [SESSION_COMMAND] = {"command",
                         BIT(SESSION_READY) | BIT(SESSION_BACKUP) | BIT(SESSION_UPLOAD) | BIT(SESSION_STREAM) | OUT, 0,
                         NULL},
    [SESSION_BACKUP] = {"backup", BIT(SESSION_READY) | OUT, 0, NULL},
    [SESSION_UPLOAD] = {"upload", BIT(SESSION_READY) | OUT, 0, NULL},
    [SESSION_STREAM] = {"stream", BIT(SESSION_READY) | BIT(SESSION_DRAIN) | OUT, 0, NULL},
    [SESSION_DRAIN] = {"drain", BIT(SESSION_READY) | OUT, 10, "the client did not end the stream in time"},
    [SESSION_CLOSING] = {"closing", BIT(SESSION_CLOSED), 5, NULL},
    [SESSION_CLOSED] = {"closed", 0, 0, NULL},
};

static void
rearm(struct session *s)
{
	bool read = s->state != SESSION_CLOSED && message_reader_pending(&s->in) < SESSION_IN_HIGH;
	bool write = s->state != SESSION_CLOSED && (buffer_len(&s->out) > 0 || s->channel.wants_write);

	if (read)
		ev_io_start(s->loop, &s->readable);
	else
		ev_io_stop(s->loop, &s->readable);
	if (write)
		ev_io_start(s->loop, &s->writable);
	else
		ev_io_stop(s->loop, &s->writable);
}

void
session_move(struct session *s, enum session_state to)
{
	if ((states[s->state].may_go & BIT(to)) == 0) {
		log_line(LOG_FATAL, "session %u: no way from %s to %s", s->card.id, states[s->state].name, states[to].name);
		abort();
	}
	log_debug("session %u: %s -> %s", s->card.id, states[s->state].name, states[to].name);
	s->state = to;
	s->card.state = states[to].name;
	if ((BIT(to) & LOGIN) == 0) {
		ev_timer_stop(s->loop, &s->limit);
		if (s->counted)
			limits_leave(s->proxy->limits, &s->peer);
		s->counted = false;
	}
	if (states[to].limit_s > 0) {
		ev_timer_set(&s->limit, states[to].limit_s, 0.);
		ev_timer_start(s->loop, &s->limit);
	}
	silence_watch(s);
	/* what came ahead may be for this state */
	worker_touch(s->worker, s);
}

/* Let the upstream go now: its server must not wait for our client's farewell. */
static void
let_go(struct session *s)
{
	choice_free(s->choice);
	s->choice = NULL;
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

static const char *
whose(const struct session *s)
{
	return s->card.node[0] != '\0' ? s->card.node : "-";
}

void
session_close(struct session *s, const char *why)
{
	if (s->state == SESSION_CLOSED)
		return;
	if (s->state != SESSION_CLOSING && why != NULL)
		log_info("session %u (%s): closed: %s; %" PRIu64 " bytes sent", s->card.id, whose(s), why,
		         s->card.to_downstream);
	session_move(s, SESSION_CLOSED);
	let_go(s);
	rearm(s);
}

void
session_drop(struct session *s, const struct err *why)
{
	struct err full = {0};
	char context[96];

	if (s->state == SESSION_CLOSING || s->state == SESSION_CLOSED)
		return;
	snprintf(context, sizeof(context), "session %u (%s)", s->card.id, whose(s));
	log_err(strcmp(why->sqlstate, "57P01") == 0 ? LOG_INFO : LOG_WARNING, why, context);
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
	log_info("session %u (%s): closed: %s", s->card.id, whose(s), why);
	session_move(s, SESSION_CLOSING);
	let_go(s);
}

void
session_stop(struct session *s, bool fast)
{
	struct err err = {0};

	if (fast) {
		session_close(s, "the proxy stops");
		return;
	}
	err_set(&err, ERR_FAILED, "terminating connection because the proxy is stopped");
	err_sqlstate(&err, "57P01");
	err_hint(&err, "A standby connects again by itself.");
	session_drop(s, &err);
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
	s->up_paused = s->up != NULL && buffer_len(&s->out) > SESSION_OUT_HIGH;
	return s->up_paused;
}

static const char *
io_error(const struct session *s)
{
	if (errno == EPROTO)
		return s->channel.why;
	return errno == EPIPE || errno == ECONNRESET ? "the client has gone" : strerror(errno);
}

/* One write: what does not go out now waits for the socket, and others have their turn. */
static void
write_out(struct session *s)
{
	ssize_t n;

	if (buffer_len(&s->out) == 0)
		return;
	n = channel_write(&s->channel, buffer_data(&s->out), buffer_len(&s->out));
	if (n > 0) {
		buffer_consume(&s->out, (size_t)n);
		s->card.to_downstream += (uint64_t)n;
	} else if (n <= 0 && errno != EAGAIN && errno != EINTR)
		session_close(s, io_error(s));
}

/* The client has been told why: half a close, so that the kernel does not take the message back with a reset. */
static void
farewell(struct session *s)
{
	if (s->state == SESSION_CLOSING && buffer_len(&s->out) == 0)
		channel_farewell(&s->channel);
}

static void
on_writable(struct ev_loop *loop, ev_io *w, int revents)
{
	struct session *s = w->data;

	(void)loop;
	(void)revents;
	worker_touch(s->worker, s);
}

static void
read_in(struct session *s)
{
	struct err err = {0};
	uint8_t *room, waste[4096];
	size_t len;
	ssize_t n;

	if (s->state == SESSION_CLOSING) {
		room = waste;
		len = sizeof(waste);
	} else if ((room = message_reader_space(&s->in, &len, &err)) == NULL) {
		session_drop(s, &err);
		return;
	}
	n = channel_read(&s->channel, room, len);
	s->silence.client = ev_now(s->loop);
	if (n > 0 && s->state != SESSION_CLOSING)
		message_reader_filled(&s->in, (size_t)n);
	else if (n == 0)
		session_close(s, s->state == SESSION_STARTUP && message_reader_pending(&s->in) == 0 ? NULL
		                                                                                    : "the client has gone");
	else if (n < 0 && errno != EAGAIN && errno != EINTR)
		session_close(s, io_error(s));
	/* the socket says nothing of what TLS has taken from it already */
	if (channel_pending(&s->channel))
		worker_touch(s->worker, s);
}

/* The handshake's next step. What tells the client to begin it goes out first. */
static void
shake_hands(struct session *s)
{
	struct err err = {0};

	if (s->channel.ssl == NULL) {
		if (buffer_len(&s->out) > 0)
			return;
		if (channel_tls(&s->channel, s->site->tls, &err) != 0) {
			session_drop(s, &err);
			return;
		}
	}
	switch (channel_handshake(&s->channel)) {
	case 1:
		greeting_encrypted(s);
		break;
	case -1: {
		char why[200];

		snprintf(why, sizeof(why), "the TLS handshake failed: %s", s->channel.why);
		session_close(s, why);
	}
	}
}

/* PostgreSQL 17's clients may begin with TLS at once. */
static bool
begins_with_tls(struct session *s)
{
	uint8_t first;

	return s->state == SESSION_STARTUP && s->channel.ssl == NULL && s->declined == 0 &&
	       message_reader_pending(&s->in) == 0 && recv(s->channel.fd, &first, 1, MSG_PEEK) == 1 &&
	       startup_is_tls(first);
}

static void
on_readable(struct ev_loop *loop, ev_io *w, int revents)
{
	struct session *s = w->data;

	(void)loop;
	(void)revents;
	if (begins_with_tls(s))
		greeting_direct_tls(s);
	if (s->state == SESSION_TLS)
		shake_hands(s);
	else
		read_in(s);
	session_process(s);
}

static bool
takes_messages(const struct session *s)
{
	switch (s->state) {
	case SESSION_STARTUP:
	case SESSION_READY:
		return true;
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
	rearm(s);
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
	err_set(&err, ERR_FAILED, "%s", states[s->state].late);
	err_sqlstate(&err, "08P01");
	session_drop(s, &err);
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
	s->peer = *peer;
	s->counted = true;
	channel_init(&s->channel, fd);
	s->state = SESSION_STARTUP;
	message_reader_init(&s->in);
	buffer_init(&s->out, SESSION_OUT_MAX);
	ev_io_init(&s->readable, on_readable, fd, EV_READ);
	ev_io_init(&s->writable, on_writable, fd, EV_WRITE);
	ev_timer_init(&s->limit, on_limit, s->site->settings->login_timeout_ms / 1000., 0.);
	s->readable.data = s->writable.data = s->limit.data = s;
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
	rearm(s);
	log_debug("session %u: connection from %s", s->card.id, peer->text);
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
	ev_io_stop(s->loop, &s->readable);
	ev_io_stop(s->loop, &s->writable);
	ev_timer_stop(s->loop, &s->limit);
	silence_stop(s);
	upstream_free(s->buried);
	stream_free(s->stream);
	backup_free(s->backup);
	upload_free(s->upload);
	command_free(&s->command);
	free(s->options);
	free(s->temporary_slot);
	PQclear(s->kept);
	message_reader_free(&s->in);
	buffer_free(&s->out);
	startup_free(&s->startup);
	auth_free(s->auth);
	channel_close(&s->channel);
	site_unref(s->site);
	free(s);
}

bool
session_settle(struct session *s)
{
	/* touched stays set meanwhile: what is touched in here is seen to below, or by the watchers */
	upstream_free(s->buried);
	s->buried = NULL;
	write_out(s);
	if (s->state == SESSION_TLS)
		shake_hands(s);
	else if (channel_pending(&s->channel) && ev_is_active(&s->readable))
		read_in(s);
	farewell(s);
	if (s->up_paused && buffer_len(&s->out) < SESSION_OUT_LOW) {
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
	if (s->buried != NULL)
		worker_touch(s->worker, s);
	return true;
}
