/*
 * initdb: a new cluster, encrypted from its first byte on.
 *
 * The keys must be there before initdb makes the data directory and cannot lie in it yet, so they are staged in a
 * folder beside it, bound to the system identifier that initdb drew, and moved in.
 */
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/datadir.h"
#include "common/durable.h"
#include "common/folder.h"
#include "common/path.h"
#include "ctl/command.h"
#include "ctl/guard.h"
#include "ctl/layer.h"
#include "ctl/server_setting.h"
#include "ctl/start_line.h"
#include "keymgr/keydir.h"
#include "keymgr/keygen.h"

struct initdb_options {
	struct common_options common;
	const char *datadir, *method, *kek, *copy;
	bool allow_no_checksums, provider_random;
};

static const struct option_def initdb_defs[] = {
    {"pgdata", 'D', OPTION_TEXT, offsetof(struct initdb_options, datadir), "DIR",
     "data directory to make (default: PGDATA)", 0, 0},
    {"method", 'K', OPTION_TEXT, offsetof(struct initdb_options, method), "METHOD",
     "AES128, AES192 or AES256 (default: AES256)", 0, 0},
    KEK_OPTION(struct initdb_options, "WALCRYPT_KEK"),
    {"copy-encryption-keys", 0, OPTION_TEXT, offsetof(struct initdb_options, copy), "DIR",
     "use the keys of that data directory or key directory, under the same cluster key", 0, 0},
    {"allow-no-checksums", 0, OPTION_FLAG, offsetof(struct initdb_options, allow_no_checksums), NULL,
     "do not insist on data checksums", 0, 0},
    PROVIDER_RANDOM_OPTION(struct initdb_options),
    COMMON_OPTIONS,
    OPTIONS_END};

/* One run's facts. */
struct job {
	const struct initdb_options *options;
	char datadir[PATH_MAX], stage[PATH_MAX], stage_new[PATH_MAX], program[PATH_MAX];
	struct source source;
	struct kek *kek;
	struct keyset *keys;
};

static int
check_target(const char *datadir, struct err *err)
{
	struct folder f;
	int result = 0, found = folder_open_if_any(&f, "directory", datadir, err);

	if (found <= 0)
		return found;
	if (folder_next(&f) != NULL)
		result = err_set(err, ERR_REFUSED, "directory \"%s\" exists but is not empty", datadir);
	return folder_close(&f, result, err);
}

/* initdb's own options that would undo ours. */
static int
check_arguments(const struct initdb_options *o, const char **args, struct err *err)
{
	for (size_t i = 0; args[i] != NULL; i++) {
		if (strncmp(args[i], "-D", 2) == 0 || strncmp(args[i], "--pgdata", 8) == 0)
			return err_set(err, ERR_USAGE, "the data directory is named before the \"--\", not in initdb's options");
		if (strcmp(args[i], "--no-data-checksums") == 0 && !o->allow_no_checksums)
			return err_set(err, ERR_REFUSED, "--no-data-checksums needs --allow-no-checksums");
	}
	return 0;
}

/* A folder of our own beside the data directory, with the new/ that key commands may keep a file in (%d). */
static int
stage_make(struct job *job, struct err *err)
{
	if (path_format(job->stage, err, "%s.keys.XXXXXX", job->datadir) != 0)
		return -1;
	if (mkdtemp(job->stage) == NULL) {
		err_os(err, errno, "could not create directory \"%s\"", job->stage);
		job->stage[0] = '\0';
		return -1;
	}
	return path_format(job->stage_new, err, "%s/new", job->stage) != 0 ? -1 : durable_mkdir(job->stage_new, 0700, err);
}

static void
stage_remove(struct job *job)
{
	static const char *const folders[] = {"live", "new", "old"};
	char path[PATH_MAX];
	struct err ignored;

	if (job->stage[0] == '\0')
		return;
	for (size_t i = 0; i < sizeof(folders) / sizeof(folders[0]); i++) {
		if (path_format(path, &ignored, "%s/%s", job->stage, folders[i]) == 0)
			durable_remove_dir(path, &ignored);
	}
	durable_remove_dir(job->stage, &ignored);
}

/* Fresh keys, or those of another cluster. */
static int
keys_make(struct job *job, struct err *err)
{
	enum key_method method = KEY_AES256;
	const char *copy = job->options->copy;
	char keydir[PATH_MAX];
	struct keyset *other;

	if (job->options->method != NULL && key_method_parse(job->options->method, &method) != 0)
		return err_set(err, ERR_USAGE, "method \"%s\" is not AES128, AES192 or AES256", job->options->method);
	if (copy == NULL)
		return (job->keys = keyset_generate(method, 0, err)) != NULL ? 0 : -1;
	if (path_format(keydir, err, keydir_exists(copy) ? "%s" : "%s/pg_cryptokeys", copy) != 0)
		return -1;
	if ((other = source_open_with(&job->source, keydir, job->kek, err)) == NULL)
		return -1;
	job->keys = keyset_bind(other, 0, err);
	if (job->keys != NULL && job->options->method != NULL && keyset_method(other) != method) {
		keyset_free(job->keys);
		job->keys = NULL;
		err_set(err, ERR_REFUSED, "the keys in \"%s\" are for method %s, not %s", keydir,
		        key_method_name(keyset_method(other)), key_method_name(method));
	}
	keyset_free(other);
	return job->keys != NULL ? 0 : -1;
}

