/* upstream_read: what comes from an upstream: from the socket into libpq, and from there to the owner. */
#include <openssl/ssl.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "proxy/upstream_intern.h"

/* What libpq may hold of one message that is not whole yet. A walsender's are at most 128 KiB, results here far less:
 * a peer that announces more would make libpq hold it all. */
#define PARTIAL_MAX (4u << 20)
#define DRY_READS 64
/* A read that brings this much is followed by another one at once, and so on. */
#define BULK (16u << 10)
#define BULK_READS 16
/* While much comes over TCP, the kernel wakes us for this much, or we look after BULK_TICK_S. */
#define BULK_LOWAT (512 << 10)
/* Until one read hands on so much, libpq's buffer is made larger, from the 64 KiB or 256 KiB that a message needs to
 * 1 MiB, at most 2 MiB. */
#define WIDE (768u << 10)

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
			upstream_asked(u);
		/* an answer to a query that makes libpq copy is no answer, and never ends */
		if (res != NULL && PQresultStatus(res) != PGRES_TUPLES_OK && PQresultStatus(res) != PGRES_COMMAND_OK &&
		    PQresultStatus(res) != PGRES_FATAL_ERROR)
			upstream_asked(u);
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
	if (status == PGRES_COPY_IN && !u->uploads) {
		struct err err = {0};

		PQclear(res);
		err_set(&err, ERR_FAILED, "upstream \"%s\" began a COPY that was not asked for", u->name);
		err_sqlstate(&err, "08P01");
		upstream_fail(u, &err);
		return false;
	}
	if (status == PGRES_COPY_IN)
		/* libpq says so as often as it is asked, until we end it */
		u->paused = true;
	u->handler->result(u->owner, res);
	return true;
}

static void
oversized(struct upstream *u)
{
	struct err err = {0};

	err_set(&err, ERR_FAILED, "upstream \"%s\" sends a message of more than %u bytes", u->name, PARTIAL_MAX);
	err_sqlstate(&err, "08P01");
	upstream_fail(u, &err);
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

void
upstream_rearm(struct upstream *u)
{
	if (u->state == UPSTREAM_DEAD)
		return;
	if (u->paused || u->eof) {
		ev_io_stop(u->loop, &u->read);
		ev_timer_stop(u->loop, &u->tick);
		return;
	}
	ev_io_start(u->loop, &u->read);
	if (!u->bulk)
		ev_timer_stop(u->loop, &u->tick);
	else if (!ev_is_active(&u->tick))
		ev_timer_again(u->loop, &u->tick);
}

void
upstream_pump(struct upstream *u)
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
		upstream_error(u, &err, "lost the connection to");
		upstream_fail(u, &err);
	}
	upstream_rearm(u);
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

	u->heard = ev_now(u->loop);
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

void
upstream_on_readable(struct ev_loop *loop, ev_io *w, int revents)
{
	struct upstream *u = w->data;
	unsigned reads = 0;

	(void)loop;
	(void)revents;
	do {
		bool widen;

		/* by now all of the last read has been handed on, with a pause in between or without */
		if (u->passed >= WIDE)
			u->widen = 0;
		widen = u->bulk && u->widen > 0 && u->passed >= BULK;
		u->passed = 0;
		consume(u);
		if (widen) {
			/* libpq doubles a buffer that it finds full, and keeps it: fewer and larger reads from here on */
			u->widen--;
			consume(u);
		}
		upstream_pump(u);
		if (u->unread > PARTIAL_MAX && u->state != UPSTREAM_DEAD)
			oversized(u);
		/* in bulk, some reads together are one write downstream */
	} while (u->state != UPSTREAM_DEAD && !u->paused && !u->eof &&
	         (ssl_pending(u) || (u->passed >= BULK && ++reads < BULK_READS)));
}

void
upstream_on_tick(struct ev_loop *loop, ev_timer *w, int revents)
{
	struct upstream *u = w->data;
	int there = 0;

	/* that we look is no sign of life from the server; an end of the connection wakes the loop by itself */
	if (ssl_pending(u) || ioctl(PQsocket(u->conn), FIONREAD, &there) != 0 || there > 0)
		upstream_on_readable(loop, &u->read, revents);
}

void
upstream_bulk(struct upstream *u, bool on)
{
	int lowat = on ? BULK_LOWAT : 1;

	/* where it is refused, or means nothing, as on a Unix socket, there is only more waking up */
	if (setsockopt(PQsocket(u->conn), SOL_SOCKET, SO_RCVLOWAT, &lowat, sizeof(lowat)) != 0)
		return;
	u->bulk = on;
	upstream_rearm(u);
}

void
upstream_resume(struct upstream *u)
{
	u->paused = false;
	u->heard = ev_now(u->loop);
	upstream_pump(u);
	/* what TLS took from the socket before the pause: the socket will not say so */
	if (u->state != UPSTREAM_DEAD && !u->paused && !u->eof && ssl_pending(u))
		upstream_on_readable(u->loop, &u->read, EV_READ);
}
