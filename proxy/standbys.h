/*
 * standbys: who streams WAL through the proxy, how far each one is, and how its stream ended: the last stream of a
 * standby is remembered when its session is gone, because what ended it proves what the standby has (a primary that
 * shut down in good order has sent everything). Thread-safe: one lock; a session's thread publishes a copy of what it
 * knows, readers take copies.
 */
#ifndef PROXY_STANDBYS_H
#define PROXY_STANDBYS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include "common/err.h"
#include "replication/walscan.h"

/* Streams that have ended: one is remembered for each node and application name, at most so many for a node. */
#define STANDBYS_REMEMBERED 16

enum standby_end {
	STANDBY_STREAMS,
	STANDBY_COMPLETE, /* the walsender's CommandComplete, which nobody asked for: it has sent all that there is */
	STANDBY_TIMELINE, /* the upstream said that the timeline ends */
	STANDBY_CLIENT,   /* the client ended it, or went away */
	STANDBY_LOST,     /* the connection to the upstream was lost */
	STANDBY_ERROR,    /* an error, of the upstream or of the proxy's own checks */
	STANDBY_STOPPED   /* the proxy stopped */
};
const char *standby_end_name(enum standby_end end);

struct standby_who {
	char node[64], application[64], client[80], upstream[64];
	unsigned session;
	uint64_t system_identifier;
	uint32_t tli;
	bool for_backup; /* it began beside a base backup of that client, to fetch its WAL */
};

/* LSNs; 0: not known. */
struct standby_at {
	uint64_t upstream;            /* end of the upstream's WAL, as it said last */
	uint64_t received, sent;      /* from it, and to the client */
	uint64_t write, flush, apply; /* as the client said last */
	uint64_t record, record_end;  /* the last whole record */
	enum walscan_event_kind kind; /* of it; WALSCAN_RECORD: any other */
	uint64_t shutdown_checkpoint; /* the last one */
	int64_t commit_time;          /* of the last commit: microseconds since 2000-01-01 */
	uint64_t timeline_end;        /* where the streamed timeline ends, when the upstream said so */
	uint32_t next_tli;            /* and what follows it */
};

enum standby_position { STANDBY_WRITE, STANDBY_FLUSH, STANDBY_REPLAY, STANDBY_POSITIONS };

struct standby_view {
	struct standby_who who;
	struct standby_at at;
	time_t since, ended; /* ended: 0 while it streams */
	enum standby_end end;
	char why[256];
	/* While it streams; -1: the client has not said. */
	int64_t lag_bytes[STANDBY_POSITIONS];
	double lag_s[STANDBY_POSITIONS];
};

struct standbys;
struct standby;

struct standbys *standbys_new(struct err *err);
void standbys_free(struct standbys *t); /* NULL allowed; when all streams are given back */
/* A stream begins. NULL: out of memory. */
struct standby *standby_begin(struct standbys *t, const struct standby_who *who, struct err *err);
void standby_publish(struct standbys *t, struct standby *b, const struct standby_at *at);
/* The first end is the one that counts. */
void standby_end(struct standbys *t, struct standby *b, enum standby_end end, const char *why);
/* The session has no more to say of it. One for a backup is forgotten, unless its end says what the client has. */
void standby_release(struct standbys *t, struct standby *b);
/* A copy of all, by node and application name, of the same name the latest first; NULL: out of memory. To be freed. */
struct standby_view *standbys_list(struct standbys *t, size_t *n, struct err *err);
/* The lag of each is noted; the last hour is kept. Called every STANDBYS_STEP_S seconds. */
#define STANDBYS_STEP_S 5
#define STANDBYS_KEPT (3600 / STANDBYS_STEP_S)
void standbys_sample(struct standbys *t);
struct standby_sample {
	time_t at;
	int64_t bytes; /* -1: it did not stream, or had not said how far it is */
	float seconds;
};
/* What was noted of the latest stream of each name, oldest first; NULL: out of memory. To be freed. */
struct standby_history {
	struct standby_who who;
	size_t n;
	struct standby_sample samples[STANDBYS_KEPT];
};
struct standby_history *standbys_history(struct standbys *t, size_t *n, struct err *err);
/* The position that a standby's lag is counted to: what it has replayed; of what only receives, what it has flushed or
 * written. */
enum standby_position standby_counts(const struct standby_at *at);
#endif
