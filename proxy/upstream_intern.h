/*
 * upstream_intern: an upstream connection for upstream.c (its life: connecting, asking, sending, the end) and
 * upstream_read.c (what comes from it).
 */
#ifndef PROXY_UPSTREAM_INTERN_H
#define PROXY_UPSTREAM_INTERN_H

#include "proxy/upstream.h"

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
	bool uploads;   /* the present command takes data: UPLOAD_MANIFEST */
	bool eof;       /* libpq says that the connection is gone; what it holds still counts */
	bool bulk;      /* upstream_bulk */
	unsigned widen; /* reads that may still enlarge libpq's buffer, while much comes */
	unsigned dry;   /* reads since the last whole message */
	size_t passed;  /* bytes of messages handed on since the last read */
	size_t unread;  /* bytes received since the last whole message, about */
	int timeout_ms;
	ev_tstamp heard;
	bool allow_plaintext;
};

/* upstream.c */

/* Of no more use: closed, and the owner told why. */
void upstream_fail(struct upstream *u, const struct err *err);
/* Fill err with what libpq, or the server's last words, say of the connection. Returns -1. */
int upstream_error(struct upstream *u, struct err *err, const char *what);
/* The present question's answer is complete. */
void upstream_asked(struct upstream *u);

/* upstream_read.c */

void upstream_on_readable(struct ev_loop *loop, ev_io *w, int revents);
void upstream_on_tick(struct ev_loop *loop, ev_timer *w, int revents);
/* Hand on what libpq holds, then see to the watcher. */
void upstream_pump(struct upstream *u);
void upstream_rearm(struct upstream *u);

#endif
