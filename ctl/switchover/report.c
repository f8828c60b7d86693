#include "ctl/switchover/report.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/durable.h"
#include "common/path.h"
#include "ctl/switchover/svg.h"
#include "walcrypt/pgfile.h"

double
report_pause_s(const struct logbook *l)
{
	double begin = l->pause_begin > 0 ? l->pause_begin : l->at[SWITCH_QUIET];
	double end = l->pause_end > 0 ? l->pause_end : l->at[SWITCH_PROMOTED];

	return begin > 0 && end > begin ? end - begin : 0;
}

static void
keys_text(const char *what, const struct switch_keys *k, FILE *to)
{
	if (k->relation[0] == '\0')
		fprintf(to, "  %-14s clear\n", what);
	else
		fprintf(to, "  %-14s relation key %s, WAL epoch %" PRIu32 ", key %s\n", what, k->relation, k->epoch, k->wal);
}

static void
stamp(double at, char out[static 40])
{
	time_t whole = (time_t)at;
	struct tm tm;
	size_t n;

	gmtime_r(&whole, &tm);
	n = strftime(out, 32, "%Y-%m-%d %H:%M:%S", &tm);
	snprintf(out + n, 40 - n, ".%03d", (int)((at - (double)whole) * 1000));
}

const char *
report_retire(const struct logbook *l, char out[static 128])
{
	if (l->before.relation[0] == '\0')
		return NULL;
	if (l->before.epoch != l->after.epoch && l->after.epoch != 0)
		snprintf(out, 128, "relation key %s and WAL epoch %" PRIu32, l->before.relation, l->before.epoch);
	else
		snprintf(out, 128, "relation key %s", l->before.relation);
	return out;
}

void
report_text(const struct logbook *l, FILE *to)
{
	char lsn[LSN_TEXT_LEN], end[LSN_TEXT_LEN], when[40], retire[128];

	lsn_format(lsn, l->checkpoint);
	lsn_format(end, l->checkpoint_end);
	fprintf(to, "\n\"%s\" is the primary, on timeline %" PRIu32 ".\n", l->to, l->new_tli);
	stamp(l->at[SWITCH_PLANNED], when);
	fprintf(to, "  %-14s %s UTC\n", "begun", when);
	fprintf(to, "  %-14s %.3f s in all\n", "time", switch_now() - l->at[SWITCH_PLANNED]);
	fprintf(to, "  %-14s %.3f s\n", "write pause", report_pause_s(l));
	if (l->checkpoint != 0)
		fprintf(to, "  %-14s shutdown checkpoint at %s, end of WAL %s\n", "proof", lsn, end);
	keys_text("keys before", &l->before, to);
	keys_text("keys after", &l->after, to);
	fprintf(to, "  %-14s \"%s\": %s\n", "old primary", l->from, switch_old_name(l->old_fate));
	if (report_retire(l, retire) != NULL)
		fprintf(to, "  %-14s %s (walcrypt-ctl key retire)\n", "to be retired", retire);
}

static json_t *
report_json(const struct logbook *l, const struct samples *samples)
{
	json_t *root = logbook_json(l), *commits = json_array(), *lag = json_array(), *gaps = json_array();
	double begin = 0;
	char retire[128];
	size_t n;
	uint64_t *bins = samples_bins(samples, &begin, &n);

	for (size_t i = 0; i < n; i++)
		json_array_append_new(commits, json_integer((json_int_t)bins[i]));
	free(bins);
	for (size_t i = 1; i < samples->n; i++)
		if (samples_gap(samples, i))
			json_array_append_new(gaps, json_pack("[f, f]", samples->list[i - 1].at, samples->list[i].at));
	for (size_t i = 0; i < samples->n; i++)
		if (samples->list[i].has_lag)
			json_array_append_new(lag,
			                      json_pack("[f, I]", samples->list[i].at, (json_int_t)samples->list[i].lag_bytes));
	if (root == NULL || json_object_set_new(root, "write_pause_s", json_real(report_pause_s(l))) != 0 ||
	    json_object_set_new(root, "to_be_retired",
	                        report_retire(l, retire) != NULL ? json_string(retire) : json_null()) != 0 ||
	    json_object_set_new(root, "samples_begin", json_real(begin)) != 0 ||
	    json_object_set_new(root, "commits_per_100ms", commits) != 0 || json_object_set_new(root, "gaps", gaps) != 0 ||
	    json_object_set_new(root, "lag_bytes", lag) != 0) {
		json_decref(root);
		return NULL;
	}
	return root;
}

enum { REPORT_TEXT, REPORT_JSON, REPORT_SVG };

static int
report_file(const char *prefix, int kind, const struct logbook *l, const struct samples *samples, struct err *err)
{
	static const char *const suffixes[] = {"txt", "json", "svg"};
	char path[PATH_MAX], *text = NULL;
	size_t len = 0;
	json_t *root;
	FILE *to;
	int result;

	if (path_format(path, err, "%s.%s", prefix, suffixes[kind]) != 0)
		return -1;
	if ((to = open_memstream(&text, &len)) == NULL)
		return err_nomem(err);
	if (kind == REPORT_TEXT)
		report_text(l, to);
	else if (kind == REPORT_SVG)
		svg_write(to, l, samples);
	else if ((root = report_json(l, samples)) != NULL) {
		json_dumpf(root, to, JSON_INDENT(2));
		json_decref(root);
	}
	result = fclose(to) != 0 || len == 0 ? err_nomem(err) : durable_write(path, text, len, 0600, err);
	free(text);
	return result;
}

int
report_files(const char *prefix, const struct logbook *l, const struct samples *samples, struct err *err)
{
	for (int kind = REPORT_TEXT; kind <= REPORT_SVG; kind++)
		if (report_file(prefix, kind, l, samples, err) != 0)
			return -1;
	return 0;
}
