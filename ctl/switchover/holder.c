#include "ctl/switchover/holder.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "ctl/console.h"

#define AGAIN_MS 100

struct holder {
	pthread_t thread;
	int stop; /* an eventfd: readable when it is to end */
	const struct settings *settings;
	const char *target;
	PGconn *console; /* NULL: lost */
};

static int
pause_say(struct holder *h, struct err *err)
{
	static const struct console_where where = {.admin = true};
	char query[32 + SETTINGS_NAME_MAX];
	PGresult *r = NULL;

	snprintf(query, sizeof(query), "PAUSE EXCEPT %s", h->target);
	if ((h->console = console_open(&where, h->settings, err)) != NULL &&
	    (r = console_ask(h->console, query, err)) == NULL) {
		PQfinish(h->console);
		h->console = NULL;
	}
	PQclear(r);
	return r != NULL ? 0 : -1;
}

static void *
run(void *arg)
{
	struct holder *h = arg;
	struct err ignored;

	for (;;) {
		struct pollfd on[] = {{.fd = h->stop, .events = POLLIN},
		                      {.fd = h->console != NULL ? PQsocket(h->console) : -1, .events = POLLIN}};

		if (poll(on, 2, h->console != NULL ? -1 : AGAIN_MS) < 0)
			continue; /* a signal */
		if (on[0].revents != 0)
			return NULL;
		if (h->console != NULL && (PQconsumeInput(h->console) == 0 || PQstatus(h->console) != CONNECTION_OK)) {
			PQfinish(h->console);
			h->console = NULL;
		}
		if (h->console == NULL && pause_say(h, &ignored) == 0) {
			printf("  note  the connection to the proxy was lost and is back: its new sessions are held again\n");
			fflush(stdout);
		}
	}
}

static void
holder_free(struct holder *h)
{
	PQfinish(h->console);
	if (h->stop >= 0)
		close(h->stop);
	free(h);
}

struct holder *
holder_start(const struct settings *settings, const char *target, struct err *err)
{
	struct holder *h = calloc(1, sizeof(*h));
	int failure;

	if (h == NULL) {
		err_nomem(err);
		return NULL;
	}
	h->settings = settings;
	h->target = target;
	if ((h->stop = eventfd(0, EFD_CLOEXEC)) < 0)
		err_os(err, errno, "could not make an event descriptor");
	else if (pause_say(h, err) != 0)
		;
	else if ((failure = pthread_create(&h->thread, NULL, run, h)) == 0)
		return h;
	else
		err_os(err, failure, "could not start a thread");
	holder_free(h);
	return NULL;
}

void
holder_stop(struct holder *h)
{
	if (h == NULL)
		return;
	eventfd_write(h->stop, 1);
	pthread_join(h->thread, NULL);
	holder_free(h);
}
