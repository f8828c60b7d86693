#include "keymgr/vault_session.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "walcrypt/secmem.h"

/* A login that is kept. */
struct session {
	struct session *next;
	char *identity; /* whose login where */
	char *token;    /* secure memory */
	int64_t since_ms;
	long lease_s; /* 0: for ever */
	bool renewable;
};

static pthread_mutex_t sessions_mutex = PTHREAD_MUTEX_INITIALIZER;
static struct session *sessions;

/* Two sources with the same identity may share a token. NULL: no memory. */
static char *
identity_make(const struct vault *v, struct err *err)
{
	const char *const parts[] = {v->peer.host_port, v->namespace,  v->login.method,  v->login.mount,
	                             v->login.role,     v->login.file, v->peer.cert_file};
	char *text = strdup("");

	for (size_t i = 0; text != NULL && i < sizeof(parts) / sizeof(parts[0]); i++) {
		char *longer = NULL;

		if (asprintf(&longer, "%s%s\n", text, parts[i] != NULL ? parts[i] : "") < 0)
			longer = NULL;
		free(text);
		text = longer;
	}
	if (text == NULL)
		err_nomem(err);
	return text;
}

/* Under the mutex. */
static struct session **
session_find(const char *identity)
{
	struct session **at = &sessions;

	while (*at != NULL && strcmp((*at)->identity, identity) != 0)
		at = &(*at)->next;
	return at;
}

static void
session_free(struct session *s)
{
	free(s->identity);
	secmem_free(s->token);
	free(s);
}

void
vault_session_drop(const struct vault *v)
{
	struct session **at, *s;
	struct err ignored;
	char *identity = identity_make(v, &ignored);

	if (identity == NULL)
		return;
	pthread_mutex_lock(&sessions_mutex);
	at = session_find(identity);
	if ((s = *at) != NULL && strcmp(s->token, v->token) == 0) {
		*at = s->next;
		session_free(s);
	}
	pthread_mutex_unlock(&sessions_mutex);
	free(identity);
}

void
vault_session_put(struct vault *v, long lease_s, bool renewable)
{
	struct session *s = calloc(1, sizeof(*s)), **at;
	size_t len = strlen(v->token) + 1;
	struct err ignored;

	if (s == NULL || (s->identity = identity_make(v, &ignored)) == NULL ||
	    (s->token = secmem_alloc(len, &ignored)) == NULL) {
		if (s != NULL)
			session_free(s);
		return;
	}
	memcpy(s->token, v->token, len);
	s->since_ms = clock_now_ms();
	s->lease_s = lease_s;
	s->renewable = renewable;
	pthread_mutex_lock(&sessions_mutex);
	at = session_find(s->identity);
	if (*at != NULL) {
		s->next = (*at)->next;
		session_free(*at);
	}
	*at = s;
	pthread_mutex_unlock(&sessions_mutex);
	v->kept = true;
}

bool
vault_session_get(struct vault *v, long *lease_s, long *age_s, bool *renewable)
{
	struct err ignored;
	char *identity = identity_make(v, &ignored);
	const struct session *s;
	bool found;

	if (identity == NULL)
		return false;
	pthread_mutex_lock(&sessions_mutex);
	s = *session_find(identity);
	if ((found = s != NULL)) {
		*age_s = (long)((clock_now_ms() - s->since_ms) / 1000);
		*lease_s = s->lease_s;
		*renewable = s->renewable;
		if ((found = *lease_s == 0 || *age_s < *lease_s))
			memcpy(v->token, s->token, strlen(s->token) + 1);
	}
	pthread_mutex_unlock(&sessions_mutex);
	free(identity);
	return found;
}
