#include "proxy/upstream.h"

#include <openssl/ssl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "proxy/upstream_ask.h"

/* What libpq may hold of one message that is not whole yet. A walsender's are at most 128 KiB, results here far less:
 * a peer that announces more would make libpq hold it all. */
#define PARTIAL_MAX (4u << 20)
#define DRY_READS 64
/* A read that brings this much is followed by another one at once, and so on. */
#define BULK (16u << 10)
#define BULK_READS 16
/* While a base backup comes over TCP, the kernel wakes us for this much, or we look after this time. */
#define BULK_LOWAT (256 << 10)
#define BULK_TICK_S 0.01
#define WIDEN_READS 3

enum upstream_state {
	UPSTREAM_CONNECTING,
	UPSTREAM_ASKING,
	UPSTREAM_IDLE,
	UPSTREAM_BUSY,
	UPSTREAM_COPY,
	UPSTREAM_DEAD
};

struct upstream {
	struct ev_loop *loop;
	char name[64];
	PGconn *conn;
	ev_io read, write;
	ev_timer timer, tick;
	enum upstream_state state;
	const struct upstream_handler *handler;
	void *owner;
	struct upstream_facts facts;
	size_t asked;      /* index into questions */
	PGresult *answer;  /* of the present question */
	char parting[256]; /* what the server said last while nothing was asked of it */
	bool paused, pumping, again;
	bool eof;       /* libpq says that the connection is gone; what it holds still counts */
	unsigned widen; /* reads that may still enlarge libpq's buffer */
	unsigned dry;   /* reads since the last whole message */
	size_t passed;  /* bytes of messages handed on by the last read */
	size_t unread;  /* bytes received since the last whole message, about */
	int timeout_ms;
};

static void pump(struct upstream *u);

static void
fail(struct upstream *u, const struct err *err)
{
	struct err copy = *err;

	if (u->state == UPSTREAM_DEAD)
		return;
	upstream_close(u);
	u->handler->failed(u->owner, &copy);
}

/* libpq's message, of one line, as the detail. */
static int
conn_error(struct upstream *u, struct err *err, const char *what)
{
	const char *message = u->parting[0] != '\0' ? u->parting : PQerrorMessage(u->conn);
	size_t used = 0;

	err_set(err, ERR_UNREACHABLE, "%s upstream \"%s\"", what, u->name);
	err_sqlstate(err, "08006");
	for (const char *p = message; *p != '\0' && used + 1 < sizeof(err->detail); p++) {
		if (*p == '\n' && p[1] == '\0')
			break;
		err->detail[used++] = *p == '\n' || *p == '\t' ? ' ' : *p;
	}
	err->detail[used] = '\0';
	return -1;
}

static void
ask_next(struct upstream *u)
{
	struct err err = {0};

	if (upstream_query(u, upstream_questions[u->asked].sql, &err) != 0)
		fail(u, &err);
	else
		u->state = UPSTREAM_ASKING;
}

/* A question's command is complete. */
static void
asked(struct upstream *u)
{
	const struct upstream_question *q = &upstream_questions[u->asked];
	struct upstream_answer answer = {u->name, u->conn, &u->facts};
	PGresult *res = u->answer;
	struct err err = {0};

	u->answer = NULL;
	if (res == NULL || PQresultStatus(res) != PGRES_TUPLES_OK || PQntuples(res) != 1 || PQnfields(res) <= q->column) {
		const char *message = res == NULL ? NULL : PQresultErrorField(res, PG_DIAG_MESSAGE_PRIMARY);

		if (message == NULL)
			message = PQerrorMessage(u->conn);

		err_set(&err, ERR_REFUSED, "upstream \"%s\" did not answer %s", u->name, q->sql);
		err_sqlstate(&err, "08P01");
		err_detail(&err, "%s", *message == '\0' ? "It may not be a PostgreSQL server." : message);
		fail(u, &err);
	} else if (q->take(&answer, res, PQgetvalue(res, 0, q->column), &err) != 0)
		fail(u, &err);
	else if (++u->asked < upstream_nquestions)
		ask_next(u);
	else {
		ev_timer_stop(u->loop, &u->timer);
		u->state = UPSTREAM_IDLE;
		u->handler->ready(u->owner);
	}
	PQclear(res);
}

static void
on_notice(void *arg, const PGresult *res)
{
	struct upstream *u = arg;

	const char *text = PQresultErrorField(res, PG_DIAG_MESSAGE_PRIMARY);

	if (u->state == UPSTREAM_BUSY || u->state == UPSTREAM_COPY)
		u->handler->notice(u->owner, res);
	else if (text != NULL)
		/* libpq takes an error that nobody asked for, as a shutdown's, for a notice */
		snprintf(u->parting, sizeof(u->parting), "%s", text);
}

