#include "proxy/notify.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <systemd/sd-daemon.h>
#include <time.h>

#include "proxy/worker.h"

#define STATUS_S 5.
/* What a manager waits at least for a stop, when it was told nothing (systemd's default is 90 s). */
#define PATIENCE_S 60.

struct notify {
	struct ev_loop *loop;
	struct proxy *proxy;
	ev_timer status, watchdog;
	char last[512]; /* the status that was told */
	char trouble[256];
	bool stopping;
};

static void
say_status(struct notify *n)
{
	struct registry *r = &n->proxy->registry;
	char paused[128], status[512];
	size_t sessions, streams = 0;

	registry_lock(r);
	sessions = r->admitted;
	for (const struct card *c = r->first; c != NULL; c = c->next)
		streams += strcmp(c->state, "stream") == 0;
	registry_unlock(r);
	pause_text(n->proxy->pause, paused, sizeof(paused));
	snprintf(status, sizeof(status), "%s%zu sessions, %zu of them stream; paused: %s%s%s",
	         n->stopping ? "stopping; " : "", sessions, streams, paused,
	         n->trouble[0] != '\0' ? "; the last reload failed: " : "", n->trouble);
	if (strcmp(status, n->last) == 0)
		return;
	memcpy(n->last, status, sizeof(n->last));
	sd_notifyf(0, "STATUS=%s", status);
}

static void
on_status(struct ev_loop *loop, ev_timer *w, int revents)
{
	(void)loop;
	(void)revents;
	say_status(w->data);
}

/* A loop that hangs does not answer, and then nothing is said. */
static void
on_watchdog(struct ev_loop *loop, ev_timer *w, int revents)
{
	struct notify *n = w->data;
	struct proxy *p = n->proxy;

	(void)loop;
	(void)revents;
	for (size_t i = 0; i < p->nworkers; i++)
		if (!worker_answered(p->workers[i]))
			return;
	sd_notify(0, "WATCHDOG=1");
	for (size_t i = 0; i < p->nworkers; i++)
		worker_ping(p->workers[i]);
}

struct notify *
notify_new(struct ev_loop *loop, struct proxy *proxy, struct err *err)
{
	struct notify *n = calloc(1, sizeof(*n));
	uint64_t every_us;

	if (n == NULL) {
		err_nomem(err);
		return NULL;
	}
	n->loop = loop;
	n->proxy = proxy;
	ev_timer_init(&n->status, on_status, STATUS_S, STATUS_S);
	ev_init(&n->watchdog, on_watchdog);
	n->status.data = n->watchdog.data = n;
	if (getenv("NOTIFY_SOCKET") == NULL)
		return n;
	ev_timer_start(loop, &n->status);
	if (sd_watchdog_enabled(0, &every_us) > 0) {
		n->watchdog.repeat = (double)every_us / 1e6 / 4;
		ev_timer_again(loop, &n->watchdog);
	}
	return n;
}

void
notify_free(struct notify *n)
{
	if (n == NULL)
		return;
	ev_timer_stop(n->loop, &n->status);
	ev_timer_stop(n->loop, &n->watchdog);
	free(n);
}

void
notify_ready(struct notify *n, const char *trouble)
{
	snprintf(n->trouble, sizeof(n->trouble), "%s", trouble != NULL ? trouble : "");
	sd_notify(0, "READY=1");
	say_status(n);
}

void
notify_reloading(struct notify *n)
{
	struct timespec now;

	(void)n;
	clock_gettime(CLOCK_MONOTONIC, &now);
	sd_notifyf(0, "RELOADING=1\nMONOTONIC_USEC=%lld", (long long)now.tv_sec * 1000000 + now.tv_nsec / 1000);
}

void
notify_stopping(struct notify *n, double seconds)
{
	n->stopping = true;
	sd_notify(0, "STOPPING=1");
	if (seconds > PATIENCE_S)
		sd_notifyf(0, "EXTEND_TIMEOUT_USEC=%lld", (long long)((seconds + PATIENCE_S) * 1e6));
	say_status(n);
}
