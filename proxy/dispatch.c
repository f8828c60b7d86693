/* dispatch: commands of a session that is ready, and the way of their answers. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "proxy/encode.h"
#include "proxy/errand.h"
#include "proxy/keymaker.h"
#include "proxy/session_intern.h"
#include "replication/slotsync.h"

void
session_ready(struct session *s)
{
	struct err err = {0};

	if (message_ready(&s->out, 'I', &err) != 0) {
		session_drop(s, &err);
		return;
	}
	stream_free(s->stream);
	s->stream = NULL;
	backup_free(s->backup);
	s->backup = NULL;
	upload_free(s->upload);
	s->upload = NULL;
	command_free(&s->command);
	registry_lock(&s->proxy->registry);
	s->card.command[0] = '\0';
	registry_unlock(&s->proxy->registry);
	message_reader_phase(&s->in, MESSAGE_COMMAND);
	session_move(s, SESSION_READY);
	session_put(s);
	/* it was let finish what it did */
	if (worker_stops(s->worker) && s->state == SESSION_READY)
		session_stop(s, WORKER_TELL);
}

void
session_refuse(struct session *s, const struct err *why)
{
	struct err err = {0};

	s->stats->errors[why->class]++;
	session_log_err(s, LOG_INFO, why);
	if (message_error(&s->out, "ERROR", why, &err) != 0)
		session_drop(s, &err);
	else
		session_ready(s);
}

void
session_query(struct session *s, const char *sql, const struct session_mode *mode)
{
	struct err err = {0};

	s->mode = mode;
	if (upstream_query(s->up, sql, &err) != 0)
		session_drop(s, &err);
}

/* The end of a session whose upstream has gone in the middle. */
static void
lost(struct session *s)
{
	struct err err = {0};

	err_set(&err, ERR_UNREACHABLE, "lost the connection to upstream \"%s\"", upstream_name(s->up));
	err_sqlstate(&err, "08006");
	stream_ended(s, STANDBY_LOST, err.text);
	session_drop(s, &err);
}

void
session_pass(struct session *s, PGresult *res)
{
	const char *severity = PQresultErrorField(res, PG_DIAG_SEVERITY_NONLOCALIZED);
	struct err err = {0};

	if (encode_is_own_error(res))
		lost(s);
	else if (encode_result(&s->out, res, &err) != 0)
		session_drop(s, &err);
	else
		session_put(s);
	/* the server ends the connection after these, and has said why itself */
	if (severity != NULL && (strcmp(severity, "FATAL") == 0 || strcmp(severity, "PANIC") == 0))
		session_leave(s, PQresultErrorField(res, PG_DIAG_MESSAGE_PRIMARY));
	PQclear(res);
}

/* Relay: whatever comes is passed on; a COPY is none of these commands' answers. */
static void
relay_result(struct session *s, PGresult *res)
{
	ExecStatusType status = PQresultStatus(res);
	struct err err = {0};

	if (res == NULL)
		session_ready(s);
	else if (status == PGRES_COPY_OUT || status == PGRES_COPY_BOTH) {
		PQclear(res);
		err_set(&err, ERR_FAILED, "upstream \"%s\" answers with a COPY that was not asked for", upstream_name(s->up));
		err_sqlstate(&err, "08P01");
		session_drop(s, &err);
	} else
		session_pass(s, res);
}

static const struct session_mode relay_mode = {.result = relay_result};

void
session_relay(struct session *s, const char *sql)
{
	session_query(s, sql, &relay_mode);
}

/* Ask: the last result is kept until the command is complete. */
static void
ask_result(struct session *s, PGresult *res)
{
	void (*answered)(struct session *, const PGresult *) = s->answered;
	PGresult *kept = s->kept;

	if (res != NULL) {
		/* an error counts, whatever comes after it */
		if (kept != NULL && PQresultStatus(kept) == PGRES_FATAL_ERROR)
			PQclear(res);
		else {
			PQclear(kept);
			s->kept = res;
		}
		if (encode_is_own_error(s->kept))
			lost(s);
		return;
	}
	s->kept = NULL;
	answered(s, kept);
	PQclear(kept);
}

static const struct session_mode ask_mode = {.result = ask_result};

void
session_ask(struct session *s, const char *sql, void (*answered)(struct session *s, const PGresult *res))
{
	PQclear(s->kept);
	s->kept = NULL;
	s->answered = answered;
	session_query(s, sql, &ask_mode);
}

/* What the upstream calls. */

static bool
active(const struct session *s)
{
	return s->state != SESSION_CLOSING && s->state != SESSION_CLOSED;
}

static void
on_ready(void *owner)
{
	(void)owner; /* the choice has seen it */
}

static void
on_failed(void *owner, const struct err *err)
{
	struct session *s = owner;

	if (!active(s))
		return;
	stream_ended(s, STANDBY_LOST, err->text);
	if (stream_survives(s)) {
		s->buried = s->up;
		s->up = NULL;
		worker_touch(s->worker, s);
	} else
		session_drop(s, err);
}

static void
on_result(void *owner, PGresult *res)
{
	struct session *s = owner;

	if (active(s))
		s->mode->result(s, res);
	else
		PQclear(res);
}

static int
on_copy(void *owner, uint8_t *data, size_t len)
{
	struct session *s = owner;

	s->card.from_upstream += len;
	s->stats->received += len;
	return active(s) && s->mode->copy != NULL ? s->mode->copy(s, data, len) : 0;
}