/* One step of what libpq holds; false when there is nothing more to do now. */
static bool
pump_result(struct upstream *u)
{
	PGresult *res;
	ExecStatusType status;

	if (PQisBusy(u->conn))
		return false;
	res = PQgetResult(u->conn);
	u->unread = u->dry = 0;
	if (u->state == UPSTREAM_ASKING) {
		if (res != NULL) {
			PQclear(u->answer);
			u->answer = res;
		} else
			asked(u);
		/* an answer to a query that makes libpq copy is no answer, and never ends */
		if (res != NULL && PQresultStatus(res) != PGRES_TUPLES_OK && PQresultStatus(res) != PGRES_COMMAND_OK &&
		    PQresultStatus(res) != PGRES_FATAL_ERROR)
			asked(u);
		return true;
	}
	if (res == NULL) {
		u->state = UPSTREAM_IDLE;
		u->handler->result(u->owner, NULL);
		return true;
	}
	status = PQresultStatus(res);
	if (status == PGRES_COPY_OUT || status == PGRES_COPY_BOTH)
		u->state = UPSTREAM_COPY;
	if (status == PGRES_COPY_IN) {
		struct err err = {0};

		PQclear(res);
		err_set(&err, ERR_FAILED, "upstream \"%s\" began a COPY that no replication command has", u->name);
		err_sqlstate(&err, "08P01");
		fail(u, &err);
		return false;
	}
	u->handler->result(u->owner, res);
	return true;
}

static void
oversized(struct upstream *u)
{
	struct err err = {0};

	err_set(&err, ERR_FAILED, "upstream \"%s\" sends a message of more than %u bytes", u->name, PARTIAL_MAX);
	err_sqlstate(&err, "08P01");
	fail(u, &err);
}

static bool
pump_copy(struct upstream *u)
{
	char *data;
	int n = PQgetCopyData(u->conn, &data, 1);

	if (n == 0)
		return false;
	u->unread = u->dry = 0;
	if (n > (int)PARTIAL_MAX) {
		PQfreemem(data);
		oversized(u);
		return false;
	}
	if (n > 0) {
		u->passed += (size_t)n;
		if (u->handler->copy(u->owner, (uint8_t *)data, (size_t)n) != 0)
			u->paused = true;
		PQfreemem(data);
		return true;
	}
	if (n == -1) {
		PGresult *res = NULL;
		bool waits = false;

		u->state = UPSTREAM_BUSY;
		/* after a CopyDone that we have not answered, PQgetResult says so, as often as it is asked */
		if (!PQisBusy(u->conn)) {
			res = PQgetResult(u->conn);
			waits = PQresultStatus(res) == PGRES_COPY_IN;
		}
		if (waits) {
			PQclear(res);
			res = NULL;
			/* nothing can come before our CopyDone: upstream_copy_done goes on */
			u->paused = true;
		}
		u->handler->copy_end(u->owner, waits, res);
		if (res != NULL && u->state == UPSTREAM_BUSY)
			u->handler->result(u->owner, res);
		else
			PQclear(res);
		return u->state == UPSTREAM_BUSY && !waits;
	}
	u->eof = true;
	return false;
}

static void
rearm(struct upstream *u)
{
	if (u->state == UPSTREAM_DEAD)
		return;
	if (u->paused || u->eof)
		ev_io_stop(u->loop, &u->read);
	else
		ev_io_start(u->loop, &u->read);
}

/* Hand on what libpq holds, then see to the watchers. */
static void
pump(struct upstream *u)
{
	struct err err = {0};
	bool more = true;

	if (u->pumping) {
		u->again = true;
		return;
	}
	u->pumping = true;
	do {
		u->again = false;
		for (more = true; more && !u->paused;)
			switch (u->state) {
			case UPSTREAM_ASKING:
			case UPSTREAM_BUSY:
				more = pump_result(u);
				break;
			case UPSTREAM_COPY:
				more = pump_copy(u);
				break;
			default:
				more = false;
			}
	} while (u->again && u->state != UPSTREAM_DEAD);
	u->pumping = false;
	if (u->state != UPSTREAM_DEAD && u->eof && !u->paused) {
		conn_error(u, &err, "lost the connection to");
		fail(u, &err);
	}
	rearm(u);
}

static bool
ssl_pending(struct upstream *u)
{
	SSL *ssl = PQsslStruct(u->conn, "OpenSSL");

	return ssl != NULL && SSL_pending(ssl) > 0;
}

/* Read once. How much of one message libpq holds is its secret; when many reads have brought no whole one, what leaves
 * the socket is counted. (What arrives meanwhile is not: a fast flood is noticed when it is whole.) */
