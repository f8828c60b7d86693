/* verify: decrypt every page of an encrypted data directory and look whether it is what the server wrote. */
#include "ctl/verify.h"

#include <inttypes.h>
#include <jansson.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ctl/command.h"
#include "ctl/jobs.h"
#include "ctl/json_out.h"
#include "ctl/layer.h"
#include "walcrypt/page.h"

#define ARENA_LEN(jobs) ((size_t)(256 + 32 * (jobs)) * 1024)

struct verify_options {
	struct common_options common;
	const char *datadir, *kek;
	int jobs;
	bool json;
};

static const struct option_def verify_defs[] = {
    {"pgdata", 'D', OPTION_TEXT, offsetof(struct verify_options, datadir), "DIR", "data directory (default: PGDATA)", 0,
     0},
    KEK_OPTION(struct verify_options, "WALCRYPT_KEK"),
    {"jobs", 'j', OPTION_NUMBER, offsetof(struct verify_options, jobs), "N",
     "threads that read relation files (default: as many as there are processors, at most 8)", 1, JOBS_MAX},
    {"json", 0, OPTION_FLAG, offsetof(struct verify_options, json), NULL, "print JSON", 0, 0},
    COMMON_OPTIONS,
    OPTIONS_END};

void
verify_finding(struct verify *v, const char *path, const char *fmt, ...)
{
	char text[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	v->counts.findings++;
	pthread_mutex_lock(&v->lock);
	if (v->json)
		json_array_append_new(v->json_findings, json_pack("{s:s, s:s}", "file", path, "finding", text));
	else {
		progress_clear(&v->progress);
		printf("%s: %s\n", path, text);
		fflush(stdout);
	}
	pthread_mutex_unlock(&v->lock);
}

/* One of the threads that read relation files. */
static int
relations_look(void *arg, struct err *err)
{
	struct verify *v = arg;
	struct page_cipher *cipher = NULL;
	uint8_t *buffer = malloc(VERIFY_BUFFER_LEN);
	int result = -1;
	size_t i;

	if (buffer == NULL)
		err_nomem(err);
	else if ((cipher = page_cipher_new(keyset_relation(v->keys), err)) != NULL) {
		result = 0;
		while (result == 0 && (i = v->next++) < v->files.nrelations)
			result = verify_relation(v, &v->files.file[i], cipher, buffer, err);
	}
	page_cipher_free(cipher);
	free(buffer);
	return result;
}

static int
wal_look(void *arg, struct err *err)
{
	return verify_wal(arg, err);
}

static void
summary_print(const struct verify *v)
{
	const struct verify_counts *c = &v->counts;
	char size[32];

	bytes_format(size, (double)c->relation_bytes);
	printf("relation files: %" PRIu64 ", %s, %" PRIu64 " pages, %" PRIu64 " of them empty\n",
	       (uint64_t)c->relation_files, size, (uint64_t)c->pages, (uint64_t)c->empty_pages);
	printf("WAL files: %" PRIu64 ", %" PRIu64 " encrypted pages, %" PRIu64 " unused ones, %" PRIu64 " records\n",
	       (uint64_t)c->wal_files, (uint64_t)c->wal_pages, (uint64_t)c->unused_wal_pages, (uint64_t)c->records);
	printf("server: %s, data checksums %s\n", v->in_use ? "running" : datadir_state_name(v->control.state),
	       v->control.checksum_version != 0 ? "on" : "off");
	if (c->unknown_files > 0)
		printf("%" PRIu64 " files are of no class that walcrypt knows\n", (uint64_t)c->unknown_files);
	if (c->findings > 0)
		printf("%" PRIu64 " findings, %" PRIu64 " bad pages\n", (uint64_t)c->findings, (uint64_t)c->bad_pages);
	else if (v->control.checksum_version != 0)
		printf("everything decrypts and its checksums hold\n");
	else
		printf("everything decrypts to plausible page headers; without data checksums nothing proves the pages' "
		       "contents\n");
}

static int
summary_json(struct verify *v, struct err *err)
{
	const struct verify_counts *c = &v->counts;
	json_t *root = json_pack(
	    "{s:s, s:b, s:s, s:b, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:O, s:O}", "directory", v->datadir, "running",
	    v->in_use, "state", datadir_state_name(v->control.state), "checksums", v->control.checksum_version != 0,
	    "relation_files", (json_int_t)c->relation_files, "pages", (json_int_t)c->pages, "empty_pages",
	    (json_int_t)c->empty_pages, "wal_files", (json_int_t)c->wal_files, "wal_pages", (json_int_t)c->wal_pages,
	    "unused_wal_pages", (json_int_t)c->unused_wal_pages, "records", (json_int_t)c->records, "bad_pages",
	    (json_int_t)c->bad_pages, "findings", (json_t *)v->json_findings, "unknown_files", (json_t *)v->json_unknown);
	int result = json_out(root, err);

	json_decref(root);
	return result;
}

static int
verify_run(void *options, const char **args, size_t nargs, struct err *err)
{
	const struct verify_options *o = options;
	int jobs = jobs_default(o->jobs), result = -1;
	char datadir[PATH_MAX], keydir[PATH_MAX];
	struct verify v = {.datadir = datadir, .json = o->json, .lock = PTHREAD_MUTEX_INITIALIZER};
	struct source source = {0};
	struct keyset *keys = NULL;

	(void)args;
	(void)nargs;
	if (datadir_option(o->datadir, datadir, err) != 0 || datadir_keydir(datadir, keydir, err) != 0 ||
	    datadir_control_read(datadir, &v.control, err) != 0 || datadir_check_layout(datadir, &v.control, err) != 0 ||
	    source_find(&source, o->common.config, o->kek, datadir, NULL, err) != 0 ||
	    keys_protect(ARENA_LEN(jobs), err) != 0 || (keys = source_open(&source, keydir, err)) == NULL ||
	    keyset_check_datadir(keys, datadir, err) != 0)
		goto done;
	v.keys = keys;
	v.in_use = datadir_in_use(datadir);
	if ((v.json_findings = json_array()) == NULL || (v.json_unknown = json_array()) == NULL) {
		err_nomem(err);
		goto done;
	}
	if (data_files_list(datadir, &v.files, err) != 0)
		goto done;
	progress_begin(&v.progress, "verifying", v.files.bytes, o->json);
	if (verify_missing(&v, err) != 0 || jobs_run(jobs, relations_look, wal_look, &v, err) != 0 ||
	    verify_unknown(&v, err) != 0) {
		progress_clear(&v.progress);
		goto done;
	}
	progress_end(&v.progress);
	if (o->json && summary_json(&v, err) != 0)
		goto done;
	if (!o->json)
		summary_print(&v);
	result = v.counts.findings > 0 ? ERR_DAMAGED : 0;
done:
	json_decref(v.json_findings);
	json_decref(v.json_unknown);
	data_files_free(&v.files);
	keyset_free(keys);
	source_free(&source);
	return result;
}

const struct command command_verify = {
    .name = "verify",
    .arguments = "-D DIR [--kek SOURCE] [--jobs N] [--json]",
    .summary = "decrypt every page of data files and WAL and check its checksum",
    .more =
        "Works on a stopped and on a running server. What is in clear where it must be encrypted is a finding, too.\n"
        "After a crash let the server recover first: half-written pages that recovery repairs are findings here.",
    .options = verify_defs,
    .style = OPTIONS_ALL,
    .run = verify_run,
};
_Static_assert(sizeof(struct verify_options) <= COMMAND_OPTIONS_MAX, "options fit");
