#include "replication/lag.h"

#include <string.h>

/* Two marks become one: until the later one's position, since the earlier one's time. */
static void
coarsen(struct lag *l)
{
	for (size_t i = 0; i < l->n / 2; i++) {
		l->samples[i].at = l->samples[2 * i].at;
		l->samples[i].lsn = l->samples[2 * i + 1].lsn;
	}
	l->n /= 2;
	l->finest *= 2;
}

void
lag_note(struct lag *l, uint64_t end, double now)
{
	struct lag_sample *last = l->n > 0 ? &l->samples[l->n - 1] : NULL;

	if (last == NULL || l->finest == 0)
		l->finest = LAG_FINEST_S;
	if (last != NULL && end <= last->lsn)
		return;
	if (last != NULL && now - last->at < l->finest) {
		last->lsn = end;
		return;
	}
	if (l->n == LAG_SAMPLES)
		coarsen(l);
	l->samples[l->n++] = (struct lag_sample){end, now};
}

void
lag_forget(struct lag *l, uint64_t lsn)
{
	size_t done = 0;

	/* the last one stays: it says how far the upstream is */
	while (done + 1 < l->n && l->samples[done].lsn <= lsn)
		done++;
	if (done == 0)
		return;
	l->n -= done;
	memmove(l->samples, l->samples + done, l->n * sizeof(l->samples[0]));
	if (l->n < LAG_SAMPLES / 4)
		l->finest = LAG_FINEST_S;
}

double
lag_age(const struct lag *l, uint64_t lsn, double now)
{
	for (size_t i = 0; i < l->n; i++)
		if (l->samples[i].lsn > lsn)
			return now > l->samples[i].at ? now - l->samples[i].at : 0;
	return 0;
}
