#include "ctl/switchover/sampler.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "common/path.h"
#include "ctl/switchover/logbook.h"
#include "ctl/switchover/node.h"

#define INTERVAL_NS 20000000
#define SAMPLES_MAX (1 << 18) /* more than an hour */
#define FILE_NAME "switchover.samples"

struct sampler {
	pthread_t thread;
	atomic_bool stop;
	struct node from, to;
	bool old_lost;
	struct samples samples;
	FILE *kept;
};

/* One look at a server. 1: it is a primary, 0: a standby, -1: not there. */
static int
look(struct node *n, uint64_t *xid, uint64_t *position)
{
	struct err ignored;
	int primary;
	PGresult *r =
	    node_ask(n,
	             "SELECT pg_is_in_recovery() AS recovery, pg_snapshot_xmax(pg_current_snapshot()) AS xid, "
	             "CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_flush_lsn() END "
	             "AS lsn",
	             NULL, &ignored);

	if (r == NULL)
		return -1;
	primary = row_is(r, 0, "recovery", "f");
	*xid = row_number(r, 0, "xid");
	*position = row_lsn(r, 0, "lsn");
	PQclear(r);
	return primary;
}

/* One more, and what it says of the pause. */
static void
add(struct samples *all, const struct sample *one)
{
	const struct sample *before = all->n > 0 ? &all->list[all->n - 1] : NULL;

	if (before != NULL && before->on_new == one->on_new && one->xid > before->xid) {
		if (!one->on_new)
			all->last_old = one->at;
		else if (all->first_new == 0)
			all->first_new = one->at;
	}
	/* transactions that came between the promotion and the first look at it */
	if (before != NULL && one->on_new && !before->on_new && one->xid > before->xid + 1)
		all->first_new = one->at;
	if (all->n == all->room) {
		size_t room = all->room > 0 ? 2 * all->room : 1024;
		struct sample *more = room <= SAMPLES_MAX ? realloc(all->list, room * sizeof(*more)) : NULL;

		if (more == NULL)
			return;
		all->list = more;
		all->room = room;
	}
	all->list[all->n++] = *one;
}

static void
take(struct sampler *s)
{
	struct sample one = {.at = switch_now()};
	uint64_t written = 0, replayed = 0, xid = 0;
	int old = s->old_lost ? -1 : look(&s->from, &one.xid, &written), new = look(&s->to, &xid, &replayed);

	/* an old primary that went away is not asked again: its connection would be tried on and on */
	s->old_lost = s->old_lost || (old < 0 && s->samples.n > 0);
	if (old == 1 && new == 0) {
		one.has_lag = true;
		one.lag_bytes = written > replayed ? written - replayed : 0;
	} else if (new == 1) {
		one.on_new = true;
		one.xid = xid;
	} else if (old != 1)
		return;
	add(&s->samples, &one);
	fprintf(s->kept, "%.6f %" PRIu64 " %" PRIu64 " %d %d\n", one.at, one.xid, one.lag_bytes, one.on_new, one.has_lag);
	fflush(s->kept);
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

int
samples_load(struct samples *s, const char *keystore, struct err *err)
{
	struct sample one;
	char path[PATH_MAX], line[128];
	int on_new, has_lag;
	FILE *kept;

	if (path_format(path, err, "%s/" FILE_NAME, keystore) != 0)
		return -1;
	if ((kept = fopen(path, "re")) == NULL)
		return errno == ENOENT ? 0 : err_os(err, errno, "could not open \"%s\"", path);
	while (fgets(line, sizeof(line), kept) != NULL) {
		/* a crash may have cut one off */
		if (sscanf(line, "%lf %" SCNu64 " %" SCNu64 " %d %d", &one.at, &one.xid, &one.lag_bytes, &on_new, &has_lag) !=
		    5)
			continue;
		one.on_new = on_new != 0;
		one.has_lag = has_lag != 0;
		add(s, &one);
	}
	fclose(kept);
	return 0;
}

int
samples_remove(const char *keystore, struct err *err)
{
	char path[PATH_MAX];

	if (path_format(path, err, "%s/" FILE_NAME, keystore) != 0)
		return -1;
	return unlink(path) == 0 || errno == ENOENT ? 0 : err_os(err, errno, "could not remove \"%s\"", path);
}

static void
sampler_free(struct sampler *s)
{
	node_close(&s->from);
	node_close(&s->to);
	if (s->kept != NULL)
		fclose(s->kept);
	free(s);
}

struct sampler *
sampler_start(const struct settings *settings, const struct settings_node *from, const struct settings_node *to,
              bool anew, struct err *err)
{
	struct sampler *s = calloc(1, sizeof(*s));
	char path[PATH_MAX];
	int failure;

	if (s == NULL) {
		err_nomem(err);
		return NULL;
	}
	s->from = (struct node){.set = from, .connect_timeout_s = settings->connect_timeout_ms / 1000};
	s->to = (struct node){.set = to, .connect_timeout_s = s->from.connect_timeout_s};
	if ((!anew && samples_load(&s->samples, settings->keystore, err) != 0) ||
	    path_format(path, err, "%s/" FILE_NAME, settings->keystore) != 0)
		;
	else if ((s->kept = fopen(path, anew ? "we" : "ae")) == NULL)
		err_os(err, errno, "could not open \"%s\"", path);
	else if ((failure = pthread_create(&s->thread, NULL, run, s)) == 0)
		return s;
	else
		err_os(err, failure, "could not start a thread");
	samples_free(&s->samples);
	sampler_free(s);
	return NULL;
}

struct samples
sampler_stop(struct sampler *s)
{
	struct samples all;

	atomic_store(&s->stop, true);
	pthread_join(s->thread, NULL);
	all = s->samples;
	sampler_free(s);
	return all;
}

void
samples_free(struct samples *s)
{
	free(s->list);
	memset(s, 0, sizeof(*s));
}
