#include "proxy/authquery.h"

#include <errno.h>
#include <poll.h>
#include <postgresql/libpq-fe.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/address.h"
#include "common/clock.h"
#include "common/log.h"
#include "proxy/errand.h"
#include "walcrypt/secmem.h"

#define REMEMBERED 512
/* A verifier younger than this is not asked for again because a proof did not fit: guessing must not become asking. */
#define DOUBT_MS 5000

struct memory {
	char user[64];
	struct verifier verifier;
	bool used, found;
	int64_t when_ms;
};

struct lookup {
	struct errand errand;
	struct authquery *q;
	struct site *site;
	char user[64];
	void (*answered)(void *owner, enum authquery_answer answer, const struct verifier *v);
	enum authquery_answer answer;
	struct verifier verifier;
};

struct authquery {
	struct errands *errands;
	int wake;              /* readable when stopping */
	pthread_mutex_t mutex; /* of the memory */
	struct site *site;     /* whose answers are remembered; NULL: the first one's */
	struct memory memory[REMEMBERED];
	struct verifier like;
	bool has_like;
	PGconn *conn; /* the thread's own */
	char *conninfo;
};

void
lookup_drop(struct lookup *l)
{
	if (l != NULL)
		errand_drop(&l->errand);
}

/* The user's place, or the one to be taken for it: the oldest. */
static struct memory *
remembered(struct authquery *q, const char *user)
{
	struct memory *oldest = &q->memory[0];

	for (size_t i = 0; i < REMEMBERED; i++) {
		struct memory *m = &q->memory[i];

		if (m->used && strcmp(m->user, user) == 0)
			return m;
		if (oldest->used && (!m->used || m->when_ms < oldest->when_ms))
			oldest = m;
	}
	return oldest;
}

/* Mutex held. What a session of before a reload asks, it asks as that configuration says: others must not be answered
 * so. */
static bool
is_of_now(const struct authquery *q, const struct site *site)
{
	return q->site == NULL || q->site == site;
}

enum authquery_answer
authquery_find(struct authquery *q, const struct site *site, const char *user, struct verifier *v)
{
	enum authquery_answer answer = AUTHQUERY_UNKNOWN;
	struct memory *m;

	pthread_mutex_lock(&q->mutex);
	m = remembered(q, user);
	if (is_of_now(q, site) && m->used && strcmp(m->user, user) == 0 &&
	    clock_now_ms() - m->when_ms < (int64_t)site->settings->auth_cache_s * 1000) {
		answer = m->found ? AUTHQUERY_FOUND : AUTHQUERY_NONE;
		*v = m->verifier;
	}
	pthread_mutex_unlock(&q->mutex);
	return answer;
}

static void
remember(struct authquery *q, const struct lookup *l)
{
	struct memory *m;

	pthread_mutex_lock(&q->mutex);
	if (is_of_now(q, l->site)) {
		m = remembered(q, l->user);
		secmem_wipe(m, sizeof(*m));
		snprintf(m->user, sizeof(m->user), "%s", l->user);
		m->used = true;
		m->found = l->answer == AUTHQUERY_FOUND;
		m->verifier = l->verifier;
		m->when_ms = clock_now_ms();
		if (m->found) {
			q->like = l->verifier;
			q->has_like = true;
		}
	}
	pthread_mutex_unlock(&q->mutex);
}

void
authquery_doubt(struct authquery *q, const char *user)
{
	struct memory *m;

	pthread_mutex_lock(&q->mutex);
	m = remembered(q, user);
	if (m->used && strcmp(m->user, user) == 0 && clock_now_ms() - m->when_ms > DOUBT_MS)
		secmem_wipe(m, sizeof(*m));
	pthread_mutex_unlock(&q->mutex);
}

void
authquery_forget(struct authquery *q, struct site *site)
{
	struct site *old;

	pthread_mutex_lock(&q->mutex);
	secmem_wipe(q->memory, sizeof(q->memory));
	old = q->site;
	q->site = site_ref(site);
	pthread_mutex_unlock(&q->mutex);
	site_unref(old);
}

