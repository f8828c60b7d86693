/*
 * stream: START_REPLICATION PHYSICAL.
 *
 *   (1 and 2 are in stream_check.c)
 *   1 IDENTIFY_SYSTEM; where clear WAL is to be encrypted, TIMELINE_HISTORY of the timeline asked for: which line of
 * the ledger it is 2 there, the check: what was sent last is read again and must be the same; else the line gets a new
 * incarnation 3 the upstream is asked from the beginning of the segment that holds the start; what lies before the
 * start is dropped 4 each message: recorded in the ledger (where 2 applies), converted by the WAL stage, sent as one
 * message of the same length (finding P1) 5 the end: CopyDone passes both ways, then the upstream's results
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proxy/encode.h"
#include "proxy/stream_intern.h"
#include "replication/walstream.h"
#include "walcrypt/digest.h"
#include "walcrypt/pgfile.h"
#include "walcrypt/wal.h"

/* A stream is behind when its upstream has so many more bytes for it, until so few are left. The first is more than a
 * segment, which every stream begins with; the second more than upstream_bulk waits for, so that nobody waits for what
 * is not there. */
#define BEHIND_BEGIN (32u << 20)
#define BEHIND_END (1u << 20)

static void
sink_free(struct stage *stage)
{
	free(stage);
}

/* Where the next message's WAL will stand; NULL with out's fault. */
static uint8_t *
sink_room(struct walsink *sink, size_t len)
{
	uint8_t *room = buffer_reserve(sink->out, MESSAGE_HEAD_LEN + COPYMSG_WAL_HEADER_LEN + len);

	return room == NULL ? NULL : room + MESSAGE_HEAD_LEN + COPYMSG_WAL_HEADER_LEN;
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
		if (c->data == buffer_data(sink->out) + buffer_len(sink->out))
			buffer_commit(sink->out, c->len); /* made in sink_room */
		else
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
	if (st->standby != NULL)
		standby_release(st->standbys, st->standby);
	ledger_trace_free(st->trace);
	stage_free(st->chain);
	free(st);
}

void
stream_ended(struct session *s, enum standby_end end, const char *why)
{
	if (s->stream != NULL && s->stream->standby != NULL)
		standby_end(s->proxy->standbys, s->stream->standby, end, why);
}