static int
initdb_program(struct job *job, const char **args, struct err *err)
{
	/* what initdb says about starting the server would be wrong here */
	const char *argv[PROGRAM_ARGS_MAX] = {job->program, "-D", job->datadir, "--no-instructions"};
	size_t n = 4;

	if (!job->options->allow_no_checksums)
		argv[n++] = "-k";
	/* the servers that it starts fetch the cluster key themselves */
	if (setenv("WALCRYPT_KEYDIR", job->stage, 1) != 0 || layer_environment(&job->source, err) != 0 ||
	    kek_lend(&job->source.conf, err) != 0 || program_run(argv, n, args, "initdb", err) != 0)
		return -1;
	unsetenv("WALCRYPT_KEYDIR");
	unsetenv("LD_PRELOAD");
	return kek_take(&job->source.conf, err);
}

/* Bind the staged keys to the cluster that initdb made, and move them in. */
static int
keys_install(struct job *job, struct datadir_control *control, struct err *err)
{
	char keydir[PATH_MAX];
	struct keyset *bound;
	int result;

	if (datadir_control_read(job->datadir, control, err) != 0)
		return -1;
	if (control->checksum_version == 0 && !job->options->allow_no_checksums)
		return err_set(err, ERR_FAILED, "the new cluster has no data checksums");
	if ((bound = keyset_bind(job->keys, control->system_identifier, err)) == NULL)
		return -1;
	result = keydir_replace(job->stage, bound, job->kek, job->source.reference, err);
	keyset_free(bound);
	if (result != 0 || path_format(keydir, err, "%s/pg_cryptokeys", job->datadir) != 0 ||
	    durable_rename(job->stage, keydir, err) != 0)
		return -1;
	job->stage[0] = '\0';
	return 0;
}

/* initdb's own options may have set libraries already. */
static int
guard_install(const struct job *job, struct err *err)
{
	char existing[PATH_MAX];

	return server_setting(job->datadir, NULL, "shared_preload_libraries", existing, err) != 0
	           ? -1
	           : guard_add(job->datadir, existing, err);
}

static int
initdb_run(void *options, const char **args, size_t nargs, struct err *err)
{
	struct job *job = calloc(1, sizeof(*job));
	struct datadir_control control;
	bool made = false;
	char keys[256];
	int result = -1;

	(void)nargs;
	if (job == NULL)
		return err_nomem(err);
	job->options = options;
	if (datadir_option(job->options->datadir, job->datadir, err) != 0 || check_target(job->datadir, err) != 0 ||
	    check_arguments(job->options, args, err) != 0 || program_find("initdb", NULL, job->program, err) != 0 ||
	    source_find(&job->source, job->options->common.config, job->options->kek, job->datadir, NULL, err) != 0)
		goto done;
	job->source.conf.provider_random |= job->options->provider_random;
	if (stage_make(job, err) != 0 ||
	    (job->kek = source_prepare(&job->source, job->stage_new, false, NULL, NULL, err)) == NULL ||
	    keys_make(job, err) != 0 || keydir_create(job->stage, job->keys, job->kek, job->source.reference, err) != 0 ||
	    initdb_program(job, args, err) != 0)
		goto done;
	made = true;
	if (keys_install(job, &control, err) != 0 || guard_install(job, err) != 0)
		goto done;
	keyset_describe(job->keys, keys);
	printf("\nThe cluster is encrypted, %s.\nSystem identifier %" PRIu64 "; cluster key from %s.\n", keys,
	       control.system_identifier, job->source.reference);
	start_line_print(&job->source, job->datadir, 0);
	result = 0;
done:
	if (result != 0 && made)
		err_hint(err, "Remove \"%s\" before the next try.", job->datadir);
	stage_remove(job);
	keyset_free(job->keys);
	kek_free(job->kek);
	source_free(&job->source);
	free(job);
	return result;
}

const struct command command_initdb = {
    .name = "initdb",
    .arguments =
        "-D DIR [-K METHOD] [--kek SOURCE] [--copy-encryption-keys DIR] [--provider-random] [-- INITDB-OPTION...]",
    .summary = "make a new cluster that is encrypted from the first byte on",
    .more = "What stands behind \"--\" goes to the stock initdb. Data checksums are switched on.",
    .options = initdb_defs,
    .style = OPTIONS_ALL,
    .max_args = 1000,
    .run = initdb_run,
    .audit = AUDIT_OR_REFUSE,
};
_Static_assert(sizeof(struct initdb_options) <= COMMAND_OPTIONS_MAX, "options fit");
