/* lag: against a list of every mark. */
#include "replication/lag.h"

#include <stdlib.h>

#include "tests/unit/tap.h"

static void
test_plain(void)
{
	struct lag l = {0};

	ok(lag_age(&l, 0, 5) == 0, "nothing is noted: no lag");
	lag_note(&l, 100, 1);
	lag_note(&l, 200, 2);
	lag_note(&l, 300, 3);
	ok(lag_age(&l, 50, 4) == 3, "behind the first mark");
	ok(lag_age(&l, 100, 4) == 2, "what was reached exactly does not count");
	ok(lag_age(&l, 299, 10) == 7, "it grows while nothing moves");
	ok(lag_age(&l, 300, 10) == 0, "all is there");
	lag_forget(&l, 300);
	lag_note(&l, 250, 11);
	ok(lag_age(&l, 300, 12) == 0, "an end that goes back is no new one");
	lag_note(&l, 400, 12);
	ok(lag_age(&l, 300, 13.5) == 1.5, "the next one counts from its own time");
	lag_note(&l, 500, 12.01);
	ok(lag_age(&l, 450, 13) == 1, "marks close to each other are one, never too young");
}

/* Far behind: bounded, and never more wrong than the time that a mark stands for. */
static void
test_long(void)
{
	struct lag l = {0};
	double worst = 0, early = 0;

	for (int i = 0; i < 100000; i++) {
		double now = i * 0.1;
		uint64_t at = (uint64_t)i / 4 * 3;

		lag_note(&l, (uint64_t)i + 1, now);
		if (i % 97 != 0 || i == 0)
			continue;
		lag_forget(&l, at);
		/* WAL behind `at` was first noted at at / 10 s */
		double truth = now - (double)at * 0.1, said = lag_age(&l, at, now);

		if (said - truth > worst)
			worst = said - truth;
		if (truth - said > early)
			early = truth - said;
	}
	ok(l.n <= LAG_SAMPLES, "the marks are bounded");
	ok(early < 0.11, "the lag is never told too small (%g)", early);
	ok(worst < 100, "at a lag of 2500 s it is at most coarse (%g)", worst);
	lag_forget(&l, 100000);
	ok(l.n == 1 && lag_age(&l, 100000, 20000) == 0, "all is forgotten once it is there");
}

int
main(void)
{
	test_plain();
	test_long();
	return tap_done();
}
