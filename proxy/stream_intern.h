/* stream_intern: a stream for stream.c (the stream itself) and stream_check.c (what must be known before it). */
#ifndef PROXY_STREAM_INTERN_H
#define PROXY_STREAM_INTERN_H

#include "proxy/session_intern.h"
#include "replication/copymsg.h"
#include "replication/stage.h"

/* The chain's end: one CopyData message for what the stage hands on between two CHUNK_WAL_END. */
struct walsink {
	struct stage base;
	struct buffer *out;
	struct copymsg header; /* of the upstream's message */
	size_t begun;
	bool open;
	uint64_t *sent; /* of the stream's positions */
};

struct stream {
	const struct keyset *from, *to; /* that the upstream's WAL and the downstream's is under; NULL: clear */
	uint64_t system_identifier, flush_lsn;
	uint32_t current_tli;
	struct ledger_line line;
	struct ledger_place place;
	struct ledger_trace *trace;
	bool check_before; /* the segment before the last one is wanted too */
	bool check_done, check_same, check_failed;
	struct copymsg status; /* the client's last one; zeros before the first */
	struct standbys *standbys;
	struct standby *standby;      /* NULL until it streams */
	struct standby_at at;         /* published after each message */
	enum walscan_event_kind kind; /* of the record that is being reported */
	struct walsink *sink;
	struct stage *chain;
	uint64_t first; /* what the client asked for; what comes before is not for it */
	bool client_done, server_done;
	bool server_shut; /* the upstream ended without CopyDone: it shuts down */
};

/* Clear WAL that we encrypt goes through the ledger; encrypted WAL has its generations already. */
static inline bool
stream_in_ledger(const struct stream *st)
{
	return st->from == NULL && st->to != NULL;
}

/* 3: everything is known; the client's command goes to the upstream. */
void stream_start(struct session *s);

#endif