static void
consume(struct upstream *u)
{
	bool count = ++u->dry > DRY_READS;
	int before = 0, after = 0;

	if (count)
		(void)ioctl(PQsocket(u->conn), FIONREAD, &before);
	if (!PQconsumeInput(u->conn))
		u->eof = true;
	else if (count && ioctl(PQsocket(u->conn), FIONREAD, &after) == 0 && before > after)
		u->unread += (size_t)(before - after);
	if (!u->eof && u->state == UPSTREAM_IDLE)
		/* nothing was asked: only notices may come, which this takes in */
		(void)PQisBusy(u->conn);
}

static void
on_readable(struct ev_loop *loop, ev_io *w, int revents)
{
	struct upstream *u = w->data;
	unsigned reads = 0;

	(void)loop;
	(void)revents;
	do {
		u->passed = 0;
		consume(u);
		if (u->widen > 0) {
			/* libpq doubles a buffer that it finds full, and keeps it: fewer and larger reads from here on */
			u->widen--;
			consume(u);
		}
		pump(u);
		if (u->unread > PARTIAL_MAX && u->state != UPSTREAM_DEAD)
			oversized(u);
		/* in bulk, some reads together are one write downstream */
	} while (u->state != UPSTREAM_DEAD && !u->paused && !u->eof &&
	         (ssl_pending(u) || (u->passed >= BULK && ++reads < BULK_READS)));
}

static void
on_tick(struct ev_loop *loop, ev_timer *w, int revents)
{
	struct upstream *u = w->data;

	if (ev_is_active(&u->read))
		on_readable(loop, &u->read, revents);
}

void
upstream_bulk(struct upstream *u, bool on)
{
	int lowat = on ? BULK_LOWAT : 1;

	/* where it is refused, or means nothing, as on a Unix socket, there is only more waking up */
	if (setsockopt(PQsocket(u->conn), SOL_SOCKET, SO_RCVLOWAT, &lowat, sizeof(lowat)) != 0)
		return;
	ev_timer_stop(u->loop, &u->tick);
	u->widen = on ? WIDEN_READS : 0;
	if (on)
		ev_timer_again(u->loop, &u->tick);
}

static void
flush(struct upstream *u)
{
	int rc = PQflush(u->conn);

	if (rc < 0)
		u->eof = true;
	if (rc > 0)
		ev_io_start(u->loop, &u->write);
	else
		ev_io_stop(u->loop, &u->write);
}

static void
on_writable(struct ev_loop *loop, ev_io *w, int revents)
{
	struct upstream *u = w->data;

	(void)loop;
	(void)revents;
	flush(u);
	if (!ev_is_active(&u->write) && !u->eof)
		u->handler->flushed(u->owner);
	if (u->state != UPSTREAM_DEAD)
		pump(u); /* libpq may have read while it wrote */
}

static void
watch(struct upstream *u, int fd)
{
	ev_io_stop(u->loop, &u->read);
	ev_io_stop(u->loop, &u->write);
	ev_io_set(&u->read, fd, EV_READ);
	ev_io_set(&u->write, fd, EV_WRITE);
}

static void
on_connecting(struct ev_loop *loop, ev_io *w, int revents)
{
	struct upstream *u = w->data;
	struct upstream_answer answer = {u->name, u->conn, &u->facts};
	struct err err = {0};

	(void)loop;
	(void)revents;
	switch (PQconnectPoll(u->conn)) {
	case PGRES_POLLING_READING:
		watch(u, PQsocket(u->conn)); /* the next address has another socket */
		ev_io_start(u->loop, &u->read);
		return;
	case PGRES_POLLING_WRITING:
		watch(u, PQsocket(u->conn));
		ev_io_start(u->loop, &u->write);
		return;
	case PGRES_POLLING_OK:
		break;
	default:
		conn_error(u, &err, "could not connect to");
		fail(u, &err);
		return;
	}
	watch(u, PQsocket(u->conn));
	ev_set_cb(&u->read, on_readable);
	ev_set_cb(&u->write, on_writable);
	u->facts.pid = PQbackendPID(u->conn);
	if (PQsetnonblocking(u->conn, 1) != 0) {
		conn_error(u, &err, "could not talk to");
		fail(u, &err);
	} else if (upstream_check_version(&answer, &err) != 0)
		fail(u, &err);
	else
		ask_next(u);
	rearm(u);
}

static void
on_timeout(struct ev_loop *loop, ev_timer *w, int revents)
{
	struct upstream *u = w->data;
	struct err err = {0};

	(void)loop;
	(void)revents;
	err_set(&err, ERR_UNREACHABLE, "could not connect to upstream \"%s\": no answer within %d ms", u->name,
	        u->timeout_ms);
	err_sqlstate(&err, "08001");
	err_hint(&err, "Is the server up and reachable? The time is set by connect_timeout.");
	fail(u, &err);
}

