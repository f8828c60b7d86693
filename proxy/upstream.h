/*
 * upstream: one connection to a PostgreSQL server through libpq, driven by an event loop, never blocking it (but for
 * name resolution, which libpq does by itself: give hostaddr where a name server may be slow).
 *
 * Its life: connect, ask the server what it is and refuse it by name if it is not supported, then commands one at a
 * time, each answered by results and possibly a COPY. The owner is told by the handler's functions; it may call any
 * function of this header in them but upstream_free, for which upstream_close stands in.
 */
#ifndef PROXY_UPSTREAM_H
#define PROXY_UPSTREAM_H

#include <ev.h>
#include <postgresql/libpq-fe.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"

#define UPSTREAM_OLDEST 15
#define UPSTREAM_NEWEST 18

/* What a server says of itself. */
struct upstream_facts {
	int version; /* 150018 */
	int pid;
	uint64_t system_identifier;
	uint32_t tli;
	uint64_t flush_lsn; /* when it was asked */
	uint32_t segment_size;
	int wal_sender_timeout_ms; /* 0: none */
	bool standby, checksums;
};

struct upstream_handler {
	/* Connected, asked and found fit. */
	void (*ready)(void *owner);
	/* Of no more use, in any state; nothing else is called after it. */
	void (*failed)(void *owner, const struct err *err);
	/* One result of the present command, the owner's to PQclear; NULL: the command is complete. */
	void (*result)(void *owner, PGresult *res);
	/* The payload of a CopyData message, lent and writable. 0; 1: taken, but call no more until upstream_resume. */
	int (*copy)(void *owner, uint8_t *data, size_t len);
	/* PGRES_COPY_IN comes as a result: the server takes data until upstream_copy_done or _fail. */
	/* The server ended its side of the COPY. waits: by CopyDone, and it waits for ours; results follow in any case, and
	 * first may be the first of them already: an error always is. */
	void (*copy_end)(void *owner, bool waits, const PGresult *first);
	/* What was kept back because the server did not take it has gone out. */
	void (*flushed)(void *owner);
	void (*notice)(void *owner, const PGresult *res);
};

struct upstream;

struct upstream_conf {
	const char *name;                       /* of the node, for messages */
	const char *conninfo;                   /* of the node */
	const char *application_name, *options; /* of the downstream; NULL: none */
	const char *database;                   /* for SQL besides replication commands; NULL: none */
	int connect_timeout_ms;                 /* for connecting and asking */
	int tcp_keepalive_s;                    /* 0: the system's */
	bool allow_plaintext;                   /* it may be across a network without TLS */
};

/* Begin to connect. NULL with err set when it fails at once; the handler is not called before this returns. */
struct upstream *upstream_new(struct ev_loop *loop, const struct upstream_conf *conf,
                              const struct upstream_handler *handler, void *owner, struct err *err);
/* Another owner, between commands. */
void upstream_give(struct upstream *u, const struct upstream_handler *handler, void *owner);
/* Disconnect at once; the handler is not called any more. Allowed inside it. upstream_free frees what is left. */
void upstream_close(struct upstream *u);
void upstream_free(struct upstream *u); /* NULL allowed; not inside the handler */

/* When something came from it last, or it began to be waited for; ev_now's time. */
ev_tstamp upstream_heard(const struct upstream *u);

const char *upstream_name(const struct upstream *u);
const struct upstream_facts *upstream_facts(const struct upstream *u);
PGconn *upstream_conn(const struct upstream *u);

/* Send a command; -1 with err set. */
int upstream_query(struct upstream *u, const char *sql, struct err *err);
/* Send a CopyData message, and our CopyDone. upstream_blocked says whether the server is slow to take it: send no more
 * until `flushed`. */
int upstream_copy_put(struct upstream *u, const uint8_t *data, size_t len, struct err *err);
int upstream_copy_done(struct upstream *u, struct err *err);
/* The same, but the server shall not take what was sent: why is what it says. */
int upstream_copy_fail(struct upstream *u, const char *why, struct err *err);
bool upstream_blocked(const struct upstream *u);
/* After copy returned 1. Calls the handler for what libpq holds already. */
void upstream_resume(struct upstream *u);

/* Much comes, and throughput counts for more than the milliseconds until it is looked at. */
void upstream_bulk(struct upstream *u, bool on);

/* A time as SHOW prints it ("1min", "2500ms", "0"), in milliseconds; -1 when it is none. */
int upstream_time_parse(const char *text);
/* A size as SHOW prints it ("16MB", "8192", "1GB"), in bytes; 0 when it is none. */
uint64_t upstream_size_parse(const char *text);

#endif
