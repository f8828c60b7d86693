#include "ctl/switchover/svg.h"

#include <inttypes.h>
#include <stdlib.h>

#include "ctl/switchover/report.h"
#include "walcrypt/pgfile.h"

#define WIDTH 960
#define LEFT 70
#define RIGHT 20
#define LABELS_TOP 60 /* labels of the steps hang from here */
#define BARS_TOP 190
#define BARS_HEIGHT 180
#define LAG_TOP 410
#define LAG_HEIGHT 90
#define FACTS_TOP 550
#define HEIGHT 650
#define BIN_S 0.1
#define GAP_S 1.0
#define LABELS_MAX 20

static double
larger(double a, double b)
{
	return a > b ? a : b;
}

bool
samples_gap(const struct samples *s, size_t i)
{
	return s->list[i - 1].on_new == s->list[i].on_new && s->list[i].at - s->list[i - 1].at > GAP_S;
}

uint64_t *
samples_bins(const struct samples *s, double *begin, size_t *n)
{
	uint64_t *bins;
	double end;

	*n = 0;
	if (s->n < 2)
		return NULL;
	/* the clock may have been set, back too: what was seen before the beginning has no place */
	*begin = end = s->list[0].at;
	for (size_t i = 1; i < s->n; i++)
		end = larger(end, s->list[i].at);
	*n = (size_t)((end - *begin) / BIN_S) + 1;
	if ((bins = calloc(*n, sizeof(*bins))) == NULL) {
		*n = 0;
		return NULL;
	}
	for (size_t i = 1; i < s->n; i++) {
		const struct sample *a = &s->list[i - 1], *b = &s->list[i];

		if (a->on_new == b->on_new && b->xid > a->xid && !samples_gap(s, i) && b->at >= *begin)
			bins[(size_t)((b->at - *begin) / BIN_S)] += b->xid - a->xid;
	}
	return bins;
}

struct scale {
	double begin, end; /* of time */
};

static double
x_of(const struct scale *c, double at)
{
	return LEFT + (at - c->begin) / (c->end - c->begin) * (WIDTH - LEFT - RIGHT);
}

static void
text(FILE *to, double x, double y, const char *style, const char *what)
{
	fprintf(to, "<text x=\"%.1f\" y=\"%.1f\" %s>%s</text>\n", x, y, style, what);
}

static void
bars(FILE *to, const struct scale *c, const uint64_t *bins, size_t n, double begin)
{
	uint64_t most = 1;
	char label[64];

	for (size_t i = 0; i < n; i++)
		if (bins[i] > most)
			most = bins[i];
	for (size_t i = 0; i < n; i++) {
		double x = x_of(c, begin + (double)i * BIN_S), h = BARS_HEIGHT * (double)bins[i] / (double)most;

		/* of a switchover that was resumed a day later there are a million, nearly all of them empty */
		if (bins[i] > 0)
			fprintf(to, "<rect x=\"%.2f\" y=\"%.2f\" width=\"%.2f\" height=\"%.2f\" fill=\"#3b7dd8\"/>\n", x,
			        BARS_TOP + BARS_HEIGHT - h, larger(x_of(c, begin + (double)(i + 1) * BIN_S) - x - 0.5, 0.5), h);
	}
	fprintf(to, "<path d=\"M%d %d V%d H%d\" fill=\"none\" stroke=\"#444\"/>\n", LEFT, BARS_TOP, BARS_TOP + BARS_HEIGHT,
	        WIDTH - RIGHT);
	snprintf(label, sizeof(label), "%" PRIu64, most);
	text(to, LEFT - 6, BARS_TOP + 8, "text-anchor=\"end\"", label);
	text(to, LEFT - 6, BARS_TOP + BARS_HEIGHT, "text-anchor=\"end\"", "0");
	text(to, LEFT, BARS_TOP - 8, "font-weight=\"bold\"", "commits per 100 ms");
}

/* Where nobody looked, because the switchover had been cut off. */
static void
gaps(FILE *to, const struct scale *c, const struct samples *s)
{
	for (size_t i = 1; i < s->n; i++)
		if (samples_gap(s, i)) {
			double x = x_of(c, s->list[i - 1].at), end = x_of(c, s->list[i].at);

			fprintf(to, "<path d=\"M%.1f %d H%.1f V%d H%.1f Z\" fill=\"#ddd\"/>\n", x, BARS_TOP, end,
			        LAG_TOP + LAG_HEIGHT, x);
			text(to, (x + end) / 2, BARS_TOP + 14, "text-anchor=\"middle\" fill=\"#666\"", "nobody looked");
		}
}

