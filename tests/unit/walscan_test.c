/* The record scanner, against real WAL (counts are pg_waldump's) and WAL made for the odd cases. */
#include "replication/walscan.h"

#include <inttypes.h>
#include <stdlib.h>

#include "replication/buffer.h"
#include "tests/unit/collect.h"
#include "tests/unit/failmalloc.h"
#include "tests/unit/tap.h"
#include "tests/unit/walmake.h"

#define START (UINT64_C(7) * WALMAKE_SEGMENT)

struct run {
	struct walscan *scan;
	struct buffer events; /* as text */
	int records;
	int stop_after; /* records; 0: never */
};

static int
on_event(void *arg, const struct walscan_event *e, struct err *err)
{
	static const char *const names[] = {"record", "shutdown", "online", "recovered", "commit", "switch"};
	struct run *run = arg;
	char line[200];

	if (e->kind == WALSCAN_RECORD) {
		if (++run->records == run->stop_after)
			return err_set(err, ERR_REFUSED, "stopped by the test");
		return 0;
	}
	snprintf(line, sizeof(line), "%s %" PRIX64 " %" PRIX64 " tli %u %u redo %" PRIX64 " time %" PRId64 "\n",
	         names[e->kind], e->lsn, e->end, (unsigned)e->tli, (unsigned)e->prev_tli, e->redo, e->time);
	buffer_put_text(&run->events, line);
	return buffer_check(&run->events, err);
}

static int
feed(void *arg, uint8_t *piece, size_t len, uint64_t pos, struct err *err)
{
	struct run *run = arg;

	(void)pos;
	return walscan_push(run->scan, piece, len, err);
}

/* Events as text ended by what walscan_push said last, and the position. */
static void
scan(const struct walmake *w, int how, struct run *run, char *text, size_t size)
{
	struct walscan_conf conf = {.segment_size = WALMAKE_SEGMENT, .on_event = on_event, .arg = run};
	struct err err = {0};
	int rc;

	run->records = 0;
	buffer_init(&run->events, 1 << 20);
	if ((run->scan = walscan_new(&conf, w->start, &err)) == NULL) {
		snprintf(text, size, "none: %s", err.text);
		return;
	}
	rc = split_feed(w->data, w->len, how, feed, run, &err);
	buffer_put_u8(&run->events, 0);
	snprintf(text, size, "%s%d %s records %d last %" PRIX64 " end %" PRIX64 "\n", (char *)buffer_data(&run->events), rc,
	         err.text, run->records, walscan_last(run->scan), walscan_end(run->scan));
	if ((uint64_t)run->records != walscan_records(run->scan) && run->stop_after == 0)
		snprintf(text, size, "counts differ");
	if (rc >= 0 && walscan_position(run->scan) != walmake_lsn(w))
		snprintf(text, size, "position differs");
	walscan_free(run->scan);
	buffer_free(&run->events);
}

static void
scans(const struct walmake *w, const char *want, const char *what)
{
	char got[8192];
	struct run run = {0};
	bool same = true;

	scan(w, 0, &run, got, sizeof(got));
	is_str(got, want, "%s", what);
	for (const int *how = split_ways; *how != SPLIT_END; how++) {
		scan(w, *how, &run, got, sizeof(got));
		if (strcmp(got, want) != 0)
			same = ok(false, "%s, split %d: %.*s", what, *how, (int)strcspn(got, "\n"), got);
	}
	ok(same, "%s, in every split", what);
}

static void
real(const char *name, uint64_t start, const char *want)
{
	char path[100];
	struct walmake w;
	FILE *f;

	snprintf(path, sizeof(path), "tests/vectors/%s", name);
	walmake_init(&w, start, 65536);
	if (ok((f = fopen(path, "r")) != NULL, "%s", path)) {
		w.len = fread(w.data, 1, w.size, f);
		fclose(f);
		scans(&w, want, name);
	}
	walmake_free(&w);
}

