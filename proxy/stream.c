/*
 * stream: START_REPLICATION PHYSICAL. For a node with a keyset:
 *
 *   1 IDENTIFY_SYSTEM, and TIMELINE_HISTORY of the timeline asked for: which line of the ledger it is
 *   2 check: what was sent last is read again and must be the same; else the line gets a new incarnation
 *   3 the upstream is asked from the beginning of the segment that holds the start; what lies before the start is
 * dropped 4 each message: recorded in the ledger, encrypted, sent as one message of the same length (finding P1) 5 the
 * end: CopyDone passes both ways, then the upstream's results
 *
 * A clear node's stream is passed on as it comes.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "proxy/encode.h"
#include "proxy/session_intern.h"
#include "replication/copymsg.h"
#include "replication/walstream.h"
#include "walcrypt/digest.h"
#include "walcrypt/pgfile.h"
#include "walcrypt/wal.h"

/* The chain's end: one CopyData message for what the stage hands on between two CHUNK_WAL_END. */
struct walsink {
	struct stage base;
	struct buffer *out;
	struct copymsg header; /* of the upstream's message */
	size_t begun;
	bool open;
	_Atomic uint64_t *sent; /* of the session's card */
};

struct stream {
	const struct keyset *keyset; /* NULL: a clear node */
	uint64_t system_identifier, flush_lsn;
	uint32_t current_tli;
	struct ledger_line line;
	struct ledger_place place;
	struct ledger_trace *trace;
	bool check_before; /* the segment before the last one is wanted too */
	bool check_done, check_same, check_failed;
	struct walsink *sink;
	struct stage *chain;
	bool client_done, server_done;
	bool server_shut; /* the upstream ended without CopyDone: it shuts down */
};

static void
sink_free(struct stage *stage)
{
	free(stage);
}

static int
sink_push(struct stage *stage, struct chunk *c, struct err *err)
{
	struct walsink *sink = (struct walsink *)stage;

	if (c->kind == CHUNK_WAL && c->len > 0) {
		if (!sink->open) {
			sink->header.start = c->pos;
			sink->header.data = NULL;
			sink->header.len = 0;
			sink->begun = message_begin(sink->out, 'd');
			copymsg_put(sink->out, &sink->header);
			sink->open = true;
		}
		buffer_put(sink->out, c->data, c->len);
		*sink->sent = c->pos + c->len;
	} else if (c->kind == CHUNK_WAL_END && sink->open) {
		sink->open = false;
		return message_end(sink->out, sink->begun, err);
	}
	return 0;
}

static int
sink_finish(struct stage *stage, struct err *err)
{
	(void)stage;
	(void)err;
	return 0;
}

static const struct stage_ops sink_ops = {sink_push, sink_finish, sink_free};

void
stream_free(struct stream *st)
{
	if (st == NULL)
		return;
	ledger_trace_free(st->trace);
	stage_free(st->chain);
	free(st);
}

/* 5: the end. */

/* The upstream went down in good order: tell the client so, as a CommandComplete of the COPY, and end. */
static void
say_shut(struct session *s)
{
	struct err err = {0};

	if (message_command_complete(&s->out, "COPY 0", &err) != 0 || message_ready(&s->out, 'I', &err) != 0) {
		session_drop(s, &err);
		return;
	}
	err_set(&err, ERR_UNREACHABLE, "upstream \"%s\" is shut down", s->card.upstream);
	err_sqlstate(&err, "57P01");
	session_drop(s, &err);
}

static void
stream_copy_end(struct session *s, bool waits, const PGresult *first)
{
	struct stream *st = s->stream;
	ExecStatusType status = first == NULL ? PGRES_EMPTY_QUERY : PQresultStatus(first);
	struct err err = {0};

	if (status == PGRES_FATAL_ERROR)
		return; /* passed on as it comes */
	st->server_done = true;
	st->server_shut = !waits && !st->client_done;
	if (message_copy_done(&s->out, &err) != 0) {
		session_drop(s, &err);
		return;
	}
	session_put(s);
	if (!st->client_done) {
		log_debug("session %u (%s): the upstream ended the stream%s", s->card.id, s->card.node,
		          st->server_shut ? ": it shuts down" : "");
		session_move(s, SESSION_DRAIN);
	}
}