static void
lag(FILE *to, const struct scale *c, const struct samples *s)
{
	uint64_t most = 1024;
	char label[64];
	bool pen = false;

	for (size_t i = 0; i < s->n; i++)
		if (s->list[i].has_lag && s->list[i].lag_bytes > most)
			most = s->list[i].lag_bytes;
	fprintf(to, "<path fill=\"none\" stroke=\"#c2571a\" stroke-width=\"1.2\" d=\"");
	for (size_t i = 0; i < s->n; i++) {
		const struct sample *one = &s->list[i];

		pen = pen && !samples_gap(s, i);
		if (one->has_lag)
			fprintf(to, "%s%.1f %.1f ", pen ? "L" : "M", x_of(c, one->at),
			        LAG_TOP + LAG_HEIGHT * (1 - (double)one->lag_bytes / (double)most));
		pen = one->has_lag;
	}
	fprintf(to, "\"/>\n<path d=\"M%d %d V%d H%d\" fill=\"none\" stroke=\"#444\"/>\n", LEFT, LAG_TOP,
	        LAG_TOP + LAG_HEIGHT, WIDTH - RIGHT);
	snprintf(label, sizeof(label), "%" PRIu64 " kB", most >> 10);
	text(to, LEFT - 6, LAG_TOP + 8, "text-anchor=\"end\"", label);
	text(to, LEFT, LAG_TOP - 8, "font-weight=\"bold\"", "replication lag of the target");
}

/* Where it was in each state; labels that would lie upon each other are moved to the right. */
static void
steps(FILE *to, const struct scale *c, const struct logbook *l)
{
	double free_from = 0;

	for (int i = 0; i < SWITCH_DONE; i++) {
		double x, at;

		if (l->at[i] <= 0 || l->at[i] < c->begin || l->at[i] > c->end || i == SWITCH_PROMOTING)
			continue;
		x = x_of(c, l->at[i]);
		at = larger(x, free_from);
		free_from = at + 16;
		fprintf(to,
		        "<path d=\"M%.1f %d V%d L%.1f %d\" fill=\"none\" stroke=\"#888\" stroke-width=\"0.7\" "
		        "stroke-dasharray=\"3 2\"/>\n<text transform=\"translate(%.1f %d) rotate(-60)\" "
		        "fill=\"#444\">%s</text>\n",
		        x, LAG_TOP + LAG_HEIGHT, BARS_TOP - 30, at, BARS_TOP - 50, at + 3, BARS_TOP - 54,
		        switch_state_name((enum switch_state)i));
	}
}

static void
seconds(FILE *to, const struct scale *c)
{
	double span = c->end - c->begin, step = 1;
	char label[32];

	/* 1, 5, 10, 50 ... of which so many can be read beside each other */
	for (int i = 0; span / step > LABELS_MAX; i++)
		step *= i % 2 == 0 ? 5 : 2;
	for (double t = 0; t <= span; t += step) {
		snprintf(label, sizeof(label), "%.0f s", t);
		text(to, x_of(c, c->begin + t), LAG_TOP + LAG_HEIGHT + 16, "text-anchor=\"middle\"", label);
	}
}

static void
keys(FILE *to, double y, const char *when, const struct switch_keys *k)
{
	char line[256];

	if (k->relation[0] == '\0')
		snprintf(line, sizeof(line), "keys %s: none, clear", when);
	else
		snprintf(line, sizeof(line), "keys %s: relation key %s, WAL epoch %" PRIu32 " %s", when, k->relation, k->epoch,
		         k->wal);
	text(to, LEFT, y, "", line);
}

static void
facts(FILE *to, const struct logbook *l)
{
	char line[256], lsn[LSN_TEXT_LEN], end[LSN_TEXT_LEN], retire[128];

	lsn_format(lsn, l->checkpoint);
	lsn_format(end, l->checkpoint_end);
	snprintf(line, sizeof(line), "write pause %.3f s; timeline %" PRIu32 " to %" PRIu32, report_pause_s(l), l->tli,
	         l->new_tli);
	text(to, LEFT, FACTS_TOP, "font-weight=\"bold\"", line);
	snprintf(line, sizeof(line), "proof: shutdown checkpoint at %s, end of WAL %s", lsn, end);
	text(to, LEFT, FACTS_TOP + 20, "", line);
	keys(to, FACTS_TOP + 40, "before", &l->before);
	keys(to, FACTS_TOP + 60, "after", &l->after);
	if (report_retire(l, retire) != NULL) {
		snprintf(line, sizeof(line), "to be retired: %s", retire);
		text(to, LEFT, FACTS_TOP + 80, "", line);
	}
}

void
svg_write(FILE *to, const struct logbook *l, const struct samples *s)
{
	struct scale c = {.begin = l->at[SWITCH_PLANNED], .end = switch_now()};
	double begin = 0;
	size_t n;
	uint64_t *bins = samples_bins(s, &begin, &n);

	if (bins != NULL) {
		c.begin = begin;
		c.end = begin + (double)n * BIN_S;
	}
	if (c.end <= c.begin)
		c.end = c.begin + 1;
	fprintf(to,
	        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" viewBox=\"0 0 %d %d\" "
	        "font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"%d\" height=\"%d\" fill=\"#fff\"/>\n",
	        WIDTH, HEIGHT, WIDTH, HEIGHT, WIDTH, HEIGHT);
	fprintf(to, "<text x=\"%d\" y=\"30\" font-size=\"18\" font-weight=\"bold\">%s from %s to %s</text>\n", LEFT,
	        switch_kind_name(l->kind), l->from, l->to);
	if (bins != NULL) {
		gaps(to, &c, s);
		bars(to, &c, bins, n, begin);
		lag(to, &c, s);
	}
	steps(to, &c, l);
	seconds(to, &c);
	facts(to, l);
	fprintf(to, "</svg>\n");
	free(bins);
}