static void
publish(struct session *s)
{
	if (s->stream->standby != NULL)
		standby_publish(s->proxy->standbys, s->stream->standby, &s->stream->at);
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

	if (s->bulk)
		session_bulk(s, false);
	if (status == PGRES_FATAL_ERROR)
		return; /* passed on as it comes */
	st->server_done = true;
	st->server_shut = !waits && !st->client_done;
	if (status == PGRES_COMMAND_OK)
		stream_ended(s, STANDBY_COMPLETE, "");
	else if (waits && !st->client_done)
		stream_ended(s, STANDBY_TIMELINE, "");
	if (message_copy_done(&s->out, &err) != 0) {
		session_drop(s, &err);
		return;
	}
	session_put(s);
	if (!st->client_done) {
		session_log(s, LOG_DEBUG, "the upstream ended the stream%s", st->server_shut ? ": it shuts down" : "");
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
	session_is_heard(s);
	stream_ended(s, STANDBY_CLIENT, "the client ended the stream");
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
	/* the end that waits for it may still be far behind what a slow link brings */
	session_is_heard(s);
	if (msg.kind == COPYMSG_STATUS) {
		s->stream->status = msg;
		s->stream->at.write = msg.write;
		s->stream->at.flush = msg.flush;
		s->stream->at.apply = msg.apply;
		publish(s);
	}
	/* an upstream that shuts down is not there any more for the last of them */
	if (s->up != NULL && !s->stream->server_shut && upstream_copy_put(s->up, m->data, m->len, &err) != 0)
		session_drop(s, &err);
}

/* A client's status may come again with the same positions: what it says is still so. */
void
stream_ask_keepalive(struct session *s)
{
	struct copymsg status = s->stream->status;
	struct buffer payload;
	struct err err = {0};

	if (s->stream->server_done || s->stream->client_done || upstream_blocked(s->up))
		return;
	status.kind = COPYMSG_STATUS;
	status.reply = true;
	buffer_init(&payload, 64);
	copymsg_put(&payload, &status);
	if (buffer_check(&payload, &err) != 0 ||
	    upstream_copy_put(s->up, buffer_data(&payload), buffer_len(&payload), &err) != 0)
		session_drop(s, &err);
	buffer_free(&payload);
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

/* While the server has much more to send at once, it is read in large pieces. */
static void
see_how_far(struct session *s, const struct copymsg *m)
{
	uint64_t here = m->start + m->len, left = m->end > here ? m->end - here : 0;

	if (s->bulk ? left < BEHIND_END : left >= BEHIND_BEGIN) {
		session_bulk(s, !s->bulk);
		session_log(s, LOG_DEBUG, "the stream is %u MiB behind", (unsigned)(left >> 20));
	}
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
	if (m.kind == COPYMSG_WAL || m.kind == COPYMSG_KEEPALIVE)
		st->at.upstream = m.end;
	if (m.kind == COPYMSG_WAL)
		see_how_far(s, &m);
	if (m.kind != COPYMSG_WAL) {
		publish(s);
		return pass_copydata(s, data, len);
	}
	/* the ledger first: what has not been recorded must not leave */
	if (stream_in_ledger(st) && ledger_trace_record(st->trace, m.start, m.data, m.len, &err) != 0)
		goto fail;
	st->sink->header = m;
	chunk.pos = m.start;
	chunk.data = m.data;
	chunk.len = m.len;
	/* when all of it goes out, it is encrypted into its place there */
	if (st->from == NULL && m.start >= st->first)
		chunk.to = sink_room(st->sink, m.len);
	if (stage_push(st->chain, &chunk, &err) < 0 || stage_push(st->chain, &end, &err) < 0)
		goto fail;
	st->at.received = m.start + m.len;
	publish(s);
	session_put(s);
	return session_pause(s);
fail:
	publish(s); /* how far it was */
	if (st->sink != NULL && st->sink->open) {
		buffer_rewind(&s->out, st->sink->begun);
		st->sink->open = false;
	}
	err_context(&err, "upstream \"%s\"", upstream_name(s->up));
	session_drop(s, &err);
	return 0;
}

/* WAL will come. */
static void
begun(struct session *s, PGresult *res)
{
	struct standby_who who = {.session = s->card.id,
	                          .system_identifier = s->stream->system_identifier,
	                          .tli = s->stream->line.tli,
	                          .for_backup = session_beside_backup(s)};
	struct err err = {0};

	memcpy(who.node, s->card.node, sizeof(who.node));
	memcpy(who.application, s->card.application, sizeof(who.application));
	memcpy(who.client, s->card.peer, sizeof(who.client));
	memcpy(who.upstream, s->card.upstream, sizeof(who.upstream));
	if ((s->stream->standby = standby_begin(s->proxy->standbys, &who, &err)) == NULL) {
		PQclear(res);
		session_drop(s, &err);
		return;
	}
	s->stream->standbys = s->proxy->standbys;
	s->stats->streams++;
	message_reader_phase(&s->in, MESSAGE_COPY);
	session_move(s, SESSION_STREAM);
	session_pass(s, res);
	/* it was let finish a command when the stop began; a stream would go on */
	if (worker_stops(s->worker))
		session_stop(s, WORKER_DRAIN);
}

static void
stream_result(struct session *s, PGresult *res)
{
	ExecStatusType status = PQresultStatus(res);
	const char *said;

	if (status == PGRES_FATAL_ERROR && !encode_is_own_error(res))
		stream_ended(s, STANDBY_ERROR, (said = PQresultErrorField(res, PG_DIAG_MESSAGE_PRIMARY)) != NULL ? said : "");
	if (s->stream->server_shut)
		PQclear(res); /* say_shut says it, when the client has answered */
	else if (res == NULL)
		session_ready(s);
	else if (status == PGRES_TUPLES_OK && PQntuples(res) == 1 && PQnfields(res) == 2) {
		/* the stream reached the end of its timeline: the next one, and where it begins */
		if (lsn_parse(PQgetvalue(res, 0, 1), &s->stream->at.timeline_end) == 0)
			s->stream->at.next_tli = (uint32_t)strtoul(PQgetvalue(res, 0, 0), NULL, 10);
		publish(s);
		session_pass(s, res);
	} else if (status == PGRES_COPY_BOTH && s->state == SESSION_COMMAND) {
		begun(s, res);
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

/* The place in the ledger, and the generation that goes with it. */
static int
trace_make(struct session *s, uint32_t *generation, struct err *err)
{
	struct stream *st = s->stream;
	const struct keyset_epoch *epoch = keyset_wal_write(st->to, st->line.tli);

	ledger_trace_free(st->trace);
	st->trace = ledger_trace_new(s->proxy->ledger, &st->line, &st->place, &epoch->key,
	                             upstream_facts(s->up)->segment_size, err);
	return st->trace == NULL ? -1
	                         : wal_proxy_generation(st->to, st->system_identifier, st->line.tli,
	                                                st->line.history_sha256, st->place.incarnation, generation, err);
}

/* What is known of the records that have passed. What a record is comes before the record itself. */
static int
on_event(void *arg, const struct walscan_event *event, struct err *err)
{
	struct stream *st = arg;
	struct standby_at *at = &st->at;

	(void)err;
	if (event->kind == WALSCAN_RECORD) {
		at->record = event->lsn;
		at->record_end = event->end;
		at->kind = st->kind;
		st->kind = WALSCAN_RECORD;
		return 0;
	}
	st->kind = event->kind;
	if (event->kind == WALSCAN_SHUTDOWN_CHECKPOINT)
		at->shutdown_checkpoint = event->lsn;
	else if (event->kind == WALSCAN_COMMIT)
		at->commit_time = event->time;
	return 0;
}

static int
chain_make(struct session *s, struct err *err)
{
	struct stream *st = s->stream;
	struct walstream_conf conf = {.upstream = st->from,
	                              .downstream = st->to,
	                              .system_identifier = st->system_identifier,
	                              .tli = st->line.tli,
	                              .keep_zeros = s->up_node->settings->clear_wal,
	                              .segment_size = upstream_facts(s->up)->segment_size,
	                              .from = s->command.lsn,
	                              .scan = true,
	                              .on_event = on_event,
	                              .arg = st};

	if (stream_in_ledger(st) && trace_make(s, &conf.generation, err) != 0)
		return -1;
	if ((st->sink = calloc(1, sizeof(*st->sink))) == NULL)
		return err_nomem(err);
	st->sink->base.ops = &sink_ops;
	st->sink->out = &s->out;
	st->sink->sent = &st->at.sent;
	if ((st->chain = walstream_new(&conf, &st->sink->base, err)) == NULL) {
		free(st->sink);
		st->sink = NULL;
		return -1;
	}
	st->first = s->command.lsn;
	s->command.lsn = walstream_begin(s->command.lsn, conf.segment_size);
	s->command.timeline = st->line.tli;
	return 0;
}

void
stream_start(struct session *s)
{
	struct err err = {0};
	char *sql;

	if (chain_make(s, &err) != 0 || command_write(&s->command, &sql, &err) != 0) {
		session_refuse(s, &err);
		return;
	}
	session_query(s, sql, &stream_mode);
	free(sql);
}