bool
authquery_like(struct authquery *q, struct verifier *v)
{
	bool has;

	pthread_mutex_lock(&q->mutex);
	has = q->has_like;
	*v = q->like;
	pthread_mutex_unlock(&q->mutex);
	return has;
}

/* Wait for the connection's socket; false when the time is over or the proxy stops. */
static bool
wait_for(struct authquery *q, short events, int64_t until_ms)
{
	struct pollfd fds[2] = {{.fd = PQsocket(q->conn), .events = events}, {.fd = q->wake, .events = POLLIN}};
	int64_t left = until_ms - clock_now_ms();
	int rc = left > 0 ? poll(fds, 2, (int)left) : 0;

	return (rc > 0 && fds[1].revents == 0) || (rc < 0 && errno == EINTR);
}

static void
hang_up(struct authquery *q)
{
	PQfinish(q->conn);
	q->conn = NULL;
	free(q->conninfo);
	q->conninfo = NULL;
}

static void
no_notice(void *arg, const PGresult *res)
{
	(void)arg;
	(void)res;
}

/* Verifiers cross no network in clear. */
static bool
is_private(struct authquery *q)
{
	struct sockaddr_storage addr = {0};
	socklen_t len = sizeof(addr);
	struct err err = {0};

	if (PQsslInUse(q->conn) || (getpeername(PQsocket(q->conn), (struct sockaddr *)&addr, &len) == 0 &&
	                            (addr.ss_family == AF_UNIX || address_is_loopback((struct sockaddr *)&addr))))
		return true;
	err_set(&err, ERR_REFUSED, "the connection of auth_conninfo has no TLS");
	err_hint(&err, "Set sslmode=verify-full in it.");
	log_err(LOG_WARNING, &err, NULL);
	return false;
}

static bool
call(struct authquery *q, const struct settings *settings, int64_t until_ms)
{
	const char *const names[] = {"dbname", "fallback_application_name", NULL};
	const char *const values[] = {settings->auth_conninfo, "walcrypt-proxy", NULL};
	PostgresPollingStatusType status = PGRES_POLLING_WRITING;

	if (q->conn != NULL && q->conninfo != NULL && strcmp(q->conninfo, settings->auth_conninfo) == 0 &&
	    PQstatus(q->conn) == CONNECTION_OK)
		return true;
	hang_up(q);
	if ((q->conninfo = strdup(settings->auth_conninfo)) == NULL ||
	    (q->conn = PQconnectStartParams(names, values, 1)) == NULL)
		return false;
	PQsetNoticeReceiver(q->conn, no_notice, NULL);
	while (PQstatus(q->conn) != CONNECTION_BAD && status != PGRES_POLLING_OK && status != PGRES_POLLING_FAILED) {
		if (!wait_for(q, status == PGRES_POLLING_READING ? POLLIN : POLLOUT, until_ms))
			return false;
		status = PQconnectPoll(q->conn);
	}
	return status == PGRES_POLLING_OK && is_private(q);
}

/* The answer's one result; NULL when there is none. */
static PGresult *
query(struct authquery *q, const struct lookup *l, int64_t until_ms)
{
	const char *const values[] = {l->user};
	PGresult *res, *last = NULL;

	if (!PQsendQueryParams(q->conn, l->site->settings->auth_query, 1, NULL, values, NULL, NULL, 0))
		return NULL;
	for (;;) {
		while (PQisBusy(q->conn))
			if (!wait_for(q, POLLIN, until_ms) || !PQconsumeInput(q->conn)) {
				PQclear(last);
				return NULL;
			}
		if ((res = PQgetResult(q->conn)) == NULL)
			return last;
		PQclear(last);
		last = res;
	}
}

/* The server has no such characters, so it has no such user. */
static bool
cannot_be(const PGresult *res)
{
	const char *state = PQresultErrorField(res, PG_DIAG_SQLSTATE);

	return state != NULL && strcmp(state, "22021") == 0;
}