static void
on_copy_end(void *owner, bool waits, const PGresult *first)
{
	struct session *s = owner;

	if (active(s) && s->mode->copy_end != NULL)
		s->mode->copy_end(s, waits, first);
}

static void
on_flushed(void *owner)
{
	struct session *s = owner;

	session_process(s);
	worker_touch(s->worker, s); /* there is room again: TLS may hold what did not fit */
}

static void
on_notice(void *owner, const PGresult *res)
{
	struct session *s = owner;
	struct err err = {0};

	if (!active(s))
		return;
	if (encode_notice(&s->out, res, &err) != 0)
		session_drop(s, &err);
	else
		session_put(s);
}

const struct upstream_handler session_upstream = {on_ready,    on_failed,  on_result, on_copy,
                                                  on_copy_end, on_flushed, on_notice};

static void
begin(struct session *s)
{
	if (s->command.kind == COMMAND_START_PHYSICAL)
		stream_begin(s);
	else if (s->command.kind == COMMAND_BASE_BACKUP)
		backup_begin(s);
	else
		upload_begin(s);
}

/* In any case the session still waits: who ends it drops the errand. */
static void
on_keys(void *owner, const struct err *why)
{
	struct session *s = owner;
	struct err err = {0};

	errand_drop(s->keys_wanted);
	s->keys_wanted = NULL;
	silence_watch(s);
	if (why != NULL || choice_check_cluster(s->up, s->node, &err) != 0)
		session_refuse(s, why != NULL ? why : &err);
	else
		begin(s);
}

/* Commands for which the node must have its keys: where they are made on demand a base backup has them made. */
static void
begin_with_keys(struct session *s)
{
	struct keymaker_order order = {.site = s->site,
	                               .node = s->node,
	                               .from = s->up_node,
	                               .system_identifier = upstream_facts(s->up)->system_identifier,
	                               .make = s->command.kind == COMMAND_BASE_BACKUP};
	struct err err = {0};

	if (!site_lacks_keys(s->node)) {
		/* they may have been made for another cluster since the upstream was chosen */
		if (choice_check_cluster(s->up, s->node, &err) != 0)
			session_refuse(s, &err);
		else
			begin(s);
		return;
	}
	s->keys_wanted = keymaker_ask(s->proxy->keymaker, s->worker, &order, on_keys, s, &err);
	if (s->keys_wanted == NULL)
		session_refuse(s, &err);
	else
		silence_stop(s); /* it is not the upstream that we wait for */
}

static void
command(struct session *s)
{
	struct command *cmd = &s->command;
	struct err err = {0};
	char *sql;

	registry_lock(&s->proxy->registry);
	snprintf(s->card.command, sizeof(s->card.command), "%s", command_name(cmd->kind));
	registry_unlock(&s->proxy->registry);
	session_log(s, LOG_DEBUG, "%s", command_name(cmd->kind));
	switch (cmd->kind) {
	case COMMAND_EMPTY:
		if (message_empty_query(&s->out, &err) != 0)
			session_drop(s, &err);
		else
			session_ready(s);
		return;
	case COMMAND_START_PHYSICAL:
	case COMMAND_BASE_BACKUP:
	case COMMAND_UPLOAD_MANIFEST:
		begin_with_keys(s);
		return;
	default:
		break;
	}
	if (command_write(cmd, &sql, &err) != 0) {
		session_refuse(s, &err);
		return;
	}
	session_relay(s, sql);
	/* stream.c may have to make it again */
	if (cmd->kind == COMMAND_CREATE_SLOT && cmd->temporary) {
		free(s->temporary_slot);
		s->temporary_slot = sql;
		return;
	}
	if (cmd->kind == COMMAND_DROP_SLOT) {
		free(s->temporary_slot);
		s->temporary_slot = NULL;
	}
	free(sql);
}

/* Of SQL only what a slot synchronisation asks: it goes to the upstream under the role of the node's conninfo. */
static void
slotsync(struct session *s, const char *text)
{
	struct err err = {0};

	if (slotsync_knows(text)) {
		session_relay(s, text);
		return;
	}
	err_set(&err, ERR_REFUSED, "walcrypt-proxy takes the queries of a slot synchronisation here, and no others");
	err_sqlstate(&err, "42501");
	err_hint(&err, "Connect to the server itself for SQL.");
	session_refuse(s, &err);
}

void
dispatch_message(struct session *s, const struct message *m)
{
	struct err err = {0};

	/* left over from a copy that an error ended: the client could not know yet (PostgresMain ignores them too) */
	if (m->type == 'd' || m->type == 'c' || m->type == 'f')
		return;
	if (m->type != 'Q') {
		err_set(&err, ERR_FAILED, "message type \"%c\" is not supported in a replication connection",
		        m->type >= ' ' && m->type < 127 ? m->type : '?');
		err_sqlstate(&err, "08P01");
		err_hint(&err, "A walsender takes simple queries only.");
		session_drop(s, &err);
		return;
	}
	session_move(s, SESSION_COMMAND);
	if (m->len == 0 || memchr(m->data, 0, m->len) != m->data + m->len - 1) {
		err_set(&err, ERR_FAILED, "the query's text is not ended by one zero byte");
		err_sqlstate(&err, "08P01");
		session_drop(s, &err);
	} else if (s->console)
		console_query(s, (const char *)m->data);
	else if (s->slotsync)
		slotsync(s, (const char *)m->data);
	else if (command_parse((const char *)m->data, m->len - 1, &s->command, &err) != 0 ||
	         command_check(&s->command, &err) != 0 || identify_command(s, &err) != 0)
		session_refuse(s, &err);
	else
		command(s);
}
