/* greeting: a session from its first packet to its first ReadyForQuery. */
#include <stdio.h>
#include <string.h>

#include "common/log.h"
#include "proxy/encode.h"
#include "proxy/session_intern.h"
#include "replication/startup_options.h"
#include "walcrypt/random.h"

/* The newest minor version that we speak, and options that we do not know: told before the authentication. */
static int
negotiate(struct session *s, struct err *err)
{
	const struct startup *st = &s->startup;

	if (st->minor <= STARTUP_NEWEST_MINOR && st->nunknown == 0)
		return 0;
	return message_negotiate(&s->out,
	                         STARTUP_PROTOCOL(3, st->minor < STARTUP_NEWEST_MINOR ? st->minor : STARTUP_NEWEST_MINOR),
	                         st->unknown, st->nunknown, err);
}

static int
console_check(struct session *s, struct err *err)
{
	const struct settings *settings = s->site->settings;

	s->console = true;
	s->admin = site_lists(settings->admin_users, s->startup.user);
	if (s->admin || site_lists(settings->stats_users, s->startup.user))
		return 0;
	err_set(err, ERR_REFUSED, "user \"%s\" may not use walcrypt's console", s->startup.user);
	err_sqlstate(err, "42501");
	return err_hint(err, "List the user in admin_users or stats_users.");
}

/* Who is it, and may this user have what the connection is for? */
static int
identify(struct session *s, struct err *err)
{
	const struct startup *st = &s->startup;

	s->node = site_node(s->site, st->user);
	if (st->replication == STARTUP_REPLICATION_NONE && st->database != NULL && strcmp(st->database, "walcrypt") == 0)
		return console_check(s, err);
	if (st->replication == STARTUP_REPLICATION_NONE) {
		err_set(err, ERR_REFUSED, "this is walcrypt-proxy: it takes replication connections only");
		err_sqlstate(err, "0A000");
		err_detail(err, "The connection asked for database \"%s\".", st->database == NULL ? st->user : st->database);
		return err_hint(
		    err, "Connect to the PostgreSQL server itself for SQL; to database \"walcrypt\" for the proxy's console.");
	}
	if (st->replication == STARTUP_REPLICATION_DATABASE) {
		err_set(err, ERR_REFUSED, "walcrypt-proxy does not carry logical replication");
		err_sqlstate(err, "0A000");
		return err_hint(err,
		                "Connect with replication=true for physical replication, or to the PostgreSQL server itself.");
	}
	if (s->node == NULL) {
		err_set(err, ERR_REFUSED, "there is no node or profile \"%s\" in walcrypt-proxy's configuration", st->user);
		err_sqlstate(err, "28000");
		return err_hint(
		    err, "The user's name says which node or profile it is: set user in the connection string to one of them.");
	}
	if (s->node->keyset == NULL && !s->node->settings->allow_clear) {
		err_set(err, ERR_REFUSED, "node \"%s\" is clear: what it takes would leave the proxy unencrypted", st->user);
		err_sqlstate(err, "28000");
		return err_hint(err, "If that is meant, set allow_clear = on in its section.");
	}
	return startup_options_filter(st->options, &s->options, err);
}

/* The session is set up: what a server tells its clients at the end of the startup. */
static void
greeted(struct session *s)
{
	struct err err = {0};
	uint32_t pid = s->up == NULL ? 0 : (uint32_t)upstream_facts(s->up)->pid;
	int rc;

	/* the upstream's pid, because clients name temporary slots after it; a key of our own */
	s->card.key_len = s->startup.minor >= 2 ? REGISTRY_KEY_MAX : 4;
	rc = random_bytes(s->card.key, s->card.key_len, &err);
	if (rc == 0 && s->up != NULL)
		rc = encode_parameters(&s->out, upstream_conn(s->up), &err);
	if (rc == 0 && s->up == NULL)
		rc = message_parameter_status(&s->out, "server_version", WALCRYPT_VERSION "/walcrypt", &err) != 0 ||
		             message_parameter_status(&s->out, "server_encoding", "UTF8", &err) != 0 ||
		             message_parameter_status(&s->out, "client_encoding", "UTF8", &err) != 0
		         ? -1
		         : 0;
	if (rc != 0 || message_backend_key(&s->out, pid, s->card.key, s->card.key_len, &err) != 0 ||
	    message_ready(&s->out, 'I', &err) != 0) {
		session_drop(s, &err);
		return;
	}
	message_reader_phase(&s->in, MESSAGE_COMMAND);
	session_move(s, SESSION_READY);
	session_put(s);
}