static void
resolve(struct errand *e)
{
	struct lookup *l = (struct lookup *)e;
	struct authquery *q = l->q;
	bool had = q->conn != NULL;
	int64_t until_ms = clock_now_ms() + l->site->settings->connect_timeout_ms;
	PGresult *res = NULL;
	struct err err = {0};

	/* two sessions of one user may have asked */
	if ((l->answer = authquery_find(q, l->site, l->user, &l->verifier)) != AUTHQUERY_UNKNOWN)
		return;
	if (call(q, l->site->settings, until_ms))
		res = query(q, l, until_ms);
	/* a connection from before may have died unnoticed */
	if (res == NULL && had) {
		hang_up(q);
		if (call(q, l->site->settings, until_ms))
			res = query(q, l, until_ms);
	}
	if (PQresultStatus(res) != PGRES_TUPLES_OK && !cannot_be(res)) {
		const char *why = res != NULL ? PQresultErrorField(res, PG_DIAG_MESSAGE_PRIMARY) : NULL;

		if (why == NULL)
			why = q->conn != NULL ? PQerrorMessage(q->conn) : "";
		err_set(&err, ERR_UNREACHABLE, "could not ask for a user's verifier");
		err_detail(&err, "%.*s", (int)strcspn(why, "\n"), *why != '\0' ? why : "No answer came in time.");
		log_err(LOG_WARNING, &err, NULL);
		hang_up(q);
	} else {
		const char *text =
		    PQntuples(res) == 1 && PQnfields(res) > 0 && !PQgetisnull(res, 0, 0) ? PQgetvalue(res, 0, 0) : "";

		l->answer = verifier_parse(text, &l->verifier, &err) == 0 ? AUTHQUERY_FOUND : AUTHQUERY_NONE;
		if (l->answer == AUTHQUERY_NONE && *text != '\0')
			log_info("auth_query gives no SCRAM-SHA-256 verifier for user \"%s\"", l->user);
		remember(q, l);
	}
	PQclear(res);
}

static void
deliver(struct errand *e)
{
	struct lookup *l = (struct lookup *)e;

	l->answered(e->owner, l->answer, &l->verifier);
}

static void
lookup_free(struct errand *e)
{
	struct lookup *l = (struct lookup *)e;

	site_unref(l->site);
	secmem_wipe(l, sizeof(*l));
	free(l);
}

static const struct errand_kind lookup_kind = {resolve, deliver, lookup_free};

struct authquery *
authquery_new(struct err *err)
{
	struct authquery *q = calloc(1, sizeof(*q));

	if (q == NULL || (q->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) < 0) {
		err_nomem(err);
		free(q);
		return NULL;
	}
	if ((q->errands = errands_new(err)) == NULL) {
		close(q->wake);
		free(q);
		return NULL;
	}
	pthread_mutex_init(&q->mutex, NULL);
	return q;
}

void
authquery_stop(struct authquery *q)
{
	const uint64_t one = 1;

	if (q == NULL)
		return;
	if (write(q->wake, &one, sizeof(one)) < 0)
		log_debug("eventfd: %s", strerror(errno));
	errands_stop(q->errands);
}

void
authquery_free(struct authquery *q)
{
	if (q == NULL)
		return;
	errands_free(q->errands);
	hang_up(q);
	site_unref(q->site);
	close(q->wake);
	pthread_mutex_destroy(&q->mutex);
	secmem_wipe(q, sizeof(*q));
	free(q);
}

struct lookup *
authquery_ask(struct authquery *q, struct worker *worker, struct site *site, const char *user,
              void (*answered)(void *owner, enum authquery_answer answer, const struct verifier *v), void *owner,
              struct err *err)
{
	struct lookup *l = calloc(1, sizeof(*l));

	if (l == NULL) {
		err_nomem(err);
		return NULL;
	}
	l->errand = (struct errand){.kind = &lookup_kind, .worker = worker, .owner = owner};
	l->q = q;
	l->site = site_ref(site);
	snprintf(l->user, sizeof(l->user), "%s", user);
	l->answered = answered;
	return errand_send(q->errands, &l->errand, err) == 0 ? l : NULL;
}