bool
stream_survives(struct session *s)
{
	return s->stream != NULL && s->stream->server_shut;
}

static void
client_done(struct session *s)
{
	struct stream *st = s->stream;
	struct err err = {0};

	st->client_done = true;
	if (st->server_shut)
		say_shut(s);
	else if (upstream_copy_done(s->up, &err) != 0)
		session_drop(s, &err);
}

/* 4: the stream. */

void
stream_message(struct session *s, const struct message *m)
{
	struct copymsg msg;
	struct err err = {0};

	if (m->type == 'c' && !s->stream->client_done) {
		client_done(s);
		return;
	}
	if (m->type != 'd' || s->stream->client_done) {
		err_set(&err, ERR_FAILED, "invalid standby message type \"%c\"", m->type);
		err_sqlstate(&err, "08P01");
		session_drop(s, &err);
		return;
	}
	if (copymsg_parse_client((uint8_t *)m->data, m->len, &msg, &err) != 0) {
		session_drop(s, &err);
		return;
	}
	if (msg.kind == COPYMSG_STATUS) {
		s->card.write = msg.write;
		s->card.flush = msg.flush;
		s->card.apply = msg.apply;
	}
	/* an upstream that shuts down is not there any more for the last of them */
	if (s->up != NULL && !s->stream->server_shut && upstream_copy_put(s->up, m->data, m->len, &err) != 0)
		session_drop(s, &err);
}

static int
pass_copydata(struct session *s, const uint8_t *data, size_t len)
{
	struct err err = {0};

	if (message_copy_data(&s->out, data, len, &err) != 0) {
		session_drop(s, &err);
		return 0;
	}
	session_put(s);
	return session_pause(s);
}

static int
stream_copy(struct session *s, uint8_t *data, size_t len)
{
	struct stream *st = s->stream;
	struct chunk chunk = {.kind = CHUNK_WAL}, end = {.kind = CHUNK_WAL_END};
	struct copymsg m;
	struct err err = {0};

	if (copymsg_parse_server(data, len, &m, &err) != 0)
		goto fail;
	if (m.kind != COPYMSG_WAL || st->keyset == NULL) {
		if (m.kind == COPYMSG_WAL)
			s->card.sent = m.start + m.len;
		return pass_copydata(s, data, len);
	}
	/* the ledger first: what has not been recorded must not leave */
	if (ledger_trace_record(st->trace, m.start, m.data, m.len, &err) != 0)
		goto fail;
	st->sink->header = m;
	chunk.pos = m.start;
	chunk.data = m.data;
	chunk.len = m.len;
	if (stage_push(st->chain, &chunk, &err) < 0 || stage_push(st->chain, &end, &err) < 0)
		goto fail;
	session_put(s);
	return session_pause(s);
fail:
	if (st->sink != NULL && st->sink->open) {
		buffer_rewind(&s->out, st->sink->begun);
		st->sink->open = false;
	}
	err_context(&err, "upstream \"%s\"", upstream_name(s->up));
	session_drop(s, &err);
	return 0;
}

static void
stream_result(struct session *s, PGresult *res)
{
	ExecStatusType status = PQresultStatus(res);

	if (s->stream->server_shut)
		PQclear(res); /* say_shut says it, when the client has answered */
	else if (res == NULL)
		session_ready(s);
	else if (status == PGRES_COPY_BOTH && s->state == SESSION_COMMAND) {
		message_reader_phase(&s->in, MESSAGE_COPY);
		session_move(s, SESSION_STREAM);
		session_pass(s, res);
	} else if (status == PGRES_COPY_OUT || status == PGRES_COPY_BOTH) {
		struct err err = {0};

		PQclear(res);
		err_set(&err, ERR_FAILED, "upstream \"%s\" answers START_REPLICATION with another COPY", upstream_name(s->up));
		err_sqlstate(&err, "08P01");
		session_drop(s, &err);
	} else
		session_pass(s, res);
}

