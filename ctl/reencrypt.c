/* reencrypt: a stopped data directory under other keys. ctl/reencrypt.h says why a crash loses nothing. */
#include "ctl/reencrypt.h"

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ctl/jobs.h"
#include "ctl/layer.h"
#include "ctl/reencrypt_start.h"
#include "ctl/reencrypt_work.h"
#include "ctl/server_setting.h"
#include "ctl/start_line.h"
#include "keymgr/keygen.h"

#define OPEN_FILES 512 /* of all threads together: at least two for each */
#define TOGETHER_MAX 32
#define ARENA_LEN(threads, nepochs) ((size_t)(512 + 64 * (threads) + 8 * (threads) * (nepochs)) * 1024)

static const struct option_def reencrypt_defs[] = {
    {"pgdata", 'D', OPTION_TEXT, offsetof(struct reencrypt_options, datadir), "DIR",
     "data directory of a stopped server (default: PGDATA)", 0, 0},
    {"to", 0, OPTION_TEXT, offsetof(struct reencrypt_options, to), "KEYSET",
     "a keyset's name in the configuration's keystore, a key directory's path, \"new\" or \"none\"", 0, 0},
    KEK_OPTION(struct reencrypt_options, "WALCRYPT_KEK"),
    {"to-kek", 0, OPTION_TEXT, offsetof(struct reencrypt_options, to_kek), "SOURCE",
     "cluster key of the new keys (default: the configuration's for KEYSET, else --kek)", 0, 0},
    {"method", 'K', OPTION_TEXT, offsetof(struct reencrypt_options, method), "METHOD",
     "with --to=new on a clear directory: AES128, AES192 or AES256 (default)", 0, 0},
    {"jobs", 'j', OPTION_NUMBER, offsetof(struct reencrypt_options, jobs), "N",
     "large files that are worked on at once (default: as many as there are processors, at most 8)", 1, JOBS_MAX},
    {"resume", 0, OPTION_FLAG, offsetof(struct reencrypt_options, resume), NULL, "go on where an earlier run stopped",
     0, 0},
    {"allow-no-checksums", 0, OPTION_FLAG, offsetof(struct reencrypt_options, allow_no_checksums), NULL,
     "do not insist on data checksums", 0, 0},
    {"server-config", 0, OPTION_TEXT, offsetof(struct reencrypt_options, server_config), "FILE",
     "postgresql.conf, when it is not in the data directory (default: the server's last)", 0, 0},
    COMMON_OPTIONS,
    OPTIONS_END};

static struct reencrypt_job *running;

static void
on_interrupt(int signal_number)
{
	(void)signal_number;
	atomic_store(&running->r.stop, true);
}

/* Every file is there under the new key, and under that alone. */
static int
check_complete(const struct reencrypt *r, struct err *err)
{
	for (size_t i = 0; i < r->list.n; i++)
		if (r->list.entry[i].has_old || !r->list.entry[i].has_new)
			return err_set(err, ERR_FAILED, "file \"%s\" appeared while the directory was re-encrypted",
			               r->list.entry[i].path);
	return 0;
}

static int
list_again(struct reencrypt *r, struct err *err)
{
	reencrypt_list_free(&r->list);
	return reencrypt_list_make(r->datadir, r->record.wal, &r->list, err);
}

static int
convert(struct reencrypt_job *job, struct err *err)
{
	struct sigaction interrupt = {.sa_handler = on_interrupt, .sa_flags = SA_RESTART};
	struct reencrypt *r = &job->r;
	int result;

	running = job;
	sigaction(SIGINT, &interrupt, NULL);
	sigaction(SIGTERM, &interrupt, NULL);
	if (reencrypt_clean(r->datadir, err) != 0 || list_again(r, err) != 0 ||
	    reencrypt_list_room(&r->list, r->datadir, r->jobs, REENCRYPT_THREADS(r->jobs), err) != 0)
		return -1;
	r->together = OPEN_FILES / 2 / REENCRYPT_THREADS((size_t)r->jobs);
	if (r->together > TOGETHER_MAX)
		r->together = TOGETHER_MAX;
	progress_begin(&r->progress, "re-encrypting", r->list.bytes, false);
	result = jobs_run(REENCRYPT_THREADS(r->jobs), reencrypt_work, NULL, r, err);
	if (result == 0 && atomic_load(&r->stop))
		result = err_set(err, ERR_MIDWAY, "stopped");
	if (result != 0) {
		progress_clear(&r->progress);
		return -1;
	}
	progress_end(&r->progress);
	if (list_again(r, err) != 0 || check_complete(r, err) != 0 || reencrypt_list_sync(&r->list, r->datadir, err) != 0)
		return -1;
	r->record.state = REENCRYPT_COMMITTING;
	return reencrypt_record_write(r->datadir, &r->record, err);
}

