#include "proxy/reload.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "proxy/authquery.h"
#include "proxy/notify.h"
#include "proxy/renewal.h"

struct reload {
	struct ev_loop *loop;
	struct proxy *proxy;
	ev_async asked, loaded;
	/* the thread's */
	pthread_t thread;
	bool running;
	unsigned covers; /* what was asked for before it began */
	struct site *site;
	struct err site_err;
	pthread_mutex_t mutex; /* of the rest */
	unsigned ask, done;
	int rc; /* of done */
	struct err err;
};

static bool
differ(const char *a, const char *b)
{
	return (a == NULL) != (b == NULL) || (a != NULL && strcmp(a, b) != 0);
}

static bool
listens_differ(const struct settings *a, const struct settings *b)
{
	if (a->nlistens != b->nlistens)
		return true;
	for (size_t i = 0; i < a->nlistens; i++)
		if (differ(a->listens[i].name, b->listens[i].name) || differ(a->listens[i].addr, b->listens[i].addr) ||
		    a->listens[i].port != b->listens[i].port)
			return true;
	return false;
}

/* Some options are only read at start. */
static void
say_what_stays(const struct settings *old, const struct settings *now)
{
	if (old->listen_port != now->listen_port || differ(old->listen_addr, now->listen_addr) ||
	    differ(old->unix_socket_dir, now->unix_socket_dir))
		log_warning("listen_addr, listen_port and unix_socket_dir change at the next start");
	if (differ(old->http_listen, now->http_listen))
		log_warning("http_listen changes at the next start");
	if (listens_differ(old, now))
		log_warning("[listen] sections change at the next start, but for their users");
	/* connections beyond loopback were turned away, or not, by the one that was there at the start */
	if (old->auth != now->auth && (old->auth == SETTINGS_TRUST || now->auth == SETTINGS_TRUST))
		log_warning("auth_type changes from or to trust at the next start");
	if (old->workers != now->workers)
		log_warning("workers changes at the next start");
	if (differ(old->keystore, now->keystore) || differ(old->ledger, now->ledger))
		log_warning("ledger, and the timelines kept in keystore, change at the next start");
}

static void *
run(void *arg)
{
	struct reload *r = arg;

	r->site = site_load(r->proxy->conf_file, &r->site_err);
	ev_async_send(r->loop, &r->loaded);
	return NULL;
}

static void
finished(struct reload *r, int rc, const struct err *err)
{
	pthread_mutex_lock(&r->mutex);
	r->done = r->covers;
	r->rc = rc;
	if (rc != 0)
		r->err = *err;
	pthread_mutex_unlock(&r->mutex);
	notify_ready(r->proxy->notify, rc != 0 ? err->text : NULL);
}

static void
begin(struct reload *r)
{
	struct err err = {0};
	int rc;

	pthread_mutex_lock(&r->mutex);
	r->covers = r->ask;
	rc = r->covers == r->done ? -1 : 0;
	pthread_mutex_unlock(&r->mutex);
	if (rc != 0)
		return; /* the one that was under way has begun after it was asked for */
	notify_reloading(r->proxy->notify);
	log_info("reading \"%s\" again", r->proxy->conf_file);
	if ((rc = pthread_create(&r->thread, NULL, run, r)) == 0) {
		r->running = true;
		return;
	}
	err_os(&err, rc, "could not start a thread to reload");
	log_err(LOG_ERROR, &err, NULL);
	finished(r, -1, &err);
}

static void
on_asked(struct ev_loop *loop, ev_async *w, int revents)
{
	struct reload *r = w->data;

	(void)loop;
	(void)revents;
	if (!r->running)
		begin(r);
}

/* The site of now is the fresh one. */
static void
take(struct reload *r)
{
	struct proxy *p = r->proxy;
	struct site *old = proxy_site(p);

	say_what_stays(old->settings, r->site->settings);
	log_set_level(r->site->settings->log_level);
	log_set_json(r->site->settings->log_json);
	limits_set(p->limits, r->site->settings);
	authquery_forget(p->authquery, r->site);
	proxy_set_site(p, site_ref(r->site));
	/* keys that were made while the new one was read */
	site_adopt(r->site, old);
	site_unref(r->site);
	site_unref(old);
	r->site = NULL;
	renewal_look(p->renewal);
	log_info("reloaded; sessions that are there keep what they began with");
}

static void
on_loaded(struct ev_loop *loop, ev_async *w, int revents)
{
	struct reload *r = w->data;

	(void)loop;
	(void)revents;
	pthread_join(r->thread, NULL);
	r->running = false;
	if (r->site != NULL) {
		take(r);
		finished(r, 0, NULL);
	} else {
		log_err(LOG_ERROR, &r->site_err, "the configuration stays as it was");
		finished(r, -1, &r->site_err);
	}
	begin(r);
}

struct reload *
reload_new(struct ev_loop *loop, struct proxy *proxy, struct err *err)
{
	struct reload *r = calloc(1, sizeof(*r));

	if (r == NULL) {
		err_nomem(err);
		return NULL;
	}
	r->loop = loop;
	r->proxy = proxy;
	pthread_mutex_init(&r->mutex, NULL);
	ev_async_init(&r->asked, on_asked);
	ev_async_init(&r->loaded, on_loaded);
	r->asked.data = r->loaded.data = r;
	ev_async_start(loop, &r->asked);
	ev_async_start(loop, &r->loaded);
	return r;
}

void
reload_free(struct reload *r)
{
	if (r == NULL)
		return;
	if (r->running) {
		pthread_join(r->thread, NULL);
		site_unref(r->site);
	}
	ev_async_stop(r->loop, &r->asked);
	ev_async_stop(r->loop, &r->loaded);
	pthread_mutex_destroy(&r->mutex);
	free(r);
}

unsigned
reload_ask(struct reload *r)
{
	unsigned number;

	pthread_mutex_lock(&r->mutex);
	number = ++r->ask;
	pthread_mutex_unlock(&r->mutex);
	ev_async_send(r->loop, &r->asked);
	return number;
}

bool
reload_over(struct reload *r, unsigned number, int *rc, struct err *err)
{
	bool over;

	pthread_mutex_lock(&r->mutex);
	/* numbers may wrap */
	over = (int)(r->done - number) >= 0;
	if (over && (*rc = r->rc) != 0)
		*err = r->err;
	pthread_mutex_unlock(&r->mutex);
	return over;
}
