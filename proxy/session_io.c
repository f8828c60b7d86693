/* session_io: a session's client at the socket: what comes in, what goes out, the TLS handshake. */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#include "proxy/session_intern.h"

void
session_io_rearm(struct session *s)
{
	/* at its end nothing is kept of what it sends */
	bool room = s->state == SESSION_CLOSING ||
	            message_reader_pending(&s->in) < (s->counted ? SESSION_LOGIN_HIGH : SESSION_IN_HIGH);
	/* nor while TLS has something of its own to send: it takes nothing in then, and the socket would go on saying so */
	bool read = s->state != SESSION_CLOSED && room && !s->channel.wants_write;
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

static const char *
io_error(const struct session *s)
{
	if (errno == EPROTO)
		return s->channel.why;
	return errno == EPIPE || errno == ECONNRESET ? "the client has gone" : strerror(errno);
}

/* The client has taken nothing for client_stall_timeout. States that have a limit of their own go by that. */
static void
on_stall(struct ev_loop *loop, ev_timer *w, int revents)
{
	struct session *s = w->data;
	struct err err = {0};

	(void)loop;
	(void)revents;
	if (s->state == SESSION_STREAM || s->state == SESSION_DRAIN || s->state == SESSION_CLOSING)
		return;
	err_set(&err, ERR_UNREACHABLE, "the client has taken nothing for %g s", w->repeat);
	err_sqlstate(&err, "08006");
	err_hint(&err, "The time is set by client_stall_timeout.");
	session_drop(s, &err);
}

/* After an attempt to write: it begins again with each byte that goes out. */
static void
watch_stall(struct session *s, bool moved)
{
	if (buffer_len(&s->out) == 0)
		ev_timer_stop(s->loop, &s->stall);
	else if (moved || !ev_is_active(&s->stall))
		ev_timer_again(s->loop, &s->stall);
}

/* One write of the first len bytes: what does not go out now waits for the socket, and others have their turn. */
static void
write_out(struct session *s, size_t len)
{
	ssize_t n;

	if (len == 0)
		return;
	buffer_seal(&s->out, len);
	n = channel_write(&s->channel, buffer_data(&s->out), len);
	if (n > 0) {
		buffer_consume(&s->out, (size_t)n);
		if (buffer_len(&s->out) == 0 && !s->bulk && s->out.cap > SESSION_BULK_HIGH)
			buffer_free(&s->out); /* who has caught up keeps nothing of it */
		s->card.to_downstream += (uint64_t)n;
		s->stats->sent += (uint64_t)n;
	} else if (n <= 0 && errno != EAGAIN && errno != EINTR)
		session_close(s, io_error(s));
	s->out_waits = n < (ssize_t)len;
	watch_stall(s, n > 0);
}

void
session_io_ahead(struct session *s)
{
	if (!s->out_waits && buffer_len(&s->out) > SESSION_BULK_KEPT)
		write_out(s, buffer_len(&s->out) - SESSION_BULK_KEPT);
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

void
session_io_init(struct session *s, int fd)
{
	channel_init(&s->channel, fd);
	message_reader_init(&s->in);
	buffer_init(&s->out, SESSION_OUT_MAX);
	ev_io_init(&s->readable, on_readable, fd, EV_READ);
	ev_io_init(&s->writable, on_writable, fd, EV_WRITE);
	ev_init(&s->stall, on_stall);
	s->stall.repeat = s->site->settings->client_stall_timeout_ms / 1000.;
	s->readable.data = s->writable.data = s->stall.data = s;
}

void
session_io_settle(struct session *s)
{
	write_out(s, buffer_len(&s->out));
	if (s->state == SESSION_TLS)
		shake_hands(s);
	else if (s->channel.wants_write || (channel_pending(&s->channel) && ev_is_active(&s->readable)))
		read_in(s);
	farewell(s);
}

void
session_io_free(struct session *s)
{
	ev_io_stop(s->loop, &s->readable);
	ev_io_stop(s->loop, &s->writable);
	ev_timer_stop(s->loop, &s->stall);
	message_reader_free(&s->in);
	buffer_free(&s->out);
	channel_close(&s->channel);
}
