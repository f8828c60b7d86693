#include "ctl/layer.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/datadir.h"
#include "common/path.h"
#include "common/subprocess.h"
#include "ctl/reencrypt_record.h"
#include "keymgr/keydir.h"
#include "walcrypt/page.h"
#include "walcrypt/wal.h"

int
layer_library(char path[static PATH_MAX], struct err *err)
{
	char exe[PATH_MAX];
	ssize_t n = readlink("/proc/self/exe", exe, sizeof(exe) - 1);

	if (n <= 0)
		return err_os(err, errno, "could not find out where this program is");
	exe[n] = '\0';
	for (int up = 0; up < 2; up++) {
		char *slash = strrchr(exe, '/');

		if (slash != NULL)
			*slash = '\0';
	}
	if (path_format(path, err, "%s/lib/walcrypt/libwalcrypt-storage.so", exe) != 0)
		return -1;
	if (access(path, R_OK) != 0)
		return err_os(err, errno, "could not find the storage layer \"%s\"", path);
	if (strpbrk(path, ": \t") != NULL) {
		err_set(err, ERR_REFUSED, "the storage layer \"%s\" has a blank or a colon in its path", path);
		return err_hint(err, "The dynamic linker takes both for separators: install walcrypt somewhere else.");
	}
	return 0;
}

int
layer_environment(const struct source *s, struct err *err)
{
	const char *present = getenv("LD_PRELOAD");
	char library[PATH_MAX], *all = NULL;
	int failed = 0;

	if (layer_library(library, err) != 0 || source_export(s, err) != 0)
		return -1;
	if (present == NULL || *present == '\0')
		failed = setenv("LD_PRELOAD", library, 1);
	else if (strstr(present, library) == NULL) {
		if (asprintf(&all, "%s:%s", present, library) < 0)
			return err_nomem(err);
		failed = setenv("LD_PRELOAD", all, 1);
		free(all);
	}
	return failed != 0 ? err_nomem(err) : 0;
}

/* Debian's clients in /usr/bin are links to a script that chooses a version by rules of its own. */
static bool
is_program(const char *path)
{
	char real[PATH_MAX];
	const char *base;

	if (access(path, X_OK) != 0 || realpath(path, real) == NULL)
		return false;
	base = strrchr(real, '/');
	return base == NULL || strcmp(base, "/pg_wrapper") != 0;
}

int
program_find(const char *name, const char *datadir, char path[static PATH_MAX], struct err *err)
{
	const char *bindir = getenv("WALCRYPT_PG_BINDIR"), *places = getenv("PATH");
	int oldest = DATADIR_OLDEST_MAJOR, newest = DATADIR_NEWEST_MAJOR, major;
	struct err ignored;

	if (strchr(name, '/') != NULL) {
		if (snprintf(path, PATH_MAX, "%s", name) < PATH_MAX && is_program(path))
			return 0;
		return err_os(err, errno != 0 ? errno : ENOENT, "could not run \"%s\"", name);
	}
	if (bindir != NULL && snprintf(path, PATH_MAX, "%s/%s", bindir, name) < PATH_MAX && is_program(path))
		return 0;
	while (places != NULL && *places != '\0') {
		size_t len = strcspn(places, ":");

		if (len > 0 && snprintf(path, PATH_MAX, "%.*s/%s", (int)len, places, name) < PATH_MAX && is_program(path))
			return 0;
		places += len + (places[len] == ':');
	}
	if (datadir != NULL && datadir_supported(datadir, &major, &ignored) == 0)
		oldest = newest = major;
	for (major = newest; major >= oldest; major--)
		if (snprintf(path, PATH_MAX, "/usr/lib/postgresql/%d/bin/%s", major, name) < PATH_MAX && is_program(path))
			return 0;
	err_set(err, ERR_FAILED, "could not find the program \"%s\"", name);
	return err_hint(err, "Put the server's bin directory into PATH or WALCRYPT_PG_BINDIR.");
}

static void
on_interrupt(int signal_number)
{
	(void)signal_number;
}

int
program_run(const char *argv[static PROGRAM_ARGS_MAX], size_t n, const char *const *more, const char *name,
            struct err *err)
{
	struct subprocess run = {.argv = argv, .share_stdin = true, .share_stderr = true};
	struct sigaction interrupt = {.sa_handler = on_interrupt, .sa_flags = SA_RESTART};

	for (; *more != NULL; more++) {
		if (n + 1 == PROGRAM_ARGS_MAX)
			return err_set(err, ERR_USAGE, "too many arguments");
		argv[n++] = *more;
	}
	argv[n] = NULL;
	sigaction(SIGINT, &interrupt, NULL);
	if (subprocess_run(&run, err) != 0)
		return -1;
	return run.status == 0 ? 0 : err_set(err, ERR_FAILED, "%s failed with exit status %d", name, run.status);
}

int
datadir_option(const char *option, char out[static PATH_MAX], struct err *err)
{
	if (option == NULL && ((option = getenv("PGDATA")) == NULL || *option == '\0')) {
		err_set(err, ERR_USAGE, "no data directory is named");
		return err_hint(err, "Give -D DIR, or set PGDATA.");
	}
	return path_absolute(out, option, err);
}

int
datadir_check_settled(const char *datadir, struct err *err)
{
	char path[PATH_MAX];

	if (path_format(path, err, "%s/" REENCRYPT_DIR "/record", datadir) != 0)
		return -1;
	if (access(path, F_OK) != 0)
		return 0;
	err_set(err, ERR_MIDWAY, "a re-encryption of data directory \"%s\" is under way, or was stopped midway", datadir);
	return err_hint(err, "If none runs: walcrypt-ctl reencrypt -D %.150s --resume", datadir);
}

int
datadir_keydir(const char *datadir, char out[static PATH_MAX], struct err *err)
{
	int major;

	if (datadir_supported(datadir, &major, err) != 0)
		return -1;
	if (datadir_check_settled(datadir, err) != 0 || path_format(out, err, "%s/pg_cryptokeys", datadir) != 0)
		return -1;
	if (access(out, F_OK) != 0) {
		err_set(err, ERR_REFUSED, "data directory \"%s\" is not encrypted: it has no pg_cryptokeys", datadir);
		return err_hint(err, "Programs run on it as they are, without walcrypt.");
	}
	return 0;
}

int
datadir_check_layout(const char *datadir, const struct datadir_control *c, struct err *err)
{
	if (c->block_size == PAGE_LEN && c->wal_block_size == WAL_PAGE_LEN &&
	    c->blocks_per_segment == PAGE_BLOCKS_PER_SEGMENT)
		return 0;
	err_set(err, ERR_REFUSED, "data directory \"%s\" has other block or segment sizes than walcrypt supports", datadir);
	return err_detail(err, "Blocks of 8192 bytes in relations and WAL, and relation segments of 1 GB are supported.");
}

int
keyset_check_cluster(const struct keyset *ks, const struct datadir_control *control, const char *datadir,
                     struct err *err)
{
	if (keyset_system_identifier(ks) == control->system_identifier)
		return 0;
	err_set(err, ERR_REFUSED, "the keys belong to another cluster than data directory \"%s\"", datadir);
	return err_detail(err, "Their system identifier is %" PRIu64 ", the data directory's is %" PRIu64 ".",
	                  keyset_system_identifier(ks), control->system_identifier);
}

int
keyset_check_datadir(const struct keyset *ks, const char *datadir, struct err *err)
{
	struct datadir_control control;

	return datadir_control_read(datadir, &control, err) != 0 ? -1 : keyset_check_cluster(ks, &control, datadir, err);
}
