#include "proxy/renewal.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/clock.h"
#include "common/log.h"
#include "keymgr/provider.h"
#include "proxy/proxy.h"

#define WAIT_MAX_MS (3600 * 1000)
#define RETRY_FIRST_MS 5000
#define RETRY_MAX_MS (300 * 1000)

/* One [kek] section. */
struct renewal_kek {
	char name[SETTINGS_NAME_MAX + 1];
	int64_t due_ms;
	int retry_ms; /* 0: the last try succeeded */
	char said[sizeof(((struct err *)0)->text)];
};

struct renewal {
	struct proxy *proxy;
	pthread_t thread;
	pthread_mutex_t mutex; /* of look */
	pthread_cond_t wake;
	bool look;
	atomic_bool stop;
	/* the thread's own */
	struct renewal_kek *keks;
	size_t nkeks;
};

static void
failed(struct renewal_kek *state, const struct settings_kek *k, const struct err *err)
{
	char context[128];

	snprintf(context, sizeof(context), "cluster key \"%s\" could not be fetched again now", k->name);
	if (strcmp(state->said, err->text) != 0)
		log_err(LOG_WARNING, err, context);
	memcpy(state->said, err->text, sizeof(state->said));
	state->retry_ms = state->retry_ms == 0                 ? RETRY_FIRST_MS
	                  : state->retry_ms < RETRY_MAX_MS / 2 ? 2 * state->retry_ms
	                                                       : RETRY_MAX_MS;
	state->due_ms = clock_now_ms() + state->retry_ms;
}

static void
keep(struct renewal *r, struct renewal_kek *state, const struct settings_kek *k)
{
	struct kek_conf conf = {.terminal_fd = -1, .keep = true, .stop = &r->stop};
	struct err err = {0};
	int again_s;

	kek_conf_set(&conf, k);
	if (kek_keep(&conf, &again_s, &err) != 0) {
		if (!r->stop)
			failed(state, k, &err);
		return;
	}
	if (state->retry_ms != 0)
		log_info("cluster key \"%s\" could be fetched again", k->name);
	state->retry_ms = 0;
	state->said[0] = '\0';
	state->due_ms = again_s == 0 ? INT64_MAX : clock_now_ms() + (int64_t)again_s * 1000;
}

/* One round; until when there is nothing to do. */
static int64_t
round_run(struct renewal *r)
{
	struct site *site = proxy_site(r->proxy);
	const struct settings *s = site->settings;
	int64_t next_ms = clock_now_ms() + WAIT_MAX_MS;

	if (s->nkeks != r->nkeks) {
		free(r->keks);
		r->keks = calloc(s->nkeks, sizeof(*r->keks));
		r->nkeks = r->keks != NULL ? s->nkeks : 0;
	}
	for (size_t i = 0; i < r->nkeks && !r->stop; i++) {
		/* the sections may have another order now */
		if (strcmp(r->keks[i].name, s->keks[i].name) != 0) {
			r->keks[i] = (struct renewal_kek){0};
			snprintf(r->keks[i].name, sizeof(r->keks[i].name), "%s", s->keks[i].name);
		}
		if (!settings_kek_used(s, &s->keks[i]))
			continue;
		if (r->keks[i].due_ms <= clock_now_ms())
			keep(r, &r->keks[i], &s->keks[i]);
		if (r->keks[i].due_ms < next_ms)
			next_ms = r->keks[i].due_ms;
	}
	site_unref(site);
	return next_ms;
}

static void *
run(void *arg)
{
	struct renewal *r = arg;

	while (!r->stop) {
		int64_t until_ms = round_run(r);
		struct timespec until = {.tv_sec = until_ms / 1000, .tv_nsec = until_ms % 1000 * 1000000};

		pthread_mutex_lock(&r->mutex);
		while (!r->look && !r->stop && clock_now_ms() < until_ms)
			pthread_cond_timedwait(&r->wake, &r->mutex, &until);
		/* at once; what was said to be lost is still to be said to be well again */
		for (size_t i = 0; r->look && i < r->nkeks; i++)
			r->keks[i].due_ms = 0;
		r->look = false;
		pthread_mutex_unlock(&r->mutex);
	}
	return NULL;
}

struct renewal *
renewal_start(struct proxy *proxy, struct err *err)
{
	struct renewal *r = calloc(1, sizeof(*r));
	pthread_condattr_t attr;
	int rc;

	if (r == NULL) {
		err_nomem(err);
		return NULL;
	}
	r->proxy = proxy;
	pthread_mutex_init(&r->mutex, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&r->wake, &attr);
	pthread_condattr_destroy(&attr);
	if ((rc = pthread_create(&r->thread, NULL, run, r)) == 0)
		return r;
	err_os(err, rc, "could not start a thread");
	pthread_cond_destroy(&r->wake);
	pthread_mutex_destroy(&r->mutex);
	free(r);
	return NULL;
}

void
renewal_look(struct renewal *r)
{
	pthread_mutex_lock(&r->mutex);
	r->look = true;
	pthread_cond_signal(&r->wake);
	pthread_mutex_unlock(&r->mutex);
}

void
renewal_stop(struct renewal *r)
{
	if (r == NULL)
		return;
	r->stop = true;
	renewal_look(r);
	pthread_join(r->thread, NULL);
	pthread_cond_destroy(&r->wake);
	pthread_mutex_destroy(&r->mutex);
	free(r->keks);
	free(r);
}