static const struct session_mode stream_mode = {stream_result, stream_copy, stream_copy_end};

/* 3: the start. */

static int
chain_make(struct session *s, struct err *err)
{
	struct stream *st = s->stream;
	struct walstream_conf conf = {.keyset = st->keyset,
	                              .system_identifier = st->system_identifier,
	                              .tli = st->line.tli,
	                              .segment_size = upstream_facts(s->up)->segment_size,
	                              .from = s->command.lsn,
	                              .scan = true};
	const struct keyset_epoch *epoch = keyset_wal_write(st->keyset, st->line.tli);

	ledger_trace_free(st->trace);
	st->trace = ledger_trace_new(s->proxy->ledger, &st->line, &st->place, &epoch->key, conf.segment_size, err);
	if (st->trace == NULL ||
	    wal_proxy_generation(st->keyset, st->system_identifier, st->line.tli, st->line.history_sha256,
	                         st->place.incarnation, &conf.generation, err) != 0)
		return -1;
	if ((st->sink = calloc(1, sizeof(*st->sink))) == NULL)
		return err_nomem(err);
	st->sink->base.ops = &sink_ops;
	st->sink->out = &s->out;
	st->sink->sent = &s->card.sent;
	if ((st->chain = walstream_new(&conf, &st->sink->base, err)) == NULL) {
		free(st->sink);
		st->sink = NULL;
		return -1;
	}
	s->command.lsn = walstream_begin(s->command.lsn, conf.segment_size);
	s->command.timeline = st->line.tli;
	return 0;
}

static void
start(struct session *s)
{
	struct err err = {0};
	char *sql;

	if ((s->stream->keyset != NULL && chain_make(s, &err) != 0) || command_write(&s->command, &sql, &err) != 0) {
		session_refuse(s, &err);
		return;
	}
	s->card.tli = s->stream->line.tli;
	session_query(s, sql, &stream_mode);
	free(sql);
}

/* 2: the check. */

static void
renew(struct session *s, const char *why)
{
	struct stream *st = s->stream;
	struct err err = {0};
	char lsn[LSN_TEXT_LEN];

	lsn_format(lsn, st->place.position);
	log_warning("timeline %" PRIu32 " of cluster %" PRIu64 " begins a new incarnation: %s (sent up to %s before)",
	            st->line.tli, st->line.system_identifier, why, lsn);
	if (ledger_renew(s->proxy->ledger, &st->line, st->place.incarnation, &st->place, &err) != 0)
		session_drop(s, &err);
	else
		start(s);
}

static void check_begin(struct session *s);

/* The upstream has not all that the check wants: perhaps it has the last segment alone. */
static void
check_short(struct session *s)
{
	struct stream *st = s->stream;

	if (st->check_before) {
		st->check_before = false;
		check_begin(s);
	} else
		renew(s, "upstream does not have the WAL any more that was sent last");
}

static void
on_slot(struct session *s, const PGresult *res)
{
	(void)res; /* what is wrong with it the START_REPLICATION will say */
	check_short(s);
}

static void
check_over(struct session *s)
{
	struct stream *st = s->stream;

	/* an error takes the connection's temporary slots away (WalSndErrorCleanup): the client's too, which saw no error
	 */
	if (!st->check_done && st->check_failed && s->temporary_slot != NULL)
		session_ask(s, s->temporary_slot, on_slot);
	else if (!st->check_done)
		check_short(s);
	else if (!st->check_same)
		renew(s, "upstream's WAL differs from what was sent before: it has been rolled back");
	else
		start(s);
}

