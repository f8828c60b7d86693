/*
 * WAL: every page must be encrypted under a key that we have, and the records of each run of consecutive segments must
 * hang together at least as far as pg_control and the timeline's history say that WAL was there. What lies behind that
 * may be what a crash left, so the end of the records behind it is no finding.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/durable.h"
#include "common/path.h"
#include "ctl/bad_pages.h"
#include "ctl/verify.h"
#include "replication/walscan.h"
#include "walcrypt/page.h"
#include "walcrypt/wal.h"

#define PAGES_AT_ONCE 32

/* Consecutive segments of one timeline, their records being walked. */
struct run {
	struct walscan *scan; /* NULL: no run */
	uint32_t tli;
	uint64_t next_segment, start, end;
	bool stopped;  /* no more records come from it */
	bool vanished; /* the server recycled a file while we read it: nothing can be said */
	char path[64]; /* the file it stopped in */
	char why[256];
};

struct wal_job {
	struct verify *v;
	struct wal_cipher *cipher;
	uint8_t *buffer;
	char *history; /* of the latest timeline; NULL: it has none */
	struct run run;
};

/* Up to where the WAL of this timeline must be there. *inclusive: a record must begin there, else one must end there.
 */
static uint64_t
must_reach(const struct wal_job *job, uint32_t tli, bool *inclusive)
{
	const struct datadir_control *c = &job->v->control;
	const char *line = job->history;

	*inclusive = false;
	if (tli == c->tli) {
		bool later = tli == c->min_recovery_tli && c->min_recovery > c->checkpoint;

		*inclusive = !later;
		return later ? c->min_recovery : c->checkpoint;
	}
	/* "1<TAB>0/3000060<TAB>reason": where the next timeline left this one */
	for (; line != NULL && *line != '\0'; line = strchr(line, '\n') != NULL ? strchr(line, '\n') + 1 : NULL) {
		unsigned parent, hi, lo;

		if (sscanf(line, "%u %X/%X", &parent, &hi, &lo) == 3 && parent == tli)
			return (uint64_t)hi << 32 | lo;
	}
	return 0;
}

static int
history_load(struct wal_job *job, struct err *err)
{
	const struct datadir_control *c = &job->v->control;
	uint32_t tli = c->tli > c->min_recovery_tli ? c->tli : c->min_recovery_tli;
	char path[PATH_MAX];
	size_t len;

	if (tli <= 1 || path_format(path, err, "%s/pg_wal/%08X.history", job->v->datadir, tli) != 0)
		return tli <= 1 ? 0 : -1;
	job->history = (char *)durable_read(path, 1 << 20, &len, err);
	return job->history != NULL || err->os_errno == ENOENT ? 0 : -1;
}

static void
run_close(struct wal_job *job)
{
	struct run *r = &job->run;
	uint64_t good, must;
	char at[LSN_TEXT_LEN], wanted[LSN_TEXT_LEN];
	bool inclusive;

	if (r->scan == NULL)
		return;
	job->v->counts.records += walscan_records(r->scan);
	must = must_reach(job, r->tli, &inclusive);
	good = walscan_end(r->scan) > r->start ? walscan_end(r->scan) : r->start;
	if (r->stopped && !r->vanished && must > r->start && good < r->end &&
	    (good < must || (inclusive && good == must))) {
		lsn_format(at, good);
		lsn_format(wanted, must);
		verify_finding(job->v, r->path, "WAL records end at %s, but must reach %s: %s", at, wanted, r->why);
	}
	walscan_free(r->scan);
	memset(r, 0, sizeof(*r));
}

static int
run_open(struct wal_job *job, uint32_t tli, uint64_t segment, struct err *err)
{
	struct walscan_conf conf = {.segment_size = job->v->control.wal_segment_size};
	struct run *r = &job->run;

	r->tli = tli;
	r->next_segment = segment;
	r->start = r->end = segment * conf.segment_size;
	return (r->scan = walscan_new(&conf, r->start, err)) != NULL ? 0 : -1;
}

static void
run_stop(struct run *r, const char *path, const char *why)
{
	if (r->scan == NULL || r->stopped)
		return;
	r->stopped = true;
	snprintf(r->path, sizeof(r->path), "%s", path);
	snprintf(r->why, sizeof(r->why), "%s", why);
}

/* One page at its offset in the file: judge it, and hand its clear form to the run. */
static int
page_look(struct wal_job *job, const struct data_file *f, uint64_t segment, uint64_t offset, uint8_t *page,
          struct bad_pages *bad, struct err *err)
{
	uint64_t expected = segment * job->v->control.wal_segment_size + offset;
	enum wal_page_kind kind;
	struct wal_header h;
	char why[256];
	int ended;

