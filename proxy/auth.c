/*
 * auth: the proof that a client is who it says. A client that may not come in for another reason goes through the same
 * exchange as one with a wrong password, and is told the same; the log has the reason.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "proxy/authquery.h"
#include "proxy/session_intern.h"
#include "replication/scram.h"
#include "walcrypt/secmem.h"

struct auth {
	struct scram *scram;
	bool doomed;
	struct err why; /* doomed: the real reason */
	bool asked;     /* the verifier came from authquery */
	struct lookup *lookup;
};

void
auth_free(struct auth *a)
{
	if (a == NULL)
		return;
	scram_free(a->scram);
	lookup_drop(a->lookup);
	free(a);
}

static void
failed(struct session *s, const struct err *told)
{
	struct auth *a = s->auth;

	limits_failed(s->proxy->limits, &s->peer);
	(*stats_failed_logins(s->proxy->stats))++;
	if (a != NULL && a->asked)
		authquery_doubt(s->proxy->authquery, s->startup.user);
	if (a != NULL && a->doomed) {
		struct err why = a->why;

		err_context(&why, "\"%s\" from %s is refused", s->startup.user, s->peer.text);
		session_log_err(s, LOG_INFO, &why);
	}
	session_drop(s, told);
}

/* Where one is wanted: a certificate that the authorities vouch for, but for verify-ca with a name that may be this
 * user's. */
static int
check_certificate(const struct session *s, struct err *err)
{
	const struct settings *settings = s->site->settings;
	bool any = settings->auth != SETTINGS_CERT && settings->tls == SETTINGS_TLS_VERIFY_CA;
	char name[256];

	if (settings->auth != SETTINGS_CERT && (settings->tls < SETTINGS_TLS_VERIFY_CA || session_is_local(s)))
		return 0;
	if (s->channel.ssl == NULL || !tls_client_name(s->channel.ssl, name, sizeof(name))) {
		err_set(err, ERR_REFUSED, "connection requires a valid client certificate");
		err_sqlstate(err, "28000");
		return err_hint(err, "Set sslcert and sslkey in the connection string.");
	}
	if (any || strcmp(name, s->startup.user) == 0 ||
	    (s->node != NULL && site_lists(s->node->settings->client_cn, name)))
		return 0;
	session_log(s, LOG_INFO, "the certificate of \"%s\" is not for user \"%s\"", name, s->startup.user);
	err_set(err, ERR_REFUSED, "certificate authentication failed for user \"%s\"", s->startup.user);
	return err_sqlstate(err, "28000");
}

static void
offer(struct session *s, const struct verifier *v)
{
	struct scram_conf conf = {.user = s->startup.user, .verifier = v, .doomed = s->auth->doomed};
	struct err err = {0};

	if (s->channel.ssl != NULL)
		conf.binding = tls_binding(s->site->tls, &conf.binding_len);
	if ((s->auth->scram = scram_new(&conf, &err)) == NULL || scram_offer(&s->out, conf.binding != NULL, &err) != 0)
		session_drop(s, &err);
	else
		session_put(s);
}

/* The user has no verifier: one that nothing fits. */
static void
offer_mock(struct session *s)
{
	const struct verifier *like = s->site->users != NULL ? userlist_any(s->site->users) : NULL;
	struct verifier mock, seen;
	struct err err = {0};

	if (!s->auth->doomed) {
		s->auth->doomed = true;
		err_set(&s->auth->why, ERR_REFUSED, "user \"%s\" has no password", s->startup.user);
	}
	if (like == NULL && authquery_like(s->proxy->authquery, &seen))
		like = &seen;
	if (verifier_mock(s->startup.user, s->site->mock, like, &mock, &err) != 0)
		session_drop(s, &err);
	else
		offer(s, &mock);
}

static void
offer_found(struct session *s, enum authquery_answer answer, const struct verifier *v)
{
	struct err err = {0};

	s->auth->asked = true;
	if (answer == AUTHQUERY_FOUND)
		offer(s, v);
	else if (answer == AUTHQUERY_NONE)
		offer_mock(s);
	else {
		err_set(&err, ERR_UNREACHABLE, "users cannot be looked up now");
		err_sqlstate(&err, "08001");
		err_hint(&err, "The proxy's log says why.");
		session_drop(s, &err);
	}
}

static void
on_answer(void *owner, enum authquery_answer answer, const struct verifier *v)
{
	struct session *s = owner;

	lookup_drop(s->auth->lookup);
	s->auth->lookup = NULL;
	if (s->state == SESSION_AUTH)
		offer_found(s, answer, v);
}

/* The user is in no file. */
static void
look_up(struct session *s)
{
	struct authquery *q = s->proxy->authquery;
	struct verifier v;
	enum authquery_answer answer = authquery_find(q, s->site, s->startup.user, &v);
	struct err err = {0};

	if (answer != AUTHQUERY_UNKNOWN)
		offer_found(s, answer, &v);
	else if ((s->auth->lookup = authquery_ask(q, s->worker, s->site, s->startup.user, on_answer, s, &err)) == NULL)
		session_drop(s, &err);
}

static void
begin_scram(struct session *s, const struct err *refusal)
{
	const struct verifier *v = s->site->users == NULL ? NULL : userlist_find(s->site->users, s->startup.user);
	struct err err = {0};

	if ((s->auth = calloc(1, sizeof(*s->auth))) == NULL) {
		err_nomem(&err);
		session_drop(s, &err);
		return;
	}
	if (refusal != NULL) {
		s->auth->doomed = true;
		s->auth->why = *refusal;
	}
	if (v != NULL)
		offer(s, v);
	else if (s->site->settings->auth_conninfo != NULL && strlen(s->startup.user) < 64)
		look_up(s);
	else
		offer_mock(s);
}

void
auth_begin(struct session *s, const struct err *refusal)
{
	const struct settings *settings = s->site->settings;
	struct err err = {0};

	if (check_certificate(s, &err) != 0) {
		failed(s, &err);
		return;
	}
	if (settings->auth == SETTINGS_SCRAM)
		begin_scram(s, refusal);
	else if (refusal != NULL)
		failed(s, refusal);
	else
		greeting_authenticated(s);
}

bool
auth_waits(const struct session *s)
{
	return s->auth != NULL && s->auth->scram != NULL;
}

void
auth_message(struct session *s, const struct message *m)
{
	struct err err = {0};

	switch (scram_push(s->auth->scram, m->data, m->len, &s->out, &err)) {
	case 0:
		session_put(s);
		return;
	case 1:
		auth_free(s->auth);
		s->auth = NULL;
		greeting_authenticated(s);
		return;
	default:
		failed(s, &err);
	}
}