static void
check_result(struct session *s, PGresult *res)
{
	struct err err = {0};

	if (res != NULL && PQresultStatus(res) == PGRES_FATAL_ERROR)
		s->stream->check_failed = true;
	if (res == NULL)
		check_over(s);
	else if (encode_is_own_error(res)) {
		err_set(&err, ERR_UNREACHABLE, "lost the connection to upstream \"%s\"", upstream_name(s->up));
		err_sqlstate(&err, "08006");
		session_drop(s, &err);
	}
	PQclear(res);
}

static int
check_copy(struct session *s, uint8_t *data, size_t len)
{
	struct stream *st = s->stream;
	struct copymsg m;
	struct err err = {0};

	if (copymsg_parse_server(data, len, &m, &err) != 0)
		goto fail;
	if (m.kind != COPYMSG_WAL || st->check_done)
		return 0;
	if (ledger_trace_check(st->trace, m.start, m.data, m.len, &st->check_done, &st->check_same, &err) != 0)
		goto fail;
	if (st->check_done && upstream_copy_done(s->up, &err) != 0)
		goto fail;
	return 0;
fail:
	err_context(&err, "upstream \"%s\"", upstream_name(s->up));
	session_drop(s, &err);
	return 0;
}

static void
check_copy_end(struct session *s, bool waits, const PGresult *first)
{
	struct err err = {0};

	(void)first;
	if (waits && upstream_copy_done(s->up, &err) != 0)
		session_drop(s, &err);
}

static const struct session_mode check_mode = {check_result, check_copy, check_copy_end};

static void
check_begin(struct session *s)
{
	struct stream *st = s->stream;
	uint32_t segment_size = upstream_facts(s->up)->segment_size;
	const struct keyset_epoch *epoch = keyset_wal_write(st->keyset, st->line.tli);
	struct err err = {0};
	char sql[96], lsn[LSN_TEXT_LEN];

	st->check_failed = false;
	ledger_trace_free(st->trace);
	st->trace = ledger_trace_new(s->proxy->ledger, &st->line, &st->place, &epoch->key, segment_size, &err);
	if (st->trace == NULL) {
		session_drop(s, &err);
		return;
	}
	lsn_format(lsn, ledger_check_start(&st->place, segment_size, st->check_before));
	snprintf(sql, sizeof(sql), "START_REPLICATION PHYSICAL %s TIMELINE %" PRIu32, lsn, st->line.tli);
	session_query(s, sql, &check_mode);
}

static void
check(struct session *s)
{
	struct stream *st = s->stream;
	const struct keyset_epoch *epoch = keyset_wal_write(st->keyset, st->line.tli);
	struct err err = {0};
	const char *why;

	if (key_id(epoch->key.bytes, (size_t)epoch->key.len, st->line.key_id, &err) != 0 ||
	    ledger_find(s->proxy->ledger, &st->line, &st->place, &why, &err) != 0) {
		session_drop(s, &err);
		return;
	}
	if (why != NULL)
		log_info("timeline %" PRIu32 " of cluster %" PRIu64 " begins a new incarnation: %s", st->line.tli,
		         st->line.system_identifier, why);
	if (st->place.position == 0) {
		start(s);
		return;
	}
	if (st->line.tli == st->current_tli && st->flush_lsn < st->place.position) {
		renew(s, "upstream is behind what was sent: it has been rolled back");
		return;
	}
	st->check_before = ledger_check_before(&st->place, upstream_facts(s->up)->segment_size);
	check_begin(s);
}

/* 1: which line it is. */