/* From where the directory does not look any more as it did. */
static int
carry_out(struct reencrypt_job *job, struct err *err)
{
	struct reencrypt *r = &job->r;

	if ((r->record.state == REENCRYPT_CONVERTING && convert(job, err) != 0) || list_again(r, err) != 0 ||
	    reencrypt_commit(r, err) != 0) {
		err->class = ERR_MIDWAY;
		return err_hint(err,
		                "No data is lost, but no server starts on it now. Go on with: walcrypt-ctl reencrypt -D %.100s "
		                "--resume",
		                job->datadir);
	}
	return 0;
}

static void
result_tell(struct reencrypt_job *job)
{
	struct reencrypt *r = &job->r;
	char size[32], value[PATH_MAX], to_text[256] = "clear";
	struct err ignored;

	if (r->to != NULL)
		keyset_describe(r->to, to_text);
	bytes_format(size, (double)r->bytes);
	if (r->from != NULL || r->to != NULL)
		printf("Re-encrypted %" PRIu64
		       " files, %s.\nThe directory was:    %s\nThe directory is now: %s\nWAL files: %s.\n",
		       (uint64_t)r->files, size, job->from_text, to_text,
		       r->record.wal ? "re-encrypted, too" : "as they were, the WAL key is the same");
	else
		printf("The re-encryption is finished.\n");
	if (r->damaged > 0)
		printf("%" PRIu64 " pages were damaged before, and still are.\n", (uint64_t)r->damaged);
	if (r->to != NULL) {
		printf("\n");
		start_line_print(&job->target.source, job->datadir, 0);
	} else if (strcmp(r->record.to, REENCRYPT_CLEAR) == 0 &&
	           server_setting(job->datadir, job->options->server_config, "shared_preload_libraries", value, &ignored) ==
	               0 &&
	           strstr(value, "libwalcrypt-storage") != NULL)
		printf("The configuration still names the storage layer in shared_preload_libraries: take it out before the "
		       "start.\n");
}

static int
reencrypt_run(void *options, const char **args, size_t nargs, struct err *err)
{
	struct reencrypt_job *job = calloc(1, sizeof(*job));
	int there, result = -1;

	(void)args;
	(void)nargs;
	if (job == NULL)
		return err_nomem(err);
	job->options = options;
	job->lock = -1;
	job->r.datadir = job->datadir;
	job->r.jobs = jobs_default(job->options->jobs);
	pthread_mutex_init(&job->r.lock, NULL);
	pthread_cond_init(&job->r.changed, NULL);
	if (job->options->to == NULL && !job->options->resume) {
		err_set(err, ERR_USAGE, "it is not said to which keys: --to is missing");
		goto done;
	}
	if (datadir_option(job->options->datadir, job->datadir, err) != 0 || reencrypt_take(job, err) != 0 ||
	    (there = reencrypt_record_read(job->datadir, &job->r.record, err)) < 0)
		goto done;
	if (there == 0 && job->options->resume) {
		err_set(err, ERR_REFUSED, "there is nothing to resume in data directory \"%s\"", job->datadir);
		goto done;
	}
	if (there > 0 && !job->options->resume) {
		datadir_check_settled(job->datadir, err);
		goto done;
	}
	job->target = (struct reencrypt_target){.name = there > 0 ? job->r.record.keyset : job->options->to,
	                                        .config = job->options->common.config,
	                                        .kek = job->options->to_kek,
	                                        .from_kek = job->options->kek,
	                                        .method = job->options->method};
	if (keys_protect(ARENA_LEN(REENCRYPT_THREADS(job->r.jobs), 16), err) != 0 ||
	    (there > 0 ? reencrypt_resume : reencrypt_begin)(job, err) != 0 || carry_out(job, err) != 0)
		goto done;
	result_tell(job);
	result = job->r.damaged > 0 ? ERR_DAMAGED : 0;
done:
	reencrypt_list_free(&job->r.list);
	reencrypt_target_close(&job->target);
	keyset_free(job->from);
	source_free(&job->from_source);
	if (job->lock >= 0)
		close(job->lock);
	free(job);
	return result;
}

const struct command command_reencrypt = {
    .name = "reencrypt",
    .arguments = "-D DIR --to KEYSET [--kek SOURCE] [--to-kek SOURCE] [--jobs N] | -D DIR --resume",
    .summary = "put a stopped data directory under other keys, or encrypt or decrypt it",
    .more =
        "KEYSET is the name of a keyset in the keystore (walcrypt-ctl key init makes one), the path of a key "
        "directory,\n"
        "\"new\" for a fresh relation key that lies in the data directory alone, or \"none\" for a clear directory.\n"
        "It needs room for as many of the largest files (1 GB at most) as it works on at once.",
    .options = reencrypt_defs,
    .style = OPTIONS_ALL,
    .run = reencrypt_run,
    .audit = AUDIT_OR_REFUSE,
};
_Static_assert(sizeof(struct reencrypt_options) <= COMMAND_OPTIONS_MAX, "options fit");
