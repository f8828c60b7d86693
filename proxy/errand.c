#include "proxy/errand.h"

#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>

#include "proxy/locked.h"
#include "proxy/worker.h"

struct errands {
	pthread_mutex_t mutex; /* of all */
	pthread_cond_t more;
	pthread_t thread;
	bool running, stopping;
	struct errand *first, **last;
};

static void
unref(struct errand *e)
{
	if (--e->refs == 0)
		e->kind->free(e);
}

void
errand_drop(struct errand *e)
{
	if (e == NULL)
		return;
	e->owner = NULL;
	unref(e);
}

/* In the worker's thread. */
static void
deliver(void *arg)
{
	struct errand *e = arg;

	if (e->owner != NULL)
		e->kind->deliver(e);
	unref(e);
}

static void *
run(void *arg)
{
	struct errands *q = arg;
	struct errand *e;

	for (;;) {
		pthread_mutex_lock(&q->mutex);
		while (q->first == NULL && !q->stopping)
			pthread_cond_wait(&q->more, &q->mutex);
		if (q->stopping) {
			pthread_mutex_unlock(&q->mutex);
			return NULL;
		}
		e = q->first;
		if ((q->first = e->next) == NULL)
			q->last = &q->first;
		pthread_mutex_unlock(&q->mutex);
		if (e->refs > 1) /* its owner has not dropped it */
			e->kind->run(e);
		worker_post(e->worker, deliver, e);
	}
}

struct errands *
errands_new(struct err *err)
{
	struct errands *q = locked_new(sizeof(*q), err);

	if (q == NULL)
		return NULL;
	pthread_cond_init(&q->more, NULL);
	q->last = &q->first;
	return q;
}

void
errands_stop(struct errands *q)
{
	bool running;

	pthread_mutex_lock(&q->mutex);
	q->stopping = true;
	running = q->running;
	q->running = false;
	pthread_cond_signal(&q->more);
	pthread_mutex_unlock(&q->mutex);
	if (running)
		pthread_join(q->thread, NULL);
}

void
errands_free(struct errands *q)
{
	if (q == NULL)
		return;
	errands_stop(q);
	while (q->first != NULL) {
		struct errand *e = q->first;

		q->first = e->next;
		unref(e);
	}
	pthread_cond_destroy(&q->more);
	locked_free(q);
}

/* The thread is there from the first piece of work on. */
static int
start(struct errands *q, struct err *err)
{
	sigset_t all, before;
	int rc;

	if (q->running)
		return 0;
	if (q->stopping)
		return err_set(err, ERR_FAILED, "the proxy stops");
	/* signals are the main thread's */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	rc = pthread_create(&q->thread, NULL, run, q);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (rc != 0)
		return err_os(err, rc, "could not start a thread");
	q->running = true;
	return 0;
}

int
errand_send(struct errands *q, struct errand *e, struct err *err)
{
	int rc;

	e->refs = 1;
	pthread_mutex_lock(&q->mutex);
	if ((rc = start(q, err)) == 0) {
		e->refs++;
		e->next = NULL;
		*q->last = e;
		q->last = &e->next;
		pthread_cond_signal(&q->more);
	}
	pthread_mutex_unlock(&q->mutex);
	if (rc != 0)
		unref(e);
	return rc;
}