static void
on_history(struct session *s, const PGresult *res)
{
	struct err err = {0};
	uint8_t hash[DIGEST_MAX_LEN];
	struct digest *d;
	int rc = -1;

	if (res == NULL || PQresultStatus(res) != PGRES_TUPLES_OK || PQntuples(res) != 1 || PQnfields(res) < 2) {
		const char *said = res == NULL ? NULL : PQresultErrorField(res, PG_DIAG_MESSAGE_PRIMARY);

		err_set(&err, ERR_FAILED, "upstream \"%s\" does not give the history of timeline %" PRIu32,
		        upstream_name(s->up), s->stream->line.tli);
		err_sqlstate(&err, "55000");
		err_detail(&err, "%s", said == NULL ? "The answer has another shape." : said);
		session_refuse(s, &err);
		return;
	}
	if ((d = digest_new(DIGEST_SHA256, &err)) != NULL &&
	    digest_update(d, PQgetvalue(res, 0, 1), (size_t)PQgetlength(res, 0, 1), &err) == 0)
		rc = digest_final(d, hash, &err);
	digest_free(d);
	if (rc < 0) {
		session_drop(s, &err);
		return;
	}
	memcpy(s->stream->line.history_sha256, hash, sizeof(s->stream->line.history_sha256));
	check(s);
}

/* What the server itself would refuse at the position asked for: it is not asked there, but at the segment's beginning.
 */
static int
position_check(struct session *s, struct err *err)
{
	const struct stream *st = s->stream;
	char from[LSN_TEXT_LEN], flush[LSN_TEXT_LEN];

	if (st->line.tli != st->current_tli || s->command.lsn <= st->flush_lsn)
		return 0;
	lsn_format(from, s->command.lsn);
	lsn_format(flush, st->flush_lsn);
	err_set(err, ERR_REFUSED, "requested starting point %s is ahead of the WAL flush position of this server %s", from,
	        flush);
	return err_sqlstate(err, "XX000");
}

static void
on_system(struct session *s, const PGresult *res)
{
	struct stream *st = s->stream;
	struct err err = {0};
	char sql[64];

	if (res == NULL || PQresultStatus(res) != PGRES_TUPLES_OK || PQntuples(res) != 1 || PQnfields(res) < 3 ||
	    lsn_parse(PQgetvalue(res, 0, 2), &st->flush_lsn) != 0) {
		err_set(&err, ERR_FAILED, "upstream \"%s\" did not answer IDENTIFY_SYSTEM", upstream_name(s->up));
		err_sqlstate(&err, "08P01");
		session_drop(s, &err);
		return;
	}
	st->system_identifier = st->line.system_identifier = strtoull(PQgetvalue(res, 0, 0), NULL, 10);
	st->current_tli = (uint32_t)strtoul(PQgetvalue(res, 0, 1), NULL, 10);
	st->line.tli = s->command.timeline == 0 ? st->current_tli : s->command.timeline;
	if (st->line.tli == 0 || st->system_identifier != upstream_facts(s->up)->system_identifier) {
		err_set(&err, ERR_FAILED, "upstream \"%s\" answers IDENTIFY_SYSTEM with another cluster than before",
		        upstream_name(s->up));
		err_sqlstate(&err, "08P01");
		session_drop(s, &err);
	} else if (position_check(s, &err) != 0)
		session_refuse(s, &err);
	else if (st->line.tli == 1)
		check(s);
	else {
		snprintf(sql, sizeof(sql), "TIMELINE_HISTORY %" PRIu32, st->line.tli);
		session_ask(s, sql, on_history);
	}
}

void
stream_begin(struct session *s)
{
	struct err err = {0};

	if ((s->stream = calloc(1, sizeof(*s->stream))) == NULL) {
		err_nomem(&err);
		session_drop(s, &err);
		return;
	}
	s->stream->keyset = s->node->keyset;
	s->card.sent = s->card.write = s->card.flush = s->card.apply = 0;
	s->stream->line.tli = s->command.timeline;
	if (s->stream->keyset == NULL)
		start(s);
	else
		session_ask(s, "IDENTIFY_SYSTEM", on_system);
}