	kind = wal_page_look(page, WAL_PAGE_LEN, &h);
	/* A zero header before other bytes is what a power loss leaves of a write into a fresh segment. No server reads it;
	 * where WAL must be, the records end there and that is found. */
	if (kind == WAL_PAGE_CLEAR)
		bad_pages_add(bad, offset / WAL_PAGE_LEN, kind, "is not encrypted", "are not encrypted");
	if (kind == WAL_PAGE_INVALID)
		bad_pages_add(bad, offset / WAL_PAGE_LEN, kind, "has no valid header", "have no valid headers");
	if (kind == WAL_PAGE_ENCRYPTED) {
		job->v->counts.wal_pages++;
		if (wal_page_decrypt(job->cipher, page, page, err) != 0) {
			if (err->class != ERR_WRONG_KEY)
				return -1;
			snprintf(why, sizeof(why), "cannot be decrypted: %.200s", err->text);
			bad_pages_add(bad, offset / WAL_PAGE_LEN, WAL_PAGE_ENCRYPTED + 1 + h.epoch7, why, why);
			run_stop(&job->run, f->path, err->text);
		}
	} else if (kind == WAL_PAGE_ZERO)
		job->v->counts.unused_wal_pages++;
	if (job->run.scan == NULL || job->run.stopped)
		return 0;
	if (!walscan_after_switch(job->run.scan) &&
	    (kind != WAL_PAGE_ENCRYPTED || h.pageaddr != expected || h.tli > f->is.tli)) {
		run_stop(&job->run, f->path, "the next page is not there");
		return 0;
	}
	job->run.end = expected + WAL_PAGE_LEN;
	if ((ended = walscan_push(job->run.scan, page, WAL_PAGE_LEN, err)) == 0)
		return 0;
	if (ended < 0 && err->class != ERR_DAMAGED)
		return -1;
	run_stop(&job->run, f->path, ended > 0 ? "no record follows" : err->text);
	return 0;
}

/* Does the name still lead to the file that we read? A running server recycles old segments under new names. */
static bool
still_there(int fd, const char *path)
{
	struct stat ours, theirs;

	return fstat(fd, &ours) == 0 && stat(path, &theirs) == 0 && ours.st_ino == theirs.st_ino &&
	       ours.st_dev == theirs.st_dev;
}

static int
file_read(struct wal_job *job, const struct data_file *f, int fd, const char *path, uint64_t segment,
          struct bad_pages *bad, struct err *err)
{
	uint64_t offset = 0;
	ssize_t n;

	while ((n = pread(fd, job->buffer, PAGES_AT_ONCE * WAL_PAGE_LEN, (off_t)offset)) != 0) {
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return err_os(err, errno, "could not read file \"%s\"", path);
		for (ssize_t at = 0; at + WAL_PAGE_LEN <= n; at += WAL_PAGE_LEN)
			if (page_look(job, f, segment, offset + (uint64_t)at, job->buffer + at, bad, err) != 0)
				return -1;
		offset += (uint64_t)n;
		progress_add(&job->v->progress, (uint64_t)n);
		if (n % WAL_PAGE_LEN != 0)
			break;
	}
	if (offset != job->v->control.wal_segment_size && !job->v->in_use)
		verify_finding(job->v, f->path, "has %" PRIu64 " bytes instead of a segment's %u", offset,
		               job->v->control.wal_segment_size);
	return 0;
}

static int
file_look(struct wal_job *job, const struct data_file *f, struct err *err)
{
	uint64_t segment = pgfile_wal_segno(&f->is, job->v->control.wal_segment_size);
	bool partial = strchr(f->path, '.') != NULL;
	struct bad_pages bad = {.v = job->v, .path = f->path, .what = "WAL page"};
	char path[PATH_MAX];
	int fd, result;

	if (path_format(path, err, "%s/%s", job->v->datadir, f->path) != 0)
		return -1;
	if ((fd = open(path, O_RDONLY | O_CLOEXEC)) < 0)
		return errno == ENOENT && job->v->in_use ? 0 : err_os(err, errno, "could not open file \"%s\"", path);
	if (partial || job->run.tli != f->is.tli || job->run.next_segment != segment)
		run_close(job);
	if (!partial && job->run.scan == NULL && run_open(job, f->is.tli, segment, err) != 0) {
		close(fd);
		return -1;
	}
	job->run.next_segment = segment + 1;
	result = file_read(job, f, fd, path, segment, &bad, err);
	if (!still_there(fd, path)) {
		run_stop(&job->run, f->path, "the server recycled it");
		job->run.vanished = true;
	}
	close(fd);
	job->v->counts.wal_files++;
	bad_pages_end(&bad);
	return result;
}

int
verify_wal(struct verify *v, struct err *err)
{
	struct wal_job job = {.v = v};
	int result = -1;

	if ((job.buffer = malloc(PAGES_AT_ONCE * WAL_PAGE_LEN)) == NULL) {
		err_nomem(err);
		goto done;
	}
	if ((job.cipher = wal_cipher_new(v->keys, err)) == NULL || history_load(&job, err) != 0)
		goto done;
	for (size_t i = v->files.nrelations; i < v->files.n; i++)
		if (file_look(&job, &v->files.file[i], err) != 0)
			goto done;
	result = 0;
done:
	run_close(&job);
	wal_cipher_free(job.cipher);
	free(job.history);
	free(job.buffer);
	return result;
}
