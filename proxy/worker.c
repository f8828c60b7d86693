#include "proxy/worker.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "common/log.h"
#include "proxy/session.h"

struct arrival {
	struct arrival *next;
	int fd;
	struct peer peer;
};

struct post {
	struct post *next;
	void (*fn)(void *arg);
	void *arg;
};

struct worker {
	struct proxy *proxy;
	struct ev_loop *loop;
	pthread_t thread;
	ev_async wake;
	ev_prepare prepare;
	pthread_mutex_t mutex; /* of the next three */
	struct arrival *arrivals;
	struct post *posts;
	enum worker_stop stop; /* as it was told */
	enum worker_stop stopping;
	atomic_size_t load;
	atomic_bool silent; /* it was asked for a sign of life, and has given none yet */
	atomic_bool ended;
	struct session *sessions, *touched;
};

static void
take_posts(struct worker *w)
{
	struct post *list, *next;

	pthread_mutex_lock(&w->mutex);
	list = w->posts;
	w->posts = NULL;
	pthread_mutex_unlock(&w->mutex);
	for (; list != NULL; list = next) {
		next = list->next;
		list->fn(list->arg);
		free(list);
	}
}

static void
on_wake(struct ev_loop *loop, ev_async *a, int revents)
{
	struct worker *w = a->data;
	struct arrival *list;
	enum worker_stop stop;

	(void)revents;
	w->silent = false;
	pthread_mutex_lock(&w->mutex);
	list = w->arrivals;
	w->arrivals = NULL;
	stop = w->stop;
	pthread_mutex_unlock(&w->mutex);
	while (list != NULL) {
		struct arrival *next = list->next;

		if (stop != WORKER_RUNS || session_new(w, &w->sessions, list->fd, &list->peer) == NULL) {
			limits_leave(w->proxy->limits, &list->peer);
			close(list->fd);
			w->load--;
		}
		free(list);
		list = next;
	}
	take_posts(w);
	if (stop > w->stopping) {
		w->stopping = stop;
		for (struct session *s = w->sessions; s != NULL; s = session_next(s))
			session_stop(s, stop);
		if (w->sessions == NULL)
			ev_break(loop, EVBREAK_ALL);
	}
}

/* Before the loop sleeps: what was written in this round goes out in one piece, what has ended is freed. */
static void
on_prepare(struct ev_loop *loop, ev_prepare *p, int revents)
{
	struct worker *w = p->data;
	struct session *s = w->touched;

	(void)revents;
	w->touched = NULL;
	while (s != NULL) {
		struct session *next = session_untouch(s);

		if (!session_settle(s))
			w->load--;
		s = next;
	}
	if (w->stopping != WORKER_RUNS && w->sessions == NULL)
		ev_break(loop, EVBREAK_ALL);
	else if (w->touched != NULL)
		ev_async_send(loop, &w->wake); /* settling one session made work for another round: do not sleep */
}

static void *
run(void *arg)
{
	struct worker *w = arg;

	ev_run(w->loop, 0);
	w->ended = true;
	w->proxy->worker_ended(w->proxy);
	return NULL;
}

struct worker *
worker_new(struct proxy *proxy, unsigned number, struct err *err)
{
	struct worker *w = calloc(1, sizeof(*w));
	sigset_t all, before;
	char name[16];
	int rc;

	if (w == NULL || (w->loop = ev_loop_new(EVFLAG_AUTO)) == NULL) {
		err_nomem(err);
		free(w);
		return NULL;
	}
	w->proxy = proxy;
	pthread_mutex_init(&w->mutex, NULL);
	ev_async_init(&w->wake, on_wake);
	ev_prepare_init(&w->prepare, on_prepare);
	w->wake.data = w->prepare.data = w;
	ev_async_start(w->loop, &w->wake);
	ev_prepare_start(w->loop, &w->prepare);
	/* signals are the main thread's */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	rc = pthread_create(&w->thread, NULL, run, w);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (rc != 0) {
		err_os(err, rc, "could not start a worker thread");
		ev_loop_destroy(w->loop);
		pthread_mutex_destroy(&w->mutex);
		free(w);
		return NULL;
	}
	snprintf(name, sizeof(name), "worker-%u", number % 1000);
	pthread_setname_np(w->thread, name);
	return w;
}

void
worker_give(struct worker *w, int fd, const struct peer *peer)
{
	struct arrival *a = calloc(1, sizeof(*a));

	if (a == NULL) {
		log_error("out of memory: a connection from %s is dropped", peer->text);
		limits_leave(w->proxy->limits, peer);
		close(fd);
		return;
	}
	a->fd = fd;
	a->peer = *peer;
	w->load++;
	pthread_mutex_lock(&w->mutex);
	a->next = w->arrivals;
	w->arrivals = a;
	pthread_mutex_unlock(&w->mutex);
	ev_async_send(w->loop, &w->wake);
}

void
worker_post(struct worker *w, void (*fn)(void *arg), void *arg)
{
	struct post *p = calloc(1, sizeof(*p));

	if (p == NULL) {
		/* what waits for it ends by its time limit */
		log_error("out of memory: an answer is lost");
		return;
	}
	p->fn = fn;
	p->arg = arg;
	pthread_mutex_lock(&w->mutex);
	p->next = w->posts;
	w->posts = p;
	pthread_mutex_unlock(&w->mutex);
	ev_async_send(w->loop, &w->wake);
}

static void
release(void *arg)
{
	struct worker *w = arg;

	for (struct session *s = w->sessions; s != NULL; s = session_next(s))
		session_release(s);
}

void
worker_release(struct worker *w)
{
	worker_post(w, release, w);
}

size_t
worker_load(const struct worker *w)
{
	return w->load;
}

void
worker_stop(struct worker *w, enum worker_stop how)
{
	pthread_mutex_lock(&w->mutex);
	if (w->stop < how)
		w->stop = how;
	pthread_mutex_unlock(&w->mutex);
	ev_async_send(w->loop, &w->wake);
}

void
worker_ping(struct worker *w)
{
	w->silent = true;
	ev_async_send(w->loop, &w->wake);
}

bool
worker_answered(const struct worker *w)
{
	return !w->silent || w->ended;
}

bool
worker_stops(const struct worker *w)
{
	return w->stopping != WORKER_RUNS;
}

void
worker_join(struct worker *w)
{
	if (w == NULL)
		return;
	pthread_join(w->thread, NULL);
	take_posts(w);
	ev_loop_destroy(w->loop);
	pthread_mutex_destroy(&w->mutex);
	free(w);
}

struct ev_loop *
worker_loop(const struct worker *w)
{
	return w->loop;
}

struct proxy *
worker_proxy(const struct worker *w)
{
	return w->proxy;
}

void
worker_touch(struct worker *w, struct session *s)
{
	w->touched = session_touch(s, w->touched);
}