static PGconn *
connect_start(const struct upstream_conf *conf)
{
	char keepalive[16];
	const char *names[10], *values[10];
	size_t n = 0;

	snprintf(keepalive, sizeof(keepalive), "%d", conf->tcp_keepalive_s);
	/* the node's own string first, so that what must be as we say comes later and wins */
	names[n] = "dbname", values[n++] = conf->conninfo;
	names[n] = "dbname", values[n++] = "replication"; /* for .pgpass, as walreceiver has it */
	names[n] = "replication", values[n++] = "true";
	names[n] = "fallback_application_name", values[n++] = "walcrypt-proxy";
	if (conf->application_name != NULL && *conf->application_name != '\0')
		names[n] = "application_name", values[n++] = conf->application_name;
	if (conf->options != NULL)
		names[n] = "options", values[n++] = conf->options;
	if (conf->tcp_keepalive_s > 0)
		names[n] = "keepalives_idle", values[n++] = keepalive;
	names[n] = NULL, values[n] = NULL;
	return PQconnectStartParams(names, values, 1);
}

struct upstream *
upstream_new(struct ev_loop *loop, const struct upstream_conf *conf, const struct upstream_handler *handler,
             void *owner, struct err *err)
{
	struct upstream *u = calloc(1, sizeof(*u));

	if (u == NULL) {
		err_nomem(err);
		return NULL;
	}
	u->loop = loop;
	snprintf(u->name, sizeof(u->name), "%s", conf->name);
	u->handler = handler;
	u->owner = owner;
	u->timeout_ms = conf->connect_timeout_ms;
	ev_init(&u->read, on_connecting);
	ev_init(&u->write, on_connecting);
	ev_timer_init(&u->timer, on_timeout, conf->connect_timeout_ms / 1000.0, 0.);
	ev_timer_init(&u->tick, on_tick, BULK_TICK_S, BULK_TICK_S);
	u->read.data = u->write.data = u->tick.data = u->timer.data = u;
	if ((u->conn = connect_start(conf)) == NULL) {
		err_nomem(err);
		goto fail;
	}
	if (PQstatus(u->conn) == CONNECTION_BAD) {
		conn_error(u, err, "could not connect to");
		goto fail;
	}
	PQsetNoticeReceiver(u->conn, on_notice, u);
	watch(u, PQsocket(u->conn));
	ev_io_start(loop, &u->write);
	/* the loop's clock may be old when this is called after long work */
	ev_now_update(loop);
	ev_timer_start(loop, &u->timer);
	return u;
fail:
	upstream_free(u);
	return NULL;
}

void
upstream_give(struct upstream *u, const struct upstream_handler *handler, void *owner)
{
	u->handler = handler;
	u->owner = owner;
}

void
upstream_close(struct upstream *u)
{
	if (u->state == UPSTREAM_DEAD)
		return;
	u->state = UPSTREAM_DEAD;
	ev_io_stop(u->loop, &u->read);
	ev_io_stop(u->loop, &u->write);
	ev_timer_stop(u->loop, &u->timer);
	ev_timer_stop(u->loop, &u->tick);
}

void
upstream_free(struct upstream *u)
{
	if (u == NULL)
		return;
	upstream_close(u);
	PQclear(u->answer);
	PQfinish(u->conn);
	free(u);
}

const char *
upstream_name(const struct upstream *u)
{
	return u->name;
}

const struct upstream_facts *
upstream_facts(const struct upstream *u)
{
	return &u->facts;
}

PGconn *
upstream_conn(const struct upstream *u)
{
	return u->conn;
}

int
upstream_query(struct upstream *u, const char *sql, struct err *err)
{
	if (u->state == UPSTREAM_DEAD || !PQsendQuery(u->conn, sql))
		return conn_error(u, err, "could not send a command to");
	u->state = UPSTREAM_BUSY;
	u->unread = u->dry = 0;
	u->paused = false;
	flush(u);
	rearm(u);
	return 0;
}

int
upstream_copy_put(struct upstream *u, const uint8_t *data, size_t len, struct err *err)
{
	if (u->state == UPSTREAM_DEAD || PQputCopyData(u->conn, (const char *)data, (int)len) != 1)
		return conn_error(u, err, "could not send to");
	flush(u);
	if (!u->paused)
		pump(u);
	return 0;
}

int
upstream_copy_done(struct upstream *u, struct err *err)
{
	if (u->state == UPSTREAM_DEAD || PQputCopyEnd(u->conn, NULL) != 1)
		return conn_error(u, err, "could not send to");
	flush(u);
	if (u->state == UPSTREAM_BUSY)
		u->paused = false;
	if (!u->paused)
		pump(u);
	return 0;
}

bool
upstream_blocked(const struct upstream *u)
{
	return ev_is_active(&u->write);
}

void
upstream_resume(struct upstream *u)
{
	u->paused = false;
	pump(u);
}
