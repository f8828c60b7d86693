/* console_wait: a query of the console whose answer waits for something. It is looked for now and again. */
#include <stdlib.h>

#include "proxy/session_intern.h"

#define TICK_S 0.05

struct console_wait {
	struct session *s;
	ev_timer timer;
	const char *tag;
	int (*look)(struct session *s, void *arg, struct err *err);
	void *arg;
	void (*free_arg)(void *arg);
};

void
console_wait_free(struct session *s)
{
	struct console_wait *w = s->waiting;

	if (w == NULL)
		return;
	ev_timer_stop(s->loop, &w->timer);
	w->free_arg(w->arg);
	free(w);
	s->waiting = NULL;
}

static void
on_tick(struct ev_loop *loop, ev_timer *timer, int revents)
{
	struct console_wait *w = timer->data;
	struct session *s = w->s;
	const char *tag = w->tag;
	struct err err = {0};
	int rc = 0;

	(void)loop;
	(void)revents;
	if (s->state == SESSION_COMMAND && (rc = w->look(s, w->arg, &err)) == 0)
		return;
	console_wait_free(s);
	if (s->state != SESSION_COMMAND)
		return; /* it has ended meanwhile */
	if (rc > 0)
		console_done(s, tag);
	else
		session_refuse(s, &err);
}

void
console_wait(struct session *s, const char *tag, int (*look)(struct session *s, void *arg, struct err *err), void *arg,
             void (*free_arg)(void *arg))
{
	struct console_wait *w = calloc(1, sizeof(*w));
	struct err err = {0};

	if (w == NULL) {
		free_arg(arg);
		err_nomem(&err);
		session_refuse(s, &err);
		return;
	}
	*w = (struct console_wait){.s = s, .tag = tag, .look = look, .arg = arg, .free_arg = free_arg};
	ev_timer_init(&w->timer, on_tick, 0., TICK_S);
	w->timer.data = w;
	s->waiting = w;
	ev_timer_start(s->loop, &w->timer);
}