static void
on_chosen(void *owner, struct upstream *u, const struct err *why)
{
	struct session *s = owner;

	choice_free(s->choice);
	s->choice = NULL;
	if (u == NULL) {
		session_drop(s, why);
		return;
	}
	s->up = u;
	s->up_node = site_node(s->site, upstream_name(u));
	upstream_give(u, &session_upstream, s);
	registry_lock(&s->proxy->registry);
	snprintf(s->card.upstream, sizeof(s->card.upstream), "%s", upstream_name(u));
	s->card.upstream_pid = upstream_facts(u)->pid;
	s->card.cancel = cancel_handle_new(upstream_conn(u));
	registry_unlock(&s->proxy->registry);
	log_info("session %u (%s): %s from %s, upstream \"%s\" (pid %d), timeline %u", s->card.id, s->card.node,
	         s->card.application[0] != '\0' ? s->card.application : "a client", s->card.peer, s->card.upstream,
	         s->card.upstream_pid, upstream_facts(u)->tli);
	greeted(s);
}

/* auth_type is trust: settings_load and the listener have seen to it that only this machine gets here. */
static void
authenticated(struct session *s)
{
	struct choice_conf conf = {.loop = s->loop,
	                           .site = s->site,
	                           .node = s->node,
	                           .timelines = s->proxy->timelines,
	                           .application_name = s->startup.application_name,
	                           .options = s->options};
	struct err err = {0};

	if (message_auth_ok(&s->out, &err) != 0) {
		session_drop(s, &err);
		return;
	}
	session_put(s);
	if (s->console) {
		greeted(s);
		return;
	}
	session_move(s, SESSION_CONNECTING);
	if ((s->choice = choice_new(&conf, on_chosen, s, &err)) == NULL)
		session_drop(s, &err);
}

static void
begin(struct session *s)
{
	struct err err = {0};

	registry_lock(&s->proxy->registry);
	snprintf(s->card.node, sizeof(s->card.node), "%.63s", s->startup.user);
	snprintf(s->card.application, sizeof(s->card.application), "%.63s", s->startup.application_name);
	registry_unlock(&s->proxy->registry);
	if (negotiate(s, &err) != 0 || identify(s, &err) != 0) {
		session_drop(s, &err);
		return;
	}
	session_move(s, SESSION_AUTH);
	authenticated(s);
}

static void
cancel(struct session *s)
{
	const struct startup *st = &s->startup;
	struct cancel_handle *h =
	    registry_find_cancel(&s->proxy->registry, st->cancel_pid, st->cancel_key, st->cancel_key_len);
	struct err err = {0};

	if (h == NULL)
		log_info("a cancel request from %s fits no session", s->card.peer);
	else if (cancel_send(h, &err) != 0)
		log_err(LOG_WARNING, &err, "could not forward a cancel request");
	session_close(s, NULL);
}

void
greeting_message(struct session *s, const struct message *m)
{
	static const uint8_t no = 'N';
	struct err err = {0};

	startup_free(&s->startup);
	if (startup_parse(m->data, m->len, &s->startup, &err) != 0) {
		session_drop(s, &err);
		return;
	}
	switch (s->startup.kind) {
	case STARTUP_SSL:
	case STARTUP_GSS:
		/* one of each kind: who asks on is no client */
		if (++s->declined > 2) {
			err_set(&err, ERR_FAILED, "too many requests for encryption");
			err_sqlstate(&err, "08P01");
			session_drop(s, &err);
			return;
		}
		buffer_put(&s->out, &no, 1);
		session_put(s);
		break;
	case STARTUP_CANCEL:
		cancel(s);
		break;
	case STARTUP_SESSION:
		begin(s);
		break;
	}
}
