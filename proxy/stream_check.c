/* stream_check: from START_REPLICATION to the moment when the ledger says that it may be served (stream.c, steps 1 and
 * 2). */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "proxy/encode.h"
#include "proxy/stream_intern.h"
#include "replication/walstream.h"
#include "walcrypt/digest.h"
#include "walcrypt/pgfile.h"
#include "walcrypt/wal.h"

/* 2: the check. */

static void check_begin(struct session *s);
static void check_place(struct session *s);
static int system_take(struct session *s, const PGresult *res);

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
		check_place(s); /* another session may have been first with it, and have sent something */
}

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
		stream_start(s);
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
	const struct keyset_epoch *epoch = keyset_wal_write(st->to, st->line.tli);
	struct err err = {0};
	char sql[96], lsn[LSN_TEXT_LEN];

	st->check_done = st->check_same = st->check_failed = false;
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
	const struct keyset_epoch *epoch = keyset_wal_write(st->to, st->line.tli);
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
	check_place(s);
}

/* A clear standby has not received yet what others have been sent: what it has cannot be compared to its end. */
static void
standby_behind(struct session *s)
{
	const struct stream *st = s->stream;
	char flush[LSN_TEXT_LEN], position[LSN_TEXT_LEN];
	struct err err = {0};

	lsn_format(flush, st->flush_lsn);
	lsn_format(position, st->place.position);
	err_set(&err, ERR_UNREACHABLE, "upstream \"%s\" is a standby at %s, behind what was sent up to %s",
	        upstream_name(s->up), flush, position);
	err_sqlstate(&err, "55000");
	err_hint(&err, "A standby that connects again will be served when the upstream has caught up.");
	session_refuse(s, &err);
}

/* Is the upstream where it says that it was, or further? The place must have been known before it was asked: another
 * session may have received more, and raised the line, since an answer that is older. */
static void
check_behind(struct session *s)
{
	struct stream *st = s->stream;

	if (st->line.tli == st->current_tli && st->flush_lsn < st->place.position) {
		if (upstream_facts(s->up)->standby)
			standby_behind(s);
		else
			renew(s, "upstream is behind what was sent: it has been rolled back");
		return;
	}
	st->check_before = ledger_check_before(&st->place, upstream_facts(s->up)->segment_size);
	check_begin(s);
}

static void
on_asked_again(struct session *s, const PGresult *res)
{
	if (system_take(s, res) == 0)
		check_behind(s);
}

/* May be served under its place? */
static void
check_place(struct session *s)
{
	struct stream *st = s->stream;

	if (st->place.position == 0)
		stream_start(s);
	else if (st->line.tli == st->current_tli && st->flush_lsn < st->place.position)
		session_ask(s, "IDENTIFY_SYSTEM", on_asked_again);
	else
		check_behind(s);
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

/* The answer to IDENTIFY_SYSTEM; -1: the session is dropped. */
static int
system_take(struct session *s, const PGresult *res)
{
	struct stream *st = s->stream;
	struct err err = {0};

	if (res == NULL || PQresultStatus(res) != PGRES_TUPLES_OK || PQntuples(res) != 1 || PQnfields(res) < 3 ||
	    lsn_parse(PQgetvalue(res, 0, 2), &st->flush_lsn) != 0)
		err_set(&err, ERR_FAILED, "upstream \"%s\" did not answer IDENTIFY_SYSTEM", upstream_name(s->up));
	else {
		st->system_identifier = strtoull(PQgetvalue(res, 0, 0), NULL, 10);
		st->current_tli = (uint32_t)strtoul(PQgetvalue(res, 0, 1), NULL, 10);
		if (st->current_tli != 0 && st->system_identifier == upstream_facts(s->up)->system_identifier)
			return 0;
		err_set(&err, ERR_FAILED, "upstream \"%s\" answers IDENTIFY_SYSTEM with another cluster than before",
		        upstream_name(s->up));
	}
	err_sqlstate(&err, "08P01");
	session_drop(s, &err);
	return -1;
}

static void
on_system(struct session *s, const PGresult *res)
{
	struct stream *st = s->stream;
	struct err err = {0};
	char sql[64];

	if (system_take(s, res) != 0)
		return;
	st->line.system_identifier = st->system_identifier;
	st->line.tli = s->command.timeline == 0 ? st->current_tli : s->command.timeline;
	if (position_check(s, &err) != 0)
		session_refuse(s, &err);
	else if (st->to != NULL && keyset_wal_write(st->to, st->line.tli) == NULL) {
		err_set(&err, ERR_WRONG_KEY, "keyset \"%s\" has no WAL key for timeline %" PRIu32, s->node->settings->keyset,
		        st->line.tli);
		err_detail(&err, "The epoch that served it was retired.");
		session_refuse(s, &err);
	} else if (!stream_in_ledger(st))
		stream_start(s);
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
	s->stream->from = s->up_node->settings->clear_wal ? NULL : site_keyset(s->up_node);
	s->stream->to = site_keyset(s->node);
	session_ask(s, "IDENTIFY_SYSTEM", on_system);
}
