#include "proxy/upstream.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "proxy/upstream_ask.h"
#include "proxy/upstream_intern.h"

/* While much comes over TCP, upstream_read.c looks after this time at the latest. */
#define BULK_TICK_S 0.01
#define WIDEN_READS 64

void
upstream_fail(struct upstream *u, const struct err *err)
{
	struct err copy = *err;

	if (u->state == UPSTREAM_DEAD)
		return;
	upstream_close(u);
	u->handler->failed(u->owner, &copy);
}

/* libpq's message, of one line, as the detail. Without what it asks back in a line of its own: details of several
 * upstreams must fit into one. */
int
upstream_error(struct upstream *u, struct err *err, const char *what)
{
	static const char question[] = "\n\tIs the server running";
	const char *message = u->parting[0] != '\0' ? u->parting : PQerrorMessage(u->conn);
	size_t used = 0;

	err_set(err, ERR_UNREACHABLE, "%s upstream \"%s\"", what, u->name);
	err_sqlstate(err, "08006");
	for (const char *p = message; *p != '\0' && used + 1 < sizeof(err->detail); p++) {
		while (strncmp(p, question, sizeof(question) - 1) == 0)
			p += 1 + strcspn(p + 1, "\n");
		if (*p == '\0' || (*p == '\n' && p[1] == '\0'))
			break;
		err->detail[used++] = *p == '\n' || *p == '\t' ? ' ' : *p;
	}
	err->detail[used] = '\0';
	if (PQconnectionNeedsPassword(u->conn))
		err_hint(
		    err,
		    "Put its password into ~/.pgpass of the user that runs the proxy, or into a file that passfile=FILE in "
		    "its conninfo names.");
	return -1;
}

static void
ask_next(struct upstream *u)
{
	struct err err = {0};

	if (upstream_query(u, upstream_questions[u->asked].sql, &err) != 0)
		upstream_fail(u, &err);
	else
		u->state = UPSTREAM_ASKING;
}

/* A question's command is complete. */
void
upstream_asked(struct upstream *u)
{
	const struct upstream_question *q = &upstream_questions[u->asked];
	struct upstream_answer answer = {u->name, u->conn, u->allow_plaintext, &u->facts};
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
		upstream_fail(u, &err);
	} else if (q->take(&answer, res, PQgetvalue(res, 0, q->column), &err) != 0)
		upstream_fail(u, &err);
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
	const char *severity = PQresultErrorField(res, PG_DIAG_SEVERITY_NONLOCALIZED);

	if (u->state == UPSTREAM_BUSY || u->state == UPSTREAM_COPY)
		u->handler->notice(u->owner, res);
	else if (text != NULL && severity != NULL && (strcmp(severity, "FATAL") == 0 || strcmp(severity, "PANIC") == 0))
		/* libpq takes an error that nobody asked for, as a shutdown's, for a notice */
		snprintf(u->parting, sizeof(u->parting), "%s", text);
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
		upstream_pump(u); /* libpq may have read while it wrote */
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
	struct upstream_answer answer = {u->name, u->conn, u->allow_plaintext, &u->facts};
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
		upstream_error(u, &err, "could not connect to");
		upstream_fail(u, &err);
		return;
	}
	watch(u, PQsocket(u->conn));
	ev_set_cb(&u->read, upstream_on_readable);
	ev_set_cb(&u->write, on_writable);
	u->facts.pid = PQbackendPID(u->conn);
	if (PQsetnonblocking(u->conn, 1) != 0) {
		upstream_error(u, &err, "could not talk to");
		upstream_fail(u, &err);
	} else if (upstream_check_way(&answer, &err) != 0 || upstream_check_version(&answer, &err) != 0)
		upstream_fail(u, &err);
	else
		ask_next(u);
	upstream_rearm(u);
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
	upstream_fail(u, &err);
}

static PGconn *
connect_start(const struct upstream_conf *conf)
{
	char idle[16], interval[16], user[16];
	const char *names[16], *values[16];
	size_t n = 0;

	/* a server that acknowledges nothing is given up after twice the idle time; the node's own string may say better */
	snprintf(idle, sizeof(idle), "%d", conf->tcp_keepalive_s);
	snprintf(interval, sizeof(interval), "%d", conf->tcp_keepalive_s / 6 + 1);
	snprintf(user, sizeof(user), "%lld", 2000LL * conf->tcp_keepalive_s);
	if (conf->tcp_keepalive_s > 0) {
		names[n] = "keepalives_idle", values[n++] = idle;
		names[n] = "keepalives_interval", values[n++] = interval;
		names[n] = "keepalives_count", values[n++] = "6";
		names[n] = "tcp_user_timeout", values[n++] = user;
	}
	/* the node's own string first, so that what must be as we say comes later and wins */
	names[n] = "dbname", values[n++] = conf->conninfo;
	/* a walsender without one has none; the name is for .pgpass, as walreceiver has it */
	names[n] = "dbname", values[n++] = conf->database != NULL ? conf->database : "replication";
	names[n] = "replication", values[n++] = conf->database != NULL ? "database" : "true";
	names[n] = "fallback_application_name", values[n++] = "walcrypt-proxy";
	if (conf->application_name != NULL && *conf->application_name != '\0')
		names[n] = "application_name", values[n++] = conf->application_name;
	if (conf->options != NULL)
		names[n] = "options", values[n++] = conf->options;
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
	u->widen = WIDEN_READS;
	u->allow_plaintext = conf->allow_plaintext;
	ev_init(&u->read, on_connecting);
	ev_init(&u->write, on_connecting);
	ev_timer_init(&u->timer, on_timeout, conf->connect_timeout_ms / 1000.0, 0.);
	ev_timer_init(&u->tick, upstream_on_tick, BULK_TICK_S, BULK_TICK_S);
	u->read.data = u->write.data = u->tick.data = u->timer.data = u;
	if ((u->conn = connect_start(conf)) == NULL) {
		err_nomem(err);
		goto fail;
	}
	if (PQstatus(u->conn) == CONNECTION_BAD) {
		upstream_error(u, err, "could not connect to");
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

ev_tstamp
upstream_heard(const struct upstream *u)
{
	return u->heard;
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
		return upstream_error(u, err, "could not send a command to");
	u->state = UPSTREAM_BUSY;
	u->uploads = strcmp(sql, "UPLOAD_MANIFEST") == 0;
	u->heard = ev_now(u->loop);
	u->unread = u->dry = 0;
	u->paused = false;
	flush(u);
	upstream_rearm(u);
	return 0;
}

int
upstream_copy_put(struct upstream *u, const uint8_t *data, size_t len, struct err *err)
{
	if (u->state == UPSTREAM_DEAD || PQputCopyData(u->conn, (const char *)data, (int)len) != 1)
		return upstream_error(u, err, "could not send to");
	flush(u);
	if (!u->paused)
		upstream_pump(u);
	return 0;
}

/* why NULL: CopyDone. */
static int
copy_end(struct upstream *u, const char *why, struct err *err)
{
	if (u->state == UPSTREAM_DEAD || PQputCopyEnd(u->conn, why) != 1)
		return upstream_error(u, err, "could not send to");
	flush(u);
	if (u->state == UPSTREAM_BUSY)
		u->paused = false;
	if (!u->paused)
		upstream_pump(u);
	return 0;
}

int
upstream_copy_done(struct upstream *u, struct err *err)
{
	return copy_end(u, NULL, err);
}

int
upstream_copy_fail(struct upstream *u, const char *why, struct err *err)
{
	return copy_end(u, why, err);
}

bool
upstream_blocked(const struct upstream *u)
{
	return ev_is_active(&u->write);
}
