#include "ctl/jobs.h"

#include <pthread.h>
#include <stdbool.h>
#include <unistd.h>

struct worker {
	pthread_t thread;
	bool started;
	int (*work)(void *arg, struct err *err);
	void *arg;
	struct err err;
	int result;
};

int
jobs_default(int jobs)
{
	long processors = sysconf(_SC_NPROCESSORS_ONLN);

	return jobs > 0 ? jobs : processors < 1 ? 1 : processors > 8 ? 8 : (int)processors;
}

static void *
worker_run(void *arg)
{
	struct worker *w = arg;

	w->result = w->work(w->arg, &w->err);
	return NULL;
}

int
jobs_run(int jobs, int (*work)(void *arg, struct err *err), int (*beside)(void *arg, struct err *err), void *arg,
         struct err *err)
{
	struct worker workers[JOBS_MAX] = {0};
	int result;

	for (int i = 0; i < jobs && i < JOBS_MAX; i++) {
		workers[i].work = work;
		workers[i].arg = arg;
		if (pthread_create(&workers[i].thread, NULL, worker_run, &workers[i]) == 0)
			workers[i].started = true;
		else if (i == 0)
			return err_set(err, ERR_FAILED, "could not start a thread");
	}
	result = beside != NULL ? beside(arg, err) : 0;
	for (int i = 0; i < jobs && i < JOBS_MAX; i++) {
		if (!workers[i].started)
			continue;
		pthread_join(workers[i].thread, NULL);
		if (workers[i].result != 0 && result == 0) {
			*err = workers[i].err;
			result = -1;
		}
	}
	return result;
}
