#include "ctl/switchover/sampler.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "ctl/switchover/logbook.h"
#include "ctl/switchover/node.h"

#define INTERVAL_NS 20000000
#define SAMPLES_MAX (50 * 3600) /* an hour */

struct sampler {
	pthread_t thread;
	atomic_bool stop;
	struct node from, to;
	bool old_lost;
	struct samples samples;
	size_t room;
};

/* One look at a server. 1: it is a primary, 0: a standby, -1: not there. */
static int
look(struct node *n, uint64_t *xid, uint64_t *position)
{
	struct err ignored;
	const char *text;
	int primary;
	PGresult *r =
	    node_ask(n,
	             "SELECT pg_is_in_recovery() AS recovery, pg_snapshot_xmax(pg_current_snapshot()) AS xid, "
	             "CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_flush_lsn() END "
	             "AS lsn",
	             NULL, &ignored);

	if (r == NULL)
		return -1;
	text = row_value(r, 0, "recovery");
	primary = text != NULL && text[0] == 'f';
	text = row_value(r, 0, "xid");
	*xid = text != NULL ? strtoull(text, NULL, 10) : 0;
	*position = row_lsn(r, 0, "lsn");
	PQclear(r);
	return primary;
}

static void
keep(struct sampler *s, const struct sample *one)
{
	struct samples *all = &s->samples;

	if (all->n == s->room) {
		size_t room = s->room > 0 ? 2 * s->room : 1024;
		struct sample *more = room <= SAMPLES_MAX ? realloc(all->list, room * sizeof(*more)) : NULL;

		if (more == NULL)
			return;
		all->list = more;
		s->room = room;
	}
	all->list[all->n++] = *one;
}

static void
take(struct sampler *s)
{
	struct sample one = {.at = switch_now()};
	const struct sample *before = s->samples.n > 0 ? &s->samples.list[s->samples.n - 1] : NULL;
	uint64_t written = 0, replayed = 0, xid = 0;
	int old = s->old_lost ? -1 : look(&s->from, &one.xid, &written), new = look(&s->to, &xid, &replayed);

	/* an old primary that went away is not asked again: its connection would be tried on and on */
	s->old_lost = s->old_lost || (old < 0 && before != NULL);
	if (old == 1 && new == 0) {
		one.has_lag = true;
		one.lag_bytes = written > replayed ? written - replayed : 0;
	} else if (new == 1) {
		one.on_new = true;
		one.xid = xid;
	} else if (old != 1)
		return;
	if (before != NULL && before->on_new == one.on_new && one.xid > before->xid) {
		if (!one.on_new)
			s->samples.last_old = one.at;
		else if (s->samples.first_new == 0)
			s->samples.first_new = one.at;
	}
	/* transactions that came between the promotion and the first look at it */
	if (before != NULL && one.on_new && !before->on_new && one.xid > before->xid + 1)
		s->samples.first_new = one.at;
	keep(s, &one);
}

static void *
run(void *arg)
{
	struct sampler *s = arg;

	while (!atomic_load(&s->stop)) {
		take(s);
		nanosleep(&(struct timespec){.tv_nsec = INTERVAL_NS}, NULL);
	}
	return NULL;
}

struct sampler *
sampler_start(const struct settings *settings, const struct settings_node *from, const struct settings_node *to,
              struct err *err)
{
	struct sampler *s = calloc(1, sizeof(*s));
	int failure;

	if (s == NULL) {
		err_nomem(err);
		return NULL;
	}
	s->from = (struct node){.set = from, .connect_timeout_s = settings->connect_timeout_ms / 1000};
	s->to = (struct node){.set = to, .connect_timeout_s = s->from.connect_timeout_s};
	if ((failure = pthread_create(&s->thread, NULL, run, s)) == 0)
		return s;
	err_os(err, failure, "could not start a thread");
	free(s);
	return NULL;
}

struct samples
sampler_stop(struct sampler *s)
{
	struct samples all;

	atomic_store(&s->stop, true);
	pthread_join(s->thread, NULL);
	node_close(&s->from);
	node_close(&s->to);
	all = s->samples;
	free(s);
	return all;
}

void
samples_free(struct samples *s)
{
	free(s->list);
	memset(s, 0, sizeof(*s));
}