static void
ordinary(void)
{
	struct {
		uint64_t redo;
		uint32_t tli, prev;
		uint8_t rest[72];
	} checkpoint = {START + 40, 3, 2, {0}};
	struct {
		int64_t time;
		uint32_t tli, prev;
	} recovered = {77, 4, 3};
	int64_t commit = 1234567;
	struct walmake w;
	char want[4000];
	uint64_t a, b, c, d, e;

	walmake_init(&w, START, 3 << 20);
	walmake_fill(&w, 30000);
	a = walmake_record(&w, 1, 0x00, &commit, 8);
	b = walmake_record(&w, 0, 0x00, &checkpoint, 88);
	c = walmake_record(&w, 0, 0x10, &checkpoint, 88);
	d = walmake_record(&w, 0, 0x90, &recovered, 16);
	e = walmake_record(&w, 1, 0xB0, &commit, 8);
	walmake_record(&w, 1, 0x20, &commit, 8);   /* an abort */
	walmake_record(&w, 128, 0x00, &commit, 8); /* an extension's */
	snprintf(want, sizeof(want),
	         "commit %" PRIX64 " %" PRIX64 " tli 0 0 redo 0 time 1234567\nshutdown %" PRIX64 " %" PRIX64
	         " tli 3 2 redo 700028 time 0\n"
	         "online %" PRIX64 " %" PRIX64 " tli 3 2 redo 700028 time 0\nrecovered %" PRIX64 " %" PRIX64
	         " tli 4 3 redo 0 time 77\n"
	         "commit %" PRIX64 " %" PRIX64 " tli 0 0 redo 0 time 1234567\n0  records %d last %" PRIX64 " end %" PRIX64
	         "\n",
	         a, a + 40, b, b + 120, c, c + 120, d, d + 48, e, e + 40, w.records, w.last, walmake_lsn(&w));
	scans(&w, want, "ordinary records");
	walmake_free(&w);
}

static void
odd(void)
{
	char want[1000];
	struct walmake w;
	uint64_t at;
	int before;

	/* a record over many pages */
	walmake_init(&w, START, 3 << 20);
	uint8_t *big = calloc(1, 100000);
	at = walmake_record(&w, 10, 0, big, 100000);
	free(big);
	snprintf(want, sizeof(want), "0  records 1 last %" PRIX64 " end %" PRIX64 "\n", at, walmake_lsn(&w));
	scans(&w, want, "a record over many pages");
	/* begin inside it: the rest is skipped */
	memmove(w.data, w.data + 8192, w.len -= 8192);
	w.start += 8192;
	at = walmake_record(&w, 10, 0, "x", 1);
	snprintf(want, sizeof(want), "0  records 1 last %" PRIX64 " end %" PRIX64 "\n", at, walmake_lsn(&w));
	scans(&w, want, "a scan that begins inside a record");
	walmake_free(&w);

	/* the rest of a record was lost in a crash */
	walmake_init(&w, START, 3 << 20);
	walmake_fill(&w, 8192 - 500);
	before = w.records;
	walmake_torn(&w, 20000, 8192 - w.len % 8192 + 100);
	at = walmake_record(&w, 0, 0xD0, "0123456789abcdef", 16);
	walmake_fill(&w, 40000);
	snprintf(want, sizeof(want), "0  records %d last %" PRIX64 " end %" PRIX64 "\n", w.records, w.last,
	         walmake_lsn(&w));
	scans(&w, want, "an overwritten continuation");
	memmove(w.data, w.data + 8192, w.len -= 8192);
	w.start += 8192;
	snprintf(want, sizeof(want), "0  records %d last %" PRIX64 " end %" PRIX64 "\n", w.records - before, w.last,
	         walmake_lsn(&w));
	scans(&w, want, "a scan that begins inside a lost record");
	walmake_free(&w);

	for (int headers = 0; headers < 2; headers++) {
		walmake_init(&w, START, 3 << 20);
		walmake_fill(&w, 20000);
		at = walmake_switch(&w, headers);
		snprintf(want, sizeof(want), "switch %" PRIX64 " %" PRIX64 " tli 0 0 redo 0 time 0\n", at, at + 24);
		at = walmake_record(&w, 10, 0, "y", 1);
		snprintf(want + strlen(want), sizeof(want) - strlen(want), "0  records %d last %" PRIX64 " end %" PRIX64 "\n",
		         w.records, at, walmake_lsn(&w));
		scans(&w, want, headers ? "an XLOG_SWITCH" : "an XLOG_SWITCH whose rest was blanked");
		walmake_free(&w);
	}

	walmake_init(&w, START, 3 << 20);
	walmake_fill(&w, 20000);
	at = walmake_lsn(&w);
	snprintf(want, sizeof(want), "1  records %d last %" PRIX64 " end %" PRIX64 "\n", w.records, w.last, at);
	walmake_zeros(&w, 24576);
	scans(&w, want, "WAL that ends in a page");
	walmake_zeros(&w, 100000);
	scans(&w, want, "... with unused pages behind");
	walmake_free(&w);

	walmake_init(&w, START, 3 << 20);
	walmake_zeros(&w, 10000);
	scans(&w, "1  records 0 last 0 end 0\n", "a file never used");
	walmake_free(&w);
}

