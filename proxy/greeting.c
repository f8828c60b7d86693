/* greeting: a session from its first packet to its first ReadyForQuery. */
#include <stdio.h>
#include <string.h>

#include "common/log.h"
#include "proxy/encode.h"
#include "proxy/session_intern.h"
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

/* The session is set up: what a server tells its clients at the end of the startup. */
static void
greeted(struct session *s)
{
	struct err err = {0};
	uint32_t pid = s->up == NULL ? 0 : (uint32_t)upstream_facts(s->up)->pid;
	/* the upstream's pid, because clients name temporary slots after it; a key of our own */
	size_t key_len = s->startup.minor >= 2 ? REGISTRY_KEY_MAX : 4;
	uint8_t key[REGISTRY_KEY_MAX];
	int rc = random_bytes(key, key_len, &err);

	if (rc == 0) {
		registry_lock(&s->proxy->registry);
		memcpy(s->card.key, key, key_len);
		s->card.key_len = key_len;
		registry_unlock(&s->proxy->registry);
	}
	if (rc == 0 && s->up != NULL)
		rc = encode_parameters(&s->out, upstream_conn(s->up), &err);
	if (rc == 0 && s->up == NULL)
		rc = message_parameter_status(&s->out, "server_version", WALCRYPT_VERSION "/walcrypt", &err) != 0 ||
		             message_parameter_status(&s->out, "server_encoding", "UTF8", &err) != 0 ||
		             message_parameter_status(&s->out, "client_encoding", "UTF8", &err) != 0
		         ? -1
		         : 0;
	if (rc != 0 || message_backend_key(&s->out, pid, key, key_len, &err) != 0 ||
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
	session_log(s, LOG_INFO, "%s from %s, upstream \"%s\" (pid %d), timeline %u",
	            s->card.application[0] != '\0' ? s->card.application : "a client", s->card.peer, s->card.upstream,
	            s->card.upstream_pid, upstream_facts(u)->tli);
	greeted(s);
}

/* Look for an upstream. */
static void
look_up(struct session *s)
{
	struct choice_conf conf = {.loop = s->loop,
	                           .site = s->site,
	                           .node = s->node,
	                           .timelines = s->proxy->timelines,
	                           .upstreams = s->proxy->upstreams,
	                           .application_name = s->startup.application_name,
	                           .options = s->options,
	                           .database = s->slotsync ? s->startup.database : NULL};
	struct err err = {0};

	session_move(s, SESSION_CONNECTING);
	if ((s->choice = choice_new(&conf, on_chosen, s, &err)) == NULL)
		session_drop(s, &err);
}

/* One session more, if there may be one. The administrator always gets in. */
static int
admit(struct session *s, struct err *err)
{
	const char *why;

	if (s->console || (why = registry_admit(&s->proxy->registry, &s->card, s->site->settings->max_sessions,
	                                        s->node->settings->max_sessions)) == NULL)
		return 0;
	err_set(err, ERR_REFUSED, "too many sessions");
	err_sqlstate(err, "53300");
	err_detail(err, "%s", why);
	return err_hint(err, "walcrypt-ctl status lists them.");
}

void
greeting_authenticated(struct session *s)
{
	struct err err = {0};

	if (identify_permit(s, &err) != 0 || admit(s, &err) != 0 || message_auth_ok(&s->out, &err) != 0) {
		session_drop(s, &err);
		return;
	}
	session_put(s);
	if (s->console) {
		greeted(s);
		return;
	}
	if (pause_holds(s->proxy->pause, s->node->settings->name)) {
		session_log(s, LOG_INFO, "held: the proxy is paused");
		session_move(s, SESSION_HELD);
	} else
		look_up(s);
}

/* It begins with the configuration of now: a switchover may have changed where its upstream is. */
static int
refresh(struct session *s, struct err *err)
{
	struct site *site = proxy_site(s->proxy);
	const struct site_node *node = site_node(site, s->node->settings->name);

	if (node == NULL) {
		err_set(err, ERR_REFUSED, "there is no node or profile \"%s\" in walcrypt-proxy's configuration any more",
		        s->node->settings->name);
		err_sqlstate(err, "28000");
		site_unref(site);
		return -1;
	}
	site_unref(s->site);
	s->site = site;
	s->node = node;
	return identify_user(s, err) != 0 ? -1 : identify_permit(s, err);
}

void
session_release(struct session *s)
{
	struct err err = {0};

	if (s->state != SESSION_HELD || pause_holds(s->proxy->pause, s->node->settings->name))
		return;
	if (refresh(s, &err) != 0)
		session_drop(s, &err);
	else
		look_up(s);
}

void
greeting_held_too_long(struct session *s)
{
	struct err err = {0};

	err_set(&err, ERR_UNREACHABLE, "the proxy is paused, and has held this connection for %g s",
	        s->site->settings->pause_timeout_ms / 1000.);
	err_sqlstate(&err, "57P03");
	err_hint(&err, "A standby connects again by itself; RESUME on the console ends the pause. The time is set by "
	               "pause_timeout.");
	session_drop(s, &err);
}

/* As a server has names for its views: what is not printable ASCII becomes "?". source: pg_clean_ascii */
static void
card_name(char out[static 64], const char *name)
{
	size_t n = 0;

	for (; name[n] != '\0' && n < 63; n++)
		out[n] = name[n] < ' ' || name[n] > '~' ? '?' : name[n];
	out[n] = '\0';
}

/* A startup packet of a session. */
static void
begin(struct session *s)
{
	struct err err = {0};
	int known;

	registry_lock(&s->proxy->registry);
	card_name(s->card.application, s->startup.application_name);
	registry_unlock(&s->proxy->registry);
	if (negotiate(s, &err) != 0 || identify_purpose(s, &err) != 0) {
		session_drop(s, &err);
		return;
	}
	known = identify_user(s, &err);
	if (known == 0 && s->node != NULL)
		s->stats = stats_node(s->proxy->stats, s->node->settings->name);
	s->stats->connections++;
	registry_lock(&s->proxy->registry);
	card_name(s->card.node, s->node != NULL ? s->node->settings->name : s->startup.user);
	registry_unlock(&s->proxy->registry);
	message_reader_phase(&s->in, MESSAGE_AUTH);
	session_move(s, SESSION_AUTH);
	auth_begin(s, known == 0 ? NULL : &err);
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

static void
violation(struct session *s, const char *what)
{
	struct err err = {0};

	err_set(&err, ERR_FAILED, "%s", what);
	err_sqlstate(&err, "08P01");
	session_drop(s, &err);
}

void
greeting_direct_tls(struct session *s)
{
	if (s->site->tls == NULL || session_is_local(s)) {
		session_close(s, "an invalid TLS handshake: there is no TLS here");
		return;
	}
	s->direct = true;
	session_move(s, SESSION_TLS);
}

void
greeting_encrypted(struct session *s)
{
	session_log(s, LOG_DEBUG, "%s, %s", SSL_get_version(s->channel.ssl), SSL_get_cipher(s->channel.ssl));
	session_move(s, SESSION_STARTUP);
	if (s->direct && !tls_has_alpn(s->channel.ssl))
		violation(s, "direct TLS needs the protocol negotiation extension (ALPN) with \"postgresql\"");
}

/* SSLRequest and GSSENCRequest. */
static void
encryption(struct session *s)
{
	bool yes = s->startup.kind == STARTUP_SSL && s->site->tls != NULL && !session_is_local(s);

	if (s->channel.ssl != NULL) {
		violation(s, "TLS is there already");
		return;
	}
	/* one of each kind: who asks on is no client */
	if (++s->declined > 2) {
		violation(s, "too many requests for encryption");
		return;
	}
	/* What came with the request came in clear, perhaps from somebody in between; after the handshake it would be taken
	 * for the client's own (CVE-2021-23214). */
	if (yes && message_reader_pending(&s->in) > 0) {
		violation(s, "received unencrypted data after the request for TLS");
		return;
	}
	buffer_put_u8(&s->out, yes ? 'S' : 'N');
	if (yes)
		session_move(s, SESSION_TLS);
	session_put(s);
}

void
greeting_message(struct session *s, const struct message *m)
{
	struct err err = {0};

	startup_free(&s->startup);
	if (startup_parse(m->data, m->len, &s->startup, &err) != 0) {
		session_drop(s, &err);
		return;
	}
	switch (s->startup.kind) {
	case STARTUP_SSL:
	case STARTUP_GSS:
		encryption(s);
		break;
	case STARTUP_CANCEL:
		cancel(s);
		break;
	case STARTUP_SESSION:
		begin(s);
		break;
	}
}
