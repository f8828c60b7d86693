#include "common/progress.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/clock.h"

#define TERMINAL_INTERVAL_MS 250
#define LOG_INTERVAL_MS 10000

void
bytes_format(char out[static 32], double bytes)
{
	static const char *const units[] = {"bytes", "kB", "MB", "GB", "TB"};
	size_t unit = 0;

	for (; bytes >= 1024 && unit + 1 < sizeof(units) / sizeof(units[0]); unit++)
		bytes /= 1024;
	snprintf(out, 32, unit == 0 ? "%.0f %s" : "%.1f %s", bytes, units[unit]);
}

void
progress_begin(struct progress *p, const char *what, uint64_t total, bool quiet)
{
	memset(p, 0, sizeof(*p));
	p->what = what;
	p->total = total;
	p->quiet = quiet;
	p->terminal = isatty(STDERR_FILENO) == 1;
	p->begun_ms = clock_now_ms();
	p->shown_ms = p->begun_ms;
}

static void
show(struct progress *p, int64_t now)
{
	char done[32], total[32], rate[32], left[48] = "";
	double seconds = (double)(now - p->begun_ms) / 1000, bytes = (double)p->done;

	bytes_format(done, bytes);
	bytes_format(total, (double)p->total);
	bytes_format(rate, seconds > 0 ? bytes / seconds : 0);
	if (p->total > 0 && bytes > 0 && bytes < (double)p->total) {
		long more = (long)(seconds * ((double)p->total - bytes) / bytes);

		snprintf(left, sizeof(left), ", %ld:%02ld left", more / 60, more % 60);
	}
	fprintf(stderr, "%s%s: %s of %s (%.0f %%), %s/s%s%s", p->terminal ? "\r\033[K" : "", p->what, done, total,
	        p->total > 0 ? 100 * bytes / (double)p->total : 0, rate, left, p->terminal ? "" : "\n");
	fflush(stderr);
}

void
progress_add(struct progress *p, uint64_t bytes)
{
	int64_t now, shown = p->shown_ms;

	p->done += bytes;
	if (p->quiet)
		return;
	now = clock_now_ms();
	/* whoever moves the time of the last line prints the next one */
	if (now - shown >= (p->terminal ? TERMINAL_INTERVAL_MS : LOG_INTERVAL_MS) &&
	    atomic_compare_exchange_strong(&p->shown_ms, &shown, now))
		show(p, now);
}

void
progress_clear(struct progress *p)
{
	if (!p->quiet && p->terminal)
		fprintf(stderr, "\r\033[K");
}

void
progress_end(struct progress *p)
{
	char done[32], rate[32];
	double seconds = (double)(clock_now_ms() - p->begun_ms) / 1000;

	if (p->quiet)
		return;
	bytes_format(done, (double)p->done);
	bytes_format(rate, seconds > 0 ? (double)p->done / seconds : 0);
	progress_clear(p);
	fprintf(stderr, "%s: %s in %.1f s, %s/s\n", p->what, done, seconds, rate);
}