/* Any changed byte of a record is found, and no record after it is believed. */
static void
damage(void)
{
	struct run run = {0};
	struct walmake w;
	char got[8192];
	int found = 0, tried = 0;
	uint64_t at;

	walmake_init(&w, START, 1 << 20);
	walmake_fill(&w, 20000);
	at = walmake_record(&w, 10, 0, "some bytes of main data", 23);
	walmake_fill(&w, 25000);
	for (uint64_t i = at; i < at + 24 + 2 + 23; i++)
		for (int bit = 0; bit < 8; bit += 3) {
			if (i - at == 18 || i - at == 19)
				continue; /* padding of the header: in the CRC too, below */
			w.data[i - START] ^= (uint8_t)(1 << bit);
			scan(&w, -1, &run, got, sizeof(got));
			found += strncmp(got, "-1 WAL ", 7) == 0;
			tried++;
			w.data[i - START] ^= (uint8_t)(1 << bit);
		}
	is_int(found, tried, "each changed bit of a record is found");
	w.data[at - START + 18] ^= 1;
	scan(&w, -1, &run, got, sizeof(got));
	ok(strstr(got, "has an incorrect checksum") != NULL, "also in the header's padding");
	w.data[at - START + 18] ^= 1;
	run.stop_after = 3;
	scan(&w, 0, &run, got, sizeof(got));
	ok(strncmp(got, "-1 stopped by the test", 22) == 0, "a hook may stop the scan");
	walmake_free(&w);
}

/* The byte whose push fails, counted from the beginning, when they come one at a time; SIZE_MAX: none does. */
static size_t
fails_at(const struct walmake *w, struct err *err)
{
	struct walscan_conf conf = {.segment_size = WALMAKE_SEGMENT};
	struct walscan *s = walscan_new(&conf, w->start, err);
	size_t at = 0;

	while (at < w->len && walscan_push(s, w->data + at, 1, err) == 0)
		at++;
	walscan_free(s);
	return at < w->len ? at : SIZE_MAX;
}

/* What is wrong is known as soon as it can be: a length when it is there, a header when it is whole, contents at the
 * record's last byte. */
