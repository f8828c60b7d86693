/* exec: any stock PostgreSQL program on an encrypted directory. */
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/datadir.h"
#include "common/path.h"
#include "ctl/command.h"
#include "ctl/layer.h"
#include "ctl/upgrade.h"

struct exec_options {
	struct common_options common;
	const char *datadir, *kek;
};

static const struct option_def exec_defs[] = {{"pgdata", 'D', OPTION_TEXT, offsetof(struct exec_options, datadir),
                                               "DIR", "data directory (default: PGDATA)", 0, 0},
                                              KEK_OPTION(struct exec_options, "WALCRYPT_KEK"),
                                              COMMON_OPTIONS,
                                              OPTIONS_END};

/* A directory that has keys is good enough: whether the rest is damaged is for the program to say (pg_verifybackup). */
static int
exec_keydir(const char *datadir, char keydir[static PATH_MAX], struct err *err)
{
	struct err ignored;
	int major;

	if (path_format(keydir, err, "%s/pg_cryptokeys", datadir) != 0)
		return -1;
	if (datadir_major_version(datadir, &major, &ignored) == 0 && datadir_supported(datadir, &major, err) != 0)
		return -1;
	return access(keydir, F_OK) == 0 ? 0 : datadir_keydir(datadir, keydir, err);
}

/* Programs that need more than the layer. */
static int
check_program(struct source *source, const char *datadir, const char *const *args, struct err *err)
{
	const char *slash = strrchr(args[0], '/'), *name = slash != NULL ? slash + 1 : args[0];

	if (strcmp(name, "pg_upgrade") == 0)
		return upgrade_check(source, datadir, args, err);
	if (strcmp(name, "pg_createsubscriber") != 0)
		return 0;
	err_set(err, ERR_REFUSED, "pg_createsubscriber cannot be used on an encrypted data directory");
	err_detail(err, "It gives the directory a new system identifier, to which its keys do not belong.");
	return err_hint(err, "Make a new cluster with \"walcrypt-ctl initdb\" and subscribe it.");
}

static int
exec_run(void *options, const char **args, size_t nargs, struct err *err)
{
	const struct exec_options *o = options;
	char datadir[PATH_MAX], keydir[PATH_MAX], program[PATH_MAX];
	struct source source;

	(void)nargs;
	if (datadir_option(o->datadir, datadir, err) != 0 || exec_keydir(datadir, keydir, err) != 0 ||
	    source_find(&source, o->common.config, o->kek, datadir, NULL, err) != 0)
		return -1;
	if (program_find(args[0], datadir, program, err) != 0 || check_program(&source, datadir, args, err) != 0 ||
	    layer_environment(&source, err) != 0)
		goto fail;
	/* programs that take the data directory from PGDATA need no -D of their own */
	if (setenv("PGDATA", datadir, 1) != 0 || setenv("WALCRYPT_DATADIR", datadir, 1) != 0) {
		err_nomem(err);
		goto fail;
	}
	args[0] = program;
	execv(program, (char *const *)(uintptr_t)args);
	err_os(err, errno, "could not run \"%s\"", program);
fail:
	source_free(&source);
	return -1;
}

const struct command command_exec = {
    .name = "exec",
    .arguments = "-D DIR [--kek SOURCE] [--] PROGRAM [ARGUMENT]...",
    .summary = "run any stock PostgreSQL program on an encrypted directory",
    .more = "The program finds the data directory in PGDATA. Its own exit status is passed on; 125 says that it was "
            "not run.\n"
            "Example: walcrypt-ctl exec -D /srv/blue --kek file:/etc/walcrypt/kek -- pg_ctl -l /srv/blue.log start",
    .options = exec_defs,
    .style = OPTIONS_UNTIL_FIRST,
    .min_args = 1,
    .max_args = SIZE_MAX,
    .run = exec_run,
};
_Static_assert(sizeof(struct exec_options) <= COMMAND_OPTIONS_MAX, "options fit");
