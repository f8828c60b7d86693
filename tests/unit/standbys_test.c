/* standbys: what is kept of each one's lag, which is what the page draws. */
#include "proxy/standbys.h"

#include <stdlib.h>

#include "tests/unit/tap.h"

static struct standbys *standbys;
static unsigned sessions;

static struct standby *
begin(const char *application)
{
	struct standby_who who = {.node = "blue", .session = ++sessions};
	struct err err;

	snprintf(who.application, sizeof(who.application), "%s", application);
	return standby_begin(standbys, &who, &err);
}

/* How the streams of this name that are known have ended, the latest first. */
static const char *
ends(const char *application)
{
	static char text[200];
	struct standby_view *list;
	struct err err;
	size_t n, len = 0;

	text[0] = '\0';
	list = standbys_list(standbys, &n, &err);
	for (size_t i = 0; i < n && len < sizeof(text); i++)
		if (strcmp(list[i].who.application, application) == 0)
			len += (size_t)snprintf(text + len, sizeof(text) - len, "%s ", standby_end_name(list[i].end));
	free(list);
	return text;
}

/* What pg_basebackup fetches a backup's WAL by is no standby: only what tells how much WAL there is, is remembered. */
static void
of_a_backup(void)
{
	static const enum standby_end all[] = {STANDBY_CLIENT,  STANDBY_LOST,     STANDBY_ERROR,
	                                       STANDBY_STOPPED, STANDBY_COMPLETE, STANDBY_TIMELINE};

	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
		struct standby_who who = {.node = "blue", .application = "backup", .session = ++sessions, .for_backup = true};
		struct standby *b, *other = begin("other");
		struct err err;

		b = standby_begin(standbys, &who, &err);
		is_str(ends("backup"), "streams ", "known while it streams");
		standby_end(standbys, b, all[i], "");
		standby_release(standbys, b);
		is_str(ends("backup"),
		       all[i] == STANDBY_COMPLETE   ? "complete "
		       : all[i] == STANDBY_TIMELINE ? "timeline "
		                                    : "",
		       "ended by %s", standby_end_name(all[i]));
		standby_end(standbys, other, all[i], "");
		standby_release(standbys, other);
		is_int(strchr(ends("other"), ' ') != NULL, 1, "another one is remembered");
	}
}

/* Notes how far behind it is, that many times: 1, 2, 3 ... bytes, from `first` on. */
static void
note_lags(struct standby *b, int first, int times)
{
	for (int i = first; i < first + times; i++) {
		struct standby_at at = {.upstream = 1000000, .flush = (uint64_t)(1000000 - i)};

		standby_publish(standbys, b, &at);
		standbys_sample(standbys);
	}
}

/* What is kept of this name: "N: OLDEST..NEWEST", each one more than the one before. */
static const char *
kept(const char *application)
{
	static char text[100];
	struct standby_history *list;
	struct err err;
	size_t n;

	snprintf(text, sizeof(text), "nothing");
	list = standbys_history(standbys, &n, &err);
	for (size_t i = 0; i < n; i++) {
		const struct standby_history *h = &list[i];
		bool rises = true;

		if (strcmp(h->who.application, application) != 0)
			continue;
		for (size_t k = 1; k < h->n; k++)
			rises &= h->samples[k].bytes == h->samples[k - 1].bytes + 1;
		snprintf(text, sizeof(text), "%zu: %lld..%lld%s", h->n, (long long)h->samples[0].bytes,
		         (long long)h->samples[h->n - 1].bytes, rises ? "" : ", out of order");
	}
	free(list);
	return text;
}

int
main(void)
{
	struct standby *b, *again;
	struct err err;

	standbys = standbys_new(&err);
	is_int(STANDBYS_KEPT * STANDBYS_STEP_S, 3600, "an hour is kept");
	b = begin("one");
	is_str(kept("one"), "nothing", "at first nothing");
	note_lags(b, 1, STANDBYS_KEPT - 20);
	is_str(kept("one"), "700: 1..700", "all of less than an hour");
	/* its connection is lost, and it comes back: the line goes on */
	standby_end(standbys, b, STANDBY_LOST, "");
	standby_release(standbys, b);
	again = begin("one");
	note_lags(again, 701, 20);
	is_str(kept("one"), "720: 1..720", "an hour, over two streams of it");
	note_lags(again, 721, 100);
	is_str(kept("one"), "720: 101..820", "the last hour of a longer time");
	note_lags(begin("two"), 1, 3);
	is_str(kept("two"), "3: 1..3", "another one has a line of its own");
	standby_end(standbys, again, STANDBY_CLIENT, "");
	standbys_sample(standbys);
	is_str(kept("one"), "720: 105..-1, out of order", "what does not stream has no lag");
	of_a_backup();
	standbys_free(standbys);
	return tap_done();
}