static void
at_once(void)
{
	enum { LEN = 99995 }; /* with its headers a multiple of 8: its last byte is the array's last */
	static const struct {
		size_t at; /* of the record */
		uint8_t value;
		size_t known; /* SIZE_MAX: with its last byte */
		const char *part;
	} rows[] = {
	    {0, 5, 3, "has an invalid length"},
	    {17, 100, 23, "has an invalid resource manager"},
	    {8, 1, 23, "does not follow the record before it"},
	    {20, 1, SIZE_MAX, "has an incorrect checksum"},
	    {40, 1, SIZE_MAX, "has an incorrect checksum"},
	};
	uint8_t *data = calloc(1, LEN);
	struct walmake w;
	struct err err = {0};
	size_t at, last;

	walmake_init(&w, START, 1 << 20);
	walmake_fill(&w, 20000);
	at = walmake_record(&w, 10, 0, data, LEN) - START;
	last = w.len - 1;
	free(data);
	walmake_fill(&w, 150000);
	ok(fails_at(&w, &err) == SIZE_MAX && at % 8192 <= 8192 - 24, "a whole record, whose header is in one page");
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		uint8_t was[4];

		memcpy(was, w.data + at + rows[i].at, 4);
		if (rows[i].at == 0)
			memcpy(w.data + at, (uint8_t[4]){rows[i].value}, 4);
		else
			w.data[at + rows[i].at] ^= rows[i].value;
		is_int(fails_at(&w, &err), rows[i].known == SIZE_MAX ? last : at + rows[i].known, "byte %zu: known at once",
		       rows[i].at);
		is_err(&err, ERR_DAMAGED, rows[i].part, "... %s", rows[i].part);
		memcpy(w.data + at + rows[i].at, was, 4);
	}
	walmake_free(&w);
}

static void
pages(void)
{
	static const struct {
		size_t at;
		uint8_t value;
		const char *part;
	} rows[] = {
	    {8192 + 1, 0xD2, "page at 0/702000 has no valid page header"},
	    {8192 + 3, 0x80, "page at 0/702000 is encrypted"},
	    {8192 + 9, 0x40, "says that it is at another position"},
	    {8192 + 2, 0x02 | 0x01, "invalid info bits"},
	    {8192 + 2, 0, "does not continue the record before it"},
	    {8192 + 17, 0xFF, "continues a record of another length"},
	};
	struct run run = {0};
	struct walmake w;
	struct err err;
	char got[8192];

	walmake_init(&w, START, 1 << 20);
	walmake_fill(&w, 8000);
	uint8_t data[500] = {0};
	walmake_record(&w, 10, 0, data, sizeof(data));
	walmake_fill(&w, 20000);
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		uint8_t was = w.data[rows[i].at];

		w.data[rows[i].at] = rows[i].value;
		for (int how = 0; how < 2; how++) {
			scan(&w, how, &run, got, sizeof(got));
			ok(strncmp(got, "-1 ", 3) == 0 && strstr(got, rows[i].part) != NULL, "refused: %s (%.*s)", rows[i].part,
			   (int)strcspn(got, "\n"), got);
		}
		w.data[rows[i].at] = was;
	}
	walmake_free(&w);
	walmake_init(&w, START, 1 << 20);
	walmake_fill(&w, 8100);
	walmake_zeros(&w, 8192);
	w.len = 8192;
	ok(walscan_new(&(struct walscan_conf){.segment_size = WALMAKE_SEGMENT}, START + 8, &err) == NULL,
	   "refused: a start inside a page");
	walmake_free(&w);
}

static int
starve(void *arg)
{
	struct walscan_conf conf = {.segment_size = WALMAKE_SEGMENT};
	struct err err = {0};
	struct walscan *s = walscan_new(&conf, START, &err);

	(void)arg;
	walscan_free(s);
	return s != NULL ? 0 : -1;
}

int
main(void)
{
	real("wal15-segment.bin", 0x800000, "0  records 38 last 80D420 end 80F470\n");
	real("wal15-checkpoint.bin", 0x84C000,
	     "online 8523B8 852430 tli 1 1 redo 852380 time 0\nonline 852498 852510 tli 1 1 redo 852460 time 0\n"
	     "commit 852510 852558 tli 0 0 redo 0 time 848628437339106\ncommit 8529A8 8529F0 tli 0 0 redo 0 time "
	     "848628437339165\n"
	     "shutdown 8529F0 852A68 tli 1 1 redo 8529F0 time 0\ncommit 852DC8 852E10 tli 0 0 redo 0 time 848628437561328\n"
	     "0  records 30 last 853618 end 8549C8\n");
	ordinary();
	odd();
	damage();
	at_once();
	pages();
	ok(failmalloc_each(starve, NULL) == 1, "each allocation may fail");
	return tap_done();
}
